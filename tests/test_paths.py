"""Paths on command lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.files import REPOSITORY, resolve, user_path


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == resolve("~/x") == tmp_path / "x"
    assert user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert resolve("a") == REPOSITORY / "a"


def test_every_path_on_a_command_line_is_one() -> None:
    """``type=Path`` would make a folder called ~ where the shell expands none."""
    sources = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "src").rglob("*.py")]
    assert not [path for path in sources if re.search(r"type=(pathlib\.)?Path\b", path.read_text(encoding="utf-8"))]
