"""Segment a data set and compute its mIoU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset, batches
from ..data.frame import Frame
from ..method.segmenter import Segmenter, labels_of
from . import loop
from .journal import Journal
from .loop import Arrays, Evaluator, Pass, as_array
from .metrics import ConfusionMatrix
from .per_image import PerImageCounts

CHECKED_AT_ONCE = 50  # images on a GPU

COUNTS = "counts"
IMAGES, AREAS = "images", "areas"
"""Arrays of a block with ``per_image``: numbers of its n images [n], and their intersections and unions [n, 2, C]."""


@dataclass(frozen=True)
class Prediction:
    """One segmented image.

    Attributes:
        index: index of the image in the list.
        scores: [C, S, S] class scores in the frame.
        labels, target: predicted and true, uint8: [S, S], or [height, width] with ``eval.resolution: original``.
        frame: the frame in which the image was segmented.
        shape: (height, width) of the original image.
    """

    index: int
    scores: Tensor
    labels: Tensor
    target: Tensor
    frame: Frame
    shape: tuple[int, int]

    @property
    def inside(self) -> tuple[int, int]:
        """Height and width of the image inside :attr:`labels`, without padding."""
        return self.shape if self.labels.shape == self.shape else self.frame.inner(self.shape)

    def labels_at_own_size(self) -> Tensor:
        """Predicted labels at the size of the original image, uint8 [height, width]."""
        return self.labels if self.labels.shape == self.shape else self.frame.labels(self.scores, self.shape)


class Pictures(Protocol):
    """Draws predictions while they are scored."""

    def keep(self, prediction: Prediction) -> dict[str, bytes]:
        """Draw a prediction; returns what the journal must keep, under names with a dot: ``overlay.17``."""
        ...

    def must_draw(self, index: int, kept: Arrays) -> bool:
        """Whether image ``index`` must be drawn again although the journal of an interrupted command has ``kept``."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Scores of an evaluation.

    Attributes:
        confusion: counts of all readable images.
        images: number of readable images.
        seconds: duration of this command.
        computed: number of images that this command computed; an interrupted command computed the others.
        skipped: unreadable images: image and reason.
        kept: everything that :meth:`Pictures.keep` returned.
        halved: number of batches computed in smaller parts for lack of memory, which rounds differently.
        per_image: counts of each image, if requested.
    """

    confusion: ConfusionMatrix
    images: int
    seconds: float
    computed: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    halved: int = 0
    per_image: PerImageCounts | None = None

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
        UserError: an image or mask cannot be read, or the model's output for an image is not a number.
    """
    unchecked = 0
    for batch in batches(dataset, loader, segmenter.device):
        # no variable refers to the scores, so that they are freed before the next batch is computed
        yield from predictions_of(batch, _watched_scores(segmenter, batch), dataset)
        unchecked += len(batch)
        # the check synchronises: on a GPU it is done once in a while, because nothing is written before the end
        if segmenter.device.type == "cpu" or unchecked >= CHECKED_AT_ONCE:
            segmenter.check_numbers()
            unchecked = 0
    segmenter.check_numbers()


def _watched_scores(segmenter: Segmenter, batch: Batch) -> Tensor:
    with segmenter.watch(batch.images):
        return segmenter.segment(batch.pixels)


def predictions_of(batch: Batch, scores: Tensor, dataset: SegmentationDataset) -> Iterator[Prediction]:
    """Label the images of a batch of ``dataset`` at its resolution, from ``scores`` [B, C, S, S] in the frame."""
    frame = dataset.frame
    framed = labels_of(scores) if dataset.resolution == "letterbox" else None
    for number, (index, shape, target) in enumerate(zip(batch.indices, batch.shapes, batch.labels, strict=True)):
        labels = frame.labels(scores[number], shape) if framed is None else framed[number]
        yield Prediction(index, scores[number], labels, target, frame, shape)


class MeanIoU(Evaluator[Evaluation]):
    """mIoU of a segmenter; the progress bar shows the mIoU so far.

    Args:
        pictures: draws the predictions.
        per_image: keep the counts of each image too. 10,000 images of COCO take 6.5 MB.
        boundary: compute Boundary IoU too.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        pictures: Pictures | None = None,
        description: str = "segmenting",
        per_image: bool = False,
        boundary: bool = False,
    ) -> None:
        super().__init__(segmenter.device, description)
        self.segmenter = segmenter
        self.dataset = dataset
        self.pictures = pictures
        self.boundary = boundary
        self.confusion = self._empty()
        self.kept: dict[str, bytes] = {}
        self.per_image = per_image
        self.counted: list[tuple[Tensor, Tensor]] = []

    def _empty(self) -> ConfusionMatrix:
        return ConfusionMatrix.of(self.dataset.labelling, self.device, self.boundary)

    def process(self, batch: Batch) -> Arrays:
        counted, areas = self._empty(), []
        kept: dict[str, bytes] = {}
        with self.segmenter.watch(batch.images):
            for prediction in predictions_of(batch, self.segmenter.segment(batch.pixels), self.dataset):
                image = self._empty() if self.per_image else counted
                image.update(prediction.labels, prediction.target, prediction.inside)
                if self.per_image:
                    counted.state += image.state
                    areas.append(torch.stack([image.intersection, image.union]).int())
                kept |= self.pictures.keep(prediction) if self.pictures else {}
        own = {IMAGES: torch.tensor(batch.indices), AREAS: torch.stack(areas)} if self.per_image else {}
        return {COUNTS: counted.state, **own, **{name: as_array(content) for name, content in kept.items()}}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        joined = {name: torch.cat([one[name], other[name]]) for name in (IMAGES, AREAS) if name in one}
        return {**one, **other, COUNTS: one[COUNTS] + other[COUNTS], **joined}

    def add(self, block: int, arrays: Arrays) -> None:
        self.confusion.state += arrays[COUNTS].to(self.device)
        if self.per_image:
            self.counted.append((arrays[IMAGES], arrays[AREAS]))
        self.kept |= {name: array.numpy().tobytes() for name, array in arrays.items() if "." in name}

    def check(self) -> None:
        self.segmenter.check_numbers()

    def status(self) -> dict[str, Any]:
        return {"mIoU": f"{100 * self.confusion.cpu().miou:.2f}"}

    def accepts(self, indices: Sequence[int], arrays: Arrays) -> bool:
        if self.per_image and AREAS not in arrays:
            return False
        pictures = self.pictures
        return pictures is None or not any(pictures.must_draw(index, arrays) for index in indices)

    def result(self, done: Pass) -> Evaluation:
        confusion, per_image = self.confusion.cpu(), self._counts_of_images() if self.per_image else None
        return Evaluation(
            confusion, done.images, done.seconds, done.computed, done.skipped, self.kept, done.halved, per_image
        )

    def _counts_of_images(self) -> PerImageCounts:
        """In the order of the list, whatever the order in which blocks were added."""
        classes = len(self.confusion.scored)
        indices = torch.cat([torch.zeros(0, dtype=torch.int64), *(images for images, _ in self.counted)])
        areas = torch.cat([torch.zeros(0, 2, classes, dtype=torch.int32), *(areas.cpu() for _, areas in self.counted)])
        order = indices.argsort()
        intersections, unions = areas[order].numpy().swapaxes(0, 1)
        return PerImageCounts(indices[order].tolist(), intersections, unions)


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    journal: Journal | None = None,
    pictures: Pictures | None = None,
    description: str = "segmenting",
    per_image: bool = False,
    boundary: bool = False,
) -> Evaluation:
    """Score ``segmenter`` on ``dataset``; see :class:`MeanIoU` and :func:`src.evaluation.loop.run`.

    Raises:
        UserError: an image or mask cannot be read, all pixels are ignored, the model's output is not finite, or
            another process has ended.
    """
    evaluation = loop.run(
        MeanIoU(segmenter, dataset, pictures, description, per_image, boundary), dataset, loader, journal
    )
    evaluation.confusion.require_pixels()
    return evaluation
