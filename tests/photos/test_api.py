"""Photos from Python: the results of the command, for a path, a Pillow image and an array."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import src
from src.config.reader import load_config
from src.errors import UserError
from src.files import REPOSITORY
from src.photos.api import PhotoResult, PhotoSegmenter
from src.photos.photo_segmenter import segmenter_of_words
from src.photos.words import prompts_of_words

PHOTO = REPOSITORY / "data" / "miniature" / "JPEGImages" / "val_083.jpg"
MODEL = str(REPOSITORY / "data" / "miniature" / "blip")
CLASSES = "boat = yacht, ship; bus"


@pytest.fixture(scope="module")
def segmenter() -> PhotoSegmenter:
    return PhotoSegmenter.from_pretrained(
        MODEL, CLASSES, "sky, sea", device="cpu", layers=(0, 1), image_size=192, crf=2, amp=False
    )


@pytest.fixture(scope="module")
def result(segmenter: PhotoSegmenter) -> PhotoResult:
    return segmenter(PHOTO)


def test_the_package_exports_the_segmenter() -> None:
    assert src.Segmenter is PhotoSegmenter
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        src.Nothing  # noqa: B018


def test_keywords_are_the_settings_of_a_configuration(result: PhotoResult) -> None:
    settings = ["model.layers=[0, 1]", "model.image_size=192", "crf.iters=2", "runtime.amp=false"]
    config = load_config(REPOSITORY / "configs" / "miniature.yaml", settings)
    plain = segmenter_of_words(config, prompts_of_words(config, CLASSES, "sky, sea"), "cpu")
    np.testing.assert_array_equal(result.labels, plain.analyse_image(result.rgb).labels)
    assert result.class_names == ("background", "boat", "bus")


@pytest.mark.parametrize("kind", ["text", "pillow", "array", "floats", "rgba"])
def test_paths_images_and_arrays_give_the_same_result(
    kind: str, segmenter: PhotoSegmenter, result: PhotoResult
) -> None:
    rgb = result.rgb
    photo = {
        "text": str(PHOTO),
        "pillow": Image.open(PHOTO),
        "array": rgb,
        "floats": rgb / 255.0,
        "rgba": np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
    }[kind]
    np.testing.assert_array_equal(segmenter(photo).labels, result.labels)


def test_masks_scores_and_heat_maps(result: PhotoResult) -> None:
    assert list(result.masks) == ["boat", "bus"]
    assert sum(mask.sum() for mask in result.masks.values()) == (result.labels > 0).sum()
    assert set(result.scores) == set(result.shares) == {"background", "boat", "bus"}
    assert sum(result.shares.values()) == pytest.approx(1)
    assert all(0 <= score <= 1 for score in result.scores.values())
    maps = [result.heat_map(name) for name in result.class_names]
    assert {each.shape for each in maps} == {result.labels.shape}
    np.testing.assert_allclose(sum(maps), 1, atol=1e-5)


def test_pictures_and_a_page(result: PhotoResult, tmp_path: Path) -> None:
    assert result.overlay().width == result.labels.shape[1]
    figure = result.plot()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["photo", "labels"]
    assert "boat" in titles
    figure.savefig(tmp_path / "plot.png")
    page = result.explorer(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "val_083.jpg" in page


def test_exports(result: PhotoResult, tmp_path: Path) -> None:
    (coco,) = result.export(tmp_path, "coco")
    content = json.loads(coco.read_text())
    assert content["images"][0]["file_name"] == "val_083.jpg"
    assert sum(annotation["area"] for annotation in content["annotations"]) == (result.labels > 0).sum()
    with pytest.raises(UserError, match="export format 'voc' is unknown; expected one of coco,"):
        result.export(tmp_path, "voc")
    with pytest.raises(UserError, match="export: name at least one format: coco, labelme"):
        result.export(tmp_path)


def test_supervision_is_optional(result: PhotoResult) -> None:
    try:
        import supervision  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="supervision is not installed"):
            result.to_supervision()
    else:
        detections = result.to_supervision()
        assert sum(mask.sum() for mask in detections.mask) == (result.labels > 0).sum()


def test_a_setting_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"from_pretrained.*model\.layers"):
        PhotoSegmenter.from_pretrained(MODEL, "cat", layers=(99,), device="cpu")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"classes": ["cat", "dog"]}, r"classes: \['cat', 'dog'\] is not a string; expected one such as 'cat; dog'"),
        ({"classes": None}, "classes: None is not a string"),
        ({"name": None}, r"model\.name: None is not valid; expected a string"),
        ({"name": "a\0b"}, r"model\.name: .* a string without control characters"),
        ({"layers": 3}, r"model\.layers: 3 is not valid; expected a list of whole numbers"),
        ({"layers": "auto"}, r"model\.layers: 'auto' is not valid; expected layer numbers"),
        ({"layers": (0.5,)}, r"model\.layers: \[0\.5\] is not valid"),
        ({"image_size": 10**6}, r"model\.image_size: 1000000 is not valid; expected 16 to 4,096"),
        ({"crf": float("nan")}, r"crf\.iters: nan is not valid"),
        ({"amp": "half"}, r"runtime\.amp: 'half' is not valid"),
        ({"device": 0}, "0: expected auto, cpu, cuda, cuda:N or mps"),
        ({"background": 7}, "background: 7 is not a string"),
    ],
)
def test_invalid_settings_give_a_one_line_error(settings: dict[str, object], reason: str) -> None:
    wanted: dict[str, Any] = {"name": MODEL, "classes": "cat", "device": "cpu", "layers": (0, 1), "image_size": 192}
    with pytest.raises(UserError, match=reason):
        PhotoSegmenter.from_pretrained(**(wanted | settings))


def test_paths_and_devices_may_be_objects(result: PhotoResult) -> None:
    device = torch.device("cpu")
    options: dict[str, Any] = {"layers": range(2), "image_size": 192, "crf": 2, "amp": False}
    loaded = PhotoSegmenter.from_pretrained(Path(MODEL), CLASSES, "sky, sea", device=device, **options)
    np.testing.assert_array_equal(loaded(PHOTO).labels, result.labels)
    flipped = result.rgb[:, ::-1]
    np.testing.assert_array_equal(loaded(flipped).labels, loaded(np.ascontiguousarray(flipped)).labels)


@pytest.mark.parametrize("photo", ["nowhere.jpg", "a\0b.jpg", "\udcff.jpg", REPOSITORY, None, b"a.jpg", 3])
def test_invalid_photos_give_a_one_line_error(photo: Any, segmenter: PhotoSegmenter) -> None:
    with pytest.raises(UserError, match=r"^image"):
        segmenter(photo)


def test_unwritable_exports_give_a_one_line_error(result: PhotoResult, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "export_coco").symlink_to("nowhere")
    for folder in (tmp_path / "pipe", tmp_path, tmp_path / "a\0b", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="cannot"):
            result.export(folder, "coco")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(UserError, match="cannot write"):
            result.explorer(path)


def test_torch_hub(segmenter: PhotoSegmenter, result: PhotoResult) -> None:
    options = {"classes": CLASSES, "background": "sky, sea", "device": "cpu", "layers": (0, 1), "image_size": 192}
    loaded = torch.hub.load(str(REPOSITORY), "segmenter", MODEL, source="local", crf=2, amp=False, **options)
    np.testing.assert_array_equal(loaded(PHOTO).labels, result.labels)
