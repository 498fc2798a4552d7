"""Small made-up data sets in the official formats: VOC devkit, SBD, COCO instances."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

HEIGHT, WIDTH = 12, 16

# which image has which mask and is in which image set
VOC_MASKS = ("2007_000001", "2007_000002", "2008_000003")
SBD_MASKS = ("2007_000002", "2008_000003", "2008_000004", "2009_000005", "2010_000006")
IMAGES = (*VOC_MASKS, "2008_000004", "2009_000005", "2010_000006", "2011_000007")
IMAGE_SETS = {
    "Main/train": (
        "2009_000005",
        "2008_000004",
        "2011_000007",
    ),  # not sorted, and some without a mask
    "Main/val": ("2010_000006",),
    "Segmentation/train": ("2007_000001",),
    "Segmentation/val": ("2008_000003", "2007_000002"),
}


def voc_labels(number: int) -> np.ndarray:
    """Labels of a VOC mask: an object of class ``number`` with a border of void."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:9, 2:9] = 255
    labels[3:8, 3:8] = number
    return labels


def sbd_labels(number: int) -> np.ndarray:
    """Labels of an SBD mask: an object of class ``number`` without void."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:9, 2:9] = number
    return labels


def save_jpeg(path: Path, grey: int = 90) -> None:
    """Write a JPEG of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (grey, 2 * grey, 30)).save(path)


def make_voc(folder: Path) -> Path:
    """Make ``folder``/VOCdevkit/VOC2012 and return it; the mask of an image has the last digit of its name as class."""
    devkit = folder / "VOCdevkit" / "VOC2012"
    for name in IMAGES:
        save_jpeg(devkit / "JPEGImages" / f"{name}.jpg", int(name[-1]) * 10)
    for name, members in IMAGE_SETS.items():
        path = devkit / "ImageSets" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{member}\n" for member in members))
    (devkit / "SegmentationClass").mkdir()
    for name in VOC_MASKS:
        mask = Image.fromarray(voc_labels(int(name[-1])))
        mask.putpalette([value for i in range(256) for value in (i * 37 % 256, i * 91 % 256, i * 11 % 256)])
        assert mask.mode == "P"
        mask.save(devkit / "SegmentationClass" / f"{name}.png")
    (devkit / "Annotations").mkdir()
    (devkit / "Annotations" / "2007_000001.xml").write_text("<annotation/>")
    return devkit


def make_sbd(folder: Path) -> Path:
    """Make ``folder``/benchmark_RELEASE and return it."""
    dataset = folder / "benchmark_RELEASE" / "dataset"
    for name in ("cls", "img", "inst"):
        (dataset / name).mkdir(parents=True)
    boundaries = np.empty((20, 1), object)
    for number in range(20):
        boundaries[number, 0] = csc_matrix((HEIGHT, WIDTH), dtype=bool)
    for name in SBD_MASKS:
        struct = {
            "Boundaries": boundaries,
            "Segmentation": sbd_labels(int(name[-1])),
            "CategoriesPresent": np.uint8(int(name[-1])),
        }
        savemat(dataset / "cls" / f"{name}.mat", {"GTcls": struct}, do_compression=True)
    for name in ("train", "val"):
        (dataset / f"{name}.txt").write_text("".join(f"{member}\n" for member in SBD_MASKS))
    return dataset.parent


def pack_tar(archive: Path, folder: Path, top: str, mode: str = "w") -> Path:
    """Pack ``folder``/``top`` as ``archive``."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:
        tar.add(folder / top, top)
    return archive


def pack_zip(archive: Path, folder: Path, top: str) -> Path:
    """Pack ``folder``/``top`` as ``archive``."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted((folder / top).rglob("*")):
            opened.write(path, path.relative_to(folder))
    return archive


def box(x: int, y: int, width: int, height: int) -> list[float]:
    """Polygon of a rectangle, in pixels."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def crowd_rle(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed RLE of a crowd: lengths of runs in column order, starting with zeros."""
    flat = mask.astype(np.uint8).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + counts}


def crowd_area() -> np.ndarray:
    """The pixels of the crowd in :func:`make_coco`: two separate strips."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[0:2, 4:10] = True
    mask[10:12, 1:5] = True
    return mask


def make_coco(root: Path, split: str = "val") -> None:
    """Make annotations and images of four images, out of order; category ids have gaps as COCO's do.

    Image 3: an object of category 1 in two parts, and a smaller one of category 90 inside the first part.
    Image 5: a crowd of category 18 alone. Image 9: a crowd of category 18 with an object. Image 2: no annotation.
    """

    def annotation(number: int, image: int, category: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
            "iscrowd": crowd,
            "area": 1.0,
            "bbox": [0, 0, 1, 1],
        }

    crowd = crowd_rle(crowd_area())
    images = [
        {"id": n, "file_name": f"COCO_{split}2014_{n:012d}.jpg", "height": HEIGHT, "width": WIDTH} for n in (9, 3, 2, 5)
    ]
    content = {
        "images": images,
        "categories": [{"id": n, "name": f"thing {n}"} for n in (90, 1, 18)],
        "annotations": [
            annotation(40, 3, 90, [box(2, 2, 2, 2)]),  # before the larger one that covers it
            annotation(41, 3, 1, [box(1, 1, 5, 5), box(10, 4, 4, 6)]),
            annotation(42, 5, 18, crowd, 1),
            annotation(43, 9, 18, crowd, 1),
            annotation(44, 9, 1, [box(12, 3, 3, 3)]),
        ],
    }
    path = root / "annotations" / f"instances_{split}2014.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in images:
        save_jpeg(root / f"{split}2014" / image["file_name"])


def pixels(path: Path) -> np.ndarray:
    """Values of a mask, checked to be a grey PNG."""
    with Image.open(path) as mask:
        assert (mask.format, mask.mode) == ("PNG", "L")
        return np.asarray(mask)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of every file below ``folder``: equal snapshots mean that nothing was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
