"""COCO's instance annotations, drawn as one mask per image."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from src.errors import UserError
from tools.prepare.masks import save_mask

Annotation = dict[str, Any]

MAX_PIXELS = 10**9  # of an image; COCO's are below a million


@dataclass(frozen=True)
class Instances:
    """An instances file.

    Attributes:
        images: file name without .jpg -> record of the image (id, height, width).
        annotations: image id -> its annotations.
        labels: category id -> label, 1..C in the order of the ids.
    """

    images: dict[str, Annotation]
    annotations: dict[int, list[Annotation]]
    labels: dict[int, int]


def read_instances(path: Path, crowd: bool) -> Instances:
    """Read ``instances_*.json``; with ``crowd=False`` without its crowd regions (``iscrowd`` 1).

    Raises:
        UserError: the file is missing, not JSON, or not an instances file.
    """
    try:
        content = json.loads(path.read_bytes())
        images = {
            Path(image["file_name"]).stem: _numbers(image, "id", "height", "width") for image in content["images"]
        }
        identifiers = sorted({_numbers(category, "id")["id"] for category in content["categories"]})
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            if crowd or not annotation.get("iscrowd", 0):
                numbers = _numbers(annotation, "id", "category_id", "image_id")
                annotations[numbers["image_id"]].append({**numbers, "segmentation": annotation["segmentation"]})
    except OSError as error:
        raise UserError(f"annotations {path} cannot be read ({error.strerror}); unpack them again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"annotations {path} are no COCO instances file ({type(error).__name__}: {error}); "
            "unpack annotations_trainval2014.zip again"
        ) from error
    odd = next((name for name, image in images.items() if not _drawable(image["height"], image["width"])), None)
    if odd is not None:
        raise UserError(
            f"annotations {path} give image {odd} a size of {images[odd]['width']} x {images[odd]['height']} pixels; "
            "unpack annotations_trainval2014.zip again"
        )
    if len(identifiers) > 254:
        raise UserError(f"annotations {path} have {len(identifiers)} categories; a mask has room for 254")
    labels = {identifier: label for label, identifier in enumerate(identifiers, 1)}
    unknown = {a["category_id"] for of_image in annotations.values() for a in of_image} - labels.keys()
    if unknown:
        raise UserError(f"annotations {path} use category {min(unknown)}, which they do not define: unpack them again")
    return Instances(images, dict(annotations), labels)


def _numbers(record: Annotation, *keys: str) -> Annotation:
    """The values of ``keys``, which must be whole numbers."""
    odd = next((key for key in keys if type(record[key]) is not int), None)
    if odd is not None:
        raise TypeError(f"{odd} {record[odd]!r} is no whole number")
    return {key: record[key] for key in keys}


def _drawable(height: int, width: int) -> bool:
    return height > 0 and width > 0 and height * width <= MAX_PIXELS


@dataclass(frozen=True)
class MaskJob:
    """A mask to draw: size, annotations of the image, label of each category, and where the mask goes."""

    target: Path
    height: int
    width: int
    annotations: list[Annotation]
    labels: dict[int, int]


def draw_and_save(job: MaskJob) -> None:
    """Write the mask of one image; see :func:`draw_mask`."""
    save_mask(job.target, draw_mask(job))


def draw_mask(job: MaskJob) -> np.ndarray:
    """Draw a job with :func:`paint_annotations`. Raises UserError if an annotation cannot be decoded."""
    try:
        return paint_annotations(job.annotations, job.height, job.width, job.labels)
    except UndecodableError as error:
        raise UserError(f"{job.target.name}: {error}; unpack annotations_trainval2014.zip again") from error


class UndecodableError(ValueError):
    """An annotation cannot be decoded; the message names its id and the reason."""


def paint_annotations(annotations: list[Annotation], height: int, width: int, labels: dict[int, int]) -> np.ndarray:
    """Draw annotations, larger ones first, so that the smaller ones stay visible: uint8 [height, width], 0 elsewhere.

    Size is the number of pixels of all parts of an annotation; ties go by annotation id.

    Args:
        annotations: each with ``id``, ``category_id`` and ``segmentation``.
        labels: label of each category.

    Raises:
        UndecodableError: an annotation cannot be decoded.
    """
    regions = []
    for annotation in annotations:
        try:
            rle = encode(annotation["segmentation"], height, width)
            if rle is not None:
                label = labels[annotation["category_id"]]
                regions.append((-int(rle_codec.area(rle)), annotation["id"], label, rle))
        except Exception as error:  # the codec raises bare Exceptions
            reason = " ".join(str(error).split())
            raise UndecodableError(f"annotation {annotation['id']} cannot be decoded ({reason})") from error
    drawn = np.zeros((height, width), np.uint8)
    for _, _, label, rle in sorted(regions, key=lambda region: region[:2]):
        drawn[rle_codec.decode(rle) != 0] = label
    return drawn


def encode(segmentation: list[list[float]] | dict[str, Any], height: int, width: int) -> Any:
    """Encode a segmentation as compressed RLE: the union of all polygons, or a crowd's RLE; None if it is empty.

    Args:
        segmentation: polygons, each x, y, x, y, ... in pixels, or an RLE with ``counts`` as numbers or compressed.

    Raises:
        ValueError: an RLE does not have the size of the image, or a polygon has corners that are not numbers or far
            outside. The codec would read or write outside its memory.
    """
    codec: Any = rle_codec  # its type hints are incomplete
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its RLE is of size {segmentation['size']}, the image of size {[height, width]}")
        counts = segmentation["counts"]
        runs = counts if isinstance(counts, list) else uncompressed(counts)
        if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
            raise ValueError(f"the runs of its RLE do not make up the {height * width} pixels of the image")
        return codec.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    for polygon in segmentation:
        _check_polygon(polygon, height, width)
    # the codec takes four numbers for a box; fewer than three corners are no area
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    return codec.merge(codec.frPyObjects(polygons, height, width)) if polygons else None


def _check_polygon(polygon: list[float], height: int, width: int) -> None:
    if not isinstance(polygon, list) or not all(isinstance(value, int | float) for value in polygon):
        raise ValueError(f"expected polygons as lists of numbers, got {str(polygon)[:40]}")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, where x and y come in pairs")
    # the codec keeps every pixel along an edge: a corner far away costs it memory without bound
    margin = max(height, width)
    for value, side in zip(polygon, [width, height] * (len(polygon) // 2), strict=True):
        if not (math.isfinite(value) and -margin <= value <= side + margin):
            raise ValueError(f"a polygon has a corner at {value}, far outside an image of {width} x {height} pixels")


def uncompressed(counts: str | bytes) -> list[int]:
    """The runs of a compressed RLE: five bits a character, lowest first, from the third run on as differences.

    Raises:
        ValueError: invalid characters, or the text ends within a run.
    """
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its RLE has the character {chr(byte)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number continues
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its RLE breaks off")
    return runs
