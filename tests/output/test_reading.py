"""Which files are read as results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.output.reading import find_results


@pytest.mark.parametrize("kind", ["pipe", "circle"])
def test_special_files_are_not_results(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("a.json")
    for named in (path, tmp_path):
        with pytest.raises(UserError, match=r"no result.*(it is a named pipe|symbolic links)"):
            find_results([named])
