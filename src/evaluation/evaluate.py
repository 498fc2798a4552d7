"""Running a segmenter over a data set and scoring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from src.config.schema import DataloaderConfig
from src.data.dataset import Batch, SegmentationDataset, batches
from src.data.frame import Frame
from src.evaluation.metrics import ConfusionMatrix
from src.method.segmenter import Segmenter, labels_of

Encoder = Callable[[Sequence[Path], Tensor], Tensor]
"""Makes embeddings [B, 1 + N, D] of B images, given as their files and as their pixels [B, 3, S, S]; lets a cache stand
in for the vision encoder."""

CHECKED_AT_ONCE = 50  # images on a GPU


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


Observer = Callable[[Prediction], None]
"""Is shown every prediction of an evaluation, in list order."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of an evaluation and what it took."""

    confusion: ConfusionMatrix
    images: int
    seconds: float

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: the scores of the C classes ``names``, image count, seconds and images per second."""
        return {
            **self.confusion.to_dict(names),
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
        }


def predict(
    segmenter: Segmenter, dataset: SegmentationDataset, loader: DataloaderConfig, encoder: Encoder | None = None
) -> Iterator[Prediction]:
    """Segment ``dataset`` image by image, in batches inside.

    Raises:
        UserError: an image or mask could not be read, or what the model says of an image is not a number.
    """
    unchecked: list[Path] = []

    def scores_of(batch: Batch) -> Tensor:
        files = [dataset.entries[index].image for index in batch.indices]
        scores = segmenter.segment(batch.pixels, encoder(files, batch.pixels) if encoder else None)
        unchecked.extend(files)
        # asking waits for the device: on a GPU now and then is enough, as nothing is written before the end
        if segmenter.device.type == "cpu" or len(unchecked) >= CHECKED_AT_ONCE:
            segmenter.check_numbers(unchecked)
            unchecked.clear()
        return scores

    for batch in batches(dataset, loader, segmenter.device):
        # no name holds the scores: they go before the next batch's come
        yield from predictions_of(batch, scores_of(batch), dataset)
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
    encoder: Encoder | None = None,
    description: str = "segmenting",
) -> Evaluation:
    """Score ``segmenter`` on ``dataset`` with a progress bar that shows the running mIoU.

    Raises:
        UserError: an image or mask could not be read, no pixel of the masks counts, or what the model says is not a
            number.
    """
    confusion = ConfusionMatrix(dataset.num_classes, dataset.ignore_label, segmenter.device)
    start = time.perf_counter()
    with tqdm(total=len(dataset), desc=description, unit="image", dynamic_ncols=True) as bar:
        count = 0  # enumerate would hold a prediction, and its batch's scores, while the next ones come
        for prediction in predict(segmenter, dataset, loader, encoder):
            count += 1  # noqa: SIM113
            confusion.update(prediction.labels, prediction.target)
            for observer in observers:
                observer(prediction)
            del prediction
            bar.update()
            # reading the score waits for the device; now and then is enough for the eye
            if segmenter.device.type == "cpu" or count % 50 == 0 or count == len(dataset):
                bar.set_postfix(mIoU=f"{100 * confusion.miou:.2f}")
    confusion.require_pixels()
    return Evaluation(confusion, len(dataset), time.perf_counter() - start)
