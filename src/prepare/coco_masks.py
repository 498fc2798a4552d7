"""COCO's instance annotations, drawn as one mask per image."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from src.errors import UserError
from src.prepare.masks import save_mask

Annotation = dict[str, Any]


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
        UserError: missing, no JSON, or without the parts of an instances file.
    """
    try:
        content = json.loads(path.read_bytes())
        images = {
            Path(image["file_name"]).stem: {key: image[key] for key in ("id", "height", "width")}
            for image in content["images"]
        }
        identifiers = sorted({category["id"] for category in content["categories"]})
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            if crowd or not annotation.get("iscrowd", 0):
                annotations[annotation["image_id"]].append(
                    {key: annotation[key] for key in ("id", "category_id", "segmentation")}
                )
    except OSError as error:
        raise UserError(f"annotations {path} cannot be read ({error.strerror}); unpack them again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"annotations {path} are no COCO instances file ({type(error).__name__}: {error}); "
            "unpack annotations_trainval2014.zip again"
        ) from error
    if len(identifiers) > 254:
        raise UserError(f"annotations {path} have {len(identifiers)} categories; a mask has room for 254")
    labels = {identifier: label for label, identifier in enumerate(identifiers, 1)}
    unknown = {a["category_id"] for of_image in annotations.values() for a in of_image} - labels.keys()
    if unknown:
        raise UserError(f"annotations {path} use category {min(unknown)}, which they do not define: unpack them again")
    return Instances(images, dict(annotations), labels)


@dataclass(frozen=True)
class MaskJob:
    """A mask to draw: size, annotations of the image, label of each category, and where the mask goes."""

    target: Path
    height: int
    width: int
    annotations: list[Annotation]
    labels: dict[int, int]


def draw_and_save(job: MaskJob) -> None:
    """Draw the mask of one image and write it.

    Raises:
        UserError: an annotation cannot be decoded, or the mask cannot be written.
    """
    save_mask(job.target, draw(job))


def draw(job: MaskJob) -> np.ndarray:
    """Draw annotations, larger ones first, so that the smaller ones stay visible; uint8 [height, width], 0 elsewhere.

    Size is the number of pixels of the whole annotation, all its parts together; equal ones go by annotation id.

    Raises:
        UserError: an annotation cannot be decoded.
    """
    regions = []
    for annotation in job.annotations:
        try:
            rle = encode(annotation["segmentation"], job.height, job.width)
        except Exception as error:  # the codec raises bare Exceptions
            raise UserError(
                f"{job.target.name}: annotation {annotation['id']} cannot be decoded ({error}); "
                "unpack the annotations again"
            ) from error
        if rle is not None:
            regions.append((-int(rle_codec.area(rle)), annotation["id"], job.labels[annotation["category_id"]], rle))
    labels = np.zeros((job.height, job.width), np.uint8)
    for _, _, label, rle in sorted(regions, key=lambda region: region[:2]):
        labels[rle_codec.decode(rle) != 0] = label
    return labels


def encode(segmentation: list[list[float]] | dict[str, Any], height: int, width: int) -> dict[str, Any] | None:
    """Encode a segmentation as compressed RLE: the union of all polygons, or a crowd's RLE; None if it is empty.

    Args:
        segmentation: polygons, each x, y, x, y, ... in pixels, or an RLE with ``counts`` as numbers or compressed.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: the RLE has another size than the image.
    """
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its RLE is of size {segmentation['size']}, the image of size {[height, width]}")
        if isinstance(segmentation["counts"], list):
            return rle_codec.frPyObjects(segmentation, height, width)
        return segmentation
    # the codec takes four numbers for a box; fewer than three corners are no area
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    return rle_codec.merge(rle_codec.frPyObjects(polygons, height, width)) if polygons else None
