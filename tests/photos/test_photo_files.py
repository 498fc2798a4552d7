"""Which files are photos, and the names of their results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.photos.photo_files import find_photos, name_outputs
from tests.pictures import left_red_right_blue, save


def test_folders_and_files_are_found_once(tmp_path: Path) -> None:
    for name in ("a/2.JPG", "a/1.png", "a/deeper/3.png", "b.webp"):
        save(tmp_path / name, left_red_right_blue())
    found = find_photos([tmp_path / "a", tmp_path / "b.webp", tmp_path / "a/1.png"], tmp_path / "out")
    assert [path.name for path in found] == ["1.png", "2.JPG", "b.webp"]
    with pytest.raises(UserError, match=r"nothing\.png does not exist"):
        find_photos([tmp_path / "nothing.png"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is a folder without images; expected JPEG, PNG, "):
        find_photos([tmp_path / "empty"], tmp_path)


def test_skipped_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in ("jpg", "jfif", "png", "avif", "jp2", "gif", "pgm", "dib", "txt", "TXT", "mov"):
        if ending in ("jpg", "jfif", "png", "avif", "jp2", "gif", "pgm"):
            save(tmp_path / f"{ending}.{ending}", left_red_right_blue("L" if ending == "pgm" else "RGB"))
        else:
            (tmp_path / f"other.{ending}").touch()
    (tmp_path / "phone").touch()
    found = find_photos([tmp_path], tmp_path / "out")
    assert [path.stem for path in found] == ["avif", "gif", "jfif", "jp2", "jpg", "pgm", "png"]
    assert capsys.readouterr().err == (
        f"note: files in {tmp_path} that are not read: 1 without an ending, 1 .dib, 1 .mov, 2 .txt\n"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.eps").touch()
    with pytest.raises(UserError, match=r"is a folder without images \(it contains 1 \.eps\); expected JPEG, "):
        find_photos([tmp_path / "empty"], tmp_path)


def test_links_to_the_same_file_are_separate_photos(tmp_path: Path) -> None:
    """Storage that deduplicates files (git-annex, DVC) leaves links to the same file."""
    stored = save(tmp_path / "store/d41d8cd98f.png", left_red_right_blue())
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).symlink_to(stored)
    found = find_photos([tmp_path / "photos"], tmp_path / "out")
    assert [photo.name for photo in name_outputs(found)] == ["a", "b"]


def test_pictures_of_an_earlier_run_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "a_labels.png", "a_overlay.png", "a_heatmap_01_cat.png"):
        save(tmp_path / name, left_red_right_blue())
    assert [path.name for path in find_photos([tmp_path], tmp_path)] == ["a.png"]
    assert len(find_photos([tmp_path], tmp_path / "out")) == 4


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".b.png"):
        save(tmp_path / name, left_red_right_blue())
    assert [path.name for path in find_photos([tmp_path], tmp_path / "out")] == ["a.png"]


def test_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"image .*pipe\.png cannot be read: it is a named pipe"):
        find_photos([tmp_path / "pipe.png"], tmp_path)
    for name in ("link.png", 300 * "a"):
        with pytest.raises(UserError, match=rf"{name} does not exist; expected image files or folders"):
            find_photos([tmp_path / name], tmp_path)


def test_long_names_are_shortened_and_stay_distinct() -> None:
    paths = [Path("ż" * 120 + ending) for ending in ("1.png", "2.png")]
    (_, one), (_, other) = name_outputs(paths)
    assert one == "ż" * 75
    assert other == "ż" * 75 + "-2"


def test_photos_with_the_same_stem_get_different_names() -> None:
    paths = [Path(name) for name in ("x/cat.jpg", "y/cat.jpg", "x/Cat.png", "x/cat-2.jpg", "x/dog.jpg")]
    names = [name for _, name in name_outputs(paths)]
    assert names == ["cat", "cat-3", "Cat-4", "cat-2", "dog"]
