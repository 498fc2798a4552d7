"""Decode images and masks."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ..errors import UserError
from ..files import size
from ..screen import note
from .labels import Labelling

FORMATS = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WEBP": "WebP",
    "TIFF": "TIFF",
    "BMP": "BMP",
    "GIF": "GIF",
    "PPM": "PPM",
    "JPEG2000": "JPEG 2000",
    "AVIF": "AVIF",
    "HEIF": "HEIC",
}
"""Supported formats, by Pillow's names. Pillow has more, but EPS, for example, runs Ghostscript."""

LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF", "HEIF")
"""Formats that may change values: not allowed for masks."""

LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
"""Those of TIFF, by Pillow's names, that may change values."""

MAX_BYTES = 2**30
"""Largest size of a decoded image: 268 million pixels in colour."""

PIXEL_BYTES = {"1": 1, "L": 1, "P": 1}
"""Bytes of a decoded pixel, by Pillow's mode; 16-bit modes take 2, other modes 4."""

UNCOMPRESSED = ("BMP", "PPM")
MAX_PIXELS_PER_BYTE = 256  # run-length encoding, the only compression of BMP, stores 255 pixels in two bytes

DEPTHS = (8, 10, 12, 14, 16)
"""Possible bits per value in a 16-bit file that does not state its depth; the smallest one that fits is used."""

MAX_16_BITS = 2**16 - 1
STATE_THEIR_SCALE = ("PPM", "JPEG2000")  # Pillow applies it
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE, SAMPLE_FORMAT = 258, 281, 339  # tags of TIFF; format 2: signed
SCALED_AT_ONCE = 2**20  # float64 values at a time

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEAD = 64  # bytes that identify the kind of an unreadable file
FETCH = "the file may be truncated: download or copy it again"
SMALLER = "make it smaller"
T = TypeVar("T")

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A path, a Pillow image, or an array; see :func:`to_rgb`."""


class TooLargeError(Exception):
    """A decoded image would take more memory than allowed."""


@cache
def formats() -> tuple[str, ...]:
    """The :data:`FORMATS` that this installation supports; HEIC needs the package pillow-heif."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def format_names() -> str:
    """The supported formats, for messages."""
    return ", ".join(FORMATS[name] for name in formats())


@cache
def image_endings() -> frozenset[str]:
    """File name endings of the supported formats, in lower case."""
    readable = {*formats(), "MPO"}  # MPO: JPEG files with several pictures, written by some cameras
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in readable)


@cache
def mask_endings() -> frozenset[str]:
    """Those of :func:`image_endings` whose formats keep values, as masks need it."""
    return frozenset(ending for ending in image_endings() if Image.registered_extensions()[ending] not in LOSSY)


def images_in(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, sorted by name, without hidden files such as macOS's ``._*``."""
    return [path for path in _files_in(folder) if path.suffix.lower() in image_endings()]


def passed_over(folder: Path, read: str | None = None) -> str:
    """The files that :func:`images_in` leaves out, for messages, such as ``3 .txt``; empty if there are none.

    Files that end in ``read`` do not count.
    """
    endings = {*image_endings(), read}
    others = Counter(path.suffix.lower() for path in _files_in(folder) if path.suffix.lower() not in endings)

    def described(ending: str) -> str:
        needs = " (reading them needs the package pillow-heif)" if ending in (".heic", ".heif", ".hif") else ""
        return f"{others[ending]:,} {ending or 'without an ending'}{needs}"

    return ", ".join(described(ending) for ending in sorted(others))


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}); give yourself read permission") from error


@contextmanager
def open_image(source: Path | IO[bytes], most: int | None = MAX_BYTES) -> Iterator[Image.Image]:
    """Open an image in one of :data:`FORMATS` and check its header; pixels are decoded later.

    Raises:
        TooLargeError: the decoded image would have more than ``most`` bytes (None: no limit).
        Exception: Pillow cannot read the file.
    """
    with _without_pillows_limit(), Image.open(source, formats=formats()) as image:
        pixel = PIXEL_BYTES.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
        pixels = image.width * image.height
        if most is not None and pixels * pixel > most:
            raise TooLargeError(
                f"{image.width} x {image.height} pixels take {size(pixels * pixel)}, the limit is {size(most)}"
            )
        if image.format in UNCOMPRESSED and pixels > MAX_PIXELS_PER_BYTE * (stored := _stored_bytes(source)):
            raise ValueError(f"its header says {image.width} x {image.height} pixels, but it has {stored} bytes")
        yield image


def _stored_bytes(source: Path | IO[bytes]) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    place = source.tell()
    end = source.seek(0, io.SEEK_END)
    source.seek(place)
    return end


_lifting = threading.Lock()
_lifted: list[int | None] = []  # for each thread that lifted Pillow's limit, the limit before


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Context without Pillow's limit (in all threads), because it counts pixels and not bytes."""
    with _lifting:
        _lifted.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lifting:  # the last thread to leave takes the first entry, which is Pillow's own limit
            Image.MAX_IMAGE_PIXELS = _lifted.pop()


def read_image(path: Path) -> np.ndarray:
    """Decode an image of a data set to RGB, uint8 [height, width, 3].

    EXIF orientation and colour profile are not applied, because masks are drawn on stored pixels. Grey values of more
    than 8 bits are clipped to 0 to 255 as published, with a note.

    Raises:
        UserError: the file is missing, not a regular file, too large, truncated or unreadable.
    """
    return decode("image", path, lambda image: np.asarray(_clipped(image, path).convert("RGB")))


def _clipped(image: Image.Image, path: Path) -> Image.Image:
    """``image`` at 8 bits a channel as Pillow's ``convert`` makes it, for those modes that it does not convert, too."""
    if not _is_deep(image):
        return image
    values = np.asarray(image)
    values = np.nan_to_num(values) if image.mode == "F" else values
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255 or (image.mode == "F" and 0 < high <= 1):
        _note_clipped(path, low, high)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _is_deep(image: Image.Image) -> bool:
    """Whether the values have more than 8 bits; Pillow reads colours of more bits as 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


_clipped_said = threading.Event()


def _note_clipped(path: Path, low: float, high: float) -> None:
    if not _clipped_said.is_set():
        _clipped_said.set()
        note(
            f"note: image {path} has values from {low:g} to {high:g}; they are read as whole numbers from 0 to 255, "
            "as in the published code: save the images of the data set with 8 bits (shown once)"
        )


def read_photo(
    path: Path | str, most: int | None = MAX_BYTES, too_large: str = SMALLER, contents: bytes | None = None
) -> np.ndarray:
    """Decode an image to RGB as a viewer shows it: uint8 [height, width, 3].

    - The EXIF orientation is applied; a damaged EXIF block is ignored. Of an animation, the first frame is used.
    - Colours are converted to sRGB if the file has another profile. Transparent pixels are blended with white.
    - 16-bit values are scaled by the number of bits that they use.
    - Floating point values range from 0 to 1, or from 0 to 255 if a value exceeds 1.

    Args:
        most: largest size of the decoded image in bytes; None: no limit.
        too_large: the remedy in the error about a larger image.
        contents: the bytes of the file, if they are in memory; ``path`` is then only a name for messages.

    Raises:
        UserError: the file is missing, not a regular file, too large, truncated or unreadable.
    """
    if contents is None and not os.path.exists(path):
        raise UserError(f"image {path} does not exist (current folder: {Path.cwd()})")
    return decode("image", Path(path), lambda image: _as_shown(image, path), most, too_large, contents)


def photo_pixels(path: Path) -> int:
    """Number of pixels of a file, from its header; 0 if it cannot be read."""
    try:
        with open_image(path, None) as image:
            return image.width * image.height
    except Exception:  # reading the image later will raise a better error
        return 0


def to_rgb(image: ImageLike) -> np.ndarray:
    """Convert an image to RGB, uint8 [height, width, 3].

    Args:
        image: a path or a Pillow image (see :func:`read_photo`); or a grey, RGB or RGBA array [height, width] or
            [height, width, 3 or 4], uint8 or floating point from 0 to 1.

    Raises:
        UserError: the file cannot be read, or the array has another dtype, shape or range.
    """
    if isinstance(image, str | os.PathLike):
        return read_photo(Path(image))
    if isinstance(image, Image.Image):
        return _as_shown(image, "image")
    expected = "expected a path, a Pillow image, or an array [height, width], [height, width, 3] or [height, width, 4]"
    if not isinstance(image, np.ndarray):
        found = f"{type(image).__module__}.{type(image).__qualname__}"
        raise UserError(f"image: {expected}, got {found}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)) or not image.size:
        raise UserError(f"image: {expected}, got an array of shape {list(image.shape)}")
    if image.dtype != np.uint8:
        image = _bytes_of_floats(image)
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    return np.asarray(_on_white(Image.fromarray(image)))


def _bytes_of_floats(values: np.ndarray) -> np.ndarray:
    expected = "expected uint8, or floating point from 0 to 1"
    if values.dtype.kind != "f":
        raise UserError(f"image: {expected}, got an array of dtype {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise UserError(f"image: {expected}, got {values.dtype} from {low:g} to {high:g}")
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def check_file(what: str, path: Path) -> None:
    """Check that ``path`` is a regular file (reading a pipe or a terminal would block); messages call it ``what``.

    Raises:
        UserError: ``path`` is missing, inaccessible or not a regular file.
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


def decode(
    what: str,
    path: Path,
    convert: Callable[[Image.Image], T],
    most: int | None = MAX_BYTES,
    too_large: str = SMALLER,
    contents: bytes | None = None,
) -> T:
    """Open the image in a file, or in its ``contents``, and ``convert`` it; see :func:`read_photo` for the arguments.

    Raises:
        UserError: every fault of the file, with its kind (``what``), path and a remedy.
    """
    if contents is None:
        check_file(what, path)
    try:
        with open_image(path if contents is None else io.BytesIO(contents), most) as image:
            return convert(image)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        reason, remedy = " ".join(str(error).split()) or type(error).__name__, FETCH
        if isinstance(error, Image.UnidentifiedImageError):
            reason, remedy = _unknown_format(_head(path) if contents is None else contents[:HEAD])
        elif isinstance(error, PermissionError):
            remedy = "give yourself read permission"
        elif isinstance(error, TooLargeError | MemoryError):
            remedy = too_large
        raise UserError(f"{what} {path} cannot be read ({reason}); {remedy}") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _unknown_format(head: bytes) -> tuple[str, str]:
    """Reason and remedy for a file that begins with ``head`` and is not in a supported format."""
    if not head:
        return "the file is empty", "download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image", "run `git lfs pull`"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and "HEIF" not in formats():
        return "HEIC needs the package pillow-heif", "install it with `pip install pillow-heif`, or save it as JPEG"
    return "unsupported format", f"expected {format_names()}"


def _missing(what: str, path: Path) -> UserError:
    """The error for a missing file; if the file is in a neighbouring folder, it suggests to rename that folder."""
    remedy = "check data_root and the image list"
    if "\\" in path.name and os.sep == "/":
        remedy = "separate the parts of a path by /, not by \\"
    elif not path.parent.is_dir() and path.parent.parent.is_dir():
        elsewhere = (folder for folder in sorted(path.parent.parent.iterdir()) if (folder / path.name).is_file())
        if (found := next(elsewhere, None)) is not None:
            remedy = (
                f"the folder {path.parent.name} does not exist, but {found / path.name} does: rename {found.name} to "
                f"{path.parent.name}, or rewrite the list with `python -m tools.prepare` and --force"
            )
    return UserError(f"{what} {path} does not exist; {remedy}")


def _as_shown(image: Image.Image, name: Path | str) -> np.ndarray:
    upright = _upright(image)
    return np.asarray(_on_white(_in_srgb(_eight_bits(upright, name, image), name)))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # damaged pixels are an error, a damaged EXIF block is not
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # exif_transpose parses and rewrites the whole block, any entry of which may be damaged
        return image


def _in_srgb(image: Image.Image, name: Path | str) -> Image.Image:
    """``image`` converted to sRGB; an invalid colour profile is ignored with a note."""
    stored = image.info.get("icc_profile")
    if not stored:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored))
        description = ImageCms.getProfileDescription(profile).strip()
        if "srgb" in description.lower():
            return image
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        space = str(getattr(profile.profile, "xcolor_space", "RGB")).strip()
        mode = {"GRAY": "L", "CMYK": "CMYK"}.get(space, "RGB")
        colours = image if image.mode == mode else image.convert(mode)
        shown = ImageCms.profileToProfile(colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        note(f"note: {name}: the colour profile is ignored ({' '.join(str(error).split())})")
        return image
    assert shown is not None  # None only if converted in place
    shown.info.pop("icc_profile", None)
    if alpha is not None:
        shown.putalpha(alpha)
    return shown


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image, name: Path | str, stored: Image.Image) -> Image.Image:
    """Convert to 8 bits per channel. Pillow's own conversion would clip at 255.

    ``stored`` is the image as it was opened, with its format and tags; ``name`` is for the note about the scale.
    """
    if not _is_deep(image):
        return image
    values = np.asarray(image)
    whole = image.mode != "F"
    top = float(values.max(initial=0, where=np.isfinite(values)))
    low = min(float(values.min()), 0.0) if whole else 0.0
    if whole:
        span = _full_scale(stored, top - low)
        if span < MAX_16_BITS:
            _say_scale(name, span)
    else:  # 0 to 1 by convention, or 0 to 255
        span = 1 if top <= 1 else max(top, 255)
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, SCALED_AT_ONCE // values.shape[1])
    for first in range(0, len(values), step):
        rows = values[first : first + step].astype(np.float64) - low
        rows = rows / span * 255 if whole else np.rint(rows * (255 / span))
        scaled[first : first + step] = np.nan_to_num(rows, posinf=255).clip(0, 255).astype(np.uint8)
    shown = Image.fromarray(scaled)
    if profile := image.info.get("icc_profile"):
        shown.info["icc_profile"] = profile
    return shown


def _full_scale(image: Image.Image, span: float) -> float:
    """The value of white in an image of whole numbers whose values span ``span``.

    From the maximum or number of bits that the file states, otherwise from the smallest fitting depth of DEPTHS.
    """
    if image.format in STATE_THEIR_SCALE or not span:
        return max(span, MAX_16_BITS)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits, maximum, signed = (_first(tags.get(tag)) for tag in (BITS_PER_SAMPLE, MAX_SAMPLE_VALUE, SAMPLE_FORMAT))
    if isinstance(maximum, int) and maximum >= span:
        return maximum
    if isinstance(bits, int) and 8 < bits < 16:
        return max(span, 2**bits - 1)
    depths = (*DEPTHS[:-1], 15, 16) if signed == 2 else DEPTHS
    return next((2**depth - 1 for depth in depths if span < 2**depth), span)


def _first(value: object) -> object:
    return value[0] if isinstance(value, tuple) and value else value


_scales_said: set[float] = set()


def _say_scale(name: Path | str, span: float) -> None:
    """Print a note, once per scale, that the values of a 16-bit file do not use all 16 bits."""
    if span not in _scales_said:
        _scales_said.add(span)
        note(f"note: {name}: its 16-bit values range from 0 to {span:g} (printed once for this scale)")


def read_mask(path: Path, labelling: Labelling) -> np.ndarray:
    """Decode a mask to class numbers, uint8 [height, width], from palette indices or grey values.

    Raises:
        UserError: the file is missing, unreadable, lossy, or not a palette or grey image; or a label is invalid.
    """
    labels = decode("mask", path, lambda mask: _labels_of(mask, path))
    try:
        return labelling.class_numbers(labels)
    except ValueError as error:
        raise UserError(
            f"mask {path} has label {error}; expected 0 to {labelling.last_label} or {labelling.ignore_label} "
            "(ignored): check dataset.num_classes and dataset.first_label"
        ) from None


def stored_values(mask: Image.Image) -> np.ndarray:
    """The values of a palette or grey image, whole numbers [height, width]; 0 and 1 for an image of 1 bit.

    Raises:
        ValueError: the image has colours, transparency or floating point values; the argument is Pillow's mode.
    """
    if mask.mode == "1":
        return (np.asarray(mask.convert("L")) > 0).astype(np.uint8)
    if not (mask.mode in ("P", "L") or mask.mode.startswith("I")):
        raise ValueError(mask.mode)
    return np.asarray(mask)


def refuse_lossy(mask: Image.Image, path: Path, remedy: str = "save masks as PNG") -> None:
    """Raise UserError if format or compression may have changed the values of a mask; it ends with ``remedy``."""
    name = FORMATS.get(mask.format or "", mask.format)
    compression = str(mask.info.get("compression"))  # of a TIFF
    if mask.format in LOSSY:
        raise UserError(f"mask {path} is in the format {name}, which changes labels; {remedy}")
    if compression in LOSSY_COMPRESSIONS:
        raise UserError(f"mask {path} is a {name} compressed as {compression}, which changes labels; {remedy}")


def _labels_of(mask: Image.Image, path: Path) -> np.ndarray:
    refuse_lossy(mask, path)
    if mask.mode in ("P", "L", "1") or mask.mode.startswith("I"):
        return stored_values(mask)
    raise UserError(f"mask {path} is a {mask.mode} image; expected a palette or grey PNG whose values are labels")
