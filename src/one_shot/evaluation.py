"""Scoring tuned runs: each image is read and encoded once, and looked at with all runs' weights before the next one.

In memory that takes, beside the model, each run's tuned weights (of BLIP-large and two layers 22 MB) and the states of
its prompts, and while images are looked at the keys and values of the layers that were not tuned, once for all runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset
from ..evaluation import processes
from ..evaluation.blocks import SKIPPED, Arrays, Outcome, compute_blocks
from ..evaluation.evaluate import COUNTS, Evaluation, predictions_of
from ..evaluation.journal import Journal
from ..evaluation.metrics import ConfusionMatrix
from ..method.segmenter import Segmenter, segment_with_each
from .embeddings import Encoder


@dataclass(frozen=True)
class TunedRun:
    """A run that is to be scored.

    Attributes:
        number: of the run, from 0.
        segmenter: with its tuned weights.
        losses: of every step of tuning.
        digest: of the tuned weights.
        queries: the images that it is scored on.
    """

    number: int
    segmenter: Segmenter
    losses: Sequence[float]
    digest: str
    queries: frozenset[int]

    @property
    def counts(self) -> str:
        """The name of its counts among what a block contributed; other weights make other counts."""
        return f"{COUNTS}_{self.number}_{self.digest[:16]}"


def evaluate_runs(
    runs: Sequence[TunedRun],
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    journal: Journal,
    encoder: Encoder,
) -> list[Evaluation]:
    """Score ``runs``, with a progress bar that shows the mean of their running mIoU.

    Args:
        runs: of one model; one at least.
        dataset: the queries of all runs, also of those that are not to be scored any more: which images are a batch
            must not depend on that.
        loader: how they are read.
        journal: an open one, from which the work goes on and in which it is kept.
        encoder: of images.

    Returns:
        An evaluation per run; its seconds are its share of the whole time.

    Raises:
        UserError: see :func:`src.evaluation.evaluate.evaluate`.
    """
    device = runs[0].segmenter.device
    running = {run.counts: ConfusionMatrix.of(dataset.labelling, device) for run in runs}
    unchecked: dict[str, list[Path]] = {run.counts: [] for run in runs}

    def score(batch: Batch) -> dict[str, Tensor]:
        files = [dataset.entries[index].image for index in batch.indices]
        asked = [run for run in runs if not run.queries.isdisjoint(batch.indices)]
        counted = {run.counts: ConfusionMatrix.of(dataset.labelling, device) for run in runs}
        if asked:
            embeds = encoder(files, batch.pixels)
            every = segment_with_each([run.segmenter for run in asked], batch.pixels, embeds)
            for run in asked:
                # no name holds the scores: they go before the next run's come
                _count(counted[run.counts], run, batch, next(every), dataset)
                unchecked[run.counts] += files
        for name, confusion in counted.items():
            running[name].counts += confusion.counts
        return {name: confusion.counts for name, confusion in counted.items()}

    def join(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: counts + other[name] for name, counts in one.items()}

    def check(_: list[Path]) -> None:
        for run in runs:
            files = unchecked[run.counts].copy()
            unchecked[run.counts].clear()
            run.segmenter.check_numbers(files)

    def add(arrays: Arrays) -> None:
        for name in running.keys() & arrays.keys():
            running[name].counts += torch.from_numpy(arrays[name]).to(device)

    def lacks(_: int, arrays: Arrays) -> bool:
        return arrays.keys() != {SKIPPED} and not running.keys() <= arrays.keys()

    def show(bar: tqdm) -> None:
        # reading the scores waits for the device; now and then is enough for the eye
        if device.type == "cpu" or bar.n % 50 < loader.batch_size or bar.n == bar.total:
            mean = statistics.fmean(confusion.miou for confusion in running.values())
            bar.set_postfix({"mean mIoU": f"{100 * mean:.2f}"})

    start = time.perf_counter()
    several = f" with {len(runs)} runs" if len(runs) > 1 else ""
    outcome = compute_blocks(
        journal,
        dataset,
        loader,
        device,
        score,
        f"segmenting{several}",
        join=join,
        check=check,
        resume=add,
        lacks=lacks,
        show=show,
    )

    def together() -> list[Evaluation]:
        assert outcome is not None
        seconds = (time.perf_counter() - start) / len(runs)
        return [_evaluation(run, outcome, dataset, seconds) for run in runs]

    return processes.share(together)


def _count(
    confusion: ConfusionMatrix, run: TunedRun, batch: Batch, scores: Tensor, dataset: SegmentationDataset
) -> None:
    """Count what ``scores`` [B, C, S, S] make of those images of a batch that are queries of a run."""
    for prediction in predictions_of(batch, scores, dataset):
        if prediction.index in run.queries:
            confusion.update(prediction.labels, prediction.target)


def _evaluation(run: TunedRun, outcome: Outcome, dataset: SegmentationDataset, seconds: float) -> Evaluation:
    confusion = ConfusionMatrix.of(dataset.labelling)
    for arrays in outcome.blocks:
        if run.counts in arrays:
            confusion.counts += torch.from_numpy(arrays[run.counts])
    confusion.require_pixels()
    files = {str(dataset.entries[index].image) for index in run.queries}
    skipped = [entry for entry in outcome.skipped if entry["image"] in files]
    images = len(run.queries) - len(skipped)
    return Evaluation(confusion, images, seconds, min(images, outcome.computed), skipped, halved=outcome.halved)
