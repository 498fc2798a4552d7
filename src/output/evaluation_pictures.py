"""Pictures of an evaluation, beside its CSV: label maps and overlays on demand, charts always."""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.dataset import SegmentationDataset
from ..data.images import read_image, read_mask
from ..data.labels import Labelling
from ..data.lists import ListEntry
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, Prediction
from ..files import write_bytes
from ..runtime import rank
from ..screen import counted, note
from . import charts, pictures
from .colours import IGNORED


class EvaluationPictures:
    """Collects what the pictures of one evaluation need and writes them; they replace earlier ones of the same CSV.

    Args:
        csv: the evaluation's CSV; pictures are named after it.
        names: C class names.
        save_predictions: write ``<csv stem>_predictions/<image>.png``.
        overlays: draw N images into ``<csv stem>_overlays.png``; None or 0: none.
        figures: format of the charts, one of :data:`src.cli.CHART_FORMATS`.
    """

    def __init__(
        self,
        csv: Path,
        dataset: SegmentationDataset,
        names: Sequence[str],
        save_predictions: bool = False,
        overlays: int | None = None,
        figures: str = "png",
    ) -> None:
        self.csv = csv
        self.dataset = dataset
        self.names = names
        self.save_predictions = save_predictions
        self.figures = figures
        self.predictions = csv.with_name(f"{csv.stem}_predictions")
        self._shown: list[int] = []
        self._complained = False
        if save_predictions:
            self._files = prediction_files([dataset.entries[index] for index in dataset.indices], self.predictions)
        if overlays:
            self._shown = evenly_spaced(dataset.indices, overlays)

    def keep(self, prediction: Prediction) -> dict[str, bytes]:
        """Write the label map of a prediction; returns its checksum, and its labels if they belong to the overlays."""
        return {**self._write_prediction(prediction), **self._keep_row(prediction)}

    def must_draw(self, index: int, kept: Mapping[str, Tensor]) -> bool:
        """Whether a picture of image ``index`` is missing; ``kept`` is what :meth:`keep` returned before."""
        if index in self._shown and f"overlay.{index}" not in kept:
            return True
        if not self.save_predictions:
            return False
        written = kept.get(f"prediction.{index}")
        return written is None or written.numpy().tobytes() != checksum(self._file_of(index))

    def prediction_of(self, index: int, kept: Mapping[str, bytes]) -> tuple[Path, bytes] | None:
        """File and checksum of the label map of image ``index``; None if :meth:`keep` wrote none."""
        written = kept.get(f"prediction.{index}")
        return None if written is None else (self._file_of(index), written)

    def write(self, evaluation: Evaluation) -> list[Path]:
        """Write charts and overlays; returns the paths of all pictures of this evaluation.

        A picture that cannot be written is named and skipped, because the scores matter.
        """
        iou, matrix = (self.csv.with_name(f"{self.csv.stem}_{name}.{self.figures}") for name in ("iou", "confusion"))
        overlays = self.csv.with_name(f"{self.csv.stem}_overlays.png")
        title, confusion = f"{self.csv.stem}: {counted(evaluation.images, 'image')}", evaluation.confusion
        scored = self.names[-len(confusion.scored) :]  # without a background, only the foreground classes
        drawings: dict[Path, Callable[[], None]] = {
            iou: lambda: charts.iou_bars(iou, scored, confusion.iou.tolist(), title=title, absent=confusion.absent),
            matrix: lambda: charts.confusion_matrix(matrix, scored, confusion.scored.tolist(), title=title),
        }
        if self._shown and rank() == 0:  # of a job's processes one writes
            drawings[overlays] = lambda: write_bytes(overlays, self._grid(evaluation.kept))
        written = [path for path, draw in drawings.items() if self._drawn(draw)]
        return [*written, self.predictions] if self.save_predictions else written

    def _drawn(self, draw: Callable[[], None]) -> bool:
        try:
            draw()
        except UserError as error:
            if not self._complained:
                note(f"note: {error}; the evaluation continues without the picture")
            self._complained = True
            return False
        return True

    def _write_prediction(self, prediction: Prediction) -> dict[str, bytes]:
        if not self.save_predictions:
            return {}
        labels = prediction.labels_at_own_size().cpu().numpy()
        path = self._file_of(prediction.index)
        if not self._drawn(lambda: write_bytes(path, pictures.label_png(labels))):
            return {}
        return {f"prediction.{prediction.index}": checksum(path)}

    def _keep_row(self, prediction: Prediction) -> dict[str, bytes]:
        if prediction.index not in self._shown:
            return {}
        return {f"overlay.{prediction.index}": pictures.label_png(prediction.labels_at_own_size().cpu().numpy())}

    def _file_of(self, index: int) -> Path:
        return self._files[self.dataset.entries[index].image]

    def _grid(self, kept: Mapping[str, bytes]) -> bytes:
        rows = []
        for index in self._shown:
            if f"overlay.{index}" in kept:  # else the image could not be read
                entry = self.dataset.entries[index]
                assert entry.mask is not None
                predicted = np.asarray(Image.open(io.BytesIO(kept[f"overlay.{index}"])))
                rows.append((entry.image, entry.mask, predicted))
        return sheet(rows, self.dataset.labelling, self.names)


def sheet(
    rows: Iterable[tuple[Path, Path, np.ndarray]],
    labelling: Labelling,
    names: Sequence[str],
    captions: Sequence[str] = (),
) -> bytes:
    """Image, prediction and ground truth side by side, a row per image, as a PNG.

    Args:
        rows: image file, mask file and predicted labels, uint8 [height, width].
        names: C class names.
        captions: a line above each row; empty: none.

    Raises:
        UserError: an image or mask cannot be read, or an image has another size than its labels.
    """
    drawn, label_maps = [], []
    for image_file, mask_file, predicted in rows:
        image, target = read_image(image_file), read_mask(mask_file, labelling)
        for what, labels in ((f"mask {mask_file}", target), ("its prediction", predicted)):
            if labels.shape != image.shape[:2]:
                raise UserError(
                    f"image {image_file} has {image.shape[1]} x {image.shape[0]} pixels, but {what} has "
                    f"{labels.shape[1]} x {labels.shape[0]}; segment the image again"
                )
        target[target == labelling.ignore_label] = IGNORED
        drawn.append((image, pictures.overlay(image, predicted), pictures.overlay(image, target)))
        label_maps += [predicted, target]
    legend = pictures.legend_of(label_maps, names)
    return pictures.png(pictures.grid(drawn, ("image", "prediction", "ground truth"), legend, captions=captions))


def checksum(path: Path) -> bytes:
    """CRC-32 of a file's contents, 4 bytes; empty if the file is missing."""
    return zlib.crc32(path.read_bytes()).to_bytes(4, "little") if path.is_file() else b""


def evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    """``count`` of ``indices`` (all, if there are fewer), from the first to the last in even steps."""
    count = min(count, len(indices))
    return [indices[round(step)] for step in np.linspace(0, len(indices) - 1, count)]


def prediction_files(entries: Sequence[ListEntry], folder: Path) -> dict[Path, Path]:
    """Path of each image's label map: ``folder``, the image's path below the common folder of all images, ``.png``.

    Images that differ in their ending only keep it: ``a.jpg.png``.
    """
    # a list may contain ".."; files are always written below the folder
    images = [Path(os.path.normpath(entry.image)) for entry in entries]
    root = os.path.commonpath([image.parent for image in images])
    stems = Counter(image.with_suffix("") for image in images)
    files = {}
    for entry, image in zip(entries, images, strict=True):
        name = f"{image.stem if stems[image.with_suffix('')] == 1 else image.name}.png"
        files[entry.image] = folder / image.relative_to(root).with_name(name)
    return files
