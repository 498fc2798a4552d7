"""Reading pictures and masks in data preparation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from src.data.images import decode, refuse_lossy, stored_values
from src.errors import UserError


def picture_size(what: str, path: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header. Raises UserError if it cannot be read; ``what`` names it."""
    return decode(what, path, lambda image: (image.height, image.width))


def read_labels(path: Path) -> np.ndarray:
    """Read a mask whose values are labels: integers [height, width]; 1 bit gives 0 and 1.

    Raises:
        UserError: it cannot be read, is lossy, or has colours.
    """

    def labels_of(mask: Image.Image) -> np.ndarray:
        _refuse_lossy(mask, path)
        try:
            return stored_values(mask)
        except ValueError:
            raise UserError(
                f"mask {path} has colours; expected labels: write one line per colour, `red green blue label name`, "
                "into a file and pass it as --from-colours FILE"
            ) from None

    return decode("mask", path, labels_of)


def read_colours(path: Path) -> np.ndarray:
    """Read a mask whose colours stand for labels, uint8 [height, width, 3]. Raises UserError if unreadable or lossy."""

    def colours_of(mask: Image.Image) -> np.ndarray:
        _refuse_lossy(mask, path)
        return np.asarray(mask.convert("RGB"))

    return decode("mask", path, colours_of)


def read_grey(path: Path) -> np.ndarray:
    """Read a mask as grey values, uint8 [height, width]. Raises UserError if that fails."""
    return decode("mask", path, lambda mask: np.asarray(mask.convert("L")))


def _refuse_lossy(mask: Image.Image, path: Path) -> None:
    refuse_lossy(mask, path, "export the masks as PNG, or with one kind of object on black pass --threshold 128")
