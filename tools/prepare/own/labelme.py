"""labelme: a JSON file per image, with polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from src.data.images import image_endings, images_in
from src.errors import UserError
from src.screen import counted
from tools.prepare.own.source import Labelled, Names, Source, notes_on_unused, read_json

POLYGONS = ("polygon", "oriented_rectangle")
WITHOUT_AREA = ("line", "linestrip", "point", "points")
MAX_PIXELS = 10**9


@dataclass(frozen=True)
class Shape:
    """One shape: its label, kind and corners (x, y in pixels); ``mask`` is a PNG in base64."""

    label: int
    kind: str
    points: tuple[tuple[float, float], ...]
    mask: str | None
    where: str


def read(folder: Path, files: Sequence[Path], images: Path | None) -> Source:
    """Read the labelme files ``files`` of ``folder``; images are where the files say, or in ``images``.

    Raises:
        UserError: a file is malformed (with its key), or its image is missing.
    """
    names, skipped = Names(), Counter[str]()
    contents = {path: read_json("labelme file", path) for path in files}
    for name in sorted({str(shape["label"]) for content in contents.values() for shape in _shapes(content)}):
        names.label(name, str(folder))  # in the order of names, so that labels do not depend on the order of files
    items = []
    for path, content in contents.items():
        height, width = (_number(path, content, key) for key in ("imageHeight", "imageWidth"))
        if height * width > MAX_PIXELS:
            raise UserError(f"{path}: imageHeight, imageWidth: {height} x {width} are too many pixels")
        shapes = []
        for number, shape in enumerate(_list(path, content, "shapes")):
            read_shape = _shape(path, number, shape, names)
            if read_shape.kind in WITHOUT_AREA:
                skipped[read_shape.kind] += 1
            else:
                shapes.append(read_shape)
        image = _image(path, content, images)
        items.append(Labelled(image, partial(draw_shapes, height, width, tuple(shapes)), image.stem, None, path))
    if len({item.name for item in items}) < len(items):
        twice = Counter(item.name for item in items).most_common(1)[0][0]
        raise UserError(f"{folder}: two labelme files name the image {twice}; remove one")
    used = {item.image.resolve() for item in items}
    place = images or folder
    alone = [path for path in images_in(place) if path.resolve() not in used]
    notes = notes_on_unused(place, folder, alone, [], ".json")
    if skipped:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(skipped.items()))
        notes.append(f"{counted(sum(skipped.values()), 'shape')} without an area left out: {kinds}")
    return Source(f"labelme: {counted(len(files), 'JSON file')}", items, names.names(), True, notes)


def _shapes(content: object) -> list[dict[str, Any]]:
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        return []
    return [shape for shape in shapes if isinstance(shape, dict) and isinstance(shape.get("label"), str)]


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list):
        raise UserError(f"{path}: key {key}: expected a list; save the file with labelme again")
    return content[key]


def _number(path: Path, content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: key {key}: {value!r} is no number of pixels; save the file with labelme again")
    return value


def _shape(path: Path, number: int, shape: object, names: Names) -> Shape:
    where = f"{path}: shapes[{number}]"
    if not isinstance(shape, dict):
        raise UserError(f"{where}: expected an object with label, points and shape_type")
    label, points, kind = shape.get("label"), shape.get("points"), shape.get("shape_type") or "polygon"
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"{where}.label: expected the name of a class, got {label!r}")
    if kind not in (*POLYGONS, *WITHOUT_AREA, "rectangle", "circle", "mask"):
        raise UserError(f"{where}.shape_type: {kind!r} is not known; expected polygon, rectangle, circle or mask")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise UserError(f"{where}.points: expected a list of [x, y]")
    expected = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)}.get(kind)
    if expected and len(points) not in expected:
        raise UserError(f"{where}.points: a {kind} has {expected[0]} points, got {len(points)}")
    if kind in POLYGONS and len(points) < 3:
        raise UserError(f"{where}.points: a {kind} has 3 points or more, got {len(points)}")
    mask = shape.get("mask")
    if kind == "mask" and not isinstance(mask, str):
        raise UserError(f"{where}.mask: expected a PNG in base64")
    corners = tuple((float(x), float(y)) for x, y in points)
    return Shape(names.label(label, where), kind, corners, mask if kind == "mask" else None, where)


def _is_point(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) and abs(value) < 10**6 for value in point)
    )


def _image(path: Path, content: dict[str, Any], images: Path | None) -> Path:
    """The image of a labelme file: ``imagePath``, else that name in ``images``, else the name of the file."""
    named = content.get("imagePath")
    if not isinstance(named, str) or not named:
        raise UserError(f"{path}: key imagePath: expected the name of the image, got {named!r}")
    relative = Path(named.replace("\\", "/"))
    places = [folder / relative.name for folder in (images, path.parent) if folder is not None]
    if images is None:
        places.insert(0, path.parent / relative)
    beside = [path.with_suffix(ending) for ending in sorted(image_endings())]
    found = next((place for place in [*places, *beside] if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: key imagePath: {named!r} does not exist, nor {relative.name} beside it; name the folder of the "
            "images with --images"
        )
    return Path(*found.parts)


def draw_shapes(height: int, width: int, shapes: Sequence[Shape]) -> np.ndarray:
    """Draw shapes in the order of the file, later ones on top, as labelme does: uint8 [height, width].

    Raises:
        UserError: a mask cannot be decoded or is outside the image.
    """
    labels = np.zeros((height, width), np.uint8)
    for shape in shapes:
        if shape.kind == "mask":
            left, top = (round(value) for value in shape.points[0])
            part = _decoded(shape)
            if left < 0 or top < 0 or top + part.shape[0] > height or left + part.shape[1] > width:
                raise UserError(f"{shape.where}.mask: it is outside the image of {width} x {height} pixels")
            labels[top : top + part.shape[0], left : left + part.shape[1]][part] = shape.label
            continue
        canvas = Image.new("1", (width, height))
        pen = ImageDraw.Draw(canvas)
        if shape.kind == "circle":
            (x, y), edge = shape.points
            radius = math.dist((x, y), edge)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
        elif shape.kind == "rectangle" and len(shape.points) == 2:
            (x0, y0), (x1, y1) = shape.points
            pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=1, fill=1)
        else:
            pen.polygon(list(shape.points), outline=1, fill=1)
        labels[np.asarray(canvas)] = shape.label
    return labels


def _decoded(shape: Shape) -> np.ndarray:
    """The pixels of a mask shape, bool; its corners are those of its first and its last pixel."""
    assert shape.mask is not None
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.mask, validate=True)), formats=("PNG",)) as image:
            part = np.asarray(image.convert("L")) > 0
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise UserError(f"{shape.where}.mask: it is no PNG in base64 ({error})") from error
    (x0, y0), (x1, y1) = shape.points
    expected = (round(y1) - round(y0) + 1, round(x1) - round(x0) + 1)
    if part.shape != expected:
        raise UserError(
            f"{shape.where}.mask: it has {part.shape[1]} x {part.shape[0]} pixels, its points {expected[1]} x "
            f"{expected[0]}; save the file with labelme again"
        )
    return part
