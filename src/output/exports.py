"""Label maps in the formats of annotation tools: COCO JSON, labelme, CVAT, Label Studio and YOLO.

Instances are the connected components of a class (8 neighbours); class 0, the background, has none. Polygons have their
corners at pixel corners: the polygon of the top left pixel is (0, 0), (1, 0), (1, 1), (0, 1). A cut of no width
connects a hole with the outline.
"""

from __future__ import annotations

import base64
import io
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image

from ..errors import UserError
from ..files import check_writable, require_new_or_empty, write_bytes, write_text
from .colours import safe_palette
from .pictures import label_png

TOLERANCE = 0.75
"""Largest distance in pixels between a simplified polygon and the boundary; a diagonal staircase is within it."""


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its labels.

    Attributes:
        name: of result files, without a suffix; unique within an export.
        labels: uint8 [height, width], numbers of ``class_names``.
        class_names: C names; the first is the background's.
    """

    file: Path
    name: str
    labels: np.ndarray
    class_names: Sequence[str]


@dataclass(frozen=True)
class Instance:
    """A connected component of class ``label``: ``box`` is x, y, width, height in pixels, ``mask`` bool within it."""

    label: int
    box: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def polygon(self) -> np.ndarray:
        """[K, 2] corners (x, y) in the image, within a pixel of the boundary."""
        return polygon_of(self.mask) + self.box[:2]


def instances(labels: np.ndarray) -> list[Instance]:
    """The instances of a label map, uint8 [height, width], class by class."""
    found = []
    for label in np.unique(labels[labels > 0]).tolist():
        count, components, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for number in range(1, count):
            x, y, width, height, _ = (int(value) for value in stats[number])
            mask = components[y : y + height, x : x + width] == number
            found.append(Instance(label, (x, y, width, height), mask))
    return found


def polygon_of(mask: np.ndarray) -> np.ndarray:
    """One polygon around a mask, bool [height, width], holes cut out: float [K, 2] corners (x, y).

    It is simplified if that moves no boundary by more than a pixel; otherwise it is exact and contains the centres of
    the mask's pixels and no others.
    """
    loops = boundary_loops(mask)
    simple = [cv2.approxPolyDP(loop.astype(np.int32)[:, None], TOLERANCE, True)[:, 0] for loop in loops]
    if all(len(loop) > 2 for loop in simple) and _within_a_pixel(_joined(simple), mask):
        loops = simple
    return _joined(loops).astype(float)


def boundary_loops(mask: np.ndarray) -> list[np.ndarray]:
    """The closed lines between a mask, bool [height, width], and the rest: integer corners [K, 2] each, outer first.

    Walking along them, the mask is on the right.
    """
    padded = np.pad(mask, 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    sides = (
        (inside & ~above, (0, 0), (1, 0)),
        (~inside & above, (1, 0), (0, 0)),
        (inside & ~left, (0, 1), (0, 0)),
        (~inside & left, (0, 0), (0, 1)),
    )
    for there, begin, end in sides:
        for y, x in np.argwhere(there).tolist():
            following[x + begin[0], y + begin[1]].append((x + end[0], y + end[1]))
    loops = []
    while following:
        start = next(iter(following))
        loop, corner = [], start
        while True:
            ends = following[corner]
            end = ends.pop()
            if not ends:
                del following[corner]
            before = loop[-1] if loop else None
            straight = before and (corner[0] - before[0]) * (end[1] - corner[1]) == (corner[1] - before[1]) * (
                end[0] - corner[0]
            )
            if not straight:
                loop.append(corner)
            corner = end
            if corner == start:
                break
        loops.append(np.array(loop))
    return sorted(loops, key=lambda loop: -abs(_area(loop)))


def _area(loop: np.ndarray) -> float:
    x, y = loop[:, 0].astype(float), loop[:, 1].astype(float)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _joined(loops: Sequence[np.ndarray]) -> np.ndarray:
    """One closed line through all loops. The paths between them are walked in both directions and enclose nothing.

    They keep to pixel borders: no centre of a pixel is on them.
    """
    line = loops[0]
    for loop in loops[1:]:
        distances = ((line[:, None] - loop[None]) ** 2).sum(-1)
        here, there = (int(place) for place in np.unravel_index(distances.argmin(), distances.shape))
        around = np.concatenate([np.roll(loop, -there, 0), loop[there : there + 1]])
        bend = np.array([[loop[there, 0], line[here, 1]]])
        line = np.concatenate([line[: here + 1], bend, around, bend, line[here:]])
    return line


def _within_a_pixel(polygon: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the polygon's pixels and the mask's have each other as neighbours wherever they differ."""
    from matplotlib.path import Path as Outline

    kernel = np.ones((3, 3), np.uint8)
    padded = np.pad(mask, 2).astype(np.uint8)
    band = cv2.dilate(padded, kernel) != cv2.erode(padded, kernel)
    y, x = np.nonzero(band)
    drawn = padded.copy()
    closed = np.concatenate([polygon, polygon[:1]]) + 2
    drawn[y, x] = Outline(closed).contains_points(np.stack([x + 0.5, y + 0.5], 1))
    # pixels without a neighbour in the other image would be a lost or an invented part
    lost = (padded == 1) & (cv2.dilate(drawn, kernel) == 0)
    made_up = (drawn == 1) & (cv2.dilate(padded, kernel) == 0)
    return not (lost.any() or made_up.any())


class Export:
    """Writes photos in one format into ``folder``, which must be empty or missing.

    Raises:
        UserError: the folder is not empty or cannot be written to, or a class name has forbidden characters.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        require_new_or_empty(folder, "export folder")
        check_writable(folder / "export")  # before photos are segmented
        self.folder = folder
        self.class_names = class_names

    def add(self, photo: LabelledPhoto) -> None:
        """Add a photo."""
        raise NotImplementedError

    def finish(self) -> Path:
        """Write what belongs to all photos; returns the file or folder to import."""
        raise NotImplementedError

    def _refuse(self, characters: str, tool: str) -> None:
        for name in self.class_names:
            for character in characters:
                if character in name:
                    raise UserError(f"class {json.dumps(name)}: {tool} does not allow {character!r} in a class name")


class Coco(Export):
    """COCO instances: ``instances.json`` with run lengths (lossless), and ``instances_polygons.json``."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._polygons: list[list[float]] = []

    def add(self, photo: LabelledPhoto) -> None:
        height, width = photo.labels.shape
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": photo.file.name, "width": width, "height": height})
        for instance in instances(photo.labels):
            x, y, w, h = instance.box
            mask = np.zeros((height, width), bool)
            mask[y : y + h, x : x + w] = instance.mask
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": instance.label,
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                    "area": int(instance.mask.sum()),
                    "bbox": list(instance.box),
                    "iscrowd": 0,
                }
            )
            self._polygons.append(instance.polygon.ravel().tolist())

    def finish(self) -> Path:
        categories = [{"id": label, "name": name} for label, name in enumerate(self.class_names) if label]
        shared = {"info": {}, "licenses": [], "images": self._images, "categories": categories}
        outlines = [
            {**annotation, "segmentation": [polygon]}
            for annotation, polygon in zip(self._annotations, self._polygons, strict=True)
        ]
        for name, written in (("instances", self._annotations), ("instances_polygons", outlines)):
            content = json.dumps({**shared, "annotations": written}, ensure_ascii=False)
            write_text(self.folder / f"{name}.json", content + "\n")
        return self.folder / "instances.json"


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a mask, bool [height, width]: column by column, zeros first."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()


class Labelme(Export):
    """labelme: a JSON per photo, with a polygon per instance. The picture itself is not embedded."""

    def add(self, photo: LabelledPhoto) -> None:
        height, width = photo.labels.shape
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [
                {
                    "label": self.class_names[instance.label],
                    **self._shape(instance),
                    "group_id": None,
                    "description": "",
                    "flags": {},
                }
                for instance in instances(photo.labels)
            ],
            "imagePath": photo.file.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_text(self.folder / f"{photo.name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _shape(self, instance: Instance) -> dict[str, Any]:
        return {"shape_type": "polygon", "points": instance.polygon.tolist(), "mask": None}

    def finish(self) -> Path:
        return self.folder


class LabelmeMasks(Labelme):
    """The same with labelme's mask shapes (lossless)."""

    def _shape(self, instance: Instance) -> dict[str, Any]:
        x, y, width, height = instance.box
        png = io.BytesIO()
        Image.fromarray(instance.mask).save(png, format="PNG")
        corners = [[x, y], [x + width - 1, y + height - 1]]
        return {"shape_type": "mask", "points": corners, "mask": base64.b64encode(png.getvalue()).decode()}


class Cvat(Export):
    """CVAT's "Segmentation mask 1.1": ``labelmap.txt``, a list, and colour masks of classes and of instances."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self._refuse(":\n\r#", "CVAT's labelmap.txt")
        self._names: list[str] = []

    def add(self, photo: LabelledPhoto) -> None:
        if len(photo.name.splitlines()) > 1:
            raise UserError(f"image {json.dumps(photo.name)}: CVAT's default.txt does not allow a line break in a name")
        objects = np.zeros_like(photo.labels)
        for number, instance in enumerate(instances(photo.labels)):
            x, y, width, height = instance.box
            # a palette has 255 colours; CVAT distinguishes instances by colour within a class
            objects[y : y + height, x : x + width][instance.mask] = number % 255 + 1
        write_bytes(self.folder / "SegmentationClass" / f"{photo.name}.png", label_png(photo.labels, safe_palette()))
        write_bytes(self.folder / "SegmentationObject" / f"{photo.name}.png", label_png(objects, safe_palette()))
        self._names.append(photo.name)

    def finish(self) -> Path:
        colours = [",".join(map(str, safe_palette()[label].tolist())) for label in range(len(self.class_names))]
        names = ["background", *self.class_names[1:]]
        rows = [f"{name}:{colour}::" for name, colour in zip(names, colours, strict=True)]
        write_text(self.folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows]) + "\n")
        listed = "".join(f"{name}\n" for name in self._names)
        write_text(self.folder / "ImageSets" / "Segmentation" / "default.txt", listed)
        return self.folder


CONTROL = "".join(map(chr, range(32)))
"""Characters that XML forbids or changes."""


class LabelStudio(Export):
    """Label Studio: ``tasks.json``, whose predictions are one brush mask per class, and the labelling configuration."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        super().__init__(folder, class_names)
        self._refuse(CONTROL, "Label Studio's config.xml")
        self._tasks: list[dict[str, Any]] = []

    def add(self, photo: LabelledPhoto) -> None:
        height, width = photo.labels.shape
        result = []
        for label in np.unique(photo.labels[photo.labels > 0]).tolist():
            value = {
                "format": "rle",
                "rle": brush_run_lengths(photo.labels == label),
                "brushlabels": [self.class_names[label]],
            }
            result.append(
                {
                    "id": f"{photo.name}-{label}",
                    "type": "brushlabels",
                    "from_name": "tag",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": value,
                }
            )
        prediction = {"model_version": "segmentation-from-attention", "result": result}
        self._tasks.append({"data": {"image": photo.file.name}, "predictions": [prediction]})

    def finish(self) -> Path:
        from xml.sax.saxutils import quoteattr

        write_text(self.folder / "tasks.json", json.dumps(self._tasks, ensure_ascii=False) + "\n")
        labels = "\n".join(
            f'    <Label value={quoteattr(name)} background="#{bytes(safe_palette()[label].tolist()).hex()}"/>'
            for label, name in enumerate(self.class_names)
            if label
        )
        view = f'<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="tag" toName="image">\n{labels}\n'
        write_text(self.folder / "config.xml", f"{view}  </BrushLabels>\n</View>\n")
        return self.folder / "tasks.json"


RUN_SIZES = (3, 4, 8, 16)  # bits of a run's length in Label Studio's format


def brush_run_lengths(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask, bool [height, width], as bytes: the RGBA picture in which it is 255.

    A bit stream: 32 bits for the number of values, 5 for the bits of a value less one, four times 4 for the bits of a
    length less one; then for each run 1, two bits for which of these lengths, the length less one, and the value.
    """
    values = np.repeat(mask.ravel(), 4)
    ends = np.flatnonzero(np.concatenate([values[1:] != values[:-1], [True]])) + 1
    lengths = np.diff(np.concatenate([[0], ends]))
    bits = [f"{values.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in RUN_SIZES)]
    longest = 1 << RUN_SIZES[-1]
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        value = "1" * 8 if values[end - 1] else "0" * 8
        for part in (*[longest] * (length // longest), length % longest):
            if part:
                which = next(n for n, size in enumerate(RUN_SIZES) if part <= 1 << size)
                bits.append(f"1{which:02b}{part - 1:0{RUN_SIZES[which]}b}{value}")
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


class Yolo(Export):
    """YOLO segmentation: a text file per photo with a polygon per instance, and ``data.yaml`` with the class names."""

    def add(self, photo: LabelledPhoto) -> None:
        height, width = photo.labels.shape
        lines = []
        for instance in instances(photo.labels):
            points = (instance.polygon / (width, height)).ravel().tolist()
            lines.append(" ".join([str(instance.label - 1), *(f"{point:.6g}" for point in points)]) + "\n")
        write_text(self.folder / "labels" / f"{photo.name}.txt", "".join(lines))

    def finish(self) -> Path:
        names = dict(enumerate(self.class_names[1:]))
        content = {"path": ".", "train": "images", "val": "images", "names": names}
        write_text(self.folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return self.folder


FORMATS: dict[str, Callable[[Path, Sequence[str]], Export]] = {
    "coco": Coco,
    "labelme": Labelme,
    "labelme-masks": LabelmeMasks,
    "cvat": Cvat,
    "label-studio": LabelStudio,
    "yolo": Yolo,
}
"""The formats by the names that ``--export`` takes."""


def open_exports(names: Sequence[str], folder: Path, class_names: Sequence[str]) -> list[Export]:
    """An :class:`Export` per format of ``names``, each in a folder ``export_<format>`` of ``folder``."""
    for name in names:
        if name not in FORMATS:
            raise UserError(f"export format {name!r} is unknown; expected one of {', '.join(FORMATS)}")
    return [FORMATS[name](folder / f"export_{name}", class_names) for name in dict.fromkeys(names)]


def to_supervision(labels: np.ndarray) -> Any:
    """The instances as ``supervision.Detections``. Raises UserError if that package is not installed."""
    try:
        import supervision  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("supervision is not installed; install it with: pip install supervision") from None
    found = instances(labels)
    masks = np.zeros((len(found), *labels.shape), bool)
    boxes = np.zeros((len(found), 4), np.float32)
    for number, instance in enumerate(found):
        x, y, width, height = instance.box
        masks[number, y : y + height, x : x + width] = instance.mask
        boxes[number] = x, y, x + width, y + height
    if not found:
        return supervision.Detections.empty()
    return supervision.Detections(boxes, mask=masks, class_id=np.array([instance.label for instance in found]))
