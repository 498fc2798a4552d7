"""Decoding images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from src.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or no pictures."""


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())


def read_image(path: Path) -> np.ndarray:
    """Decode an image to RGB, uint8 [height, width, 3].

    Pixels come as they are stored: an EXIF orientation is not applied, because masks are drawn on stored pixels.

    Raises:
        UserError: missing, truncated or unreadable.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise _missing("image", path) from None
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be read ({error}); it may be truncated: fetch it again") from error


def read_photo(path: Path) -> np.ndarray:
    """Decode an image to RGB as a viewer shows it: uint8 [height, width, 3].

    The EXIF orientation is applied, transparency lies on white, 16 bits are cut to the upper 8, of an animation the
    first frame is taken, and there is no limit to the size.

    Raises:
        UserError: unreadable or truncated.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the guard against images from strangers; these are the user's own
    try:
        with Image.open(path) as image:
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        reason = "no image format known here" if isinstance(error, Image.UnidentifiedImageError) else error
        raise UserError(f"image {path} cannot be read ({reason}); save it as JPEG or PNG") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion would clip these at 255
        values = np.asarray(image).astype(np.float64)
        top = float(np.nanmax(values)) if values.size else 0.0
        # 16 bits in their full range; floating point is 0..1 by custom; anything above is brought down by its maximum
        span = 1.0 if image.mode == "F" and top <= 1 else max(top, 65535.0) if image.mode != "F" else max(top, 255.0)
        grey = np.nan_to_num(values / span * 255).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _missing(what: str, path: Path) -> UserError:
    """What to say of a file that is not there: a list may name its folder as another lay-out of the data set does."""
    remedy = "check data_root and the image list"
    if not path.parent.is_dir() and path.parent.parent.is_dir():
        elsewhere = (folder for folder in sorted(path.parent.parent.iterdir()) if (folder / path.name).is_file())
        if (found := next(elsewhere, None)) is not None:
            remedy = (
                f"there is no folder {path.parent.name}, but {found / path.name} is there: rename {found.name} to "
                f"{path.parent.name}, or let `python -m src.prepare` write the list anew with --force"
            )
    return UserError(f"{what} {path} does not exist; {remedy}")


def read_mask(path: Path, num_classes: int, ignore_label: int) -> np.ndarray:
    """Decode a mask to labels, uint8 [height, width]; a palette PNG gives its indices, a grey PNG its values.

    Raises:
        UserError: missing, unreadable, not a palette or grey image, or a label that is no class and not ignored.
    """
    try:
        with Image.open(path) as mask:
            mode, labels = mask.mode, np.asarray(mask)
    except FileNotFoundError:
        raise _missing("mask", path) from None
    except UNREADABLE as error:
        raise UserError(f"mask {path} cannot be read ({error}); it may be truncated: fetch it again") from error
    if mode not in ("P", "L", "1", "I", "I;16"):
        raise UserError(f"mask {path} is a {mode} image; expected a palette or grey PNG whose values are labels")
    present = np.unique(labels)
    wrong = [int(v) for v in present if not 0 <= v < num_classes and v != ignore_label]
    if wrong:
        raise UserError(
            f"mask {path} has label {wrong[0]}; expected 0 to {num_classes - 1} or {ignore_label} (ignored): "
            "does dataset.num_classes fit the masks?"
        )
    return labels.astype(np.uint8)
