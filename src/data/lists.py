"""Read image lists, and folders in place of lists."""

from __future__ import annotations

import os
import shlex
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from ..config.schema import Config
from ..errors import UserError
from ..files import read_regular, resolve
from ..screen import note
from .images import format_names, images_in, passed_over

# folder in src/lists -> data set and options of tools.prepare, and the data root that it fills
PREPARED = {
    "pascal": ("pascal --download", "data/pascal"),
    "coco": ("coco --download", "data/coco"),
    "context": ("context", "data/context"),
    "coco_object": ("coco-object", "data/coco_stuff"),
    "coco_stuff": ("coco-stuff", "data/coco_stuff"),
    "ade20k": ("ade20k", "data/ade20k"),
    "cityscapes": ("cityscapes", "data/cityscapes"),
}
MINIATURE = "data/miniature"
MAX_BYTES = 1 << 28  # of an image list
MOST_NUMBERS = 20  # line numbers or names in a message


@dataclass(frozen=True)
class ListEntry:
    """One line of an image list: absolute paths of an image and, if the list has masks, of its mask.

    ``line`` is its number, from 1; 0 without a list. Entries with the same files are equal.
    """

    image: Path
    mask: Path | None
    line: int = field(default=0, compare=False)


def read_list(
    path: Path, root: Path, masks: bool = True, limit: int | None = None, mask_dir: Path | None = None
) -> list[ListEntry]:
    """Read an image list: one image per line, ``image_path mask_path``, both relative to ``root``.

    Args:
        path: the list; or a folder of images, which are read in name order.
        masks: whether every line must have a mask.
        limit: read at most this number of images.
        mask_dir: folder of the masks if ``path`` is a folder; a mask has the name of its image, without the suffix.

    Raises:
        UserError: the root or the list is missing, the list is empty, a line is malformed (with its number), or an
            image of a folder has no mask or two masks.
    """
    if os.path.isdir(path):
        return _read_folder(path, mask_dir, masks)[:limit]
    if not os.path.isdir(root):
        raise UserError(f"data_root {root} does not exist; {_how_to_prepare(path, root)}")
    try:
        # utf-8-sig: editors on Windows put a byte order mark first
        lines = read_regular(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        remedy = _how_to_prepare(path, root)
        raise UserError(f"image list {path} cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"image list {path} is not UTF-8 text; save it as UTF-8") from None
    entries, malformed = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (masks and len(fields) < 2) or "\0" in line:
            malformed.append((number, line.strip()))
            continue
        entries.append(ListEntry(root / fields[0], root / fields[1] if len(fields) == 2 else None, number))
        if len(entries) == limit:
            break
    if malformed:
        expected = "image path, space, mask path" if masks else "image path, or image path, space, mask path"
        (number, line), others = malformed[0], [str(number) for number, _ in malformed[1:MOST_NUMBERS]]
        more = f"; also line {', '.join(others)}{' ...' if len(malformed) > MOST_NUMBERS else ''}" if others else ""
        raise UserError(f"{path}, line {number}: expected {expected} (paths without spaces), got {line!r}{more}")
    if not entries:
        raise UserError(f"image list {path} is empty")
    return entries


def _how_to_prepare(path: Path, root: Path) -> str:
    """What to do if the image list ``path`` or its data root ``root`` is missing."""
    folder = Path(os.path.abspath(path.parent))
    if folder.parent == resolve("src/lists") and folder.name in PREPARED:
        dataset, usual = PREPARED[folder.name]
        elsewhere = "" if Path(os.path.abspath(root)) == resolve(usual) else f" --root {shlex.quote(str(root))}"
        return f"`python -m tools.prepare {dataset}{elsewhere}` prepares it (docs/data.md)"
    if folder == resolve(MINIATURE):
        return "`python -m tools.miniature.draw` draws it again"
    if (folder / "training_free.yaml").is_file():
        return (
            f"`python -m tools.prepare own --root {shlex.quote(str(folder))} --images ... --masks ...` "
            "prepares it again (docs/data.md)"
        )
    return "docs/data.md describes the layout, and `python -m tools.prepare --help` how to make lists"


def _read_folder(folder: Path, mask_dir: Path | None, masks: bool) -> list[ListEntry]:
    images = images_in(folder)
    others = passed_over(folder)
    if not images:
        found = f" (found: {others})" if others else ""
        raise UserError(f"image list {folder} is a folder without images{found}; expected {format_names()}")
    if others:
        note(f"note: files in {folder} that are not images: {others}")
    if mask_dir is None:
        if masks:
            raise UserError(f"image list {folder} is a folder; set mask_dir to the folder of the masks")
        return [ListEntry(image, None) for image in images]
    if not os.path.isdir(mask_dir):
        raise UserError(f"mask_dir {mask_dir} is not a folder; set it to the folder of the masks")
    if mask_dir.samefile(folder):
        raise UserError(f"mask_dir {mask_dir} is the folder of the images; move the masks into another folder")
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
        mask.name
        for stem in sorted(set(masks_of) - {_composed(image.stem) for image in images})
        for mask in masks_of[stem]
    ]:
        names = ", ".join(alone[:MOST_NUMBERS]) + (" ..." if len(alone) > MOST_NUMBERS else "")
        note(f"note: masks in {mask_dir} without an image in {folder}: {len(alone):,} ({names})")
    return entries


def _composed(name: str) -> str:
    """``name`` with composed accents (NFC): file systems and archives store the same name in different forms."""
    return unicodedata.normalize("NFC", name)


def evaluation_entries(config: Config, masks: bool = True, whole: bool = False) -> list[ListEntry]:
    """The evaluation images: the first ``max_images`` (``whole``: all) of ``val_list`` or ``oneshot.test_list``.

    Raises:
        UserError: the configuration has no list, or see :func:`read_list`.
    """
    path = config.val_list or (config.oneshot and config.oneshot.test_list)
    if not path:
        raise UserError(f"{config.source}: key val_list is missing; expected the path of an image list")
    return list_of(path, config, masks, None if whole else config.max_images)


def list_of(path: str, config: Config, masks: bool = True, limit: int | None = None) -> list[ListEntry]:
    """Read a list or folder with a configuration's ``data_root`` and ``mask_dir``; see :func:`read_list`."""
    mask_dir = None if config.mask_dir is None else resolve(config.mask_dir)
    return read_list(resolve(path), resolve(config.data_root), masks, limit, mask_dir)
