"""The command line of data preparation, started as users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from src.cli import run
from src.files import REPOSITORY
from tests.tools.prepare.devkits import make_coco, make_sbd, make_voc
from tools.prepare.__main__ import main, parser
from tools.prepare.parallel import for_each


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.prepare", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_pascal_from_the_command_line(tmp_path: Path) -> None:
    make_voc(tmp_path)
    make_sbd(tmp_path)
    done = start("pascal", "--root", tmp_path, "--lists", tmp_path / "lists", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "train images: 3, but 5,953 expected" in done.stdout
    assert (tmp_path / "lists" / "train.txt").is_file()


def test_coco_from_the_command_line(tmp_path: Path) -> None:
    make_coco(tmp_path)
    done = start("coco", "--root", tmp_path, "--lists", tmp_path / "lists", "--splits", "val", "--crowd", "exclude")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "lists" / "val.txt").read_text().splitlines()) == 2


def test_a_missing_source_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    done = start("coco", "--root", tmp_path, "--lists", tmp_path / "lists")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "instances_train2014.json" in done.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["pascal", "--root", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_invalid_number_of_workers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["pascal", "--root", str(tmp_path), "--workers", "0"]) == 2
    assert capsys.readouterr().err == "error: --workers 0: expected 1 or more\n"


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        (["--help"], ("src/lists/pascal", "src/lists/coco", "pascal --help", "coco --help")),
        (
            ["pascal", "--help"],
            (
                "VOCtrainval_11-May-2012.tar",
                "benchmark_RELEASE/dataset/cls",
                "benchmark.tgz",
                "DIaM",
                "published order",
                "SegmentationClassAug",
                "JPEGImages",
                "1,449",
                "5,953",
                "--force",
                "--download",
            ),
        ),
        (
            ["coco", "--help"],
            ("instances_{train,val}2014.json", "train2014.zip", "82,081", "40,137", "--crowd", "it resumes", "DIaM"),
        ),
    ],
)
def test_help_has_examples(arguments: list[str], taught: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert [word for word in taught if word not in out] == []


@pytest.mark.parametrize("dataset", ["pascal", "coco"])
def test_default_folders_match_the_configurations(dataset: str) -> None:
    options = parser().parse_args([dataset])
    assert options.root == REPOSITORY / "data" / dataset
    assert options.lists == REPOSITORY / "src" / "lists" / dataset


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for dataset, names in (("pascal", ("root", "lists", "voc", "sbd")), ("coco", ("root", "lists"))):
        options = vars(parser().parse_args([dataset, *(f"--{name}=~/x" for name in names)]))
        assert [options[name] for name in names] == [tmp_path / "x"] * len(names)


@pytest.mark.parametrize("dataset", ["pascal", "coco"])
def test_a_path_that_the_system_refuses_gives_a_one_line_error(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, [dataset, "--root", str(tmp_path / ("a" * 300))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /")
    assert "a cannot be used: File name too long; fix this" in said
    assert said.count("\n") == 1


def test_no_more_processes_than_jobs() -> None:
    assert for_each(abs, [-1, 2, -3], 3, 100_000, "numbers") == [1, 2, 3]


def interrupt_the_parent(number: int) -> None:
    """Simulate three Ctrl-C in the process that distributes jobs."""
    if number == 0:
        for _ in range(3):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(0.05)


def test_ctrl_c_again_and_again_ends_the_processes() -> None:
    module = "tests.tools.prepare.test_command"
    code = f"from {module} import *; sys.exit(run(lambda _: for_each(interrupt_the_parent, range(400), 400, 2, 'x')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert "Traceback" not in done.stderr


def say_who_works(number: int) -> None:
    """Print the process id, then sleep, like a mask on a slow disk."""
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(1000)


def test_workers_end_when_their_parent_is_killed() -> None:
    module = "tests.tools.prepare.test_command"
    code = f"from {module} import *; for_each(say_who_works, range(2), 2, 2, 'x')"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    # the pipe's other end closes when the last of them has ended
    ended = threading.Thread(target=parent.stdout.read, daemon=True)
    ended.start()
    ended.join(30)
    try:
        assert not ended.is_alive()
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
