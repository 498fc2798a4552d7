"""Which picture formats data preparation reads, and which of them keep labels exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from src.data.images import check_file
from src.errors import UserError

LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
LOSSY = ("JPEG", "WEBP", "JPEG2000", "AVIF", "MPO")
FORMATS = (*LOSSLESS, *LOSSY[:-1])  # Pillow's others run programs (EPS) or are no pictures; JPEG opens MPO

LOSSLESS_ENDINGS = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"})
LOSSY_ENDINGS = frozenset({".jpg", ".jpeg", ".jfif", ".webp", ".jp2", ".avif"})
ENDINGS = LOSSLESS_ENDINGS | LOSSY_ENDINGS

LABEL_MODES = ("P", "L", "1", "I", "I;16")


def picture_size(what: str, path: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header.

    Raises:
        UserError: it cannot be read; the message calls it ``what``.
    """
    check_file(what, path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:  # a damaged file makes Pillow's plugins raise nearly anything
        raise _unreadable(what, path, error) from error


def read_labels(path: Path) -> np.ndarray:
    """Read a mask whose values are labels: uint8, int32 or uint16 [height, width]; 1 bit gives 0 and 1.

    Raises:
        UserError: it cannot be read, is of a lossy format, or has colours.
    """
    image = _open_exact(path)
    if image.mode not in LABEL_MODES:
        raise UserError(
            f"mask {path} has colours; expected labels: write one line per colour, `red green blue label name`, into a "
            "file and pass it as --from-colours FILE"
        )
    values = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == bool else values


def read_colours(path: Path) -> np.ndarray:
    """Read a mask whose colours stand for labels: uint8 [height, width, 3].

    Raises:
        UserError: it cannot be read, or is of a lossy format.
    """
    return np.asarray(_open_exact(path).convert("RGB"))


def read_grey(path: Path) -> np.ndarray:
    """Read a mask of any format as grey values: uint8 [height, width].

    Raises:
        UserError: it cannot be read.
    """
    return np.asarray(_open(path).convert("L"))


def _open_exact(path: Path) -> Image.Image:
    image = _open(path)
    if image.format in LOSSY or "jpeg" in str(image.info.get("compression", "")):
        raise UserError(
            f"mask {path} is a {image.format} file, whose compression changes labels; export the masks as PNG, or with "
            "one kind of object on black pass --threshold 128"
        )
    return image


def _open(path: Path) -> Image.Image:
    check_file("mask", path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return image
    except Exception as error:  # as above
        raise _unreadable("mask", path, error) from error


def _unreadable(what: str, path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{what} {path} cannot be read ({reason}); export it again or remove it")
