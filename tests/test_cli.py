"""Shared options of commands: a published option in two spellings, and the command to run next."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import time
import weakref
from pathlib import Path

import pytest

import one_shot_blip
import training_free_blip
from src import cli
from src.files import REPOSITORY
from tools.benchmark.__main__ import _parser as benchmark


@pytest.mark.parametrize("option", ["--multi_prompt", "--multi-prompt"])
def test_both_spellings_of_multi_prompt(option: str) -> None:
    parser = cli.experiment_parser("x.py", "Help.")
    assert parser.parse_args(["--config", "a.yaml", option]).multi_prompt is True
    assert parser.parse_args(["--config", "a.yaml"]).multi_prompt is False
    assert benchmark().parse_args([option]).multi_prompt is True
    for shown in (parser.format_help(), benchmark().format_help()):
        assert "--multi_prompt" in shown
        assert "--multi-prompt" not in shown


def test_the_next_command_has_the_same_settings(tmp_path: Path) -> None:
    line = ["--config", "my data/a.yaml", "--set", "crf.iters=0", "model.layers=[0, 3]", "--limit", "3"]
    line += ["--multi_prompt", "--device", "cpu", "--output-dir", str(tmp_path / "my results")]
    args = cli.experiment_parser("x.py", "Help.").parse_args(line)
    program, script, *again = shlex.split(cli.again("training_free_blip.py", args, "--tuned", "a b.safetensors"))
    assert (program, script, again[-2:]) == ("python", "training_free_blip.py", ["--tuned", "a b.safetensors"])
    parsed = cli.experiment_parser("x.py", "Help.").parse_args(again[:-2])
    assert parsed == args
    short = cli.experiment_parser("x.py", "Help.").parse_args(["--config", "a.yaml"])
    assert cli.again("y.py", short) == "python y.py --config a.yaml"


TWINS = [
    ("miniature", "miniature_one_shot"),
    *((f"{d}_{m}", f"{d}_{m}_one_shot") for d in ("pascal", "coco") for m in ("blip", "albef")),
]


@pytest.mark.parametrize(("plain", "tuning"), TWINS)
def test_configurations_name_their_counterparts(plain: str, tuning: str) -> None:
    one, other = (REPOSITORY / "configs" / f"{name}.yaml" for name in (plain, tuning))
    assert cli.one_shot_twin(one) == other
    assert cli.training_free_twin(other) == one
    assert cli.one_shot_twin(other) is None
    assert cli.training_free_twin(one) is None


def test_generated_configurations_are_counterparts(tmp_path: Path) -> None:
    one, other = tmp_path / "training_free.yaml", tmp_path / "one_shot.yaml"
    assert cli.one_shot_twin(one) is None
    one.touch()
    other.touch()
    assert cli.one_shot_twin(one) == other
    assert cli.training_free_twin(other) == one


def test_one_shot_names_the_configuration_with_its_section(capsys: pytest.CaptureFixture[str]) -> None:
    config = REPOSITORY / "configs" / "miniature.yaml"
    assert cli.run(one_shot_blip.main, ["--config", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    twin = REPOSITORY / "configs" / "miniature_one_shot.yaml"
    assert line == f"error: {config}: the section oneshot is missing; use {twin}"


def test_a_run_ends_with_what_to_open_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = REPOSITORY / "tests" / "golden_training_free.yaml"
    arguments = ["--config", str(config), "--limit", "1", "--output-dir", str(tmp_path), "--set", "output.csv=out.csv"]
    for options, picture in (([], "out_iou.png"), (["--save-overlays", "1"], "out_overlays.png")):
        assert cli.run(training_free_blip.main, [*arguments, *options]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"next: open {tmp_path / picture}; python -m tools.report {tmp_path} compares results"
        assert (tmp_path / picture).is_file()


def test_whole_numbers_have_a_range() -> None:
    assert [cli.whole_number(0, 65535)(text) for text in ("0", "65535")] == [0, 65535]
    assert cli.positive_int("1") == 1
    for parse, text, expected in (
        (cli.positive_int, "0", "1 or more"),
        (cli.positive_int, "2.5", "1 or more"),
        (cli.whole_number(0, 65535), "65536", "0 to 65535"),
        (cli.whole_number(0), "-1", "0 or more"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^expected a whole number, {expected}, got {text}$"):
            parse(text)


@pytest.mark.parametrize(("number", "code", "line"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_a_signal_inside_a_callback_of_a_weak_reference_ends_a_command(
    number: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ignores what such a callback raises: the process would wait for its peers for days."""

    class Thing:
        pass

    def callback(_: object) -> None:
        os.kill(os.getpid(), getattr(signal, number))
        for _ in range(1000):  # the handler of the signal runs here
            pass

    def main(_: list[str]) -> int:
        thing = Thing()
        reference = weakref.ref(thing, callback)
        del thing
        assert reference() is None
        time.sleep(60)
        return 0

    assert cli.run(main, []) == code
    assert capsys.readouterr().err == f"{line}\n"
