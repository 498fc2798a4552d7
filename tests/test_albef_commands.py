"""ALBEF in every command: the experiments, layers: auto, tuned weights, photos, explorer, check and reproduce."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compute_infoscore_blip
import one_shot_blip
import training_free_blip
from src import cli
from src.config.reader import load_config
from src.explorer.studio import Studio
from src.files import REPOSITORY
from src.photos.photo_segmenter import load_photo_segmenter
from tests.pictures import left_red_right_blue
from tools import check
from tools.reproduce import __main__ as reproduce
from tools.reproduce import jobs

CONFIG = REPOSITORY / "tests" / "golden_albef.yaml"
EXPECTED = json.loads((REPOSITORY / "tests/golden/albef/expected.json").read_text())


def run(main: Callable[[list[str]], int | None], output: Path, *arguments: object) -> int:
    common = ["--config", CONFIG, "--device", "cpu", "--output-dir", output]
    return cli.run(main, [str(argument) for argument in (*common, *arguments)])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_training_free_with_ranked_layers(tmp_path: Path) -> None:
    assert run(training_free_blip.main, tmp_path, "--set", "model.layers=auto", "model.top_k=3") == 0
    values = read(tmp_path / "albef.json")
    assert values["layers"] == sorted(EXPECTED["ranking"][:3])
    assert values["images"] == 3


def test_infoscore_with_its_comparison(tmp_path: Path) -> None:
    assert run(compute_infoscore_blip.main, tmp_path, "--compare") == 0
    values = read(tmp_path / "albef_infoscore.json")
    assert values["layers_by_infoscore"] == EXPECTED["ranking"]
    choices = {choice["name"]: choice["layers"] for choice in values["comparison"]["choices"]}
    assert choices["all layers"] == [6, 7, 8, 9, 10, 11]
    assert choices["last layer"] == [11]
    assert choices["layer 8"] == [8]


def test_one_shot_and_its_tuned_weights(tmp_path: Path) -> None:
    assert run(one_shot_blip.main, tmp_path) == 0
    assert read(tmp_path / "albef_summary.json")["layers"] == [8, 10]
    (weights, *_) = sorted(tmp_path.glob("**/*.safetensors"))
    assert run(training_free_blip.main, tmp_path, "--tuned", weights) == 0
    tuned = read(tmp_path / "albef_tuned.json")
    assert run(training_free_blip.main, tmp_path) == 0
    assert tuned["confusion"] != read(tmp_path / "albef.json")["confusion"]


def test_photos_and_explorer() -> None:
    segmenter = load_photo_segmenter(CONFIG, "bus; bird", "sky", device="cpu")
    labels = segmenter.analyse_image(np.asarray(left_red_right_blue())).labels
    assert labels.shape == (20, 40)
    studio = Studio.load(load_config(CONFIG), [REPOSITORY / "tests/golden/albef/image_0.png"], "cpu")
    content = studio.explore("0", "bus; bird", "sky")
    assert content["layers"] == [6, 7, 8, 9, 10, 11]
    assert content["configured"] == [8, 10]


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check.main, tmp_path, "--set", "model.layers=auto") == 0
    assert run(check.main, tmp_path, "--set", "model.layers=[3]") == 2
    assert "expected layers 6 to 11" in capsys.readouterr().err


def test_reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs.CONFIGS, "miniature", (str(CONFIG), str(CONFIG)))
    arguments = ["--data", "miniature", "--only", "infoscore", "training_free", "--device", "cpu"]
    assert cli.run(reproduce.main, [*arguments, "--output-dir", str(tmp_path)]) == 0
    report = (tmp_path / "reproduction.md").read_text()
    best = ", ".join(map(str, sorted(EXPECTED["ranking"][:2])))
    assert [best, "8, 10", "no"] in [[cell.strip() for cell in line.split("|")[2:5]] for line in report.splitlines()]
