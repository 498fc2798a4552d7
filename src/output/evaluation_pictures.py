"""Pictures of an evaluation, beside its CSV: label maps and overlays on demand, charts always."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.dataset import SegmentationDataset
from src.data.images import read_image, read_mask
from src.data.lists import ListEntry
from src.evaluation.evaluate import Observer, Prediction
from src.evaluation.metrics import ConfusionMatrix
from src.files import write_bytes
from src.output import charts, pictures


class EvaluationPictures:
    """Collects what the pictures of one evaluation need and writes them.

    Pictures replace those of an earlier evaluation with the same CSV: they can be made again.

    Args:
        csv: the evaluation's CSV; pictures are named after it.
        dataset: what is evaluated.
        names: C class names.
        save_predictions: write ``<csv stem>_predictions/<image>.png``.
        overlays: draw so many images into ``<csv stem>_overlays.png``; None or 0: none.
    """

    def __init__(
        self,
        csv: Path,
        dataset: SegmentationDataset,
        names: Sequence[str],
        save_predictions: bool = False,
        overlays: int | None = None,
    ) -> None:
        self.csv = csv
        self.dataset = dataset
        self.names = names
        self.save_predictions = save_predictions
        self.predictions = csv.with_name(f"{csv.stem}_predictions")
        self.observers: list[Observer] = []
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # image, prediction, ground truth
        if save_predictions:
            self._files = prediction_files([dataset.entries[index] for index in dataset.indices], self.predictions)
            self.observers.append(self._write_prediction)
        if overlays:
            self._shown = set(evenly_spaced(dataset.indices, overlays))
            self.observers.append(self._keep_row)

    def write(self, confusion: ConfusionMatrix) -> list[Path]:
        """Write charts and overlays; returns the paths of all pictures of this evaluation."""
        iou, matrix, overlays = (
            self.csv.with_name(f"{self.csv.stem}_{name}.png") for name in ("iou", "confusion", "overlays")
        )
        title = f"{self.csv.stem}: {len(self.dataset)} images"
        charts.iou_bars(iou, self.names, confusion.iou.tolist(), title=title)
        charts.confusion_matrix(matrix, self.names, confusion.counts.tolist(), title=title)
        written = [iou, matrix]
        if self._rows:
            write_bytes(overlays, self._grid())
            written.append(overlays)
        return [*written, self.predictions] if self.save_predictions else written

    def _write_prediction(self, prediction: Prediction) -> None:
        labels = prediction.labels_at_own_size().cpu().numpy()
        write_bytes(self._files[self.dataset.entries[prediction.index].image], pictures.label_png(labels))

    def _keep_row(self, prediction: Prediction) -> None:
        if prediction.index in self._shown:
            dataset = self.dataset
            entry = dataset.entries[prediction.index]
            assert entry.mask is not None
            target = read_mask(entry.mask, dataset.num_classes, dataset.ignore_label)
            target[target == dataset.ignore_label] = pictures.IGNORED
            labels = prediction.labels_at_own_size().cpu().numpy()
            self._rows.append((read_image(entry.image), labels, target))

    def _grid(self) -> bytes:
        label_maps = [labels for _, *maps in self._rows for labels in maps]
        rows = [
            (image, pictures.overlay(image, predicted), pictures.overlay(image, target))
            for image, predicted, target in self._rows
        ]
        legend = pictures.legend_of(label_maps, self.names)
        return pictures.png(pictures.grid(rows, ("image", "prediction", "ground truth"), legend))


def evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    """``count`` of ``indices`` (all, if there are fewer), from the first to the last in even steps."""
    count = min(count, len(indices))
    return [indices[round(step)] for step in np.linspace(0, len(indices) - 1, count)]


def prediction_files(entries: Sequence[ListEntry], folder: Path) -> dict[Path, Path]:
    """Where the label map of each image goes: ``folder``, the image's path below what all images share, ``.png``.

    Images that differ in their ending only keep it: ``a.jpg.png``.
    """
    images = [entry.image for entry in entries]
    root = os.path.commonpath([image.parent for image in images])
    stems = Counter(image.with_suffix("") for image in images)
    files = {}
    for image in images:
        name = f"{image.stem if stems[image.with_suffix('')] == 1 else image.name}.png"
        files[image] = folder / image.relative_to(root).with_name(name)
    return files
