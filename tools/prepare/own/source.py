"""Labelled images, wherever their labels come from, and what the readers of all formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.images import passed_over
from src.errors import UserError
from src.files import size
from src.screen import counted
from tools.prepare.picture_files import read_colours

BACKGROUND, IGNORED = 0, 255
MAX_CLASSES = 254  # labels are bytes, and one of them stands for ignored pixels
MAX_BYTES = 4 * 10**9  # of an annotation file; COCO's largest has half a gigabyte
NAMED = 3  # files that a note names

Colours = Mapping[tuple[int, int, int], int]
"""Label of each colour that a mask may have."""


@dataclass(frozen=True)
class Labelled:
    """An image and its labels.

    Attributes:
        labels: makes the labels, integers [height, width]; runs in other processes.
        name: of the mask, below the folder of written masks, without suffix.
        mask: the file that contains exactly these labels; None if there is none yet.
        source: the file of the labels, for messages.
    """

    image: Path
    labels: Callable[[], np.ndarray]
    name: str
    mask: Path | None
    source: Path


@dataclass(frozen=True)
class Source:
    """Labelled images.

    Attributes:
        kind: the format, in words.
        names: names of labels that have one.
        drawn: whether people drew the labels in a tool; otherwise values of masks may not be labels.
        notes: notes about unused files.
    """

    kind: str
    items: list[Labelled]
    names: dict[int, str] = field(default_factory=dict)
    drawn: bool = True
    notes: list[str] = field(default_factory=list)


def notes_on_unused(
    images: Path,
    masks: Path,
    without_mask: Sequence[Path],
    without_image: Sequence[Path],
    annotations: str | None = None,
) -> list[str]:
    """Notes on images without labels, masks without an image, and files that are not read.

    Files that end in ``annotations`` were read.
    """
    notes = []
    if without_mask:
        notes.append(f"{counted(len(without_mask), 'image')} without labels left out: {_first(without_mask)}")
    if without_image:
        notes.append(f"{counted(len(without_image), 'mask')} without an image left out: {_first(without_image)}")
    for folder in dict.fromkeys((images, masks)):
        if others := passed_over(folder, annotations):
            notes.append(f"files in {folder} not read: {others}")
    return notes


def _first(paths: Sequence[Path]) -> str:
    more = len(paths) - NAMED
    return ", ".join(path.name for path in paths[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def labels_of_colours(path: Path, colours: Colours) -> np.ndarray:
    """Labels of a mask of colours: uint8 [height, width]. Raises UserError if it is unreadable or a colour unknown."""
    rgb = read_colours(path).astype(np.int64)
    codes = (rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]
    labels = np.full(codes.shape, -1, np.int16)
    for (red, green, blue), label in colours.items():
        labels[codes == (red << 16) + (green << 8) + blue] = label
    unknown = codes[labels < 0]
    if len(unknown):
        values, counts = np.unique(unknown, return_counts=True)
        value = int(values[counts.argmax()])
        raise UserError(
            f"mask {path} has the colour {value >> 16} {value >> 8 & 255} {value & 255} ({len(unknown):,} pixels are "
            "of colours without a label); add its line, with label 255 to ignore it"
        )
    return labels.astype(np.uint8)


def read_text(what: str, path: Path) -> str:
    """Read a small text file. Raises UserError if it is special, too large, or not UTF-8; ``what`` names it."""
    try:
        if not path.is_file():
            raise UserError(
                f"{what} {path} cannot be read: {'it is no file' if path.exists() else 'it does not exist'}"
            )
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{what} {path} has {size(path.stat().st_size)}; expected at most {size(MAX_BYTES)}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is no UTF-8 text; save it as such") from None
    except OSError as error:
        raise UserError(
            f"{what} {path} cannot be read ({error.strerror}); check that you have permission to read it"
        ) from error


def read_json(what: str, path: Path) -> Any:
    """Read a JSON file; see :func:`read_text`. Raises UserError if it is not JSON."""
    try:
        return json.loads(read_text(what, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is no JSON ({error}); export it again") from error


class Names:
    """Labels of the classes of a labelling tool, numbered from 1 in order of occurrence."""

    def __init__(self) -> None:
        self.labels: dict[str, int] = {}

    def label(self, name: str, where: str) -> int:
        """The label of class ``name``; a background is 0, and what labelme ignores is 255.

        Raises:
            UserError: there are more than 254 classes.
        """
        plain = name.strip().strip("_").casefold()
        if plain == "background":
            return BACKGROUND
        if name.strip().casefold() == "__ignore__":
            return IGNORED
        label = self.labels.setdefault(name, len(self.labels) + 1)
        if label > MAX_CLASSES:
            raise UserError(f"{where}: {name!r} is class number {label}; expected at most {MAX_CLASSES} classes")
        return label

    def names(self) -> dict[int, str]:
        """The name of each label."""
        return {label: name for name, label in self.labels.items()}
