"""A data set of one's own: from two folders to results, with labels or colours, with and without a background."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
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


def test_from_two_folders_to_all_three_experiments(
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


def test_what_a_user_has_written_is_kept(folders: tuple[Path, Path], tmp_path: Path) -> None:
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
    assert "has colours, where labels are expected" in capsys.readouterr().err
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
    ):
        assert run(folders, tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert expected in error.splitlines()[-1]
        assert "Traceback" not in error
    next(folders[1].iterdir()).unlink()
    assert run(folders, tmp_path / "out") == 2
    assert "has no mask" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
