"""Where labels come from: masks, or what a labelling tool wrote. Detects the format of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.files import size
from tools.prepare.own.pairing import others_in, pair
from tools.prepare.pictures import ENDINGS, read_colours, read_grey, read_labels

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
        image: the image file.
        labels: makes the labels, integers [height, width]; runs in other processes.
        name: of the mask, below the folder of written masks, without ending.
        mask: the file that holds exactly these labels; None if there is none yet.
        source: the file the labels come from, for messages.
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
        items: the images.
        names: names of labels that have one.
        drawn: whether people drew the labels in a tool. If not, they are values of masks, which may be no labels.
        notes: what was left out, in words.
    """

    kind: str
    items: list[Labelled]
    names: dict[int, str] = field(default_factory=dict)
    drawn: bool = True
    notes: list[str] = field(default_factory=list)


def read_source(images: Path | None, masks: Path | None, colours: Path | None, threshold: int | None) -> Source:
    """Find out what ``images`` and ``masks`` hold, and read it.

    Args:
        images: folder of images. None: ``masks``, or where the format has its images.
        masks: folder of masks or of a tool's files, or a COCO JSON file. None: ``images``.
        colours: file of colours and labels; masks have colours then.
        threshold: grey values from here on are the object; masks are grey then.

    Raises:
        UserError: a folder is missing, the format cannot be read, or nothing is labelled.
    """
    from tools.prepare.own import coco, cvat, labelme, roboflow

    for option, path in (("--images", images), ("--masks", masks)):
        if path is not None and not path.is_dir() and not (option == "--masks" and path.is_file()):
            raise UserError(f"{option} {path} is no folder; expected a folder of {option[2:]}")
    given = masks or images
    if given is None:
        raise UserError("--images is missing; expected the folder of the images")
    if colours is not None or threshold is not None:
        return _plain(images or given, given, colours, threshold)
    images = images if masks is not None else None
    if given.is_file():
        return coco.read(given, images)
    if (given / "labelmap.txt").is_file():
        return cvat.read(given, images)
    if (given / "_classes.csv").is_file():
        return roboflow.read(given, images)
    jsons = sorted(path for path in given.glob("*.json") if not path.name.startswith("."))
    annotated = [path for path in jsons if _keys(path) >= {"shapes", "imagePath"}]
    if annotated:
        return labelme.read(given, annotated, images)
    inside = sorted((given / "annotations").glob("*.json")) if (given / "annotations").is_dir() else []
    files = [path for path in [*jsons, *inside] if _keys(path) >= {"images", "annotations", "categories"}]
    if len(files) > 1:
        raise UserError(
            f"{given} holds {len(files)} COCO files ({files[0].name}, {files[1].name}); name one of them with --masks"
        )
    if files:
        return coco.read(files[0], images)
    return _plain(images or given, given, None, None)


def _plain(images: Path, masks: Path, colours: Path | None, threshold: int | None) -> Source:
    """Images and masks of the same names."""
    if masks.is_file():
        raise UserError(f"--masks {masks} is a file; --from-colours and --threshold expect a folder of masks")
    pairs = pair(images, masks)
    if not pairs.matched:
        raise UserError(_nothing_paired(images, masks, pairs.images, pairs.masks))
    kind, names = "masks whose values are labels", {}
    make: Callable[[Path], np.ndarray] = read_labels
    if colours is not None:
        kind = "masks whose colours stand for labels"
        table, names = read_colour_file(colours)
        make = partial(labels_of_colours, colours=table)
    elif threshold is not None:
        kind = f"masks whose grey values from {threshold} on are the object"
        make = partial(above, threshold=threshold)
    converted = colours is not None or threshold is not None
    items = [Labelled(i, partial(make, m), i.stem, None if converted else m, m) for i, m in pairs.matched]
    return Source(kind, items, names, converted, left_out(images, masks, pairs.images, pairs.masks))


def _nothing_paired(images: Path, masks: Path, without_mask: Sequence[Path], without_image: Sequence[Path]) -> str:
    if not without_mask:
        return f"{images} holds no images ({', '.join(sorted(ENDINGS))})"
    example = f", e.g. {without_image[0].name}" if without_image else ""
    name = without_mask[0]
    return (
        f"none of the {len(without_mask):,} images in {images} has a mask: for {name.name} expected {name.stem}.png or "
        f"{name.stem}_mask.png in {masks}, which holds {len(without_image):,} other pictures{example}; rename the masks"
    )


def left_out(
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
        notes.append(f"{_count(without_mask, 'image')} without labels left out: {_first(without_mask)}")
    if without_image:
        notes.append(f"{_count(without_image, 'mask')} without an image left out: {_first(without_image)}")
    for folder in dict.fromkeys((images, masks)):
        others = others_in(folder)
        others.pop(annotations or "", None)
        if others:
            each = ", ".join(f"{number:,} {ending}" for ending, number in sorted(others.items()))
            notes.append(f"{_count(list(others.elements()), 'file')} in {folder} not read: {each}")
    return notes


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items):,} {what}{'' if len(items) == 1 else 's'}"


def _first(paths: Sequence[Path]) -> str:
    more = len(paths) - NAMED
    return ", ".join(path.name for path in paths[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def above(path: Path, threshold: int) -> np.ndarray:
    """Labels of a grey mask: 1 from ``threshold`` on, else 0."""
    return (read_grey(path) >= threshold).astype(np.uint8)


def labels_of_colours(path: Path, colours: Colours) -> np.ndarray:
    """Labels of a mask of colours: uint8 [height, width].

    Raises:
        UserError: the mask cannot be read, or has a colour without a label.
    """
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


def read_colour_file(path: Path) -> tuple[Colours, dict[int, str]]:
    """Read a file of lines ``red green blue label name``, the name optional; ``#`` begins a comment.

    Returns:
        The label of each colour, and the names of labels that have one.

    Raises:
        UserError: the file cannot be read, or a line is malformed (with its number).
    """
    lines = read_text("--from-colours", path).splitlines()
    colours: dict[tuple[int, int, int], int] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split(maxsplit=4)
        if not fields:
            continue
        if len(fields) < 4 or not all(value.isdecimal() and int(value) <= IGNORED for value in fields[:4]):
            raise UserError(f"{path}, line {number}: expected red green blue label name, as in `220 20 60 1 person`")
        red, green, blue, label = map(int, fields[:4])
        if colours.setdefault((red, green, blue), label) != label:
            raise UserError(f"{path}, line {number}: the colour {red} {green} {blue} has another label above")
        if len(fields) == 5:
            names[label] = fields[4].strip()
    if not colours:
        raise UserError(f"--from-colours {path} has no line `red green blue label name`")
    return colours, names


def read_text(what: str, path: Path) -> str:
    """Read a small text file.

    Raises:
        UserError: it is no regular file, too large, or no UTF-8 text; the message calls it ``what``.
    """
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
        raise UserError(f"{what} {path} cannot be read ({error.strerror}); see that you may read it") from error


def read_json(what: str, path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: see :func:`read_text`; or it is no JSON.
    """
    try:
        return json.loads(read_text(what, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is no JSON ({error}); export it again") from error


def _keys(path: Path) -> set[str]:
    """The keys of the object in a JSON file; none if it holds something else."""
    try:
        content = read_json("file", path)
    except UserError:
        return set()
    return set(content) if isinstance(content, dict) else set()


class Names:
    """Labels of the classes of a labelling tool, numbered from 1 in the order in which they come."""

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
