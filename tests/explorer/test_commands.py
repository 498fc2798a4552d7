"""--save-explorer: pages of photos, of an evaluation's images, and of InfoScore."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import compute_infoscore_blip
import training_free_blip
from src import cli
from src.evaluation.metrics import ConfusionMatrix
from src.files import REPOSITORY
from src.photos import command as photos
from tests import tiny
from tests.documents import DOCUMENTS, commands, module_and_arguments
from tests.explorer.conftest import assert_reachable, hash_of, low_contrast

if TYPE_CHECKING:
    from playwright.sync_api import Page


def content_of(path: Path) -> dict[str, Any]:
    """What a page carries."""
    found = re.search(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def labels_in(packed: str, *shape: int) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(shape)


def test_a_photo_gets_its_page(config_file: Callable[..., Path], data_root: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "out", data_root / "images/1.jpg"
    arguments = [str(photo), "--config", str(config_file()), "--classes", "cat = kitten; mug"]
    assert cli.run(photos.main, [*arguments, "--save-explorer", "--output-dir", str(out)]) == 0
    content = content_of(out / "1_explorer.html")
    assert content["name"] == "1.jpg"
    assert [word["text"] for word in content["words"]] == ["sky", "wall", "red wall", "cat", "kitten", "mug"]
    assert [word["class"] for word in content["words"]] == [0, 0, 0, 1, 1, 2]
    assert content["configured"] == [0, 2]
    with Image.open(out / "1_labels.png") as labels:
        assert np.array_equal(labels_in(content["refined"], 120, 77), np.asarray(labels))


def test_without_a_crf_a_photos_page_has_no_labels_after_it(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    arguments = [str(data_root / "images/1.jpg"), "--config", str(config_file(crf={"iters": 0}))]
    assert cli.run(photos.main, [*arguments, "--save-explorer", "--output-dir", str(tmp_path)]) == 0
    assert content_of(tmp_path / "1_explorer.html")["refined"] is None


@pytest.mark.parametrize("resolution", ["letterbox", "original"])
def test_an_evaluations_pages_have_its_labels_masks_and_scores(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path, resolution: str
) -> None:
    config = config_file(eval={"resolution": resolution})
    arguments = ["--config", str(config), "--save-overlays", "2", "--save-explorer", "--save-predictions"]
    assert cli.run(training_free_blip.main, [*arguments, "--output-dir", str(tmp_path)]) == 0
    pages = sorted((tmp_path / "iou_explorer").iterdir())
    assert [path.name for path in pages] == ["0.html", "2.html"]
    for path, shape in zip(pages, [(90, 120), (80, 80)], strict=True):
        content = content_of(path)
        refined, truth = (labels_in(packed, *shape) for packed in (content["refined"], content["truth"]["labels"]))
        with Image.open(tmp_path / f"iou_predictions/{path.stem}.png") as labels:
            assert (refined == np.asarray(labels)).mean() > 0.999  # encoded alone, not in a batch
        with Image.open(data_root / f"masks/{path.stem}.png") as mask:
            assert np.array_equal(truth, np.asarray(mask))
        assert content["truth"]["resolution"] == resolution
        if resolution == "original":
            confusion = ConfusionMatrix(len(tiny.CLASSES), 255)
            confusion.update(torch.tensor(refined), torch.tensor(truth))
            present = (confusion.union > 0).tolist()
            expected = [iou if there else None for iou, there in zip(confusion.iou.tolist(), present, strict=True)]
            assert content["truth"]["iou"] == expected


def test_images_that_the_evaluation_skipped_have_no_page(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    (data_root / "images/1.jpg").write_bytes(b"damaged")
    arguments = ["--config", str(config_file()), "--save-overlays", "3", "--save-explorer", "--skip-unreadable"]
    assert cli.run(training_free_blip.main, [*arguments, "--output-dir", str(tmp_path)]) == cli.SKIPPED
    assert sorted(path.name for path in (tmp_path / "iou_explorer").iterdir()) == ["0.html", "2.html"]


def test_the_index_leads_to_the_pages_and_back(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    for kind, ending in (("images", "jpg"), ("masks", "png")):  # a name that an address must escape
        (data_root / kind / f"1.{ending}").rename(data_root / kind / f"50%#?.{ending}")
    listed = data_root / "val.txt"
    listed.write_text(listed.read_text().replace("/1.", "/50%#?."))
    arguments = ["--config", str(config_file()), "--save-overlays", "3", "--save-explorer"]
    assert cli.run(training_free_blip.main, [*arguments, "--output-dir", str(tmp_path)]) == 0
    window = open_page((tmp_path / "iou_explorer.html").as_uri(), allowed=tmp_path.as_uri())
    iou = [float(card.get_attribute("data-iou") or "nan") for card in window.locator(".image").all()]
    assert window.locator(".name").all_inner_texts() == ["0", "50%#?", "2"]
    window.locator("#order").select_option("worst")
    shown = [float(card.get_attribute("data-iou") or "nan") for card in window.locator(".image").all()]
    assert shown == sorted(iou)
    for place, name in enumerate(["0", "50%#?", "2"]):
        truth = content_of(tmp_path / f"iou_explorer/{name}.html")["truth"]
        known = [value for value in truth["iou"] if value is not None]
        assert iou[place] == pytest.approx(sum(known) / len(known), abs=1e-6)
    order = window.locator(".name").all_inner_texts()  # lowest IoU first
    window.locator(".image").first.click()
    for name in order[1:]:
        window.get_by_text("Next").click()
        window.locator("h1", has_text=name).wait_for()
    assert window.get_by_text("Next").count() == 0
    window.get_by_text("Previous").click()
    window.locator("h1", has_text=order[1]).wait_for()
    window.get_by_text("All images").click()
    window.locator(".image").nth(2).wait_for()
    assert window.locator(".name").all_inner_texts() == order


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_index_can_be_read_and_reached_by_keys(
    config_file: Callable[..., Path], tmp_path: Path, scheme: str, open_page: Callable[..., Page]
) -> None:
    arguments = ["--config", str(config_file()), "--save-overlays", "3", "--save-explorer"]
    assert cli.run(training_free_blip.main, [*arguments, "--output-dir", str(tmp_path)]) == 0
    for width in (1400, 390, 320):
        window = open_page((tmp_path / "iou_explorer.html").as_uri(), width, color_scheme=scheme)
        assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert low_contrast(window) == []
    assert window.locator("#status").inner_text() == ""
    index = (tmp_path / "iou_explorer.html").as_uri()
    other = open_page(f"{index}#order=constructor", allowed=index, color_scheme=scheme)
    assert other.locator("#status").inner_text() == "Ignored in the address: order constructor."
    assert assert_reachable(window)[:4] == ["order", "image", "image", "image"]
    tree = window.locator("body").aria_snapshot()
    for line in ('heading "iou" [level=1]', 'combobox "Order"', 'link "prediction for 0 0 '):
        assert line in tree, tree


def test_a_visit_with_the_keyboard_alone(
    config_file: Callable[..., Path], tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    """From the index to a page: a spot, a view, a layer, a word, a picture to keep, and the next page."""
    arguments = ["--config", str(config_file()), "--save-overlays", "3", "--save-explorer"]
    assert cli.run(training_free_blip.main, [*arguments, "--output-dir", str(tmp_path)]) == 0
    window = open_page((tmp_path / "iou_explorer.html").as_uri(), allowed=tmp_path.as_uri())

    def press(*keys: str) -> None:
        for key in keys:
            window.keyboard.press(key)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            press("Tab")
            if window.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#order")
    press("ArrowDown")  # lowest IoU first
    names = window.locator(".name").all_inner_texts()
    tab_to(".image")
    press("Enter")
    window.locator("h1", has_text=names[0]).wait_for()
    window.evaluate("explorer.ready")

    tab_to("#picture")
    press("ArrowRight", "ArrowDown")
    assert window.locator("#spot-summary").inner_text().endswith("(held)")

    tab_to("#views input")
    press("ArrowLeft")
    assert window.locator("input[value=labels]").is_checked()

    tab_to("#save-picture")
    with window.expect_download() as download:
        press("Enter")
    assert download.value.suggested_filename == f"{names[0]}_picture_labels.png"

    tab_to(".layer .toggle")
    press("End", "Enter")  # the last layer alone
    assert window.locator("#status").inner_text().startswith("From layer 3.")

    tab_to("#words button")
    press("Home", "ArrowDown", "Space")
    word = window.evaluate("document.activeElement.querySelector('[dir=auto]').textContent")
    assert window.locator("#scale b").inner_text() == word
    assert hash_of(window).items() >= {"order": "worst", "layers": "3", "word": word}.items()

    tab_to("#links a:last-child")
    press("Enter")
    window.locator("h1", has_text=names[1]).wait_for()


@pytest.mark.parametrize("compare", [False, True])
def test_infoscores_page(
    config_file: Callable[..., Path], tmp_path: Path, open_page: Callable[..., Page], compare: bool
) -> None:
    arguments = ["--config", str(config_file()), "--save-explorer", "--output-dir", str(tmp_path)]
    assert cli.run(compute_infoscore_blip.main, arguments + ["--compare"] * compare) == 0
    values = json.loads((tmp_path / "iou_infoscore.json").read_text())
    window = open_page((tmp_path / "iou_infoscore.html").as_uri(), 390)
    table = window.locator("tbody").first
    shown = [row.locator(".number").all_inner_texts() for row in table.locator("tr").all()]
    parts = ("infoscore", "entropy_ratio", "cov", "mean_image_entropy", "dataset_entropy")
    for layer, row in enumerate(values["table"]):
        expected = [row[part] for part in parts]
        if compare:
            expected.insert(1, 100 * values["comparison"]["choices"][layer]["miou"])
        assert [float(text) for text in shown[layer]] == pytest.approx(expected, rel=1e-3)
    assert window.locator("tr.chosen").count() == 2
    assert window.locator("svg circle").count() == (len(values["table"]) if compare else 0)
    assert window.evaluate("document.documentElement.scrollWidth") <= 390
    for scheme in ("light", "dark"):
        page = open_page((tmp_path / "iou_infoscore.html").as_uri(), color_scheme=scheme)
        assert low_contrast(page) == []


def test_an_explorer_of_nothing_in_particular_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(REPOSITORY / "configs/miniature.yaml")
    assert cli.run(training_free_blip.main, ["--config", config, "--save-explorer"]) == 2
    assert "--save-overlays N" in capsys.readouterr().err


def test_the_demo_is_what_its_command_makes(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    demo = REPOSITORY / "docs" / "demo"
    assert sum(path.stat().st_size for path in demo.iterdir()) < 6e6
    (command,) = (line for line in commands(DOCUMENTS["docs/explorer.md"]) if "--output-dir docs/demo" in line)
    _, arguments = module_and_arguments(command)
    arguments = [str(REPOSITORY / part) if part.startswith(("data/", "configs/")) else part for part in arguments]
    arguments[arguments.index("docs/demo")] = str(tmp_path)
    assert cli.run(photos.main, arguments) == 0
    assert {path.name for path in demo.iterdir()} == {path.name for path in tmp_path.iterdir()} | {"index.html"}
    for path in tmp_path.glob("*_explorer.html"):
        made, shipped = content_of(path), content_of(demo / path.name)
        assert made.keys() == shipped.keys()
        same = ("name", "model", "imageSize", "grid", "inner", "classes", "layers", "configured", "crf", "palette")
        assert {key: made[key] for key in same} == {key: shipped[key] for key in same}
        assert [word["text"] for word in made["words"]] == [word["text"] for word in shipped["words"]]
        assert len(made["logits"]) == len(shipped["logits"])
        quoted = re.search(r'id="command">(.*?)<', (demo / path.name).read_text(encoding="utf-8"))
        assert quoted
        assert shlex.split(html.unescape(quoted[1])) == shlex.split(command)
    window = open_page((demo / "index.html").as_uri(), 390, allowed=demo.as_uri())
    links = [link.get_attribute("href") for link in window.locator("main a").all()]
    assert sorted(filter(None, links)) == sorted(path.name for path in tmp_path.glob("*_explorer.html"))
    assert window.evaluate("document.documentElement.scrollWidth") <= 390
    window.locator("main a").first.click()
    window.locator("h1", has_text="val_083.jpg").wait_for()
