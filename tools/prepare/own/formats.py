"""Detect the format of a folder of labels by its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from src.data.images import format_names
from src.errors import UserError
from src.screen import counted
from tools.prepare.own import coco_json, cvat, labelme, roboflow
from tools.prepare.own.pairing import pair
from tools.prepare.own.source import (
    IGNORED,
    Colours,
    Labelled,
    Source,
    labels_of_colours,
    notes_on_unused,
    read_json,
    read_text,
)
from tools.prepare.picture_files import read_grey, read_labels


def read_source(images: Path | None, masks: Path | None, colours: Path | None, threshold: int | None) -> Source:
    """Detect the format of ``images`` and ``masks``, and read them.

    Args:
        images: folder of images. None: ``masks``, or the format's own folder.
        masks: folder of masks or of a tool's files, or a COCO JSON file. None: ``images``.
        colours: file of colours and labels, for masks of colours.
        threshold: for grey masks: values from here on are the object.

    Raises:
        UserError: a folder is missing, the format cannot be read, or nothing is labelled.
    """
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
        return coco_json.read(given, images)
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
            f"{given} contains {len(files)} COCO files ({files[0].name}, {files[1].name}); name one with --masks"
        )
    if files:
        return coco_json.read(files[0], images)
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
    return Source(kind, items, names, converted, notes_on_unused(images, masks, pairs.images, pairs.masks))


def _nothing_paired(images: Path, masks: Path, without_mask: Sequence[Path], without_image: Sequence[Path]) -> str:
    if not without_mask:
        return f"{images} contains no images ({format_names()})"
    example = f", e.g. {without_image[0].name}" if without_image else ""
    name = without_mask[0]
    others = counted(len(without_image), "other picture")
    return (
        f"none of {counted(len(without_mask), 'image')} in {images} has a mask: for {name.name} expected "
        f"{name.stem}.png or {name.stem}_mask.png in {masks}, which contains {others}{example}; rename the masks"
    )


def _keys(path: Path) -> set[str]:
    """The keys of the object in a JSON file; none if it contains something else."""
    try:
        content = read_json("file", path)
    except UserError:
        return set()
    return set(content) if isinstance(content, dict) else set()


def above(path: Path, threshold: int) -> np.ndarray:
    """Labels of a grey mask: 1 from ``threshold`` on, else 0."""
    return (read_grey(path) >= threshold).astype(np.uint8)


def read_colour_file(path: Path) -> tuple[Colours, dict[int, str]]:
    """Read a file of lines ``red green blue label name``, the name optional; ``#`` begins a comment.

    Returns the label of each colour, and the names of labels that have one.

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
