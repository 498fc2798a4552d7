"""What is shown: by the first process alone, in columns that align."""

from __future__ import annotations

import pytest

from src.screen import display_width, note, progress, say, table


def test_only_the_first_process_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        say(f"result of {number}")
        note(f"note of {number}")
        with progress(1, f"bar of {number}") as bar:
            bar.update()
    shown = capsys.readouterr()
    assert shown.out == "result of 0\n"
    assert "note of 0" in shown.err
    assert "bar of 0" in shown.err
    assert "of 1" not in shown.out + shown.err


def test_columns_align_whatever_their_length() -> None:
    name = "a very long class name"
    lines = table([["class", "IoU"], [name, "7.5"], ["猫", "100.00"]]).splitlines()
    assert lines == [
        "  class" + " " * (len(name) - 5) + "      IoU",
        f"  {name}      7.5",
        "  猫" + " " * (len(name) - 2) + "   100.00",
    ]
    assert len({display_width(line) for line in lines}) == 1
