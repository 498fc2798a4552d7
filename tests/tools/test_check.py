"""tools.check: all faults at once, one line each; no output without faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import cli
from src.evaluation import memory
from src.method.segmenter import Segmenter
from tests import tiny
from tools import check


def run(config: Path, *arguments: str) -> int:
    return cli.run(check.main, ["--config", str(config), "--device", "cpu", *arguments])


def test_nothing_wrong(config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config_file(), "--multi_prompt") == 0
    said = capsys.readouterr()
    assert "no fault: the experiment can start" in said.out
    assert " for 3 images" in said.out
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
    for text in (
        "cannot write",
        'cannot spell "zebra"',
        "0.jpg cannot be read",
        "has label 9",
        "use a mask of the image's size",
    ):
        assert sum(text in fault for fault in faults) >= 1, text
    for line in (1, 2, 3):
        assert sum(f"line {line} of the image list" in fault for fault in faults) == 1
    assert f"{len(faults)} faults" in said.out


def test_faults_of_images_are_found_without_a_model(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_root / "images" / "2.jpg").unlink()
    assert run(config_file(model={"name": "./nowhere"})) == 2
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2


def test_a_first_batch_without_labels_is_no_fault(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The experiment scores all images together."""
    for number in (0, 1):
        mask = data_root / "masks" / f"{number}.png"
        with Image.open(mask) as image:
            height, width = np.asarray(image).shape
        tiny.save_mask(mask, np.full((height, width), 255, np.uint8), palette=False)
    assert run(config_file(dataloader={"batch_size": 2})) == 0
    assert "no fault" in capsys.readouterr().out


def test_too_little_memory_for_one_image_is_a_fault(
    config_file: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def lack(_: Segmenter, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Segmenter, "segment", lack)
    monkeypatch.setattr(memory, "halve_working_memory", lambda: False)
    assert run(config_file(dataloader={"batch_size": 2})) == 2
    assert sizes == [2, 1]
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 1
    assert "out of memory with one image" in faults[0]


def test_results_of_another_experiment_are_no_fault(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_root / "file").touch()
    there = str(data_root / "file" / "x.csv")
    one_shot = {"classwise_csv": there, "summary_csv": str(data_root / "file" / "y.csv")}
    assert run(config_file(output={"csv": str(data_root / "iou.csv"), **one_shot})) == 0
    assert run(config_file(output={"csv": there})) == 2
    assert capsys.readouterr().err.count("fault: cannot write") == 1


def test_a_folder_of_train_images_is_no_fault_and_a_missing_list_is(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The supports are read as one_shot_blip.py reads them."""
    oneshot = {"use_training_images_for_supports": True, "test_list": str(data_root / "val.txt")}
    images = {**oneshot, "train_list": str(data_root / "images")}
    assert run(config_file(oneshot=images, mask_dir=str(data_root / "masks"))) == 0, capsys.readouterr().err
    assert run(config_file(oneshot=oneshot)) == 2
    assert "fault: " in (shown := capsys.readouterr().err)
    assert "oneshot.train_list: None is not valid" in shown


def test_all_images_that_supports_may_come_from_are_read(
    config_file: Callable[..., Path], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One-shot tuning reads the masks of the whole list, whatever max_images."""
    (data_root / "masks" / "2.png").unlink()
    oneshot = {"test_list": str(data_root / "val.txt")}
    assert run(config_file(oneshot=oneshot, max_images=1)) == 2
    assert "2.png does not exist" in capsys.readouterr().err
    assert run(config_file(max_images=1)) == 0
