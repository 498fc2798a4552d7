"""Photos of one's own: words, paths, image formats, labels at the photo's size, and the command as a whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import training_free_blip
from src import cli
from src.config.reader import load_config
from src.data.frame import Frame
from src.errors import UserError
from src.method.prompts import ClassEntry, PromptSet
from src.paths import REPOSITORY
from src.photos import command as photos

CONFIG = REPOSITORY / "tests/golden_training_free.yaml"
RED, BLUE = (200, 30, 30), (30, 30, 200)


def words(entries: list[ClassEntry]) -> list[tuple[str, ...]]:
    return [(entry.name, *entry.related_words) for entry in entries]


def prompts_of(classes: str | None, background: str | None = None, multi_prompt: bool = False) -> PromptSet:
    args = argparse.Namespace(classes=classes, background=background, multi_prompt=multi_prompt)
    return photos.photo_prompts(args, load_config(CONFIG))


def test_classes_and_their_related_words_are_read_from_one_line() -> None:
    parsed = photos.parse_classes(" cat; dog = puppy , hound ;my red mug;")
    assert words(parsed) == [("cat",), ("dog", "puppy", "hound"), ("my red mug",)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected 1 to 254 classes, got 0"),
        (" ; ", "got 0"),
        ("cat, dog", 'set apart by ";"'),
        ("= puppy", "expected a name"),
        ("dog =", "expected a name"),
        ("dog = puppy = hound", "expected a name"),
        ("cat; Cat", "is there already"),
        ("cat; background", "--background"),
        (";".join(f"thing {number}" for number in range(255)), "got 255"),
    ],
)
def test_classes_that_cannot_be_meant_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        photos.parse_classes(text)


def test_related_words_asked_for_always_count_and_the_background_is_the_class_files() -> None:
    prompts = prompts_of("bus = coach; cat")
    assert prompts.class_names == ("background", "bus", "cat")
    assert prompts.prompts_per_class == (7, 2, 1)
    assert prompts.words[:2] == ("sky", "wall")


def test_without_classes_the_class_file_counts() -> None:
    single, multi = prompts_of(None), prompts_of(None, multi_prompt=True)
    assert single.class_names[:2] == ("background", "airplane")
    assert len(single) == 13
    assert len(multi) > len(single)
    assert prompts_of(None, background="floor").words[:2] == ("floor", "airplane")


def test_a_class_is_no_background_word(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = prompts_of("Wall = fence, sea")
    assert prompts.words == ("sky", "tree", "wood", "grass", "road", "Wall", "fence", "sea")
    assert "wall, sea" in capsys.readouterr().out
    with pytest.raises(UserError, match='"wall" is one of the classes'):
        prompts_of("cat; Wall", background="floor, wall")
    with pytest.raises(UserError, match="no background words are left"):
        prompts_of("sky; wall; tree; wood; grass; road; sea")


def test_background_replaces_the_class_files_words() -> None:
    assert prompts_of("cat", background=" table, wall ;table").words == ("table", "wall", "cat")
    with pytest.raises(UserError, match="at least one word"):
        prompts_of("cat", background=" , ")


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def left_red_right_blue(mode: str = "RGB") -> Image.Image:
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(BLUE, (20, 0, 40, 20))
    return picture.convert(mode)


def test_photos_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: to be turned clockwise
    image = photos.read_photo(save(tmp_path / "a.png", left_red_right_blue(), exif=exif))
    assert image.shape == (40, 20, 3)
    assert image[0, 10].tolist() == list(RED)
    assert image[39, 10].tolist() == list(BLUE)


@pytest.mark.parametrize(
    ("mode", "ending", "tolerance"), [("RGB", "png", 0), ("CMYK", "jpg", 12), ("P", "gif", 30), ("RGB", "webp", 30)]
)
def test_colour_photos_come_out_as_rgb(tmp_path: Path, mode: str, ending: str, tolerance: int) -> None:
    image = photos.read_photo(save(tmp_path / f"a.{ending}", left_red_right_blue(mode)))
    assert image.dtype == np.uint8
    assert np.abs(image[10, 10].astype(int) - RED).max() <= tolerance
    assert np.abs(image[10, 30].astype(int) - BLUE).max() <= tolerance


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = left_red_right_blue("RGBA")
    picture.putalpha(Image.fromarray(np.repeat(np.uint8([[255] * 20 + [0] * 20]), 20, 0)))
    image = photos.read_photo(save(tmp_path / "a.png", picture))
    assert image[5, 5].tolist() == list(RED)
    assert image[5, 35].tolist() == [255, 255, 255]
    grey = Image.new("LA", (4, 4), (0, 0))
    assert (photos.read_photo(save(tmp_path / "b.png", grey)) == 255).all()


def test_grey_photos_keep_their_brightness(tmp_path: Path) -> None:
    assert photos.read_photo(save(tmp_path / "a.png", Image.new("L", (3, 2), 77)))[0, 0].tolist() == [77] * 3
    assert photos.read_photo(save(tmp_path / "b.png", Image.new("1", (3, 2), 1))).tolist() == [[[255] * 3] * 3] * 2
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    for ending in ("png", "tif"):
        image = photos.read_photo(save(tmp_path / f"sixteen.{ending}", Image.fromarray(ramp)))
        assert np.array_equal(image[0, :, 0], np.arange(256))
    image = photos.read_photo(save(tmp_path / "float.tif", Image.fromarray(np.float32([[0, 0.5, 1]]))))
    assert image[0, :, 0].tolist() == [0, 127, 255]


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert photos.read_photo(path)[0, 0].tolist() == list(RED)


def test_photos_of_more_than_a_hundred_megapixels_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert photos.read_photo(save(tmp_path / "a.png", left_red_right_blue())).shape == (20, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100  # data sets keep the guard


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_photo_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read .*save it as JPEG or PNG"):
        photos.read_photo(path)


def test_a_truncated_photo_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", left_red_right_blue())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="truncated"):
        photos.read_photo(path)


def test_folders_and_files_are_found_once(tmp_path: Path) -> None:
    for name in ("a/2.JPG", "a/1.png", "a/deeper/3.png", "b.webp"):
        save(tmp_path / name, Image.new("RGB", (4, 4)))
    (tmp_path / "a/notes.txt").write_text("no image")
    found = photos.find_photos([tmp_path / "a", tmp_path / "b.webp", tmp_path / "a/1.png"], tmp_path / "out")
    assert [path.name for path in found] == ["1.png", "2.JPG", "b.webp"]
    with pytest.raises(UserError, match=r"nothing\.png does not exist"):
        photos.find_photos([tmp_path / "nothing.png"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        photos.find_photos([tmp_path / "empty"], tmp_path)


def test_pictures_of_an_earlier_run_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "a_labels.png", "a_overlay.20260101-120000.png", "a_heatmap_01_cat.png"):
        save(tmp_path / name, Image.new("RGB", (4, 4)))
    assert [path.name for path in photos.find_photos([tmp_path], tmp_path)] == ["a.png"]
    assert len(photos.find_photos([tmp_path], tmp_path / "out")) == 4


def test_photos_with_the_same_stem_get_different_names() -> None:
    paths = [Path(name) for name in ("x/cat.jpg", "y/cat.jpg", "x/Cat.png", "x/cat-2.jpg", "x/dog.jpg")]
    names = [name for _, name in photos.name_outputs(paths)]
    assert names == ["cat", "cat-3", "Cat-4", "cat-2", "dog"]


def test_answer_names_what_was_found_and_what_was_not() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[:3] = 2
    answer = photos.Answer(labels, [0.5, 0.125, 0.875], torch.zeros(3, 8, 8), Frame(8))
    lines = [line.split() for line in answer.text(("background", "cat", "my mug")).splitlines()]
    assert lines == [
        ["class", "pixels", "itm"],
        ["background", "70.0%", "0.50"],
        ["my", "mug", "30.0%", "0.88"],
        ["not", "found:", "cat", "(itm", "0.12)"],
    ]


def run(*arguments: object) -> int:
    common = ["--config", CONFIG, "--device", "cpu", "--set", "crf.iters=2", "data_root=nowhere", "val_list=nowhere"]
    return cli.run(training_free_blip.main, [str(argument) for argument in (*common, *arguments)])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (53, 37), (200, 340)])  # width, height
def test_pictures_come_at_the_photos_own_size(
    tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    photo = save(tmp_path / "photo.png", Image.fromarray(pixels))
    output = tmp_path / "out"
    assert run("--images", photo, "--classes", "bus = coach; boat", "--output-dir", output, "--save-heatmaps") == 0
    assert {path.name for path in output.iterdir()} == {
        "photo_labels.png",
        "photo_overlay.png",
        "photo_heatmap_00_background.png",
        "photo_heatmap_01_bus.png",
        "photo_heatmap_02_boat.png",
    }
    with Image.open(output / "photo_labels.png") as labels:
        assert (labels.mode, labels.size) == ("P", size)
        values = np.asarray(labels)
    assert values.max() <= 2
    with Image.open(output / "photo_overlay.png") as overlay:
        shown = np.asarray(overlay)[: size[1], : size[0]]
        assert np.array_equal(shown[values == 0], pixels[values == 0])
    text = capsys.readouterr().out
    assert f"{size[0]} x {size[1]}" in text
    for label, name in enumerate(("background", "bus", "boat")):
        share = (values == label).mean()
        assert (f"{100 * share:.1f}%" if share else f"{name} (itm") in text


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, colour in (("x", RED), ("y", BLUE)):
        save(tmp_path / folder / "photo.png", Image.new("RGB", (30, 20), colour))
    output = tmp_path / "out"
    earlier = save(output / "photo_overlay.png", Image.new("RGB", (3, 3))).read_bytes()
    arguments = ("--images", tmp_path / "x", tmp_path / "y", "--classes", "bus", "--output-dir", output)
    assert run(*arguments) == 0, capsys.readouterr().err
    names = sorted(path.name for path in output.iterdir())
    kept = [name for name in names if name.startswith("photo_overlay.2")]
    assert len(kept) == 1
    assert (output / kept[0]).read_bytes() == earlier
    new = {"photo_labels.png", "photo_overlay.png", "photo-2_labels.png", "photo-2_overlay.png"}
    assert set(names) == {*new, *kept}
    assert run(*arguments) == 0  # the same again leaves the same files
    assert sorted(path.name for path in output.iterdir()) == names


def test_an_unreadable_photo_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "b.png", Image.new("RGB", (30, 20)))
    (tmp_path / "a.png").write_bytes(b"broken")
    assert run("--images", tmp_path, "--classes", "bus", "--output-dir", tmp_path / "out") == 2
    assert (tmp_path / "out" / "b_labels.png").exists()
    error = capsys.readouterr().err
    assert "1 of 2 images could not be read" in error
    assert str(tmp_path / "a.png") in error


def test_words_that_the_vocabulary_cannot_spell_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = save(tmp_path / "a.png", Image.new("RGB", (30, 20)))
    vocabulary = json.loads((REPOSITORY / "tests/golden/pascal/model/tokenizer.json").read_text())["model"]["vocab"]
    assert "bus" in vocabulary
    assert run("--images", photo, "--classes", "bus; żółw", "--output-dir", tmp_path / "out") == 0
    assert 'cannot spell "żółw"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--classes", "cat"), "--classes goes with --images"),
        (("--background", "wall"), "--background goes with --images"),
        (("--save-heatmaps",), "--save-heatmaps goes with --images"),
        (("--images", "nowhere.jpg"), "nowhere.jpg does not exist"),
        (("--images", CONFIG.parent / "golden/pascal/data/JPEGImages", "--set", "model.layers=auto"), "model.layers"),
    ],
)
def test_commands_that_cannot_be_meant_are_refused(
    arguments: tuple, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert reason in capsys.readouterr().err
