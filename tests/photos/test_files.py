"""Which files are photos, and what their pictures are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.photos.files import find_photos, name_outputs
from tests.pictures import left_red_right_blue, save


def test_folders_and_files_are_found_once(tmp_path: Path) -> None:
    for name in ("a/2.JPG", "a/1.png", "a/deeper/3.png", "b.webp"):
        save(tmp_path / name, left_red_right_blue())
    (tmp_path / "a/notes.txt").write_text("no image")
    found = find_photos([tmp_path / "a", tmp_path / "b.webp", tmp_path / "a/1.png"], tmp_path / "out")
    assert [path.name for path in found] == ["1.png", "2.JPG", "b.webp"]
    with pytest.raises(UserError, match=r"nothing\.png does not exist"):
        find_photos([tmp_path / "nothing.png"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        find_photos([tmp_path / "empty"], tmp_path)


def test_pictures_of_an_earlier_run_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "a_labels.png", "a_overlay.20260101-120000.png", "a_heatmap_01_cat.png"):
        save(tmp_path / name, left_red_right_blue())
    assert [path.name for path in find_photos([tmp_path], tmp_path)] == ["a.png"]
    assert len(find_photos([tmp_path], tmp_path / "out")) == 4


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".b.png"):
        save(tmp_path / name, left_red_right_blue())
    assert [path.name for path in find_photos([tmp_path], tmp_path / "out")] == ["a.png"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"--images .*pipe\.png cannot be read: it is a named pipe"):
        find_photos([tmp_path / "pipe.png"], tmp_path)
    for name in ("link.png", 300 * "a"):
        with pytest.raises(UserError, match=rf"--images .*{name} does not exist; expected image files or folders"):
            find_photos([tmp_path / name], tmp_path)


def test_long_names_are_cut_and_stay_apart() -> None:
    paths = [Path("ż" * 120 + ending) for ending in ("1.png", "2.png")]
    (_, one), (_, other) = name_outputs(paths)
    assert one == "ż" * 75
    assert other == "ż" * 75 + "-2"


def test_photos_with_the_same_stem_get_different_names() -> None:
    paths = [Path(name) for name in ("x/cat.jpg", "y/cat.jpg", "x/Cat.png", "x/cat-2.jpg", "x/dog.jpg")]
    names = [name for _, name in name_outputs(paths)]
    assert names == ["cat", "cat-3", "Cat-4", "cat-2", "dog"]
