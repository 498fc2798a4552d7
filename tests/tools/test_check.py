"""tools.check: all faults at once, each with its line; nothing where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import cli
from tests import tiny
from tools import check


def run(config: Path, *arguments: str) -> int:
    return cli.run(check.main, ["--config", str(config), "--device", "cpu", *arguments])


def test_nothing_wrong(config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config_file(), "--multi_prompt") == 0
    said = capsys.readouterr()
    assert "no fault: the experiment can start" in said.out
    assert "3 images take" in said.out
    assert "reading images and masks" in said.err  # the progress bar
    assert not (data_root / "results").exists()


def test_all_faults_at_once(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file()
    image = data_root / "images" / "0.jpg"
    image.write_bytes(image.read_bytes()[:200])
    tiny.save_mask(data_root / "masks" / "1.png", np.full((120, 77), 9, np.uint8), palette=False)
    Image.new("L", (3, 3)).save(data_root / "masks" / "2.png")
    classes = [*tiny.CLASSES[:3], {"name": "zebra"}]
    (data_root / "classes.json").write_text(json.dumps(classes))
    (data_root / "file").touch()
    assert run(config, "--output-dir", str(data_root / "file")) == 2
    said = capsys.readouterr()
    faults = [line for line in said.err.splitlines() if line.startswith("fault: ")]
    for text in ("cannot write", 'cannot spell "zebra"', "0.jpg cannot be read", "has label 9", "they must agree"):
        assert sum(text in fault for fault in faults) >= 1, text
    for line in (1, 2, 3):
        assert sum(f"line {line} of the image list" in fault for fault in faults) == 1
    assert f"{len(faults)} faults" in said.out


def test_a_model_that_is_not_there_does_not_hide_the_images(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_root / "images" / "2.jpg").unlink()
    assert run(config_file(model={"name": "./nowhere"})) == 2
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2
