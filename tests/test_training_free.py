"""The training-free command: result files, options, and errors of the user."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import training_free_blip
from src import cli
from src.data.dataset import Sample, SegmentationDataset
from src.data.lists import ListEntry
from src.errors import UserError
from src.evaluation import journal
from src.files import REPOSITORY
from tests import tiny

ConfigFile = Callable[..., Path]


def run(config: Path, *arguments: object) -> int:
    common = ["--config", config, "--device", "cpu"]
    return cli.run(training_free_blip.main, [str(argument) for argument in (*common, *arguments)])


def results_of(data_root: Path, stem: str = "iou") -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the CSV, and the JSON beside it."""
    path = data_root / "results" / f"{stem}.csv"
    return list(csv.reader(path.read_text().splitlines())), json.loads(path.with_suffix(".json").read_text())


def test_writes_a_csv_and_a_json_and_shows_a_table(
    config_file: ConfigFile, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config_file()) == 0
    rows, values = results_of(data_root)
    assert rows[0] == ["Class Name", "IoU"]
    assert [name for name, _ in rows[1:]] == ["background", "cat", "dog", "red mug"]
    assert [float(iou) for _, iou in rows[1:]] == [entry["iou"] for entry in values["classes"]]
    assert values["miou"] == pytest.approx(np.mean([entry["iou"] for entry in values["classes"]]))
    for entry in values["classes"]:
        assert entry["iou"] == pytest.approx(entry["intersection"] / max(entry["union"], 1))
    assert values["experiment"] == "training-free"
    assert values["images"] == 3
    assert values["images_per_second"] == pytest.approx(3 / values["seconds"])
    assert values["prompts"] == [f"Image of {word}." for word in ("sky", "wall", "red wall", "cat", "dog", "red mug")]
    assert values["layers"] == [0, 2]
    shown = capsys.readouterr()
    assert f"{100 * values['miou']:.2f}" in shown.out
    assert "6 prompts, layers [0, 2], 3 images" in shown.out
    assert "mIoU=" in shown.err


def test_multi_prompt_results_have_file_names_of_their_own(config_file: ConfigFile, data_root: Path) -> None:
    config = config_file()
    assert run(config) == 0
    single = (data_root / "results" / "iou.csv").read_bytes()
    assert run(config, "--multi_prompt") == 0
    assert (data_root / "results" / "iou.csv").read_bytes() == single
    values = results_of(data_root, "iou_multi")[1]
    assert values["multi_prompt"] is True
    assert len(values["prompts"]) == 9


def test_batches_and_workers_change_nothing(config_file: ConfigFile, data_root: Path) -> None:
    config = config_file(runtime={"attention": "exact"})
    assert run(config) == 0
    single = results_of(data_root)[1]
    assert run(config, "--set", "dataloader.batch_size=2", "dataloader.num_workers=1") == 0
    batched = results_of(data_root)[1]
    assert batched["config"]["dataloader"] == {"batch_size": 2, "num_workers": 1}
    counts = [np.array(values["confusion"]) for values in (single, batched)]
    assert counts[0].sum() == counts[1].sum()
    assert np.abs(counts[0] - counts[1]).sum() <= 1e-3 * counts[0].sum()


def test_options_reach_the_run(config_file: ConfigFile, data_root: Path, tmp_path: Path) -> None:
    options = ("--limit", 2, "--set", "crf.iters=0", "eval.resolution=original", "--output-dir", tmp_path / "out")
    assert run(config_file(), *options, "--set", "model.layers=[1]") == 0
    values = json.loads((tmp_path / "out" / "iou.json").read_text())
    assert values["images"] == 2
    assert values["config"]["crf"]["iters"] == 0
    assert values["layers"] == [1]
    assert not (data_root / "results").exists()
    masks = [np.asarray(Image.open(data_root / "masks" / f"{number}.png")) for number in (0, 1)]
    assert np.sum(values["confusion"]) == sum((mask != 255).sum() for mask in masks)


def test_limit_never_adds_images(config_file: ConfigFile, data_root: Path) -> None:
    assert run(config_file(max_images=1), "--limit", 2) == 0
    assert results_of(data_root)[1]["images"] == 1


def test_the_same_command_gives_the_same_bytes(config_file: ConfigFile, data_root: Path) -> None:
    config = config_file()
    assert run(config) == 0
    before = {path.name: path.read_bytes() for path in (data_root / "results").iterdir() if path.suffix == ".csv"}
    assert run(config) == 0
    after = {path.name: path.read_bytes() for path in (data_root / "results").iterdir() if path.suffix == ".csv"}
    assert before == after  # and no second file with a date


def test_other_class_words_give_other_numbers(config_file: ConfigFile, data_root: Path) -> None:
    config = config_file()
    assert run(config) == 0
    before = results_of(data_root)[1]["confusion"]
    classes = [dict(entry) for entry in tiny.CLASSES]
    classes[1]["name"], classes[2]["name"] = "dog", "cat"
    (data_root / "classes.json").write_text(json.dumps(classes))
    assert run(config) == 0
    assert results_of(data_root)[1]["confusion"] != before


# errors of the user: exit code 2, one line, nothing written


def redraw_masks(root: Path, background: int, foreground: int) -> None:
    """Replace masks by masks of two values: ``foreground`` for any class."""
    for path in (root / "masks").iterdir():
        with Image.open(path) as mask:
            labels = np.asarray(mask)
        Image.fromarray(np.where(labels % 255 == 0, background, foreground).astype(np.uint8)).save(path)


def test_masks_of_0_and_255_are_explained(
    config_file: ConfigFile, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redraw_masks(data_root, 0, 255)
    (data_root / "classes.json").write_text('[{"name": "sky"}, {"name": "cat"}]')
    assert run(config_file(dataset={"num_classes": 2})) == 0
    _, values = results_of(data_root)
    assert values["absent_classes"] == ["cat"]
    assert values["miou_present"] == 2 * values["miou"] == values["classes"][0]["iou"]
    said = capsys.readouterr().out
    assert "no pixel in the masks, counted as IoU 0, as published: cat; mIoU of the classes present:" in said
    assert "mask value 255 is ignored; it is not class 1: to score cat, draw it with 1" in said


def test_masks_with_nothing_to_score_are_an_error(
    config_file: ConfigFile, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redraw_masks(data_root, 255, 255)
    assert run(config_file()) == 2
    assert "no pixel can be scored: every mask value is 255" in capsys.readouterr().err
    assert not list((data_root / "results").glob("iou*"))


def broken_image(root: Path) -> None:
    path = root / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[:300])


def missing_mask(root: Path) -> None:
    (root / "masks" / "1.png").unlink()


def wrong_label(root: Path) -> None:
    tiny.save_mask(root / "masks" / "2.png", np.full((80, 80), 4, np.uint8), palette=True)


def wrong_size(root: Path) -> None:
    tiny.save_mask(root / "masks" / "2.png", np.zeros((80, 81), np.uint8), palette=False)


def colour_mask(root: Path) -> None:
    Image.new("RGB", (80, 80)).save(root / "masks" / "2.png")


def empty_list(root: Path) -> None:
    (root / "val.txt").write_text("")


def malformed_list(root: Path) -> None:
    with (root / "val.txt").open("a") as file:
        file.write("images/0.jpg\n")


def missing_classes(root: Path) -> None:
    (root / "classes.json").unlink()


@pytest.mark.parametrize(
    ("damage", "options", "reason"),
    [
        (broken_image, (), "images/2.jpg cannot be read"),
        (broken_image, ("dataloader.num_workers=2",), "images/2.jpg cannot be read"),
        (missing_mask, (), "masks/1.png does not exist"),
        (wrong_label, (), "masks/2.png has label 4; expected 0 to 3 or 255"),
        (wrong_size, (), "masks/2.png has 81 x 80 pixels, but image"),
        (colour_mask, (), "masks/2.png is a RGB image"),
        (empty_list, (), "val.txt is empty"),
        (malformed_list, (), "val.txt, line 4: expected image path, space, mask path"),
        (missing_classes, (), "classes.json does not exist"),
        (None, ("data_root=/nowhere",), "data_root /nowhere does not exist"),
        (None, ("val_list=/nowhere.txt",), "image list /nowhere.txt cannot be read"),
        (None, ("model.name=./nowhere",), "the folder"),
        (None, ("model.layers=[4]",), "model.layers: [4] is not valid; expected layers 0 to 3"),
        (None, ("model.image_size=40",), "model.image_size: 40 is not valid; expected a multiple of 16"),
        (None, ("dataset.num_classes=5",), "has 4 classes, but dataset.num_classes is 5"),
        (None, ("crf.iter=5",), "unknown key crf.iter; did you mean crf.iters?"),
    ],
)
def test_mistakes_give_a_one_line_error_and_nothing_is_written(
    damage: Callable[[Path], None] | None,
    options: tuple[str, ...],
    reason: str,
    config_file: ConfigFile,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_file()
    if damage:
        damage(data_root)
    assert run(config, *(("--set", *options) if options else ())) == 2
    error = capsys.readouterr().err.rpartition("\r")[2].splitlines()
    assert error[-1].startswith("error: ")
    assert reason in error[-1]
    assert "Traceback" not in "".join(error)
    assert not list((data_root / "results").glob("iou*"))


def test_unwritable_results_are_refused_before_computing(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(config_file(), "--output-dir", tmp_path / "file") == 2
    shown = capsys.readouterr().err
    assert "cannot write" in shown
    assert "segmenting" not in shown


def test_a_missing_device_is_refused(config_file: ConfigFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config_file(), "--device", "gpu") == 2
    assert capsys.readouterr().err == "error: --device gpu: expected auto, cpu, cuda, cuda:N or mps\n"


def test_debug_shows_the_traceback_too(config_file: ConfigFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config_file(), "--set", "crf.iters=-1", "--debug") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: ")
    assert "crf.iters: -1" in lines[-1]


def test_internal_errors_keep_their_traceback() -> None:
    def broken(_: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(broken, [])


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> Callable[[list[str]], None]:
        def main(_: list[str]) -> None:
            raise error

        return main

    assert cli.run(lambda _: None, []) == 0
    assert cli.run(fail(UserError("a file is missing")), []) == 2
    assert capsys.readouterr().err == "error: a file is missing\n"
    assert cli.run(fail(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("arguments", [(), ("--config", "x.yaml", "--limit", "0"), ("--config", "x.yaml", "--what")])
def test_invalid_arguments_are_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        training_free_blip.main(list(arguments))
    assert refusal.value.code == 2
    assert "training_free_blip.py: error:" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        training_free_blip.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "python training_free_blip.py --config configs/pascal_blip.yaml --multi_prompt" in text
    for option in ("--config", "--multi_prompt", "--set", "--device", "--limit", "--output-dir", "--debug"):
        assert option in text


def test_the_script_fails_with_code_2_and_one_line_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "training_free_blip.py"), "--config", "nothing.yaml"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: config nothing.yaml does not exist")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# a data set without a background


def test_background_words_compete_without_being_scored(config_file: ConfigFile, data_root: Path) -> None:
    """Every pixel gets one of three classes; value 0 of masks is ignored; the mean is over three classes."""
    config = config_file(dataset={"background": False, "first_label": 1})
    assert run(config, "--save-predictions", "--save-overlays", 2) == 0
    rows, values = results_of(data_root)
    assert [name for name, _ in rows[1:]] == [entry["name"] for entry in values["classes"]] == ["cat", "dog", "red mug"]
    assert values["miou"] == pytest.approx(np.mean([float(iou) for _, iou in rows[1:]]))
    assert np.shape(values["confusion"]) == (3, 3)
    for number in range(3):
        labels = np.asarray(Image.open(data_root / "results" / "iou_predictions" / f"{number}.png"))
        assert set(np.unique(labels)) <= {1, 2, 3}
    masks = [np.asarray(Image.open(data_root / "masks" / f"{number}.png")) for number in range(3)]
    framed = sum(np.isin(mask, (1, 2, 3)).sum() for mask in masks)
    assert run(config, "--set", "eval.resolution=original") == 0
    assert np.sum(results_of(data_root)[1]["confusion"]) == framed


def test_first_class_0_scores_as_first_class_1(config_file: ConfigFile, data_root: Path) -> None:
    confusions = []
    for first_label in (1, 0):
        assert run(config_file(dataset={"background": False, "first_label": first_label})) == 0
        confusions.append(results_of(data_root)[1]["confusion"])
        for path in (data_root / "masks").iterdir():  # 0 is ignored, 1 to 3 become 0 to 2
            labels = np.asarray(Image.open(path)).copy()
            labels = np.where(labels == 255, 255, labels.astype(int) - 1)
            tiny.save_mask(path, np.where(labels < 0, 255, labels).astype(np.uint8), palette=False)
    assert confusions[0] == confusions[1]


def test_a_killed_worker_process_gives_a_one_line_error(
    config_file: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SegmentationDataset._read

    def killed(self: SegmentationDataset, index: int, entry: ListEntry) -> Sample:
        if index == 2:
            time.sleep(1)  # until the first images are in the journal
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return read(self, index, entry)

    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(SegmentationDataset, "_read", killed)
    assert run(config_file(dataloader={"num_workers": 1})) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: a process that reads images was killed, most often because memory ran out: lower ")
    assert "; 2 of 3 images kept in " in last
