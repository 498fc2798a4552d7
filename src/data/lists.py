"""Image lists."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from ..config.schema import Config
from ..errors import UserError
from ..files import read_regular, resolve
from ..screen import note
from .images import format_names, images_in, passed_over

MAX_BYTES = 1 << 28  # of an image list
MOST_NUMBERS = 20  # of malformed lines in an error


@dataclass(frozen=True)
class ListEntry:
    """One line of an image list: absolute paths of an image and, where the list has masks, of its mask.

    Attributes:
        line: its number in the list, from 1; 0 if there is no list. Two entries with the same files are equal.
    """

    image: Path
    mask: Path | None
    line: int = field(default=0, compare=False)


def read_list(
    path: Path, root: Path, masks: bool = True, limit: int | None = None, mask_dir: Path | None = None
) -> list[ListEntry]:
    """Read an image list: a line per image, ``image_path mask_path``, both relative to ``root``.

    Args:
        path: the list; or a folder, of which every image is taken in name order.
        root: the data root.
        masks: whether a mask is required on every line; if not, lines may hold an image alone.
        limit: take only the first so many lines.
        mask_dir: if ``path`` is a folder, where the masks are: files with the images' stems.

    Raises:
        UserError: the root or the list is missing, the list is empty, a line is malformed (with its number), or an
            image of a folder has no mask or two.
    """
    if os.path.isdir(path):
        return _read_folder(path, mask_dir, masks)[:limit]
    if not os.path.isdir(root):
        raise UserError(f"data_root {root} does not exist; docs/data.md describes the layout")
    try:
        # utf-8-sig: editors on Windows put a byte order mark first
        lines = read_regular(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(
            f"image list {path} cannot be read ({error.strerror}); "
            "`python -m tools.prepare --help` says how to make the lists"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"image list {path} is no UTF-8 text; save it as such") from None
    entries, malformed = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (masks and len(fields) < 2):
            malformed.append((number, line.strip()))
            continue
        entries.append(ListEntry(root / fields[0], root / fields[1] if len(fields) == 2 else None, number))
        if len(entries) == limit:
            break
    if malformed:
        expected = "image path, space, mask path" if masks else "image path, or image path, space, mask path"
        (number, line), others = malformed[0], [str(number) for number, _ in malformed[1:MOST_NUMBERS]]
        more = f"; likewise line {', '.join(others)}{' ...' if len(malformed) > MOST_NUMBERS else ''}" if others else ""
        raise UserError(f"{path}, line {number}: expected {expected} (paths without spaces), got {line!r}{more}")
    if not entries:
        raise UserError(f"image list {path} is empty")
    return entries


def _read_folder(folder: Path, mask_dir: Path | None, masks: bool) -> list[ListEntry]:
    images = images_in(folder)
    others = passed_over(folder)
    if not images:
        found = f" (it holds {others})" if others else ""
        raise UserError(f"image list {folder} is a folder that holds no images{found}; expected {format_names()}")
    if others:
        note(f"note: files in {folder} that are not read: {others}")
    if mask_dir is None:
        if masks:
            raise UserError(f"{folder} is a folder of images; mask_dir must name the folder of their masks")
        return [ListEntry(image, None) for image in images]
    if not os.path.isdir(mask_dir):
        raise UserError(f"mask_dir {mask_dir} is no folder")
    if mask_dir.samefile(folder):
        raise UserError(f"mask_dir {mask_dir} is the folder of the images; move the masks into a folder of their own")
    masks_of: dict[str, list[Path]] = {}
    for mask in images_in(mask_dir):
        masks_of.setdefault(_composed(mask.stem), []).append(mask)
    entries = []
    for image in images:
        found = masks_of.get(_composed(image.stem), [])
        if len(found) > 1:
            raise UserError(f"image {image} has two masks: {found[0]} and {found[1].name}; remove one")
        if masks and not found:
            raise UserError(f"image {image} has no mask: expected {mask_dir / image.stem}.png")
        entries.append(ListEntry(image, found[0] if found else None))
    if alone := [
        mask.name for stem in sorted(set(masks_of) - {image.stem for image in images}) for mask in masks_of[stem]
    ]:
        names = ", ".join(alone[:MOST_NUMBERS]) + (" ..." if len(alone) > MOST_NUMBERS else "")
        note(f"note: masks in {mask_dir} without an image in {folder}: {len(alone):,} ({names})")
    return entries


def _composed(name: str) -> str:
    """``name`` with accents in one encoding (NFC): file systems and archives differ in it, and nobody sees that."""
    return unicodedata.normalize("NFC", name)


def evaluation_entries(config: Config, masks: bool = True, whole: bool = False) -> list[ListEntry]:
    """The images that a configuration evaluates on (``val_list`` or ``oneshot.test_list``), cut to ``max_images``.

    Args:
        config: names the list.
        masks: whether every image must have one.
        whole: do not cut.

    Raises:
        UserError: the configuration names no such list, or see :func:`read_list`.
    """
    path = config.val_list or (config.oneshot and config.oneshot.test_list)
    if not path:
        raise UserError(f"{config.source}: key val_list is missing; expected the path of an image list")
    return list_of(path, config, masks, None if whole else config.max_images)


def list_of(path: str, config: Config, masks: bool = True, limit: int | None = None) -> list[ListEntry]:
    """The image list or folder ``path`` of a configuration, with its ``data_root`` and ``mask_dir``.

    Raises:
        UserError: see :func:`read_list`.
    """
    mask_dir = None if config.mask_dir is None else resolve(config.mask_dir)
    return read_list(resolve(path), resolve(config.data_root), masks, limit, mask_dir)
