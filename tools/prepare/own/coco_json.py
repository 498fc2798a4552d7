"""COCO JSON: instances (polygons or RLE), or panoptic segments in a folder of PNGs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.screen import counted
from tools.prepare.coco_masks import UndecodableError, paint_annotations
from tools.prepare.own.source import IGNORED, Labelled, Names, Source, read_json
from tools.prepare.picture_files import read_colours

MAX_PIXELS = 10**9
CONTENT = ("images", "annotations", "categories")


def read(file: Path, images: Path | None) -> Source:
    """Read ``file``; images are in ``images``, or beside it.

    Raises:
        UserError: the file is malformed (with its key), or an image is missing.
    """
    content = read_json("COCO file", file)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in CONTENT):
        raise UserError(f"{file}: expected the keys {', '.join(CONTENT)}, each with a list")
    labels, names = _categories(file, content["categories"])
    place = images or (file.parent.parent if file.parent.name == "annotations" else file.parent)
    records = {}
    for number, record in enumerate(content["images"]):
        where = f"{file}: images[{number}]"
        key = _whole(where, record, "id")
        if key in records:
            raise UserError(f"{where}.id: {key} is the id of another image above")
        height, width = _whole(where, record, "height"), _whole(where, record, "width")
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise UserError(f"{where}: height, width: {height} x {width} is no size of an image")
        records[key] = (_image(where, record, place), height, width)
    panoptic = any(isinstance(a, dict) and "segments_info" in a for a in content["annotations"])
    if panoptic:
        items = _panoptic(file, content["annotations"], records, labels)
        kind = "COCO JSON, panoptic"
    else:
        items = _instances(file, content["annotations"], records, labels)
        kind = "COCO JSON, instances"
    if not items:
        raise UserError(f"{file}: images: empty")
    twice = Counter(item.name for item in items).most_common(1)[0]
    if twice[1] > 1:
        raise UserError(f"{file}: images: two are called {twice[0]}; give them names of their own")
    notes = []
    if panoptic and (lost := len(records) - len(items)):
        notes.append(f"{counted(lost, 'image')} without an annotation left out")
    return Source(f"{kind}: {counted(len(labels), 'category', 'categories')}", items, names, True, notes)


def _categories(file: Path, categories: Sequence[Any]) -> tuple[dict[int, int], dict[int, str]]:
    """The label of each category, in the order of the ids, and the names."""
    named: dict[int, str] = {}
    for number, category in enumerate(categories):
        where = f"{file}: categories[{number}]"
        key = _whole(where, category, "id")
        if not isinstance(category.get("name"), str) or not category["name"].strip():
            raise UserError(f"{where}.name: expected a word, got {category.get('name')!r}")
        if named.setdefault(key, category["name"]) != category["name"]:
            raise UserError(f"{where}.id: {key} is the id of another category above")
    names = Names()
    return {key: names.label(named[key], str(file)) for key in sorted(named)}, names.names()


def _whole(where: str, record: Any, key: str) -> int:
    if not isinstance(record, dict) or type(record.get(key)) is not int:
        value = record.get(key) if isinstance(record, dict) else record
        raise UserError(f"{where}.{key}: expected a whole number, got {str(value)[:80]!r}")
    return record[key]


def _image(where: str, record: dict[str, Any], place: Path) -> Path:
    named = record.get("file_name")
    if not isinstance(named, str) or not named:
        raise UserError(f"{where}.file_name: expected the name of the image, got {named!r}")
    relative = Path(named.replace("\\", "/"))
    for candidate in (place / relative, place / relative.name, place / "images" / relative.name):
        if candidate.is_file():
            return candidate
    raise UserError(f"{where}.file_name: {named} is not in {place}; name the folder of the images with --images")


Records = dict[int, tuple[Path, int, int]]


def _instances(file: Path, annotations: Sequence[Any], records: Records, labels: dict[int, int]) -> list[Labelled]:
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, annotation in enumerate(annotations):
        where = f"{file}: annotations[{number}]"
        image, category = _whole(where, annotation, "image_id"), _whole(where, annotation, "category_id")
        if image not in records:
            raise UserError(f"{where}.image_id: no image has the id {image}")
        if category not in labels:
            raise UserError(f"{where}.category_id: no category has the id {category}")
        if not isinstance(annotation.get("segmentation"), list | dict):
            raise UserError(f"{where}.segmentation: expected polygons or an RLE; boxes alone are no masks")
        kept = {key: annotation[key] for key in ("category_id", "segmentation")}
        of_image[image].append({**kept, "id": _whole(where, annotation, "id")})
    return [
        Labelled(path, partial(_draw, file, of_image.get(key, []), height, width, labels), path.stem, None, file)
        for key, (path, height, width) in records.items()
    ]


def _draw(file: Path, annotations: list[dict[str, Any]], height: int, width: int, labels: dict[int, int]) -> np.ndarray:
    try:
        return paint_annotations(annotations, height, width, labels)
    except UndecodableError as error:
        raise UserError(f"{file}: {error}; export it again") from error


def _panoptic(file: Path, annotations: Sequence[Any], records: Records, labels: dict[int, int]) -> list[Labelled]:
    folder = file.with_suffix("")
    items = []
    for number, annotation in enumerate(annotations):
        where = f"{file}: annotations[{number}]"
        image = _whole(where, annotation, "image_id")
        if image not in records:
            raise UserError(f"{where}.image_id: no image has the id {image}")
        if not isinstance(annotation.get("segments_info"), list):
            raise UserError(f"{where}.segments_info: expected a list")
        segments = {}
        for place, segment in enumerate(annotation["segments_info"]):
            category = _whole(f"{where}.segments_info[{place}]", segment, "category_id")
            if category not in labels:
                raise UserError(f"{where}.segments_info[{place}].category_id: no category has the id {category}")
            segments[_whole(f"{where}.segments_info[{place}]", segment, "id")] = labels[category]
        name = annotation.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}.file_name: expected the name of a PNG, got {name!r}")
        png = next((p for p in (folder / name, file.parent / name) if p.is_file()), folder / name)
        if not png.is_file():
            raise UserError(f"{where}.file_name: {png} does not exist; put the PNGs into {folder}")
        path = records[image][0]
        items.append(Labelled(path, partial(_segments, png, segments), path.stem, None, png))
    return items


def _segments(png: Path, segments: dict[int, int]) -> np.ndarray:
    """Labels of a panoptic PNG, whose colours number the segments (R + 256 G + 65536 B); 0 is void, hence ignored."""
    rgb = read_colours(png).astype(np.int64)
    numbers = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    values, places = np.unique(numbers, return_inverse=True)
    unknown = [int(value) for value in values if value and int(value) not in segments]
    if unknown:
        raise UserError(f"{png} has segment {unknown[0]}, which segments_info does not name; export it again")
    table = np.array([segments.get(int(value), IGNORED) for value in values], np.uint8)
    return table[places].reshape(numbers.shape)
