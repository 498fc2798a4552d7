"""Files: paths on command lines, and free space on a disk."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from src.errors import UserError
from src.files import REPOSITORY, free_space, require_space, resolve, size, user_path

Usage = namedtuple("Usage", "total used free")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == resolve("~/x") == tmp_path / "x"
    assert user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert resolve("a") == REPOSITORY / "a"


def test_every_path_on_a_command_line_is_one() -> None:
    """``type=Path`` would make a folder called ~ where the shell expands none."""
    sources = [
        *REPOSITORY.glob("*.py"),
        *(path for folder in ("src", "tools") for path in (REPOSITORY / folder).rglob("*.py")),
    ]
    assert not [path for path in sources if re.search(r"type=(pathlib\.)?Path\b", path.read_text(encoding="utf-8"))]


def test_free_space_is_that_of_the_disk_a_folder_will_be_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: paths.append(path) or Usage(0, 0, 5 * 10**9))
    assert free_space(tmp_path / "not" / "yet") == 5 * 10**9
    assert free_space(tmp_path) == 5 * 10**9
    assert paths == [tmp_path.resolve()] * 2


def test_a_relative_folder_is_relative_to_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_space(Path("not/yet")) > 0


def test_too_little_space_is_reported_with_both_numbers_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5 * 10**9))
    with pytest.raises(UserError, match=r"^writing needs about 7\.0 GB in .*yet, but 5\.0 GB are free; sweep$"):
        require_space(tmp_path / "not" / "yet", 7 * 10**9, "writing", "sweep")
    require_space(tmp_path, 5 * 10**9, "writing", "sweep")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (64_000, "64.0 kB"), (30_000_000, "30.0 MB"), (1_500_000_000, "1.5 GB")]
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert size(count) == text
