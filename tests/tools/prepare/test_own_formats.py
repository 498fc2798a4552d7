"""Exports of labelling tools become data sets with the same pixels and names."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as rle_codec

from src import cli
from src.config.reader import load_config
from src.method.prompts import read_class_file
from src.output.exports import LabelledPhoto, open_exports
from tools.prepare.__main__ import main as prepare

HEIGHT, WIDTH = 40, 60
CAT, DOG = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
CAT[5:20, 10:31] = True
DOG[25:38, 40:58] = True
DOG[30:33, 45:50] = False  # a hole
TRUTH = np.where(CAT, 1, np.where(DOG, 2, 0)).astype(np.uint8)


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)
    return path


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def run(out: Path, *options: object) -> int:
    return cli.run(prepare, ["own", "--root", str(out), "--workers", "1", *map(str, options)])


def made(out: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Image path and labels of each line of the list, by the stem of the image."""
    root = Path(yaml.safe_load((out / "training_free.yaml").read_text())["data_root"])
    pairs = [line.split() for line in (out / "list.txt").read_text().splitlines()]
    assert all((root / image).is_file() for image, _ in pairs)
    return {Path(image).stem: (image, np.asarray(Image.open(root / mask))) for image, mask in pairs}


def names(out: Path) -> list[str]:
    config = load_config(out / "training_free.yaml")
    return [entry.name for entry in read_class_file(out / "classes.json", config.dataset.num_classes)][1:]


# labelme


def rectangle(label: str, *box: float) -> dict[str, Any]:
    left, top, right, bottom = box
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "points": corners, "shape_type": "polygon", "group_id": None, "flags": {}}


def mask_shape(label: str, pixels: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    png = io.BytesIO()
    Image.fromarray(pixels[top : bottom + 1, left : right + 1]).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    return {"label": label, "points": [[left, top], [right, bottom]], "shape_type": "mask", "mask": text}


def labelme(path: Path, *shapes: dict[str, Any], **changes: Any) -> Path:
    photo(path.with_suffix(".jpg"))
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": path.with_suffix(".jpg").name}
    path.write_text(json.dumps({**content, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}))
    return path


def test_labelme_polygons_and_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "labelme"
    labelme(folder / "a.json", rectangle("cat", 10, 5, 30, 19), mask_shape("dog", DOG))
    labelme(folder / "b.json", mask_shape("dog", DOG), mask_shape("cat", CAT), imagePath="..\\labelme\\b.jpg")
    line = {"label": "tail", "points": [[1, 1], [5, 5]], "shape_type": "line"}
    labelme(folder / "c.json", line, rectangle("__ignore__", 0, 0, 3, 3), rectangle("_background_", 0, 0, 1, 1))
    photo(folder / "unlabelled.jpg")
    assert run(tmp_path / "out", "--images", folder) == 0
    shown = capsys.readouterr().out
    assert "labelme: 3 JSON files; 3 images" in shown
    assert "note: 1 image without labels left out: unlabelled.jpg" in shown
    assert "note: 1 shape without an area left out: 1 line" in shown
    assert "1 class occurs in no mask and is left out: tail" in shown
    assert names(tmp_path / "out") == ["cat", "dog"]
    masks = made(tmp_path / "out")
    assert np.array_equal(masks["a"][1], TRUTH)
    assert np.array_equal(masks["b"][1], TRUTH)
    ignored = np.zeros_like(TRUTH)
    ignored[:4, :4] = 255
    ignored[:2, :2] = 0
    assert np.array_equal(masks["c"][1], ignored)


def test_later_labelme_shapes_cover_earlier_ones_and_circles_are_round(tmp_path: Path) -> None:
    circle = {"label": "dog", "points": [[20, 20], [28, 20]], "shape_type": "circle"}
    box = {"label": "cat", "points": [[5, 5], [2, 2]], "shape_type": "rectangle"}
    labelme(tmp_path / "l/a.json", rectangle("cat", 0, 0, 59, 39), circle, box)
    assert run(tmp_path / "out", "--images", tmp_path / "l") == 0
    mask = made(tmp_path / "out")["a"][1]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows - 20, columns - 20)
    assert (mask[distance <= 7.5] == 2).all()
    assert (mask[distance >= 9] == 1).all()


def test_labelme_images_in_another_folder(tmp_path: Path) -> None:
    labelme(tmp_path / "json/a.json", rectangle("cat", 10, 5, 30, 19), imagePath="../photos/a.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "json/a.jpg").rename(tmp_path / "photos/a.jpg")
    assert run(tmp_path / "beside", "--images", tmp_path / "json") == 0
    assert run(tmp_path / "named", "--images", tmp_path / "photos", "--masks", tmp_path / "json") == 0
    assert made(tmp_path / "named")["a"][0] == "photos/a.jpg"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"imageHeight": None}, "a.json: key imageHeight: None"),
        ({"imagePath": "gone.jpg"}, "labels have"),  # the image of the file's own name is taken, of another size
        ({"imagePath": 3}, "a.json: key imagePath"),
        ({"shapes": [{"label": "cat", "points": [[1, 2]], "shape_type": "polygon"}]}, "a.json: shapes[0].points"),
        ({"shapes": [{"label": "cat", "points": [[1, "x"]]}]}, "a.json: shapes[0].points"),
        ({"shapes": [{"label": "cat", "points": [], "shape_type": "star"}]}, "shapes[0].shape_type: 'star'"),
        ({"shapes": [{"points": [[1, 2], [3, 4], [5, 1]]}]}, "a.json: shapes[0].label"),
        ({"shapes": [{"label": "c", "points": [[1, 2], [3, 4]], "shape_type": "mask"}]}, "shapes[0].mask"),
        ({"shapes": [{**mask_shape("c", CAT), "points": [[1, 2], [3, 4]]}]}, "its points 3 x 3"),
        ({"shapes": [{**mask_shape("c", CAT), "mask": "eA=="}]}, "shapes[0].mask: it is no PNG"),
        ({"shapes": [{**mask_shape("c", CAT), "points": [[50, 5], [70, 19]]}]}, "outside the image of 60 x 40"),
    ],
)
def test_a_labelme_file_is_refused_by_name_and_key(
    changes: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labelme(tmp_path / "l/a.json", rectangle("cat", 10, 5, 30, 19), **changes)
    if changes.get("imagePath") == "gone.jpg":
        Image.new("RGB", (3, 3)).save(path.with_suffix(".jpg"))
    assert run(tmp_path / "out", "--images", tmp_path / "l") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert key in error
    assert "a.json" in error
    assert not (tmp_path / "out").exists()


def test_two_spellings_of_a_class_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme(tmp_path / "l/a.json", rectangle("Cat", 10, 5, 30, 19), rectangle("cat", 40, 25, 50, 30))
    assert run(tmp_path / "out", "--images", tmp_path / "l") == 2
    assert "the class names 'Cat' and 'cat' are the same word" in capsys.readouterr().err


# CVAT

COLOURS = {0: (0, 0, 0), 1: (250, 50, 83), 2: (51, 221, 255)}
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\nbig: dog:51,221,255::\nowl:1,2,3::\n"


def coloured(labels: np.ndarray) -> np.ndarray:
    return np.array([COLOURS[label] for label in range(3)], np.uint8)[labels]


def cvat(folder: Path, labelmap: str = LABELMAP, names: tuple[str, ...] = ("a", "sub/b")) -> Path:
    for name in names:
        save(folder / "SegmentationClass" / f"{name}.png", coloured(TRUTH))
    (folder / "labelmap.txt").write_text(labelmap)
    return folder


@pytest.mark.parametrize("own_images", [True, False])
def test_cvat_masks(own_images: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = cvat(tmp_path / "cvat")
    place = export / "JPEGImages" if own_images else tmp_path / "photos"
    photo(place / "a.jpg")
    photo(place / "sub/b.jpg")
    given = [] if own_images else ["--images", place]
    assert run(tmp_path / "out", "--masks", export, *given) == 0
    assert "CVAT, Segmentation mask 1.1" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["cat", "big: dog"]
    for _, mask in made(tmp_path / "out").values():
        assert np.array_equal(mask, TRUTH)


def test_cvat_palette_masks(tmp_path: Path) -> None:
    export = cvat(tmp_path / "cvat", names=("a",))
    palette = Image.fromarray(TRUTH)
    palette.putpalette([value for label in range(3) for value in COLOURS[label]])
    palette.save(export / "SegmentationClass/a.png")
    photo(export / "JPEGImages/a.jpg")
    assert run(tmp_path / "out", "--images", export) == 0
    assert np.array_equal(made(tmp_path / "out")["a"][1], TRUTH)


@pytest.mark.parametrize(
    ("labelmap", "expected"),
    [
        ("cat:250,50::\n", "labelmap.txt, line 1: expected name:red,green,blue"),
        ("cat:250,50,999::\n", "labelmap.txt, line 1"),
        ("cat:250,50,83::\ndog:250,50,83::\n", "labelmap.txt, line 2: the colour 250,50,83"),
        ("background:0,0,0::\ncat:250,50,83::\n", "a.png has the colour 51 221 255"),
    ],
)
def test_a_cvat_export_is_refused_by_file_and_line(
    labelmap: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = cvat(tmp_path / "cvat", labelmap, ("a",))
    photo(export / "JPEGImages/a.jpg")
    assert run(tmp_path / "out", "--masks", export) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_a_cvat_export_without_images_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", "--masks", cvat(tmp_path / "cvat")) == 2
    assert "the export has no images; name their folder with --images" in capsys.readouterr().err


# Roboflow


def roboflow(folder: Path, table: str, labels: np.ndarray = TRUTH) -> Path:
    photo(folder / "a_jpg.rf.12ab.jpg")
    save(folder / "a_jpg.rf.12ab_mask.png", labels)
    (folder / "_classes.csv").write_text(table)
    return folder


def test_roboflow_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = roboflow(tmp_path / "train", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n3, owl\n")
    assert run(tmp_path / "out", "--images", folder) == 0
    shown = capsys.readouterr().out
    assert "Roboflow, masks with 4 names in _classes.csv" in shown
    assert "note: 1 class occurs in no mask and is left out: owl" in shown
    assert "not read" not in shown
    assert names(tmp_path / "out") == ["cat", "dog"]
    image, mask = made(tmp_path / "out")["a_jpg.rf.12ab"]
    assert image == "a_jpg.rf.12ab.jpg"
    assert np.array_equal(mask, TRUTH)


def test_a_roboflow_class_at_value_0_is_a_class(tmp_path: Path) -> None:
    folder = roboflow(tmp_path / "train", "Pixel Value, Class\n0, sky\n1, cat\n2, dog\n")
    assert run(tmp_path / "out", "--images", folder) == 0
    assert names(tmp_path / "out") == ["sky", "cat", "dog"]
    assert np.array_equal(made(tmp_path / "out")["a_jpg.rf.12ab"][1], TRUTH + 1)
    config = load_config(tmp_path / "out/training_free.yaml")
    assert (config.dataset.background, config.dataset.first_label) == (False, 1)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("Pixel Value, Class\n0, background\nx, cat\n", "_classes.csv, line 3: expected pixel value, class name"),
        ("Pixel Value, Class\n1, cat\n1, dog\n", "_classes.csv, line 3: the pixel value 1"),
        ("Pixel Value, Class\n", "names no class"),
        ("Pixel Value, Class\n0, background\n1, cat\n", "_mask.png has the value 2, which"),
    ],
)
def test_a_roboflow_export_is_refused_by_file_and_line(
    table: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", "--images", roboflow(tmp_path / "train", table)) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


# COCO JSON

CATEGORIES = [{"id": 0, "name": "animals"}, {"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}]


def rle(pixels: np.ndarray) -> dict[str, Any]:
    packed: Any = rle_codec.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def instances() -> dict[str, Any]:
    polygon = [[10, 5, 31, 5, 31, 20, 10, 20]]
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": copy.deepcopy(CATEGORIES),
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 4, "segmentation": polygon, "iscrowd": 0, "bbox": [10, 5, 21, 15]},
            {"id": 2, "image_id": 7, "category_id": 9, "segmentation": rle(DOG), "iscrowd": 0},
        ],
    }


@pytest.mark.parametrize("layout", ["roboflow", "annotations", "file"])
def test_coco_instances(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "coco"
    photo(folder / ("images/a.jpg" if layout == "annotations" else "a.jpg"))
    file = folder / {"roboflow": "_annotations.coco.json", "annotations": "annotations/instances.json"}.get(
        layout, "labels.json"
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(instances()))
    given = ["--masks", file, "--images", folder] if layout == "file" else ["--images", folder]
    if layout == "annotations":
        given = ["--masks", folder]
    assert run(tmp_path / "out", *given) == 0
    assert "COCO JSON, instances: 3 categories; 1 image\n" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["cat", "dog"]
    assert np.array_equal(made(tmp_path / "out")["a"][1], TRUTH)


def panoptic(folder: Path) -> dict[str, Any]:
    numbers = np.where(CAT, 70_000, np.where(DOG, 300, 0))
    save(
        folder / "panoptic/a.png",
        np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8),
    )
    segments = [{"id": 70_000, "category_id": 4}, {"id": 300, "category_id": 9}]
    content = instances()
    content["annotations"] = [{"image_id": 7, "file_name": "a.png", "segments_info": segments}]
    return content


def test_coco_panoptic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "photos/a.jpg")
    (tmp_path / "panoptic.json").write_text(json.dumps(panoptic(tmp_path)))
    assert run(tmp_path / "out", "--masks", tmp_path / "panoptic.json", "--images", tmp_path / "photos") == 0
    assert "COCO JSON, panoptic" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["cat", "dog"]
    assert np.array_equal(made(tmp_path / "out")["a"][1], np.where(TRUTH, TRUTH, 255))  # 0 is void
    assert not load_config(tmp_path / "out/training_free.yaml").dataset.background


def put(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *path, last = key.split(".")
        place: Any = content
        for part in path:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (put("images.0.file_name", "gone.jpg"), "images[0].file_name: gone.jpg is not in"),
        (put("images.0.height", "40"), "images[0].height: expected a whole number, got '40'"),
        (put("images.0.height", 41), "annotation 2 cannot be decoded"),
        (put("annotations.1.category_id", 5), "annotations[1].category_id: no category has the id 5"),
        (put("annotations.1.image_id", 5), "annotations[1].image_id: no image has the id 5"),
        (put("annotations.0.segmentation", None), "annotations[0].segmentation: expected polygons or an RLE"),
        (put("annotations.0.segmentation", [[1, 2, 3]]), "annotation 1 cannot be decoded"),
        (put("categories.1.name", 3), "categories[1].name: expected a word"),
        (put("categories.1.id", 9), "categories[2].id: 9 is the id of another category"),
        (put("categories", {}), "expected the keys images, annotations, categories"),
    ],
)
def test_a_coco_file_is_refused_by_name_and_key(
    change: Callable[[dict[str, Any]], None], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "photos/a.jpg")
    content = instances()
    change(content)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert run(tmp_path / "out", "--masks", tmp_path / "labels.json", "--images", tmp_path / "photos") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert key in error
    assert "labels.json" in error


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (put("annotations.0.file_name", "b.png"), "annotations[0].file_name: "),
        (put("annotations.0.segments_info.0.category_id", 5), "segments_info[0].category_id: no category has the id 5"),
        (put("annotations.0.segments_info.0.id", 5), "a.png has segment 70000, which segments_info does not name"),
    ],
)
def test_a_panoptic_file_is_refused_by_name_and_key(
    change: Callable[[dict[str, Any]], None], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "photos/a.jpg")
    content = panoptic(tmp_path)
    change(content)
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert run(tmp_path / "out", "--masks", tmp_path / "panoptic.json", "--images", tmp_path / "photos") == 2
    assert key in capsys.readouterr().err.splitlines()[-1]


def test_two_coco_files_in_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(instances()))
    assert run(tmp_path / "out", "--images", tmp_path) == 2
    assert "contains 2 COCO files (a.json, b.json); name one with --masks" in capsys.readouterr().err


def test_other_json_files_beside_masks_are_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "i/a.jpg")
    save(tmp_path / "m/a.png", TRUTH)
    (tmp_path / "m/info.json").write_text('{"made": "yesterday"}')
    assert run(tmp_path / "out", "--images", tmp_path / "i", "--masks", tmp_path / "m") == 0
    assert "masks whose values are labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "labels"), [("labelme-masks", "."), ("cvat", "."), ("coco", "instances.json"), ("labelme", ".")]
)
def test_exports_of_this_project_are_read_back(form: str, labels: str, tmp_path: Path) -> None:
    (made_export,) = open_exports([form], tmp_path, ("background", "cat", "red dog"))
    made_export.add(LabelledPhoto(photo(tmp_path / "photos/a.png"), "a", TRUTH, ("background", "cat", "red dog")))
    made_export.finish()
    given = ["--masks", tmp_path / f"export_{form}" / labels, "--images", tmp_path / "photos"]
    assert run(tmp_path / "out", *given) == 0
    assert names(tmp_path / "out") == ["cat", "red dog"]
    mask = made(tmp_path / "out")["a"][1]
    if form == "labelme":  # polygons are drawn as labelme draws them, edges included
        near = cv2.dilate((cv2.erode(TRUTH, np.ones((3, 3))) != TRUTH).astype(np.uint8), np.ones((3, 3))) > 0
        assert np.array_equal(mask[~near], TRUTH[~near])
    else:
        assert np.array_equal(mask, TRUTH)
