"""Reproduction in one command: what runs, what is skipped, what is recomputed, and the report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src import cli
from src.errors import UserError
from src.files import REPOSITORY
from src.screen import duration
from tests import tiny
from tools.reproduce import jobs, plan
from tools.reproduce import reproduction_report as reports
from tools.reproduce.__main__ import main
from tools.reproduce.reproduction_report import read_reference
from tools.reproduce.state import NAME, State, digest

ConfigFile = Callable[..., Path]
HEADER = "data set,prompts,experiment,mIoU\n"


@pytest.fixture
def drawn(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiments of the paper on the miniature; returns the folder for results."""
    root = tiny.make_data(tmp_path / "data", sizes=((90, 120), (120, 77), (80, 80), (96, 96), (88, 112), (100, 90)))
    tuned = {"shot": 1, "min_support_area": 50, "num_iterations": 1, "total_runs": 2, "support_only_one_novel": False}
    values = tiny.config_values(root, model_folder, crf={"iters": 1})
    one_shot = tiny.config_values(
        root, model_folder, crf={"iters": 1}, oneshot={"test_list": str(root / "val.txt"), **tuned}
    )
    files = (tiny.write_config(tmp_path / "a.yaml", values), tiny.write_config(tmp_path / "b.yaml", one_shot))
    monkeypatch.setitem(jobs.CONFIGS, "miniature", tuple(map(str, files)))
    return tmp_path / "out"


def reproduce(output: Path, *arguments: object) -> int:
    common = ["--data", "miniature", "--device", "cpu", "--output-dir", output]
    return cli.run(main, [str(argument) for argument in (*common, *arguments)])


def table_rows(output: Path, heading: str = "# Reproduction") -> list[list[str]]:
    """Cells of the table below a heading of the report, its header first."""
    part = (output / "reproduction.md").read_text().split(f"{heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_all_experiments_and_their_numbers(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = drawn.parent / "paper.csv"
    reference.write_text(HEADER + "miniature,single,training_free,50\npascal,multi,one_shot,70.5\n")
    assert reproduce(drawn, "--reference", reference) == 0
    header, *rows = table_rows(drawn)
    assert [row[:3] for row in rows] == [
        ["miniature", "single", "infoscore"],
        ["miniature", "single", "training_free"],
        ["miniature", "multi", "training_free"],
        ["miniature", "single", "one_shot"],
        ["miniature", "multi", "one_shot"],
    ]
    single = json.loads((drawn / "iou.json").read_text())
    tuned = json.loads((drawn / "one_shot_summary_multi.json").read_text())
    compared = json.loads((drawn / "iou_infoscore.json").read_text())
    assert rows[1][3] == f"{100 * single['miou']:.2f}"
    assert rows[4][3] == f"{100 * tuned['miou_mean']:.2f} ± {100 * tuned['miou_std']:.2f}"
    top = next(choice for choice in compared["comparison"]["choices"] if choice["name"] == "InfoScore top 2")
    assert rows[0][3] == f"{100 * top['miou']:.2f}"
    assert rows[1][header.index("images")] == "6"
    assert rows[1][header.index("device") : header.index("commit")] == ["cpu", "float32"]
    assert rows[1][-2:] == ["50.00", f"{100 * single['miou'] - 50:+.2f}"]
    assert rows[2][-2:] == ["–", "–"]
    text = (drawn / "reproduction.md").read_text()
    assert "not computed here: pascal, multi, one_shot." in text
    assert "Not the paper's protocol" not in text
    (layers,) = table_rows(drawn, "## Layers")[1:]
    best = sorted(compared["layers"])
    assert layers[:6] == ["miniature", ", ".join(map(str, best)), "0, 2", "yes" if best == [0, 2] else "no", "–", "–"]
    with Image.open(drawn / "reproduction.png") as picture:
        assert np.asarray(picture).std() > 0
    # each result names the command that makes it by itself, and the report names the same
    assert single["command"].startswith("python training_free_blip.py --config")
    assert single["command"] in text
    assert tuned["command"] in text
    shown = capsys.readouterr().out
    assert "miniature infoscore single: 6 images, to compute" in shown
    assert "5 of 5 to compute" in shown


def test_finished_jobs_are_skipped_and_changed_ones_are_not(
    drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--only", "training_free")
    assert reproduce(drawn, *asked) == 0
    report, result = (drawn / "reproduction.md").read_bytes(), (drawn / "iou.json").read_bytes()
    capsys.readouterr()

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Job, "run", lambda _: pytest.fail("nothing is left to compute"))
        assert reproduce(drawn, *asked) == 0
    assert "0 of 2 to compute" in capsys.readouterr().out
    assert (drawn / "reproduction.md").read_bytes() == report

    assert reproduce(drawn, *asked, "--set", "crf.iters=2") == 0
    assert "finished with other settings (crf.iters: there 1, here 2)" in capsys.readouterr().out
    assert result in [kept.read_bytes() for kept in drawn.glob("iou.*-*.json")]
    assert "Changed from the shipped configurations: crf.iters=2." in (drawn / "reproduction.md").read_text()

    (drawn / "iou_multi.json").write_text("{}")
    assert reproduce(drawn, *asked, "--set", "crf.iters=2") == 0
    shown = capsys.readouterr().out
    assert "miniature training_free single: 6 images, finished: iou.json" in shown
    assert "its result is not the one that was written" in shown

    mask = next((drawn.parent / "data" / "masks").iterdir())
    mask.write_bytes(mask.read_bytes())
    assert reproduce(drawn, *asked, "--set", "crf.iters=2") == 0
    assert "finished with other settings (files differs)" in capsys.readouterr().out


def test_an_interrupted_experiment_does_not_count_as_finished(
    drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--only", "training_free")

    def interrupt(job: jobs.Job) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Job, "run", interrupt)
        assert reproduce(drawn, *asked) == 130
    assert not (drawn / "reproduction.md").exists()
    assert reproduce(drawn, *asked) == 0
    shown = capsys.readouterr().out
    assert "miniature training_free single: 6 images, started, resumes" in shown
    assert "miniature training_free multi: 6 images, to compute" in shown


def test_long_work_is_estimated_beforehand(
    drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LEAST_TIMED", 1)
    assert reproduce(drawn, "--only", "infoscore", "training_free", "--limit", "3") == 0
    shown = capsys.readouterr().out
    assert "miniature infoscore single: 3 images, to compute, about " in shown
    assert "3 of 3 to compute, about " in shown
    assert shown.count(" left\n") == 2
    assert "Not the paper's protocol: only the first 3 images of every list." in (drawn / "reproduction.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (181_440, "2.1 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_image_and_one_run_are_singular(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(drawn, "--only", "training_free", "--limit", "1") == 0
    assert "miniature training_free single: 1 image, to compute" in capsys.readouterr().out
    assert "only the first image of every list." in (drawn / "reproduction.md").read_text()
    (job, _) = [job for job in jobs.read_jobs(_asked(drawn)) if job.experiment == "training_free"]
    row = reports.Row.read(job, 1.0)
    for runs, shown in (("1", "1 in 1 run"), ("3", "1 in 3 runs")):
        result = dataclasses.replace(row.result, facts={**row.result.facts, "runs": runs})
        text = reports.reproduction_markdown([dataclasses.replace(row, result=result)], {}, [])
        assert f"| {shown} |" in text


def test_the_papers_layers_are_of_blip_large(drawn: Path) -> None:
    assert reproduce(drawn, "--only", "infoscore") == 0
    (job,) = [job for job in jobs.read_jobs(_asked(drawn)) if job.experiment == "infoscore"]
    row = reports.Row.read(job, 1.0)
    model = dataclasses.replace(job.task.config.model, name="Salesforce/blip-itm-large-coco", layers=(3, 0))
    task = dataclasses.replace(job.task, config=dataclasses.replace(job.task.config, model=model))
    result = dataclasses.replace(row.result, values={**row.values, "layers": [3, 0]})
    large = dataclasses.replace(row, job=dataclasses.replace(job, task=task), result=result)
    cells = [
        cell.strip()
        for cell in reports.reproduction_markdown([large], {}, []).split("## Layers")[1].splitlines()[4].split("|")
    ]
    assert cells[2:7] == ["0, 3", "3, 0", "yes", "0, 3", "yes"]


def _asked(output: Path) -> Any:
    from tools.reproduce.__main__ import _parser

    return _parser().parse_args(["--data", "miniature", "--device", "cpu", "--output-dir", str(output)])


def test_everything_missing_is_reported_at_once(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((drawn.parent / "data" / "images").iterdir())
    image.unlink()
    arguments = ["--data", "pascal", "miniature", "--device", "cpu", "--output-dir", str(drawn)]
    assert cli.run(main, arguments) == 2
    error = capsys.readouterr().err
    assert "pascal: " in error
    assert "data_root" in error
    assert f"miniature: 1 of 12 images and masks of the list do not exist, first {image}" in error
    assert not drawn.exists()


def test_bad_images_are_reported_before_computing(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = sorted((drawn.parent / "data" / "masks").iterdir())
    for mask in masks[2:4]:
        mask.write_bytes(b"no picture")
    assert reproduce(drawn, "--only", "training_free") == 2
    error = capsys.readouterr().err
    assert all(f"{mask}" in error for mask in masks[2:4])
    assert "2 images or masks cannot be used" in error
    assert not (drawn / "iou.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data,mIoU\n", "its first line must be data set,prompts,experiment,mIoU"),
        (HEADER + "pascal,single,one_shot\n", "line 2: expected 4 values, got 3"),
        (HEADER + "voc,single,one_shot,50\n", "line 2: data set is voc; expected pascal or coco or miniature"),
        (HEADER + "pascal,single,tuning,50\n", "experiment is tuning"),
        (HEADER + "coco,single,one_shot,nan\n", "mIoU is nan; expected a number from 0 to 100"),
        (HEADER + "coco,single,one_shot,50\n\ncoco,single,one-shot,51\n", "line 4: coco, single, one_shot is given"),
        (HEADER + "coco,single,one_shot,0.5\n", "mIoU is in percent"),
    ],
)
def test_wrong_references_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_reference(tmp_path / "paper.csv")
    assert message in str(refusal.value)


def test_a_damaged_state_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_text('{"jobs": [')
    assert State.read(tmp_path).jobs == {}
    assert "computed again" in capsys.readouterr().err


def test_short_form_on_the_miniature(tmp_path: Path) -> None:
    assert reproduce(tmp_path, "--limit", "2", "--only", "infoscore", "training_free", "--set", "crf.iters=0") == 0
    rows = table_rows(tmp_path)[1:]
    assert [row[2] for row in rows] == ["infoscore", "training_free", "training_free"]
    assert all(float(row[3]) > 5 for row in rows)
    assert table_rows(tmp_path, "## Layers")[1][1:4] == ["0, 1", "0, 1", "yes"]
    assert "--config configs/miniature.yaml" in (tmp_path / "reproduction.md").read_text() or Path.cwd() != REPOSITORY


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_special_files_do_not_count_as_results(make: Callable[[Path], None], tmp_path: Path) -> None:
    state = State(tmp_path / NAME, {"one": {"digest": digest({}), "result": "0" * 64, "seconds": 1.0, "settings": {}}})
    make(tmp_path / "iou.json")
    assert state.why_not_finished("one", {}, tmp_path / "iou.json") == "to compute: its result is gone"
