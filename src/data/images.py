"""Decoding images and masks."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from .labels import Labelling

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")  # formats that may change labels
TRUNCATED = "it may be truncated: fetch it again"
T = TypeVar("T")


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name; hidden files, such as macOS's ``._*``, are none."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def read_image(path: Path) -> np.ndarray:
    """Decode an image of a data set to RGB, uint8 [height, width, 3].

    Pixels come as they are stored: an EXIF orientation is not applied, because masks are drawn on stored pixels.
    16 bits and floating point become 8 bits as in :func:`read_photo`.

    Raises:
        UserError: missing, no file, truncated or unreadable.
    """
    return _decode("image", path, lambda image: np.asarray(_eight_bits(image).convert("RGB")), TRUNCATED)


def read_photo(path: Path | str) -> np.ndarray:
    """Decode an image to RGB as a viewer shows it: uint8 [height, width, 3].

    The EXIF orientation is applied (a damaged EXIF block is passed over), transparency lies on white, 16 bits are cut
    to the upper 8, floating point counts from 0 to 1, or to 255 where a value is above 1; of an animation the first
    frame is taken, and there is no limit to the size.

    Raises:
        UserError: missing, no file, truncated or unreadable.
    """
    if not os.path.exists(path):
        raise UserError(f"image {path} does not exist (looked for from {Path.cwd()})")
    with _of_any_size():
        return _decode(
            "image", Path(path), lambda image: np.asarray(_on_white(_upright(image))), "save it as JPEG or PNG"
        )


def photo_pixels(path: Path) -> int:
    """How many pixels :func:`read_photo` will make of a file, as its header says; 0 where it cannot be read."""
    try:
        with _of_any_size(), Image.open(path) as image:
            return image.width * image.height
    except Exception:  # what is wrong is said by those who read all of it
        return 0


_lifting = threading.Lock()
_lifted: list[int | None] = []  # what Pillow's limit was before each of the threads that lifted it


@contextmanager
def _of_any_size() -> Iterator[None]:
    """While it lasts, in whichever thread, Pillow has no limit: it guards against images from strangers, and these are
    the user's own."""
    with _lifting:
        _lifted.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lifting:  # the first, which found the limit, is taken from the list by whoever is the last to leave
            Image.MAX_IMAGE_PIXELS = _lifted.pop()


def check_file(what: str, path: Path) -> None:
    """See that ``path`` is a file: reading from a named pipe or a terminal would wait for ever.

    Args:
        what: it is meant to be, for the message.
        path: to look at.

    Raises:
        UserError: it is missing, out of reach, or something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(what, path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a named pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise UserError(f"{what} {path} cannot be read: it is {kind}; expected an image file")


def _decode(what: str, path: Path, convert: Callable[[Image.Image], T], remedy: str) -> T:
    """``convert`` the image in a file; whatever goes wrong is told with the file's name and a remedy."""
    check_file(what, path)
    try:
        with Image.open(path) as image:
            return convert(image)
    except Exception as error:  # Pillow raises whatever its parsers stumble over in a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no image format known here" if path.stat().st_size else "the file is empty"
        elif isinstance(error, PermissionError):
            remedy = "see that you may read it"
        elif isinstance(error, Image.DecompressionBombError | MemoryError):
            remedy = "scale it down"
        raise UserError(f"{what} {path} cannot be read ({reason}); {remedy}") from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # what is wrong with the pixels is an error; what is wrong with the EXIF block is not
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the block is parsed and written anew, and any of its entries may be damaged
        return image


def _on_white(image: Image.Image) -> Image.Image:
    image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """``image``, brought to 8 bits if it has more: Pillow's own conversion would clip values at 255."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image).astype(np.float64)
    top = values.max(initial=0, where=np.isfinite(values))
    if image.mode == "F":  # 0 to 1 by custom, or 0 to 255
        scaled = np.rint(values * (255 / (1 if top <= 1 else max(top, 255))))
    else:
        scaled = values / max(top, 65535) * 255
    return Image.fromarray(np.nan_to_num(scaled, posinf=255).clip(0, 255).astype(np.uint8))


def _missing(what: str, path: Path) -> UserError:
    """What to say of a file that is not there: a list may name its folder as another lay-out of the data set does."""
    remedy = "check data_root and the image list"
    if not path.parent.is_dir() and path.parent.parent.is_dir():
        elsewhere = (folder for folder in sorted(path.parent.parent.iterdir()) if (folder / path.name).is_file())
        if (found := next(elsewhere, None)) is not None:
            remedy = (
                f"there is no folder {path.parent.name}, but {found / path.name} is there: rename {found.name} to "
                f"{path.parent.name}, or let `python -m tools.prepare` write the list anew with --force"
            )
    return UserError(f"{what} {path} does not exist; {remedy}")


def read_mask(path: Path, labelling: Labelling) -> np.ndarray:
    """Decode a mask to class numbers, uint8 [height, width]; a palette PNG has them in its indices, a grey PNG in its
    values.

    Raises:
        UserError: missing, unreadable, of a lossy format, not a palette or grey image, or a label that is no class and
            not ignored.
    """
    form, mode, labels = _decode("mask", path, lambda mask: (mask.format, mask.mode, np.asarray(mask)), TRUNCATED)
    if form in LOSSY:
        raise UserError(f"mask {path} is a {form} file, whose compression changes labels; expected PNG")
    if mode not in ("P", "L", "1", "I", "I;16"):
        raise UserError(f"mask {path} is a {mode} image; expected a palette or grey PNG whose values are labels")
    try:
        return labelling.class_numbers(labels)
    except ValueError as error:
        raise UserError(
            f"mask {path} has label {error}; expected 0 to {labelling.last_label} or {labelling.ignore_label} "
            "(ignored): do dataset.num_classes and dataset.first_label fit the masks?"
        ) from None
