"""User data sets: from two folders to results, with labels or colours, with and without a background."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import compute_infoscore_blip
import one_shot_blip
import training_free_blip
from src import cli
from src.config.reader import load_config
from tests import tiny
from tools.prepare.__main__ import main as prepare

COLOURS = {0: (0, 0, 0), 1: (220, 20, 60), 2: (0, 0, 142), 3: (7, 7, 7), 255: (255, 255, 255)}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of images and one of masks with labels 0 to 3 and 255."""
    root = tiny.make_data(tmp_path / "mine", sizes=((90, 120), (120, 77), (80, 80), (64, 64)))
    return root / "images", root / "masks"


def run(folders: tuple[Path, Path], root: Path, *options: object) -> int:
    arguments = ["own", "--images", folders[0], "--masks", folders[1], "--root", root, "--workers", 1, *options]
    return cli.run(prepare, [str(argument) for argument in arguments])


def name_classes(class_file: Path, *names: str) -> None:
    entries = json.loads(class_file.read_text())
    entries[0] = {"name": "sky", "related_word": ["wall"], "id": 0}
    for entry, name in zip(entries[1:], names, strict=True):
        entry["name"] = name
    class_file.write_text(json.dumps(entries))


def test_two_folders_are_enough_for_all_three_experiments(
    folders: tuple[Path, Path], tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(folders, out, "--name", "mugs") == 0
    shown = capsys.readouterr().out
    assert "background" in shown
    assert "ignored" in shown
    name_classes(out / "classes.json", "cat", "dog", "red mug")
    model = [f"model.name={model_folder}", f"model.image_size={tiny.SIZE}", "model.layers=[0, 2]", "crf.iters=1"]
    common = ["--device", "cpu", "--output-dir", str(tmp_path / "results"), "--set", "runtime.amp=false", *model]
    training_free = ["--config", str(out / "training_free.yaml"), *common]
    assert cli.run(training_free_blip.main, training_free) == 0
    assert cli.run(compute_infoscore_blip.main, training_free) == 0
    tuning = ["oneshot.total_runs=1", "oneshot.num_iterations=1", "oneshot.support_only_one_novel=false"]
    assert cli.run(one_shot_blip.main, ["--config", str(out / "one_shot.yaml"), *common, *tuning]) == 0
    rows = list(csv.reader((tmp_path / "results" / "mugs_training_free.csv").read_text().splitlines()))
    assert [name for name, _ in rows[1:]] == ["background", "cat", "dog", "red mug"]
    assert (tmp_path / "results" / "mugs_one_shot_summary.csv").is_file()
    assert (tmp_path / "results" / "mugs_training_free_infoscore.csv").is_file()


def test_edited_files_are_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(folders, tmp_path / "out") == 0
    name_classes(tmp_path / "out" / "classes.json", "cat", "dog", "red mug")
    named = (tmp_path / "out" / "classes.json").read_text()
    assert run(folders, tmp_path / "out") == 0
    assert (tmp_path / "out" / "classes.json").read_text() == named
    assert run(folders, tmp_path / "out", "--force") == 0
    assert (tmp_path / "out" / "classes.json").read_text() != named


def test_masks_of_colours_are_refused_and_converted(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {}
    for path in folders[1].iterdir():
        labels[path.stem] = np.asarray(Image.open(path))
        rgb = np.zeros((*labels[path.stem].shape, 3), np.uint8)
        for label, colour in COLOURS.items():
            rgb[labels[path.stem] == label] = colour
        Image.fromarray(rgb).save(path)
    assert run(folders, tmp_path / "out") == 2
    assert "has colours; expected labels" in capsys.readouterr().err
    table = tmp_path / "colours.txt"
    lines = ["0 0 0 0", "220 20 60 1 cat  # crimson", "0 0 142 2 dog", "255 255 255 255", ""]
    table.write_text("\n".join(lines))
    assert run(folders, tmp_path / "out", "--from-colours", table) == 2
    assert "has the colour 7 7 7" in capsys.readouterr().err
    table.write_text("\n".join([*lines, "7 7 7 3 red mug"]))
    assert run(folders, tmp_path / "out", "--from-colours", table) == 0
    for stem, expected in labels.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / f"{stem}.png")), expected)
    names = [entry["name"] for entry in json.loads((tmp_path / "out" / "classes.json").read_text())]
    assert names == ["background", "cat", "dog", "red mug"]


@pytest.mark.parametrize(
    ("options", "first_label", "classes"),
    [(["--no-background"], 0, 5), (["--no-background", "--first-label", 1], 1, 4)],
)
def test_sets_without_a_background(
    folders: tuple[Path, Path], tmp_path: Path, options: list[object], first_label: int, classes: int
) -> None:
    assert run(folders, tmp_path / "out", *options) == 0
    config = load_config(tmp_path / "out" / "training_free.yaml")
    assert (config.dataset.background, config.dataset.first_label) == (False, first_label)
    assert config.dataset.num_classes == classes


def test_bad_input_is_one_line(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in (
        (["--name", "a b"], "--name 'a b'"),
        (["--background", "--first-label", 2], "--first-label 2"),
        (["--from-colours", tmp_path / "none.txt"], "none.txt cannot be read"),
        (["--workers", 0], "--workers 0"),
        (["--masks", tmp_path / "nowhere"], "nowhere is no folder"),
        (["--name", ".."], "--name '..'"),
        (["--threshold", 0], "--threshold 0"),
        (["--threshold", 9, "--from-colours", tmp_path / "none.txt"], "--from-colours and --threshold"),
        (["--first-label", 7, "--no-background"], "the masks have no class: their values are 0, 1, 2, 3, 255"),
    ):
        assert run(folders, tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert expected in error.splitlines()[-1]
        assert "Traceback" not in error
    for mask in folders[1].iterdir():
        mask.rename(mask.with_name(f"truth{mask.name}"))
    assert run(folders, tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "none of 4 images" in error
    assert "for 0.jpg expected 0.png or 0_mask.png in" in error
    assert "4 other pictures, e.g. truth0.png" in error
    assert not (tmp_path / "out").exists()


def names_in(class_file: Path) -> list[str]:
    return [entry["name"] for entry in json.loads(class_file.read_text())]


def mask_of(out: Path, number: int) -> np.ndarray:
    root = yaml.safe_load((out / "training_free.yaml").read_text())["data_root"]
    line = (out / "list.txt").read_text().splitlines()[number]
    return np.asarray(Image.open(Path(root) / line.split()[1]))


def save(path: Path, picture: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


PHOTO = np.full((40, 60, 3), 90, np.uint8)
BOX = np.zeros((40, 60), np.uint8)
BOX[10:30, 10:40] = 1


@pytest.mark.parametrize(
    ("ending", "options"),
    [("jpg", {"quality": 95}), ("jp2", {}), ("webp", {"lossless": True}), ("tif", {"compression": "jpeg"})],
)
def test_masks_of_lossy_formats_are_refused(
    ending: str, options: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    mask = save(tmp_path / f"m/x.{ending}", BOX * 2, **options)
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"mask {mask} is " in error
    assert "which changes labels; export the masks as PNG" in error
    assert not (tmp_path / "out").exists()


def test_smoothed_masks_are_refused_and_a_threshold_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    blurred = (
        Image.fromarray(BOX * 255).resize((30, 20), Image.Resampling.BOX).resize((60, 40), Image.Resampling.BICUBIC)
    )
    save(tmp_path / "m/x.png", np.asarray(blurred))
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    assert "occur along edges alone" in capsys.readouterr().err
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out", "--threshold", 128) == 0
    assert np.array_equal(mask_of(tmp_path / "out", 0), BOX)
    save(tmp_path / "j/x.jpg", BOX * 255, quality=80)
    assert run((tmp_path / "i", tmp_path / "j"), tmp_path / "jpeg", "--threshold", 128) == 0
    assert np.array_equal(mask_of(tmp_path / "jpeg", 0), BOX)


def test_many_labels_in_areas_are_not_mistaken_for_smoothing(tmp_path: Path) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", np.repeat(np.arange(1, 21, dtype=np.uint8), 3)[None].repeat(40, 0))
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 0
    assert len(names_in(tmp_path / "out/classes.json")) == 21


def test_an_object_of_value_255_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", BOX * 255)
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    assert "their values are 0, 255, and 255 is ignored; if 255 marks an object, pass --threshold 128" in (
        capsys.readouterr().err
    )


def test_masks_of_one_bit_are_labels_0_and_1(tmp_path: Path, model_folder: Path) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", BOX > 0)
    out = tmp_path / "out"
    assert run((tmp_path / "i", tmp_path / "m"), out) == 0
    name_classes(out / "classes.json", "cat")
    model = [f"model.name={model_folder}", f"model.image_size={tiny.SIZE}", "model.layers=[0]", "crf.iters=0"]
    common = ["--device", "cpu", "--output-dir", str(tmp_path / "results"), "--set", "runtime.amp=false", *model]
    assert cli.run(training_free_blip.main, ["--config", str(out / "training_free.yaml"), *common]) == 0


def test_gaps_are_closed_and_placeholders_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    values = BOX * 5
    values[:8] = 15
    save(tmp_path / "m/x.png", values)
    out = tmp_path / "out"
    assert run((tmp_path / "i", tmp_path / "m"), out) == 0
    shown = capsys.readouterr().out
    assert "the labels have gaps: they are renumbered from 1" in shown
    assert names_in(out / "classes.json") == ["background", "class 5", "class 15"]
    for name in ("class 5", "class 15"):  # the screen prints the names of the class file
        assert any(name in line.strip() for line in shown.splitlines() if line.startswith("  "))
    assert np.array_equal(mask_of(out, 0), np.select([values == 5, values == 15], [1, 2], 0))
    assert cli.run(training_free_blip.main, ["--config", str(out / "training_free.yaml")]) == 2
    assert '"class 5" is a placeholder' in capsys.readouterr().err
    assert run((tmp_path / "i", tmp_path / "m"), out) == 0  # again, with existing masks
    assert "0 masks written, 1 already there" in capsys.readouterr().out
    save(out / "masks/x.png", BOX)
    assert run((tmp_path / "i", tmp_path / "m"), out) == 2
    assert "masks/x.png exists and differs from the one made now; --force replaces it" in capsys.readouterr().err
    assert run((tmp_path / "i", tmp_path / "m"), out, "--force") == 0


@pytest.mark.parametrize("name", ["2024", "true", "null", "1e3", "coco", "no"])
def test_any_string_is_a_class_name(name: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(folders, tmp_path / "out", "--name", name) == 0
    for file in ("training_free.yaml", "one_shot.yaml"):
        config = load_config(tmp_path / "out" / file)
        assert config.data_set == name
        assert config.max_images is None


def test_all_formats_are_read_and_the_rest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats = {"jpg": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000", "gif": "GIF", "avif": "AVIF", "webp": "WEBP"}
    for ending, form in formats.items():
        save(tmp_path / f"i/{ending}.{ending}", PHOTO, format=form)
        save(tmp_path / f"m/{ending}.png", BOX)
    save(tmp_path / "i/carvana.jpg", PHOTO)
    save(tmp_path / "m/carvana_mask.gif", BOX)
    save(tmp_path / "i/alone.png", PHOTO)
    save(tmp_path / "m/nobody.png", BOX)
    (tmp_path / "i/phone.heic").write_bytes(b"x")
    (tmp_path / "i/notes.txt").touch()
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert len((tmp_path / "out/list.txt").read_text().splitlines()) == len(formats) + 1
    assert "note: 1 image without labels left out: alone.png" in shown
    assert "note: 1 mask without an image left out: nobody.png" in shown
    assert (
        f"note: files in {tmp_path / 'i'} not read: 1 .heic (reading them needs the package pillow-heif), 1 .txt"
        in shown
    )


def test_images_and_masks_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "both"
    for image, mask in (("cat.png", "cat_mask.png"), ("dog.jpg", "dog.png")):
        save(folder / image, PHOTO)
        save(folder / mask, BOX)
    save(folder / "lone.png", PHOTO)
    arguments = ["own", "--images", str(folder), "--root", str(tmp_path / "out"), "--workers", "1"]
    assert cli.run(prepare, arguments) == 0
    lines = (tmp_path / "out/list.txt").read_text().splitlines()
    assert lines == ["cat.png cat_mask.png", "dog.jpg dog.png"]
    assert "lone.png" in capsys.readouterr().out
    (tmp_path / "link").symlink_to(folder)
    assert run((folder, tmp_path / "link"), tmp_path / "again") == 0  # the same folder by another name
    assert len((tmp_path / "again/list.txt").read_text().splitlines()) == 2


def test_an_image_with_two_masks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", BOX)
    save(tmp_path / "m/x.gif", BOX)
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    assert "x.jpg has two masks: " in capsys.readouterr().err


def test_accents_in_either_encoding_are_one_name(tmp_path: Path) -> None:
    save(tmp_path / "i" / unicodedata.normalize("NFC", "café.jpg"), PHOTO)
    save(tmp_path / "m" / unicodedata.normalize("NFD", "café.png"), BOX)
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 0


def test_the_folder_with_a_blank_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "my images/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", BOX)
    assert run((tmp_path / "my images", tmp_path / "m"), tmp_path / "out") == 2
    assert f"folder {tmp_path / 'my images'} has a blank in its name" in capsys.readouterr().err
    save(tmp_path / "i/a b.jpg", PHOTO)
    save(tmp_path / "m/a b.png", BOX)
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    assert f"file {tmp_path / 'i/a b.jpg'} has a blank in its name" in capsys.readouterr().err
    blank = tmp_path / "all my data"  # above the images: not in any line of the list
    save(blank / "i/x.jpg", PHOTO)
    save(blank / "m/x.png", BOX)
    assert run((blank / "i", blank / "m"), blank / "out") == 0


def test_links_keep_the_names_of_the_user(tmp_path: Path) -> None:
    for name, picture in (("i/x.jpg", PHOTO), ("m/x.png", BOX)):
        stored = save(tmp_path / "store" / f"0{name[0]}{Path(name).suffix}", picture)
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        (tmp_path / "mine" / name).symlink_to(stored)
    assert run((tmp_path / "mine/i", tmp_path / "mine/m"), tmp_path / "out") == 0
    assert (tmp_path / "out/list.txt").read_text() == "i/x.jpg m/x.png\n"


def test_a_mask_of_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "i/x.jpg", PHOTO)
    save(tmp_path / "m/x.png", BOX[:, :50])
    assert run((tmp_path / "i", tmp_path / "m"), tmp_path / "out") == 2
    assert "the labels have 50 x 40 pixels, but image" in capsys.readouterr().err
