"""CVAT's export "Segmentation mask 1.1": masks of colours in SegmentationClass/, their names in labelmap.txt."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from src.data.images import images_in
from src.errors import UserError
from src.screen import counted
from tools.prepare.own.pairing import stem
from tools.prepare.own.source import (
    BACKGROUND,
    Colours,
    Labelled,
    Names,
    Source,
    labels_of_colours,
    notes_on_unused,
    read_text,
)

BLACK = (0, 0, 0)


def read(folder: Path, images: Path | None) -> Source:
    """Read an export; images are in ``images``, or in the export's own JPEGImages/.

    Raises:
        UserError: a folder is missing, or a line of labelmap.txt is malformed (with its number).
    """
    colours, names = read_labelmap(folder / "labelmap.txt")
    masks = folder / "SegmentationClass"
    if not masks.is_dir():
        raise UserError(f'{folder} has no folder SegmentationClass; export "Segmentation mask 1.1" from CVAT again')
    place = images or folder / "JPEGImages"
    if not place.is_dir():
        raise UserError(f"{place} does not exist: the export has no images; name their folder with --images")
    # names may have folders in front of them, as the task in CVAT has
    found = {(folder, stem(path)): path for folder, path in _below(masks)}
    photos = {(folder, stem(path)): path for folder, path in _below(place)}
    items = [
        Labelled(photos[key], partial(labels_of_colours, mask, colours=colours), str(Path(key[0], key[1])), None, mask)
        for key, mask in found.items()
        if key in photos
    ]
    if not items:
        raise UserError(f"none of {counted(len(found), 'mask')} in {masks} has an image of its name in {place}")
    alone = [path for key, path in photos.items() if key not in found]
    notes = notes_on_unused(place, masks, alone, [path for key, path in found.items() if key not in photos])
    return Source(
        f"CVAT, Segmentation mask 1.1: {counted(len(names), 'name')} in labelmap.txt", items, names, True, notes
    )


def _below(folder: Path) -> list[tuple[str, Path]]:
    """Pictures below ``folder``, each with the path of its folder relative to it."""
    places = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    return [(str(place.relative_to(folder)), path) for place in places for path in images_in(place)]


def read_labelmap(path: Path) -> tuple[Colours, dict[int, str]]:
    """Read ``labelmap.txt``: lines ``name:red,green,blue:parts:actions``; black without a name is the background.

    Raises:
        UserError: a line is malformed, or a colour stands for two classes.
    """
    colours: dict[tuple[int, int, int], int] = {}
    names = Names()
    for number, line in enumerate(read_text("label map", path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, *rest = line.rsplit(":", 3)
        values = rest[0].split(",") if len(rest) == 3 else []
        if not name.strip() or len(values) != 3 or not all(v.strip().isdecimal() and int(v) < 256 for v in values):
            raise UserError(f"{where}: expected name:red,green,blue:parts:actions, got {line[:80]!r}")
        red, green, blue = map(int, values)
        label = names.label(name.strip(), where)
        if colours.setdefault((red, green, blue), label) != label:
            raise UserError(f"{where}: the colour {red},{green},{blue} stands for another class above")
    colours.setdefault(BLACK, BACKGROUND)
    return colours, names.names()
