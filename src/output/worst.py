"""The images of lowest IoU of a result in one picture: image, prediction and ground truth."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..config.reader import config_of
from ..data.images import decode
from ..data.labels import Labelling
from ..errors import UserError
from ..files import resolve
from ..screen import counted
from .evaluation_pictures import checksum, sheet
from .per_image_table import PerImageTable
from .reading import Result


def worst_images(table: PerImageTable, count: int) -> list[int]:
    """Rows of the ``count`` images of lowest mIoU, the lowest first; of equal ones, the first of the list."""
    order = np.argsort(table.counts.miou, kind="stable")  # NaN, which images without a class have, comes last
    return order[: min(count, int(np.isfinite(table.counts.miou).sum()))].tolist()


def worst_sheet(result: Result, table: PerImageTable, count: int) -> bytes:
    """A PNG with a row for each of the ``count`` images of lowest mIoU (or all) of a training-free result.

    Raises:
        UserError: predictions were not saved or were replaced, or an image or mask cannot be read.
    """
    config = config_of(dict(result.settings), str(result.path))
    root, labelling = resolve(config.data_root), Labelling.from_config(config.dataset)
    names = table.names if labelling.background else ["", *table.names]
    rows, captions = [], []
    for number in worst_images(table, count):
        image, mask, prediction, crc = table.files[number]
        rows.append((root / image, root / mask, _prediction(result.path, prediction, crc, len(names))))
        captions.append(f"IoU {100 * table.counts.miou[number]:.1f} %  {table.images[number]}")
    return sheet(rows, labelling, names, captions)


def _prediction(result: Path, name: str, crc: str, classes: int) -> np.ndarray:
    if not name:
        raise UserError(
            f"{result} has no saved predictions; run training_free_blip.py again with --per-image --save-predictions"
        )
    path = result.parent / name
    again = f"run the command of {result.name} again, with --output-dir"
    try:
        found = checksum(path).hex()
    except OSError as error:
        raise UserError(f"prediction {path} cannot be read ({error.strerror}); {again}") from error
    if found != crc:
        problem = "was replaced by a later run" if os.path.lexists(path) else "is missing"
        raise UserError(f"prediction {path} {problem}; {again}")
    labels = decode("prediction", path, _stored_labels)
    if labels is None or (labels >= classes).any():
        raise UserError(f"prediction {path} is not a label map of {counted(classes, 'class', 'classes')}; {again}")
    return labels


def _stored_labels(prediction: Image.Image) -> np.ndarray | None:
    """The labels of a palette PNG, uint8 [height, width]; None for any other picture."""
    return np.asarray(prediction) if prediction.mode == "P" else None
