"""Running a segmenter over a data set and scoring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from src.config.schema import Config
from src.data.dataset import SegmentationDataset, batches
from src.data.frame import Letterbox
from src.evaluation.metrics import ConfusionMatrix
from src.method.segmenter import Segmenter, labels_of

Encoder = Callable[[dict[str, Any]], Tensor]
"""Makes image embeddings [B, 1 + N, D] of a batch; lets a cache stand in for the vision encoder."""


@dataclass(frozen=True)
class Prediction:
    """One segmented image.

    Attributes:
        index: its place in the image list.
        scores: [C, S, S] class scores in the letterbox frame.
        labels: predicted labels in the frame of the evaluation, uint8: [S, S], or [height, width] with
            ``eval.resolution: original``.
        target: true labels in the same frame, uint8.
        letterbox: the image's way into the frame and back.
    """

    index: int
    scores: Tensor
    labels: Tensor
    target: Tensor
    letterbox: Letterbox

    def original_labels(self) -> Tensor:
        """Predicted labels [height, width] of the untouched image, uint8."""
        if self.labels.shape == (self.letterbox.height, self.letterbox.width):
            return self.labels
        return labels_of(self.letterbox.undo(self.scores))


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
    segmenter: Segmenter, dataset: SegmentationDataset, config: Config, encoder: Encoder | None = None
) -> Iterator[Prediction]:
    """Segment ``dataset`` image by image, in batches inside.

    Raises:
        UserError: an image or mask could not be read.
    """
    for batch in batches(dataset, config, segmenter.device):
        scores = segmenter.segment(batch["pixels"], encoder(batch) if encoder else None)
        yield from predictions_of(batch, scores, config)


def predictions_of(batch: dict[str, Any], scores: Tensor, config: Config) -> Iterator[Prediction]:
    """Label a batch's images in the frame of the evaluation.

    Args:
        batch: from :func:`src.data.dataset.batches`, with labels in that frame.
        scores: [B, C, S, S] class scores in the letterbox frame.
        config: says which frame that is.
    """
    original = config.eval.resolution == "original"
    labels = None if original else labels_of(scores)
    for position, index in enumerate(batch["index"]):
        letterbox = Letterbox(batch["height"][position], batch["width"][position], scores.shape[-1])
        own = labels_of(letterbox.undo(scores[position])) if original else labels[position]
        yield Prediction(index, scores[position], own, batch["labels"][position], letterbox)


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    config: Config,
    observers: Sequence[Observer] = (),
    encoder: Encoder | None = None,
    description: str = "segmenting",
) -> Evaluation:
    """Score ``segmenter`` on ``dataset`` with a progress bar that shows the running mIoU.

    Raises:
        UserError: an image or mask could not be read.
    """
    confusion = ConfusionMatrix(config.dataset.num_classes, config.dataset.ignore_label, segmenter.device)
    start = time.perf_counter()
    with tqdm(total=len(dataset), desc=description, unit="image", dynamic_ncols=True) as bar:
        for count, prediction in enumerate(predict(segmenter, dataset, config, encoder), 1):
            confusion.update(prediction.labels, prediction.target)
            for observer in observers:
                observer(prediction)
            bar.update()
            # reading the score waits for the device; now and then is enough for the eye
            if segmenter.device.type == "cpu" or count % 50 == 0 or count == len(dataset):
                bar.set_postfix(mIoU=f"{100 * confusion.miou:.2f}")
    return Evaluation(confusion, len(dataset), time.perf_counter() - start)
