"""Photos from Python: the results of the command, for a path, a Pillow image and an array."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_torch_hub(segmenter: PhotoSegmenter, result: PhotoResult) -> None:
    options = {"classes": CLASSES, "background": "sky, sea", "device": "cpu", "layers": (0, 1), "image_size": 192}
    loaded = torch.hub.load(str(REPOSITORY), "segmenter", MODEL, source="local", crf=2, amp=False, **options)
    np.testing.assert_array_equal(loaded(PHOTO).labels, result.labels)
