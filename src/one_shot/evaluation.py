"""mIoU of tuned runs: each image is read and encoded once, and segmented with the weights of all runs.

Beside the model, memory contains the tuned weights of each run (22 MB for BLIP-large and two layers), the states of its
prompts, and, for the current batch, keys and values of untuned layers (shared by all runs).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.dataset import Batch, SegmentationDataset
from ..evaluation.evaluate import COUNTS, Evaluation, predictions_of
from ..evaluation.loop import Arrays, Evaluator, Pass
from ..evaluation.metrics import ConfusionMatrix
from ..method.segmenter import Segmenter, segment_with_each
from .embeddings import Encoder


@dataclass(frozen=True)
class TunedRun:
    """A tuned run.

    Attributes:
        number: of the run, from 0.
        segmenter: with the tuned weights.
        losses: of every tuning step.
        digest: of the tuned weights.
        queries: indices of the images to score it on.
    """

    number: int
    segmenter: Segmenter
    losses: Sequence[float]
    digest: str
    queries: frozenset[int]

    @property
    def counts(self) -> str:
        """Name of the run's counts among a block's arrays, with the digest, because counts depend on the weights."""
        return f"{COUNTS}_{self.number}_{self.digest[:16]}"


class MeanIoUOfRuns(Evaluator[list[Evaluation]]):
    """mIoU of each run (all of one model) on its queries; the progress bar shows their mean.

    ``seconds`` of each evaluation is the total time divided by the number of runs.

    Args:
        dataset: the queries of all runs, finished ones included, so that resuming does not change the batches.
        boundary: also compute Boundary IoU.
    """

    def __init__(
        self, runs: Sequence[TunedRun], dataset: SegmentationDataset, encoder: Encoder, boundary: bool = False
    ) -> None:
        super().__init__(runs[0].segmenter.device, f"segmenting with {len(runs)} runs" if runs[1:] else "segmenting")
        self.runs = runs
        self.dataset = dataset
        self.encoder = encoder
        self.boundary = boundary
        self.confusions = self._empty()

    def _empty(self) -> dict[str, ConfusionMatrix]:
        labelling = self.dataset.labelling
        return {run.counts: ConfusionMatrix.of(labelling, self.device, self.boundary) for run in self.runs}

    def process(self, batch: Batch) -> Arrays:
        counted = self._empty()
        needed = [run for run in self.runs if not run.queries.isdisjoint(batch.indices)]
        if needed:
            embeds = self.encoder(batch.images, batch.pixels)
            scores = segment_with_each([run.segmenter for run in needed], batch.pixels, embeds)
            for run in needed:
                with run.segmenter.watch(batch.images):
                    # no variable refers to the scores, so that they are freed before the next run's are computed
                    self._count(counted[run.counts], run, batch, next(scores))
        return {name: confusion.state for name, confusion in counted.items()}

    def _count(self, confusion: ConfusionMatrix, run: TunedRun, batch: Batch, scores: Tensor) -> None:
        for prediction in predictions_of(batch, scores, self.dataset):
            if prediction.index in run.queries:
                confusion.update(prediction.labels, prediction.target, prediction.inside)

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return {name: counts + other[name] for name, counts in one.items()}

    def add(self, block: int, arrays: Arrays) -> None:
        for name, confusion in self.confusions.items():
            confusion.state += arrays[name].to(self.device)

    def check(self) -> None:
        for run in self.runs:
            run.segmenter.check_numbers()

    def status(self) -> dict[str, Any]:
        mean = statistics.fmean(confusion.cpu().miou for confusion in self.confusions.values())
        return {"mean mIoU": f"{100 * mean:.2f}"}

    def accepts(self, indices: Sequence[int], arrays: Arrays) -> bool:
        return self.confusions.keys() <= arrays.keys()

    def result(self, done: Pass) -> list[Evaluation]:
        return [self._of(run, done) for run in self.runs]

    def _of(self, run: TunedRun, done: Pass) -> Evaluation:
        confusion = self.confusions[run.counts].cpu()
        confusion.require_pixels()
        files = {str(self.dataset.entries[index].image) for index in run.queries}
        skipped = [entry for entry in done.skipped if entry["image"] in files]
        images, seconds = len(run.queries) - len(skipped), done.seconds / len(self.runs)
        return Evaluation(confusion, images, seconds, min(images, done.computed), skipped, halved=done.halved)
