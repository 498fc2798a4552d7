"""Exports for annotation tools: lossless formats reproduce the pixels, polygons are within a pixel."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools.coco import COCO

from src.errors import UserError
from src.output.exports import (
    FORMATS,
    LabelledPhoto,
    boundary_loops,
    brush_run_lengths,
    instances,
    open_exports,
    polygon_of,
    run_lengths,
)

NAMES = ("sky", "cat", "my red mug", "größe 猫")


def label_map() -> np.ndarray:
    """A ring with a hole, a part in the hole, a line one pixel wide, a diagonal line, single pixels, the border."""
    labels = np.zeros((60, 80), np.uint8)
    cv2.circle(labels, (25, 25), 20, 1, -1)
    cv2.circle(labels, (25, 25), 12, 0, -1)
    cv2.circle(labels, (25, 25), 5, 1, -1)
    labels[50, 5:70] = 2
    for step in range(20):
        labels[5 + step, 55 + step] = 2
    labels[0, 0] = labels[59, 79] = labels[30, 79] = 3
    labels[40:48, 60:80] = 3
    labels[42, 62] = labels[43, 63] = 0
    return labels


def export(tmp_path: Path, name: str, labels: np.ndarray) -> Path:
    (made,) = open_exports([name], tmp_path, NAMES)
    made.add(LabelledPhoto(Path("photos/one.jpg"), "one", labels, NAMES))
    made.add(LabelledPhoto(Path("photos/empty.jpg"), "empty", np.zeros((5, 7), np.uint8), NAMES))
    made.finish()
    return tmp_path / f"export_{name}"


def drawn(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are inside a polygon."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    closed = np.concatenate([polygon, polygon[:1]])
    return Outline(closed).contains_points(np.stack([x.ravel() + 0.5, y.ravel() + 0.5], 1)).reshape(shape)


def assert_within_a_pixel(one: np.ndarray, other: np.ndarray) -> None:
    kernel = np.ones((3, 3), np.uint8)
    assert not (one & ~cv2.dilate(other.astype(np.uint8), kernel).astype(bool)).any()
    assert not (other & ~cv2.dilate(one.astype(np.uint8), kernel).astype(bool)).any()


masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda mask: mask.any())


@settings(max_examples=200, deadline=None)
@given(masks)
def test_boundaries_enclose_exactly_the_mask(mask: np.ndarray) -> None:
    inside = np.zeros(mask.shape, int)
    for loop in boundary_loops(mask):
        inside += drawn(loop, mask.shape)
    np.testing.assert_array_equal(inside % 2 == 1, mask)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_polygons_with_holes_are_within_a_pixel(mask: np.ndarray) -> None:
    assert_within_a_pixel(drawn(polygon_of(mask), mask.shape), mask)


def test_thin_parts_and_holes_survive() -> None:
    labels = label_map()
    for instance in instances(labels):
        x, y, width, height = instance.box
        mask = np.zeros(labels.shape, bool)
        mask[y : y + height, x : x + width] = instance.mask
        found = drawn(instance.polygon, labels.shape)
        assert_within_a_pixel(found, mask)
        if instance.label == 2:  # the line one pixel wide and the diagonal one
            assert found.sum() > 0.9 * mask.sum()
    hole = drawn(instances(labels)[0].polygon, labels.shape)
    assert not hole[25, 38 - 3]


def test_pycocotools_reads_coco_exports(tmp_path: Path) -> None:
    labels = label_map()
    folder = export(tmp_path, "coco", labels)
    exact, outlines = (COCO(folder / name) for name in ("instances.json", "instances_polygons.json"))
    assert [category["name"] for category in exact.loadCats(exact.getCatIds())] == list(NAMES[1:])
    assert [image["file_name"] for image in exact.loadImgs(exact.getImgIds())] == ["one.jpg", "empty.jpg"]
    assert not exact.getAnnIds(imgIds=[2])
    back, near = np.zeros_like(labels), np.zeros_like(labels)
    for annotation in exact.loadAnns(exact.getAnnIds(imgIds=[1])):
        mask = exact.annToMask(annotation).astype(bool)
        back[mask] = annotation["category_id"]
        assert annotation["area"] == mask.sum()
        y, x = np.nonzero(mask)
        assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    for annotation in outlines.loadAnns(outlines.getAnnIds(imgIds=[1])):
        near[outlines.annToMask(annotation).astype(bool)] = annotation["category_id"]
    np.testing.assert_array_equal(back, labels)
    for label in (1, 2, 3):
        assert_within_a_pixel(near == label, labels == label)


@given(masks)
def test_coco_run_lengths_equal_pycocotools(mask: np.ndarray) -> None:
    from pycocotools import mask as coco_mask

    run = {"size": list(mask.shape), "counts": run_lengths(mask)}
    encoded = coco_mask.frPyObjects(run, *mask.shape)
    assert encoded == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_labelme_polygons_and_masks(tmp_path: Path) -> None:
    labels = label_map()
    polygons = json.loads((export(tmp_path, "labelme", labels) / "one.json").read_text())
    folder = export(tmp_path, "labelme-masks", labels)
    exact = json.loads((folder / "one.json").read_text())
    assert (polygons["imagePath"], polygons["imageData"]) == ("one.jpg", None)
    assert (polygons["imageHeight"], polygons["imageWidth"]) == labels.shape
    assert json.loads((folder / "empty.json").read_text())["shapes"] == []
    back = np.zeros_like(labels)
    for shape in exact["shapes"]:
        (x, y), (right, bottom) = shape["points"]
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
        assert mask.shape == (bottom - y + 1, right - x + 1)
        back[y : bottom + 1, x : right + 1][mask] = NAMES.index(shape["label"])
    np.testing.assert_array_equal(back, labels)
    near = np.zeros_like(labels)
    for shape in polygons["shapes"]:
        near[drawn(np.array(shape["points"]), labels.shape)] = NAMES.index(shape["label"])
    for label in (1, 2, 3):
        assert_within_a_pixel(near == label, labels == label)


def test_cvat_colours_name_the_classes(tmp_path: Path) -> None:
    labels = label_map()
    folder = export(tmp_path, "cvat", labels)
    colours = {}
    for line in (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]:
        name, colour, parts, actions = line.split(":")
        colours[tuple(map(int, colour.split(",")))] = name
        assert (parts, actions) == ("", "")
    assert list(colours.values()) == ["background", *NAMES[1:]]
    rgb = np.asarray(Image.open(folder / "SegmentationClass" / "one.png").convert("RGB"))
    names = ["background", *NAMES[1:]]
    back = np.array([[names.index(colours[tuple(pixel)]) for pixel in row] for row in rgb.tolist()], np.uint8)
    np.testing.assert_array_equal(back, labels)
    objects = np.asarray(Image.open(folder / "SegmentationObject" / "one.png"))
    assert len(np.unique(objects)) - 1 == len(instances(labels))
    np.testing.assert_array_equal(objects > 0, labels > 0)
    assert (folder / "ImageSets" / "Segmentation" / "default.txt").read_text() == "one\nempty\n"


def decoded(run: list[int]) -> np.ndarray:
    """A reader of Label Studio's bit stream, from its description."""
    stream, at = "".join(f"{byte:08b}" for byte in run), 0

    def read(bits: int) -> int:
        nonlocal at
        at += bits
        return int(stream[at - bits : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@given(masks)
def test_label_studio_run_lengths(mask: np.ndarray) -> None:
    rgba = decoded(brush_run_lengths(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(rgba == 255, np.repeat(mask[:, :, None], 4, 2))


def test_a_long_run_is_split() -> None:
    mask = np.ones((200, 200), bool)
    assert decoded(brush_run_lengths(mask)).reshape(200, 200, 4).all()


def test_label_studio_tasks(tmp_path: Path) -> None:
    labels = label_map()
    folder = export(tmp_path, "label-studio", labels)
    one, empty = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert one["data"]["image"] == "one.jpg"
    assert empty["predictions"][0]["result"] == []
    back = np.zeros_like(labels)
    for result in one["predictions"][0]["result"]:
        shape = result["original_height"], result["original_width"]
        (name,) = result["value"]["brushlabels"]
        back[decoded(result["value"]["rle"]).reshape(*shape, 4)[:, :, 3] > 0] = NAMES.index(name)
    np.testing.assert_array_equal(back, labels)
    named = [label.get("value") for label in ElementTree.parse(folder / "config.xml").iter("Label")]
    assert named == list(NAMES[1:])


def test_yolo_polygons(tmp_path: Path) -> None:
    labels = label_map()
    folder = export(tmp_path, "yolo", labels)
    assert yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"] == dict(enumerate(NAMES[1:]))
    assert (folder / "labels" / "empty.txt").read_text() == ""
    near = np.zeros_like(labels)
    for line in (folder / "labels" / "one.txt").read_text().splitlines():
        label, *points = line.split()
        polygon = np.array(points, float).reshape(-1, 2) * labels.shape[::-1]
        near[drawn(polygon, labels.shape)] = int(label) + 1
    for label in (1, 2, 3):
        assert_within_a_pixel(near == label, labels == label)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    folder = export(tmp_path, name, label_map())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"export folder .*export_{name} exists and is not an empty folder"):
        open_exports([name], tmp_path, NAMES)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", FORMATS)
def test_the_maximum_number_of_classes_is_exported(name: str, tmp_path: Path) -> None:
    names = ["background", *(f"class {number}" for number in range(1, 255))]
    (made,) = open_exports([name], tmp_path, names)
    made.add(LabelledPhoto(Path("x.png"), "x", np.arange(255, dtype=np.uint8).reshape(15, 17), names))
    made.finish()
    assert any(path.is_file() for path in (tmp_path / f"export_{name}").rglob("*"))


HARD = ("background", "null", "1", 'a "b" <c> & d', "no: # x", "\\n", "\N{CAT FACE}", "\u05d7\u05ea\u05d5\u05dc")


def class_names_in(folder: Path, name: str) -> list[str]:
    """The names of all classes but the background, as a reader of the format finds them."""
    if name == "coco":
        return [entry["name"] for entry in json.loads((folder / "instances.json").read_text("utf-8"))["categories"]]
    if name == "label-studio":
        return [str(entry.get("value")) for entry in ElementTree.parse(folder / "config.xml").iter("Label")]
    if name == "yolo":
        return [*yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"].values()]
    return [shape["label"] for shape in json.loads((folder / "x.json").read_text("utf-8"))["shapes"]]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "cvat"])
def test_names_with_special_characters_are_read_back(name: str, tmp_path: Path) -> None:
    (made,) = open_exports([name], tmp_path, HARD)
    labels = np.arange(len(HARD), dtype=np.uint8)[None].repeat(3, 0)
    made.add(LabelledPhoto(Path("x.png"), "x", labels, HARD))
    made.finish()
    assert class_names_in(tmp_path / f"export_{name}", name) == list(HARD[1:])


def test_label_studio_refuses_names_that_xml_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'class "a\\u0007": Label Studio.* does not allow .*x07'):
        open_exports(["label-studio"], tmp_path, ["background", "a\a"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_photo_without_any_class_is_a_valid_export(name: str, tmp_path: Path) -> None:
    (made,) = open_exports([name], tmp_path, NAMES)
    made.add(LabelledPhoto(Path("x.png"), "x", np.zeros((5, 7), np.uint8), NAMES))
    path = made.finish()
    folder = tmp_path / f"export_{name}"
    if name == "coco":
        for file in folder.iterdir():
            read = COCO(str(file))
            assert read.getImgIds() == [1]
            assert read.getAnnIds() == []
    elif name == "cvat":
        for kind in ("SegmentationClass", "SegmentationObject"):
            assert not np.asarray(Image.open(path / kind / "x.png")).any()
    elif name == "label-studio":
        (task,) = json.loads(path.read_text())
        assert task["predictions"][0]["result"] == []
    elif name == "yolo":
        assert (folder / "labels" / "x.txt").read_text() == ""
    else:
        content = json.loads((folder / "x.json").read_text())
        assert (content["shapes"], content["imageHeight"], content["imageWidth"]) == ([], 5, 7)


@pytest.mark.parametrize("name", FORMATS)
def test_an_unwritable_folder_is_refused_before_segmenting(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*; choose another folder"):
        open_exports([name], tmp_path / "file", NAMES)
    (made,) = open_exports([name], tmp_path / "new", NAMES)
    assert made.folder == tmp_path / "new" / f"export_{name}"
    assert not (tmp_path / "new").exists()  # checking leaves no file


def test_cvat_refuses_a_photo_that_its_list_cannot_name(tmp_path: Path) -> None:
    (made,) = open_exports(["cvat"], tmp_path, NAMES)
    with pytest.raises(UserError, match=r'image "a\\nb": CVAT.* does not allow a line break'):
        made.add(LabelledPhoto(Path("a\nb.jpg"), "a\nb", label_map(), NAMES))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["a:b", "a#b", "a\nb"])
def test_cvat_refuses_names_that_its_file_cannot_hold(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CVAT"):
        open_exports(["cvat"], tmp_path, ["background", name])
