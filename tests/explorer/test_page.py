"""The explorer's page: its numbers are Python's, and what is clicked is what is shown."""

from __future__ import annotations

import base64
import io
import math
import re
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.config.reader import load_config
from src.data.frame import Frame
from src.explorer import infoscore_page
from src.explorer.content import Truth, _packed, page_content
from src.explorer.page import page
from src.files import REPOSITORY
from src.layer_selection.infoscore import entropy, prompt_shares
from src.method.attention import normalise, upsample
from src.method.blip import Blip, prepare
from src.method.checkpoints import load_configured
from src.method.crf import ConvCRF
from src.method.prompts import ClassEntry, build_prompts
from src.method.segmenter import PatchAttention, Segmenter, labels_of
from src.output.colours import VOC_PALETTE
from src.photos.api import PhotoResult
from tests import tiny
from tests.explorer.conftest import FOCUS, LOW_CONTRAST, assert_reachable, hash_of, low_contrast, missing

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLASSES = [ClassEntry("sky", ("wall", "red wall")), ClassEntry("cat", ("cats", "kitten")), ClassEntry("mug")]
TIE = 1e-5  # probabilities closer than this may be ordered either way: sums are rounded in another order


@dataclass
class Explored:
    """An image, the attention in it, and its page."""

    segmenter: Segmenter
    seen: PatchAttention
    image: np.ndarray
    content: dict[str, Any]
    address: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    @property
    def inner(self) -> tuple[int, int]:
        return self.segmenter.frame.inner(self.shape)

    def undo(self, maps: torch.Tensor) -> torch.Tensor:
        return self.segmenter.frame.undo(maps, self.shape)

    def unary(self, layers: list[int]) -> torch.Tensor:
        """[C, h, w] class probabilities of the part of the frame that shows the photo."""
        height, width = self.inner
        return self.segmenter.unary(self.seen, layers)[0, :, :height, :width]

    def word_shares(self, layers: list[int]) -> torch.Tensor:
        """[P, h, w] shares of the words, on the scale of the classes."""
        height, width = self.inner
        words = torch.stack([self.seen.prompt_maps(layer) for layer in layers]).mean(0)
        classes = torch.stack([self.segmenter.layer_class_maps(self.seen, layer) for layer in layers]).mean(0)
        size = self.segmenter.frame.size
        return normalise(upsample(words, size), upsample(classes.sum(1, keepdim=True), size))[0, :, :height, :width]


def explore(
    blip: Blip, image: np.ndarray, size: int, folder: Path, layers: tuple[int, ...], truth: bool = False
) -> Explored:
    segmenter = Segmenter(blip, build_prompts(CLASSES, multi_prompt=True), layers, Frame(size), ConvCRF(iterations=2))
    pixels = segmenter.frame.image(image)[None]
    embeds = segmenter.encode_images(pixels)
    with torch.no_grad():
        seen = segmenter.attend(embeds, blip.layers)
        labels = segmenter.analyse_image(image).labels
    known = None
    if truth:
        masks = labels.copy()
        masks[:20] = 1
        masks[-9:, :7] = 255
        known = Truth(masks, segmenter.frame.mask(masks, 255), [0.5, None, 0.25])
    content = page_content(segmenter, image, embeds, labels, "my photo.jpg", known)
    path = folder / "photo.html"
    path.write_bytes(page(content))
    return Explored(segmenter, seen, image, content, path.as_uri())


@pytest.fixture(params=[(90, 120), (120, 77), (500, 64), (64, 64)], ids=str)
def explored(request: pytest.FixtureRequest, fused: Blip, tmp_path: Path) -> Explored:
    """A page of the tiny model: landscape, portrait, a strip, and the frame's own size."""
    image, _ = tiny.random_scene(np.random.default_rng(3), *request.param)
    return explore(fused, image, tiny.SIZE, tmp_path, (0, 2))


@pytest.fixture
def one(fused: Blip, tmp_path: Path) -> Explored:
    """A page of the tiny model, with ground truth."""
    image, _ = tiny.random_scene(np.random.default_rng(3), 90, 120)
    return explore(fused, image, tiny.SIZE, tmp_path, (0, 2), truth=True)


def array(page: Page, expression: str, dtype: type = np.float32) -> np.ndarray:
    """A typed array of the page."""
    text = f"(() => {{ const a = {expression}; let s = ''; for (const b of new Uint8Array(a.buffer)) "
    text += "s += String.fromCharCode(b); return btoa(s); })()"
    return np.frombuffer(base64.b64decode(page.evaluate(text)), dtype)


def assert_labels(found: np.ndarray, scores: torch.Tensor) -> None:
    """Labels are the classes of the highest score, ties within rounding aside."""
    best = scores.amax(0)
    chosen = scores.gather(0, torch.from_numpy(found.astype(np.int64))[None])[0]
    assert float((best - chosen).max()) < TIE
    assert (found == labels_of(scores).numpy()).mean() > 0.999


@pytest.mark.parametrize("layers", [[0, 2], [1], [0, 1, 2, 3]], ids=str)
def test_labels_are_pythons(explored: Explored, layers: list[int], open_page: Callable[..., Page]) -> None:
    window = open_page(explored.address)
    frame = array(window, f"explorer.frameLabels({layers})", np.uint8).reshape(explored.inner)
    assert_labels(frame, explored.unary(layers))
    own = array(window, f"explorer.ownLabels({layers})", np.uint8).reshape(explored.shape)
    assert_labels(own, explored.undo(explored.segmenter.unary(explored.seen, layers)[0]))


def test_heat_maps_are_pythons(explored: Explored, open_page: Callable[..., Page]) -> None:
    window, layers, inner = open_page(explored.address), [0, 1, 3], explored.inner
    expected = {"classes": explored.unary(layers), "words": explored.word_shares(layers)}
    for kind, maps in expected.items():
        for index, values in enumerate(maps.numpy()):
            found = array(window, f"explorer.heat({layers}, {{kind: '{kind}', index: {index}}})").reshape(inner)
            np.testing.assert_allclose(found, values, atol=TIE)


def test_ranking_at_a_spot_is_pythons(explored: Explored, open_page: Callable[..., Page]) -> None:
    window, layers = open_page(explored.address), [2, 3]
    shares = explored.word_shares(layers)
    height, width = explored.inner
    for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 3)):
        ranking = window.evaluate(f"explorer.ranking({layers}, {y}, {x})")
        found = [entry["share"] for entry in ranking]
        np.testing.assert_allclose(found, shares[:, y, x].sort(descending=True).values, atol=TIE)
        np.testing.assert_allclose(found, shares[[entry["index"] for entry in ranking], y, x], atol=TIE)
        assert {entry["text"] for entry in ranking} == set(explored.segmenter.prompts.words)


def test_the_shipped_miniature_looks_the_same_in_the_page(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    config = load_config(REPOSITORY / "configs/miniature.yaml", [])
    blip = load_configured(config, torch.device("cpu"))
    image = np.asarray(Image.open(REPOSITORY / "data/miniature/JPEGImages/val_010.jpg").convert("RGB"))
    explored = explore(blip, image, config.model.image_size, tmp_path, (0, 1))
    window = open_page(explored.address)
    for layers in ([0, 1], [0, 1, 2, 3], [3]):
        frame = array(window, f"explorer.frameLabels({layers})", np.uint8).reshape(explored.inner)
        assert_labels(frame, explored.unary(layers))


def test_entropy_is_infoscores(one: Explored) -> None:
    for layer, found in enumerate(one.content["entropy"]):
        assert found == float(entropy(prompt_shares(one.seen.prompt_maps(layer), tiny.SIZE)))


def test_labels_after_the_crf_and_ground_truth_arrive_whole(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    refined = array(window, "explorer.image.refined", np.uint8).reshape(90, 120)
    assert np.array_equal(refined, one.segmenter.analyse_image(one.image).labels)
    truth = array(window, "explorer.image.truth.labels", np.uint8).reshape(90, 120)
    assert (truth[-9:, :7] == 255).all()
    assert np.array_equal(truth[20:, 7:], refined[20:, 7:])


def test_iou_of_the_labels_shown(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator("input[value=labels]").check()
    height, width = one.inner
    labels = labels_of(one.unary([0, 2])).numpy()
    truth = array(window, "explorer.image.truth.frame", np.uint8).reshape(height, width)
    for label, name in enumerate(one.segmenter.prompts.class_names):
        both = ((labels == label) & (truth == label)).sum()
        either = (((labels == label) | (truth == label)) & (truth != 255)).sum()
        shown = window.locator(f".class[data-index='{label}'] .iou").inner_text()
        assert (shown == "") == (either == 0), name
        if either:
            assert float(shown.rstrip("%")) == pytest.approx(100 * both / either, abs=0.51)
    window.locator("input[value=refined]").check()
    assert [window.locator(f".class[data-index='{n}'] .iou").inner_text() for n in range(3)] == ["50%", "", "25%"]
    assert "IoU in this image: 38%, mean of 2 classes" in window.locator("#status").inner_text()


@pytest.mark.parametrize("view", ["labels", "refined"])
def test_saved_labels_are_a_palette_png(one: Explored, view: str, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator(f"input[value={view}]").check()
    with window.expect_download() as download:
        window.get_by_text("Save labels").click()
    name = {"labels": "my photo_labels_layers_0_2.png", "refined": "my photo_labels.png"}[view]
    assert download.value.suggested_filename == name
    with Image.open(download.value.path()) as saved:
        assert saved.mode == "P"
        assert saved.getpalette() == VOC_PALETTE.ravel().tolist()
        labels = np.asarray(saved)
    if view == "labels":
        assert_labels(labels, one.undo(one.segmenter.unary(one.seen)[0]))
    else:
        kept = array(window, "explorer.image.refined", np.uint8)
        assert np.array_equal(labels.ravel(), kept)


def test_the_picture_is_saved_as_shown(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator(".class", has_text="cat").click()
    with window.expect_download() as download:
        window.get_by_text("Save picture").click()
    assert download.value.suggested_filename == "my photo_picture_heatmap_cat.png"
    with Image.open(download.value.path()) as saved:
        assert saved.size == (1024, 768)


def test_switching_layers_changes_maps_and_labels_at_once(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator("input[value=refined]").check()
    before = picture(window)
    card = window.locator(".layer[data-layer='0'] .toggle")
    assert card.get_attribute("aria-pressed") == "true"
    card.click()
    assert card.get_attribute("aria-pressed") == "false"
    assert picture(window) != before
    assert window.locator("#status").inner_text().startswith("From layer 2")
    # labels after the CRF are those of the configured layers alone
    assert window.locator("input[value=refined]").is_disabled()
    assert window.locator("input[value=labels]").is_checked()
    window.locator(".layer[data-layer='2'] .toggle").click()
    assert "has to stay on" in window.locator("#status").inner_text()
    window.locator(".layer[data-layer='3'] .only").click()
    assert window.locator("#status").inner_text().startswith("From layer 3")
    window.get_by_text("All", exact=True).click()
    assert window.locator("#status").inner_text().startswith("From layers 0, 1, 2, 3")
    window.get_by_text("As configured").click()
    assert window.locator("input[value=refined]").is_enabled()


def test_a_word_shows_its_heat_map_on_a_shared_or_its_own_scale(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    weakest = min(range(7), key=lambda word: float(one.word_shares([0, 2])[word].max()))
    word = window.locator(f".word[data-index='{weakest}']")
    word.click()
    assert word.get_attribute("aria-pressed") == "true"
    assert window.locator("input[value=heat]").is_checked()
    shared, top = picture(window), window.locator("#scale").inner_text()
    window.get_by_text("One colour scale").click()
    assert picture(window) != shared
    assert window.locator("#scale").inner_text() != top


def test_pointer_touch_and_keys_rank_the_words_at_a_spot(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address, has_touch=True)
    box = window.locator("#canvas").bounding_box()
    assert box

    def spot() -> str:
        return window.locator("#spot-summary").inner_text()

    window.mouse.move(box["x"] + box["width"] * 0.255, box["y"] + box["height"] * 0.505)
    assert spot().endswith("at 30, 45")
    ranked = window.locator("#ranks .rank-name").all_text_contents()
    y, x = (0.505 * one.inner[0] - 0.5, 0.255 * one.inner[1] - 0.5)
    assert ranked == [word["text"] for word in window.evaluate(f"explorer.ranking([0, 2], {y}, {x})")][: len(ranked)]
    window.mouse.down()
    window.mouse.up()
    window.mouse.move(box["x"] + 5, box["y"] + 5)
    assert spot().endswith("at 30, 45 (held)")
    window.get_by_text("Let go").click()
    window.touchscreen.tap(box["x"] + box["width"] * 0.755, box["y"] + box["height"] * 0.505)
    assert spot().endswith("at 90, 45 (held)")
    window.locator("#picture").focus()
    window.keyboard.press("ArrowLeft")  # one patch: 16 of 64 pixels of the frame
    assert spot().endswith("at 60, 45 (held)")
    assert window.locator("#spot-spoken").inner_text().split(", ")[0] in one.segmenter.prompts.words
    window.keyboard.press("Escape")
    assert "held" not in spot()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_reached_by_keys(one: Explored, scheme: str, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address, color_scheme=scheme)
    for fold in ("#grid-fold", "#parts-fold", ".compare"):
        window.locator(f"{fold} summary").evaluate("summary => summary.click()")
    reached = assert_reachable(window)
    assert reached[0] == "picture"
    assert {"opacity", "names", "save-picture", "save-labels"} <= set(reached)
    assert reached.count("toggle") == 1
    window.locator(".layer .toggle").first.focus()
    window.keyboard.press("ArrowRight")
    assert window.evaluate(FOCUS)["what"] == "only"
    assert window.evaluate(FOCUS)["ratio"] > 3
    window.locator(".class").first.focus()
    window.keyboard.press("End")
    assert "word" in window.evaluate("document.activeElement.className") or window.locator(".class").count() == 1
    window.keyboard.press("Home")
    window.keyboard.press("Enter")
    assert window.locator(".class").first.get_attribute("aria-pressed") == "true"


def test_it_opens_after_the_crf(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    assert window.locator("input[value=refined]").is_checked()
    assert "IoU in this image: 38%" in window.locator("#status").inner_text()  # as the evaluation counted it


def test_the_state_lives_in_the_address(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(f"{one.address}#word=kitten&layers=1,3&spot=100,20", allowed=one.address)
    assert window.locator(".word[aria-pressed=true]").inner_text().startswith("kitten")
    assert window.locator("#status").inner_text().startswith("From layers 1, 3")
    assert window.locator("#spot-summary").inner_text().endswith("at 100, 20 (held)")
    before = picture(window)
    window.reload()
    window.evaluate("explorer.ready")
    assert picture(window) == before
    window.locator(".class", has_text="mug").click()
    assert "word=mug" in window.evaluate("location.hash")
    window.go_back()
    window.locator(".word[aria-pressed=true]", has_text="kitten").wait_for()
    assert picture(window) == before


def test_a_word_alone_in_the_address_is_the_one_shown(one: Explored, open_page: Callable[..., Page]) -> None:
    for word in ("mug", "cat", "wall"):
        window = open_page(f"{one.address}#word={word}", allowed=one.address)
        assert window.locator("#scale b").inner_text() == word


def test_unknown_parts_of_the_address_are_ignored_and_named(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(f"{one.address}#word=zebra&layers=2,9&view=x&spot=1000,a", allowed=one.address)
    assert window.locator("#status").inner_text() == "Ignored in the address: word zebra, layer 9, view x, spot 1000,a."
    assert window.locator(".layer.on").count() == 1


def test_nothing_found_is_said(one: Explored, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    nothing = base64.b64encode(zlib.compress(bytes(90 * 120))).decode()
    path = tmp_path / "nothing.html"
    path.write_bytes(page({**one.content, "refined": nothing, "truth": None}))
    window = open_page(path.as_uri())
    assert "Nothing found" in window.locator("#status").inner_text()


@pytest.mark.parametrize("view", ["heat", "labels", "refined", "truth"])
def test_pictures_and_labels_never_share_a_name(one: Explored, view: str, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator(f"input[value={view}]").check()
    names = []
    for button in ("Save picture", "Save labels"):
        with window.expect_download() as download:
            window.get_by_text(button).click()
        names.append(download.value.suggested_filename)
    assert "_picture_" in names[0]
    assert "_picture_" not in names[1]


def test_without_javascript_it_shows_the_overlay(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address, java_script_enabled=False)
    box = window.locator("noscript img").bounding_box()
    assert box
    assert box["width"] > 100


def test_links_and_the_command_that_made_the_page(
    one: Explored, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    command = shlex.join(["python", "-m", "src.photos", "my photo.jpg", "--classes", "cat; <b>dog's</b>"])
    path = tmp_path / "made.html"
    path.write_bytes(page(one.content, command))
    window = open_page(path.as_uri(), permissions=["clipboard-read", "clipboard-write"])
    assert window.locator("#command").inner_text() == command
    window.locator("#copy").click()
    window.get_by_text("Copied").wait_for()
    assert window.evaluate("navigator.clipboard.readText()") == command
    paper = window.get_by_role("link", name="Segmentation From Attention")
    assert paper.get_attribute("href") == "https://openreview.net/forum?id=a5lAwubXro"
    code = window.get_by_role("link", name="published code")
    assert code.get_attribute("href") == "https://github.com/rayat137/Segmentation-From-Attention"
    assert open_page(one.address).locator("#command").count() == 0


def test_the_grid_shows_all_words_and_layers_and_leads_there(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    assert window.locator("#grid button").count() == 0  # until it is opened
    window.get_by_text("All words × all layers").click()
    words = one.segmenter.prompts.words
    assert window.locator("#grid button").count() == 4 * len(words)
    assert window.locator("#grid th[scope=row]").all_inner_texts() == list(words)
    drawn = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    colours = base64.b64decode(one.content["heatColours"])
    shares = {layer: one.word_shares([layer]) for layer in range(4)}
    tops = {(layer, word): window.evaluate(TOP, [layer, word]) for layer in range(4) for word in range(len(words))}
    for layer, word in ((0, 0), (3, 5), (1, 6)):  # the pixel in the middle, on the scale of all
        cell = window.locator(f"#grid button[data-layer='{layer}'][data-index='{word}'] canvas")
        pixels = np.array(cell.evaluate(drawn)).reshape(48, 64, 4)
        height, width = one.inner
        value = float(shares[layer][word, height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1].mean())
        wanted = min(255, int(255 * value / max(tops.values())))
        scale = np.frombuffer(colours, np.uint8).reshape(256, 3).astype(int)
        shown = pixels[23:25, 31:33, :3].reshape(-1, 3).mean(0)
        assert np.abs(scale[max(0, wanted - 12) : wanted + 13] - shown).sum(1).min() < 30
    window.locator("#grid button[data-layer='3'][data-index='6']").click()
    assert window.locator("#scale b").inner_text() == words[6]
    assert window.locator("#status").inner_text().startswith("From layer 3")
    assert "layers=3" in window.evaluate("location.hash")
    assert window.locator("#grid button[aria-pressed=true]").count() == 1
    window.keyboard.press("ArrowUp")  # a row up: the same layer of the word above
    assert window.evaluate("document.activeElement.title") == f"{words[5]}, layer 3"
    window.keyboard.press("ArrowLeft")
    assert window.evaluate("document.activeElement.title") == f"{words[5]}, layer 2"


TOP = """([layer, index]) => {
    const {image} = explorer;
    return image.top(image.layerMaps(layer), {kind: "words", index});
}"""


def test_a_saved_page_says_what_tokens_and_heads_need(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    window.locator("#parts-fold summary").click()
    assert "python -m src.explorer" in window.locator("#parts-need").inner_text()
    assert window.locator("#parts-show").is_hidden()


def half(window: Page, right: bool) -> np.ndarray:
    """The left or right part of the large picture, without the middle."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(window).split(",")[1]))))
    middle = pixels.shape[1] // 2
    return pixels[:, middle:] if right else pixels[:, :middle]


@pytest.fixture
def saved(one: Explored, tmp_path: Path) -> Path:
    """A page of the same photo, with other words and another model."""
    model = Blip(tiny.random_blip(5), one.segmenter.model.tokenizer, "another model")  # type: ignore[attr-defined]
    prepare(model.model)
    prompts = build_prompts([ClassEntry("wall"), ClassEntry("cat"), ClassEntry("dog")], multi_prompt=True)
    segmenter = Segmenter(model, prompts, (1,), one.segmenter.frame)
    analysis = segmenter.analyse_image(one.image)
    path = tmp_path / "same.html"
    path.write_bytes(page(page_content(segmenter, one.image, analysis.embeds, analysis.labels, "same.jpg")))
    return path


def test_two_pages_of_a_photo_are_compared_with_a_swipe(
    one: Explored, saved: Path, open_page: Callable[..., Page]
) -> None:
    """Each half shows what its own page shows."""
    window, alone = open_page(one.address), open_page(saved.as_uri())
    window.locator(".compare summary").click()
    window.locator("#compare-file").set_input_files(saved)
    window.locator("#swipe").wait_for()
    for name in ("names", None):
        if name:
            for each in (window, alone):
                each.locator("input[value=labels]").check()
                each.locator("#names").uncheck()
        else:
            for each in (window, alone):
                each.locator("#shared").evaluate("box => box.checked = true")
                each.locator(".class", has_text="cat").click()
        assert (half(window, True) == half(alone, True)).mean() > (0.999 if name else 0.2)  # heat: on one scale
    assert (half(window, False) != half(alone, False)).any()
    sides = window.locator("#sides span").all_inner_texts()
    assert sides[0].startswith("this page: ")
    assert sides[1] == "same.html: another model, layer 1"
    window.locator(".class", has_text="mug").click()
    assert window.locator("#sides span").last.inner_text().endswith("it has no word “mug”")
    before = picture(window)
    window.locator("#swipe").focus()
    window.keyboard.press("ArrowRight")
    assert picture(window) != before
    window.get_by_text("End comparison").click()
    assert window.locator("#swipe").is_hidden()


def test_a_comparison_is_in_the_address(one: Explored, saved: Path, open_page: Callable[..., Page]) -> None:
    """Back shows it again. A reload cannot: a page must not open files by itself."""
    window = open_page(one.address, allowed=one.address)
    window.locator(".compare summary").click()
    window.locator("#compare-file").set_input_files(saved)
    swipe = window.locator("#swipe")
    plain = swipe.screenshot()
    window.locator("#picture").focus()
    window.keyboard.press("Tab")
    assert swipe.screenshot() != plain  # a wider line
    window.keyboard.press("Home")
    for _ in range(3):
        window.keyboard.press("ArrowRight")
    assert hash_of(window) == {"view": "refined", "compare": "same.html", "line": "3"}
    compared = picture(window)
    window.get_by_text("End comparison").click()
    assert hash_of(window) == {"view": "refined"}
    window.go_back()  # one step, though the line was moved four times
    swipe.wait_for()
    assert (picture(window), swipe.input_value()) == (compared, "3")
    window.go_forward()
    swipe.wait_for(state="hidden")
    window.go_back()
    swipe.wait_for()
    window.reload()
    window.evaluate("explorer.ready")
    assert window.locator("#compare-message").inner_text() == (
        "same.html was compared with this photo. A page cannot open files by itself: choose it again."
    )
    assert swipe.is_hidden()
    assert hash_of(window) == {"view": "refined"}


@pytest.mark.parametrize(
    ("address", "ignored"),
    [
        ("line=30", "line 30"),
        ("line=x&compare-classes=cat", "compare-classes cat, line x"),
        ("view=constructor&line=101", "view constructor, line 101"),
    ],
)
def test_an_unknown_comparison_is_ignored_and_named(
    one: Explored, address: str, ignored: str, open_page: Callable[..., Page]
) -> None:
    window = open_page(f"{one.address}#{address}", allowed=one.address)
    assert window.locator("#status").inner_text() == f"Ignored in the address: {ignored}."
    assert window.locator("#swipe").is_hidden()


def test_an_unknown_order_is_that_of_the_list(one: Explored, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    orders = {name: [None, f"{name}.html"] for name in ("list", "worst", "best")}
    path = tmp_path / "linked.html"
    path.write_bytes(page({**one.content, "links": {"index": "index.html", "orders": orders}}))
    window = open_page(f"{path.as_uri()}#order=constructor", allowed=path.as_uri())
    assert window.locator("#status").inner_text() == "Ignored in the address: order constructor."
    assert window.get_by_text("Next").get_attribute("href") == "list.html"


def test_holding_an_arrow_key_is_no_step_of_the_history(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    steps = window.evaluate("history.length")
    window.locator("#picture").focus()
    for _ in range(5):
        window.keyboard.press("ArrowRight")
    assert "spot" in hash_of(window)
    assert window.evaluate("history.length") == steps


def test_it_opens_inside_a_notebook(one: Explored, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    """An iframe without an address and without access to the page around it."""
    result = PhotoResult(Path("a.jpg"), one.image, one.segmenter.analyse_image(one.image), one.segmenter)
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><meta charset=utf-8><title>n</title>{result._repr_html_()}", encoding="utf-8")
    window = open_page(notebook.as_uri())
    inside = window.frame_locator("iframe")
    inside.locator("h1", has_text="a.jpg").wait_for()
    inside.locator(".class", has_text="cat").click()
    assert inside.locator("#scale b").inner_text() == "cat"
    inside.locator(".layer[data-layer='3'] .only").click()
    assert inside.locator("#status").inner_text().startswith("From layer 3")


def test_a_page_of_another_photo_is_refused(
    one: Explored, fused: Blip, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    image, _ = tiny.random_scene(np.random.default_rng(4), 90, 120)
    (tmp_path / "other").mkdir()
    explore(fused, image, tiny.SIZE, tmp_path / "other", (0, 2))
    window = open_page(one.address)
    window.locator(".compare summary").click()
    window.locator("#compare-file").set_input_files(tmp_path / "other" / "photo.html")
    window.get_by_text("These are different photos").wait_for()
    assert window.locator("#swipe").is_hidden()
    text = tmp_path / "notes.html"
    text.write_text("<p>hello")
    window.locator("#compare-file").set_input_files(text)
    window.get_by_text("notes.html is not a page of the explorer for one image.").wait_for()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844), (320, 568)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(
    one: Explored, width: int, height: int, scheme: str, open_page: Callable[..., Page]
) -> None:
    window = open_page(one.address, width, height, color_scheme=scheme)
    window.locator(".class").first.click()
    assert window.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_texts_and_bars(one: Explored, scheme: str, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address, color_scheme=scheme)
    for fold in ("#grid-fold", "#parts-fold", ".compare"):
        window.locator(f"{fold} summary").click()
    assert low_contrast(window) == []
    window.locator(".class", has_text="cat").click()  # bars and texts on the colour of what is chosen
    assert low_contrast(window) == []
    assert window.evaluate(LOW_CONTRAST)["bars"] > 10


def test_roles_and_names(one: Explored, open_page: Callable[..., Page]) -> None:
    window = open_page(one.address)
    for fold in ("#grid-fold", "#parts-fold", ".compare"):
        window.locator(f"{fold} summary").click()
    tree = window.locator("body").aria_snapshot()
    for line in (
        'heading "my photo.jpg" [level=1]',
        'application "Labels after the CRF, my photo.jpg"',
        'group "Show"',
        'radio "After CRF" [checked]',
        'slider "Opacity"',
        'checkbox "Names in the picture" [checked]',
        'region "Layers"',
        'region "Words"',
        'region "At this spot"',
        'button "Open a saved page"',
        'columnheader "3"',
        'rowheader "kitten"',
        'button "kitten, layer 3"',
        'link "Segmentation From Attention"',
    ):
        assert line in tree, tree
    assert window.locator(".layer[data-layer='0'] .toggle").get_attribute("aria-pressed") == "true"
    nameless = [
        line
        for line in tree.splitlines()
        if re.fullmatch(r"\s*- (button|link|slider|checkbox|radio|combobox)( \[.*\])?:?", line)
    ]
    assert nameless == []


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844), (320, 568)])
def test_long_right_to_left_and_emoji_words(
    fused: Blip, tmp_path: Path, width: int, height: int, open_page: Callable[..., Page]
) -> None:
    words = ["w" * 200, "כלב קטן", "🐈\u200d⬛"]
    image, _ = tiny.random_scene(np.random.default_rng(3), 90, 120)
    prompts = build_prompts([ClassEntry("sky"), *map(ClassEntry, words[1:]), ClassEntry(words[0], ("mug",))], True)
    segmenter = Segmenter(fused, prompts, (0, 2), Frame(tiny.SIZE))
    labels = np.repeat(np.arange(4, dtype=np.uint8), 30)[None].repeat(90, 0)  # each has an area for its name
    content = page_content(segmenter, image, segmenter.analyse_image(image).embeds, labels, "a.jpg")
    path = tmp_path / "words.html"
    path.write_bytes(page({**content, "refined": _packed(labels)}))
    window = open_page(path.as_uri(), width, height)
    plain = picture(window)
    window.locator("#names").uncheck()
    assert picture(window) != plain
    window.locator("#grid-fold summary").click()
    for word in words:
        window.locator(".class .name", has_text=word).click()
        assert window.locator("#scale b").inner_text() == word
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        assert window.evaluate("new URLSearchParams(location.hash.slice(1)).get('word')") == word
    window.locator(f".word >> text={words[0]}").click()
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    with window.expect_download() as download:
        window.get_by_text("Save picture").click()
    assert len(download.value.suggested_filename) < 120
    direction = "node => getComputedStyle(node).direction"
    assert window.locator(".class .name", has_text=words[1]).evaluate(direction) == "rtl"
    assert window.locator(".class .name", has_text=words[0]).evaluate(direction) == "ltr"


def test_text_of_others_stays_text(fused: Blip, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    evil = "</script><img src=x onerror=alert(1)><!--"
    image, _ = tiny.random_scene(np.random.default_rng(3), 90, 120)
    explored = explore(fused, image, tiny.SIZE, tmp_path, (0, 2))
    explored.content["name"] = evil
    explored.content["words"][0]["text"] = evil
    path = tmp_path / "evil.html"
    path.write_bytes(page(explored.content))
    window = open_page(path.as_uri())
    assert window.locator("h1").inner_text() == evil
    assert window.locator("img").count() == 0
    assert window.locator(".word[data-index='0']").inner_text().startswith(evil)


def test_without_a_crf_there_is_no_such_view(fused: Blip, tmp_path: Path, open_page: Callable[..., Page]) -> None:
    image, _ = tiny.random_scene(np.random.default_rng(3), 90, 120)
    explored = explore(fused, image, tiny.SIZE, tmp_path, (1,))
    content = {**explored.content, "refined": None, "crf": 0}
    path = tmp_path / "plain.html"
    path.write_bytes(page(content))
    window = open_page(path.as_uri())
    assert window.locator("#views label").all_text_contents() == ["Heat map", "Labels"]


def test_a_page_of_twenty_prompts_and_twelve_layers_is_below_3_mb(fused: Blip, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)  # noise: no photo is harder to compress
    explored = explore(fused, image, tiny.SIZE, tmp_path, (0, 2))
    patches = explored.content["grid"] ** 2
    assert len(explored.content["logits"]) == 4 * math.ceil(4 * 4 * len(explored.segmenter.prompts) * patches / 3)
    logits = base64.b64encode(bytes(4 * 12 * 20 * 32 * 32)).decode()
    assert len(page({**explored.content, "logits": logits})) < 3e6


def picture(window: Page) -> str:
    """The large picture's pixels."""
    return window.evaluate("document.getElementById('canvas').toDataURL()")


def test_without_a_browser_tests_are_skipped_but_not_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        missing("no browser")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        missing("no browser")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 9.0], ["0", "2", "4", "6", "8"]),
        ([5.3, 69.1], ["20", "40", "60"]),
        ([0.0012, 0.0031], ["0.0015", "0.0020", "0.0025", "0.0030"]),
        ([3.0, 3.0], ["3"]),
    ],
)
def test_ticks_are_round_numbers_within_the_values(values: list[float], expected: list[str]) -> None:
    assert infoscore_page._ticks(values) == expected
