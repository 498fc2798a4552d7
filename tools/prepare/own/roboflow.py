"""Roboflow's export "Semantic Segmentation Masks": ``*_mask.png`` beside the images, names in ``_classes.csv``."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.screen import counted
from tools.prepare.own.pairing import pair
from tools.prepare.own.source import IGNORED, Labelled, Source, notes_on_unused, read_text
from tools.prepare.picture_files import read_labels

BACKGROUNDS = ("background", "unlabeled")


def read(folder: Path, images: Path | None) -> Source:
    """Read a split of an export (``train``, ``valid`` or ``test``).

    Raises:
        UserError: ``_classes.csv`` is malformed (with its line), or no image has a mask.
    """
    file = folder / "_classes.csv"
    names = read_classes(file)
    place = images or folder
    pairs = pair(place, folder)
    if not pairs.matched:
        raise UserError(f"{place} contains no image NAME.jpg with its mask NAME_mask.png in {folder}")
    zero_is_background = names.get(0, "background").strip("_").casefold() in BACKGROUNDS
    classes = {label: name for label, name in names.items() if not (label == 0 and zero_is_background)}
    if 0 in classes and IGNORED in classes:
        raise UserError(f"{file}: with a class at pixel value 0 the value {IGNORED} must stay free")
    # a class at value 0 moves up by one, because 0 is the background's
    shift = 0 if zero_is_background else 1
    known = frozenset(names) | {0} if zero_is_background else frozenset(names)
    items = [
        Labelled(
            image, partial(labels, mask, known=known, shift=shift, file=file), image.stem, None if shift else mask, mask
        )
        for image, mask in pairs.matched
    ]
    notes = notes_on_unused(place, folder, pairs.images, pairs.masks, ".csv")
    moved = {label + shift: name for label, name in classes.items()}
    return Source(f"Roboflow, masks with {counted(len(names), 'name')} in _classes.csv", items, moved, True, notes)


def labels(mask: Path, known: frozenset[int], shift: int, file: Path) -> np.ndarray:
    """Read a mask; values are shifted by ``shift``. Raises UserError for a value that ``file`` does not name."""
    values = read_labels(mask)
    unknown = sorted(set(np.unique(values).tolist()) - known)
    if unknown:
        raise UserError(f"mask {mask} has the value {unknown[0]}, which {file} does not name; export it again")
    return values + shift if shift else values


def read_classes(path: Path) -> dict[int, str]:
    """Read ``_classes.csv``: ``value, name`` after a heading. Raises UserError if a line is malformed or repeated."""
    names: dict[int, str] = {}
    for number, row in enumerate(csv.reader(read_text("class table", path).splitlines()), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and not cells[0].isdecimal()):
            continue
        if len(cells) != 2 or not cells[0].isdecimal() or int(cells[0]) > IGNORED or not cells[1]:
            raise UserError(f"{path}, line {number}: expected pixel value, class name, got {','.join(row)[:80]!r}")
        if int(cells[0]) in names:
            raise UserError(f"{path}, line {number}: the pixel value {cells[0]} stands for a class above")
        names[int(cells[0])] = cells[1]
    if not names:
        raise UserError(f"{path} names no class; expected lines `pixel value, class name`")
    return names
