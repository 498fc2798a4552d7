"""Running a segmenter over a data set and scoring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset, batches
from ..data.frame import Frame
from ..method.segmenter import Segmenter, labels_of
from . import processes
from .blocks import Arrays, as_array, compute_blocks
from .journal import Journal
from .metrics import ConfusionMatrix

CHECKED_AT_ONCE = 50  # images on a GPU

COUNTS = "counts"


@dataclass(frozen=True)
class Prediction:
    """One segmented image.

    Attributes:
        index: its number in the image list.
        scores: [C, S, S] class scores in the frame.
        labels: predicted labels at the resolution of the evaluation, uint8: [S, S], or [height, width] with
            ``eval.resolution: original``.
        target: true labels at the same resolution, uint8.
        frame: in which the image was segmented.
        shape: (height, width) of the untouched image.
    """

    index: int
    scores: Tensor
    labels: Tensor
    target: Tensor
    frame: Frame
    shape: tuple[int, int]

    def labels_at_own_size(self) -> Tensor:
        """Predicted labels [height, width] of the untouched image, uint8."""
        return self.labels if self.labels.shape == self.shape else self.frame.labels(self.scores, self.shape)


Observer = Callable[[Prediction], Mapping[str, bytes] | None]
"""Is shown every prediction; may give back what must outlive an interruption, under names such as ``overlay.17``."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of an evaluation and what it took.

    Attributes:
        confusion: counts of all images that could be read.
        images: how many these are.
        seconds: since this command began with them.
        computed: images that this command computed; the others are from before an interruption.
        skipped: images that could not be read, as plain values: image and reason.
        kept: what observers gave back.
        halved: how many batches were computed in parts, because memory did not suffice.
    """

    confusion: ConfusionMatrix
    images: int
    seconds: float
    computed: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    halved: int = 0

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: the scores of the C classes ``names``, image count, seconds and images per second."""
        return {
            **self.confusion.to_dict(names),
            "images": self.images,
            "skipped": self.skipped,
            **({"batches_halved": self.halved} if self.halved else {}),
            "seconds": self.seconds,
            "images_per_second": self.computed / self.seconds,
        }


def predict(segmenter: Segmenter, dataset: SegmentationDataset, loader: DataloaderConfig) -> Iterator[Prediction]:
    """Segment ``dataset`` image by image, in batches inside.

    Raises:
        UserError: an image or mask could not be read, or what the model says of an image is not a number.
    """
    unchecked: list[Path] = []
    for batch in batches(dataset, loader, segmenter.device):
        # no name holds the scores: they go before the next batch's come
        yield from predictions_of(batch, segmenter.segment(batch.pixels), dataset)
        unchecked += [dataset.entries[index].image for index in batch.indices]
        # asking waits for the device: on a GPU now and then is enough, as nothing is written before the end
        if segmenter.device.type == "cpu" or len(unchecked) >= CHECKED_AT_ONCE:
            segmenter.check_numbers(unchecked)
            unchecked.clear()
    segmenter.check_numbers(unchecked)


def predictions_of(batch: Batch, scores: Tensor, dataset: SegmentationDataset) -> Iterator[Prediction]:
    """Label a batch's images at the resolution of the evaluation.

    Args:
        batch: of ``dataset``.
        scores: [B, C, S, S] class scores in the frame.
        dataset: says which frame and which resolution.
    """
    frame = dataset.frame
    framed = labels_of(scores) if dataset.resolution == "letterbox" else None
    for number, (index, shape, target) in enumerate(zip(batch.indices, batch.shapes, batch.labels, strict=True)):
        labels = frame.labels(scores[number], shape) if framed is None else framed[number]
        yield Prediction(index, scores[number], labels, target, frame, shape)


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    observers: Sequence[Observer] = (),
    journal: Journal | None = None,
    lacks: Callable[[int, Arrays], bool] = lambda *_: False,
    description: str = "segmenting",
) -> Evaluation:
    """Score ``segmenter`` on ``dataset`` with a progress bar that shows the running mIoU.

    Args:
        segmenter: model, prompts and layers.
        dataset: images and masks.
        loader: how they are read.
        observers: are shown every prediction that is made now.
        journal: an open one, from which the evaluation goes on and in which it is kept; None: it begins and ends here.
        lacks: whether what observers gave back of the image of this index is not there, so that it must be shown again.
        description: of the progress bar.

    Raises:
        UserError: an image or mask could not be read, no pixel of the masks counts, what the model says is not a
            number, or a process that takes part has ended.
    """
    journal = journal or Journal.nowhere()
    running = ConfusionMatrix.of(dataset.labelling, segmenter.device)

    def score(batch: Batch) -> dict[str, Tensor]:
        counted = ConfusionMatrix.of(dataset.labelling, segmenter.device)
        kept: dict[str, Tensor] = {}
        for prediction in predictions_of(batch, segmenter.segment(batch.pixels), dataset):
            counted.update(prediction.labels, prediction.target)
            for observer in observers:
                kept |= {name: as_array(content) for name, content in (observer(prediction) or {}).items()}
        running.counts += counted.counts
        return {COUNTS: counted.counts, **kept}

    def join(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**one, **other, COUNTS: one[COUNTS] + other[COUNTS]}

    def add(arrays: Arrays) -> None:
        if COUNTS in arrays:  # a block of images that could not be read has none
            running.counts += torch.from_numpy(arrays[COUNTS]).to(segmenter.device)

    def show(bar: tqdm) -> None:
        # reading the score waits for the device; now and then is enough for the eye
        if segmenter.device.type == "cpu" or bar.n % 50 < loader.batch_size or bar.n == bar.total:
            bar.set_postfix(mIoU=f"{100 * running.miou:.2f}")

    start = time.perf_counter()
    outcome = compute_blocks(
        journal,
        dataset,
        loader,
        segmenter.device,
        score,
        description,
        join=join,
        check=segmenter.check_numbers,
        resume=add,
        lacks=lacks,
        show=show,
    )

    def together() -> Evaluation:
        assert outcome is not None
        confusion = ConfusionMatrix.of(dataset.labelling)
        for arrays in outcome.blocks:
            if COUNTS in arrays:
                confusion.counts += torch.from_numpy(arrays[COUNTS])
        confusion.require_pixels()
        kept = {name: array.tobytes() for arrays in outcome.blocks for name, array in arrays.items() if "." in name}
        images, seconds = len(dataset) - len(outcome.skipped), time.perf_counter() - start
        return Evaluation(confusion, images, seconds, outcome.computed, outcome.skipped, kept, outcome.halved)

    return processes.share(together)
