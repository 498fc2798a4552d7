"""Screen output: printed by the first process alone, in aligned columns."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from src import cli
from src.errors import UserError
from src.files import REPOSITORY
from src.screen import counted, display_width, note, progress, say, steady_console, table


def test_only_the_first_process_prints(capsys: pytest.CaptureFixture[str], of_job: Callable[..., None]) -> None:
    for number in ("0", "1"):
        of_job(RANK=number)
        say(f"result of {number}")
        note(f"note of {number}")
        with progress(1, f"bar of {number}") as bar:
            bar.update()
    shown = capsys.readouterr()
    assert shown.out == "result of 0\n"
    assert "note of 0" in shown.err
    assert "bar of 0" in shown.err
    assert "of 1" not in shown.out + shown.err


@pytest.mark.parametrize("number", ["0", "1"])
def test_other_processes_get_a_hidden_progress_bar(number: str, of_job: Callable[..., None]) -> None:
    of_job(RANK=number)
    with progress(1, "bar", disable=True) as bar:
        assert bar.disable


def test_one_is_singular() -> None:
    assert [counted(number, "image") for number in (0, 1, 1449)] == ["0 images", "1 image", "1,449 images"]
    assert [counted(number, "query", "queries") for number in (1, 2)] == ["1 query", "2 queries"]


def test_columns_align() -> None:
    name = "a very long class name"
    lines = table([["class", "IoU"], [name, "7.5"], ["猫", "100.00"]]).splitlines()
    assert lines == [
        "  class" + " " * (len(name) - 5) + "      IoU",
        f"  {name}      7.5",
        "  猫" + " " * (len(name) - 2) + "   100.00",
    ]
    assert len({display_width(line) for line in lines}) == 1


def test_characters_outside_the_console_encoding_are_escaped() -> None:
    """A Windows console with a code page, or strict UTF-8 with an undecodable file name."""
    for encoding, text, shown in (("cp1252", "猫 müde", r"\u732b müde"), ("utf-8", "a\udcff", r"a\udcff")):
        console = io.TextIOWrapper(io.BytesIO(), encoding)
        with redirect_stdout(console), steady_console():
            say(text)
        assert console.buffer.getvalue().decode(encoding).strip() == shown


def test_closed_standard_output_is_no_error() -> None:
    """As with ``| head``: both streams write to a closed pipe."""
    code = """
        from src.screen import note, progress, say, steady_console
        with steady_console():
            for number in range(3):
                say("much " * 20_000)
                note("more")
                with progress(1, "bar") as bar:
                    bar.update()
        open("done.txt", "w").close()
    """
    with tempfile.TemporaryDirectory() as folder:
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-c", textwrap.dedent(code)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=folder, stdout=writing, stderr=writing, env=environment, check=False)
        os.close(writing)
        assert done.returncode == 0
        assert (Path(folder) / "done.txt").exists()


def test_control_characters_are_escaped_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    for speak in (say, note):
        speak("two\nlines of \x1b[31ma\r.jpg\x9b")
    shown = capsys.readouterr()
    assert shown.out == shown.err == "two\nlines of \\x1b[31ma\\x0d.jpg\\x9b\n"


def test_an_error_is_one_line_whatever_names_are_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: list[str]) -> None:
        raise UserError("image a\n\x1b[2J.jpg cannot be read")

    assert cli.run(refuse, []) == 2
    assert capsys.readouterr().err == "error: image a\\n\\x1b[2J.jpg cannot be read\n"
