"""The images of lowest IoU of a result in one picture: image, prediction and ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..config.reader import config_of
from ..data.labels import Labelling
from ..errors import UserError
from ..files import resolve
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
        rows.append((root / image, root / mask, _prediction(result.path, prediction, crc)))
        captions.append(f"IoU {100 * table.counts.miou[number]:.1f} %  {table.images[number]}")
    return sheet(rows, labelling, names, captions)


def _prediction(result: Path, name: str, crc: str) -> np.ndarray:
    if not name:
        raise UserError(
            f"{result} has no saved predictions; run training_free_blip.py again with --per-image --save-predictions"
        )
    path = result.parent / name
    if checksum(path).hex() != crc:
        problem = "was replaced by a later run" if path.exists() else "is missing"
        raise UserError(f"prediction {path} {problem}; run the command of {result.name} again, with --output-dir")
    with Image.open(path) as labels:
        return np.asarray(labels)
