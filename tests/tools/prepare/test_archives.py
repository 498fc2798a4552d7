"""Unpacking: complete files, resuming, damaged archives, free space on the disk."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest

from src.errors import UserError
from tests.tools.prepare.devkits import pack_tar, pack_zip, snapshot
from tools.prepare import archives
from tools.prepare.archives import extract

CONTENT = {f"top/folder/{number}.txt": f"{number} ".encode() * 3000 for number in range(5)}

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["data.tar", "data.tgz", "data.zip"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = tmp_path / request.param
    if path.suffix == ".zip":
        return pack_zip(path, tmp_path / "made", "top")
    return pack_tar(path, tmp_path / "made", "top", "w:gz" if path.suffix == ".tgz" else "w")


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_requested_files_are_unpacked(archive: Path, tmp_path: Path) -> None:
    assert extract(archive, tmp_path / "out", lambda path: path.stem != "3", "text") == 4
    assert unpacked(tmp_path / "out") == {name: CONTENT[name] for name in CONTENT if "3" not in name}


def test_unpacking_resumes(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy, done = tmp_path / "out", shutil.copyfileobj, []

    def interrupt_the_third(source: io.BufferedIOBase, sink: io.BufferedIOBase, length: int) -> None:
        if len(done) == 2:
            sink.write(source.read(10))
            raise KeyboardInterrupt
        copy(source, sink, length)
        done.append(source)

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupt_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, out, lambda _: True, "text")
    before = snapshot(out)
    assert len(before) == 2  # the third file does not exist, not even in part
    monkeypatch.undo()
    assert extract(archive, out, lambda _: True, "text") == 3
    assert unpacked(out) == CONTENT
    assert before.items() <= snapshot(out).items()
    assert "unpacked again" not in capsys.readouterr().out


def test_a_truncated_file_is_unpacked_again_with_a_note(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    extract(archive, out, lambda _: True, "text")
    (out / "top/folder/2.txt").write_bytes(b"cut")
    assert extract(archive, out, lambda _: True, "text") == 1
    assert unpacked(out) == CONTENT
    assert "1 file of another size" in capsys.readouterr().out


def test_a_truncated_archive_is_named_with_the_remedy(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"archive .*{archive.name} is damaged or incomplete .*download it again"):
        extract(archive, tmp_path / "out", lambda _: True, "text")


def test_a_tar_truncated_between_two_files_is_damaged(tmp_path: Path) -> None:
    archive = tmp_path / "data.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(3):
            tar.addfile(file := tarfile.TarInfo(f"top/{number}.txt"), None)
            assert file.size == 0
    whole = archive.read_bytes()
    for end in (2 * tarfile.BLOCKSIZE, 2 * tarfile.BLOCKSIZE + 100):
        archive.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"data\.tar is damaged or incomplete \(it ends after 1,024 bytes\)"):
            extract(archive, tmp_path / "out", lambda _: True, "text")
    damaged = bytearray(whole)
    damaged[2 * tarfile.BLOCKSIZE + 10] ^= 255
    archive.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged or incomplete .*ends after 1,024 bytes"):
        extract(archive, tmp_path / "out", lambda _: True, "text")


@pytest.mark.parametrize("name", ["VOCtrainval_11-May-2012.tar", "benchmark.tgz", "val2014.zip", "other.tar"])
def test_a_web_page_saved_as_an_archive_gives_a_one_line_error(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_text("\n<!DOCTYPE html>\n<html>Sign in</html>\n")
    with pytest.raises(UserError, match=rf"{name} is a web page, not an archive.*download it again from") as error:
        extract(archive, tmp_path / "out", lambda _: True, "text")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["data.tar", "data.tgz", "data.zip"])
@pytest.mark.parametrize("content", [b"", b"\0" * 2000, b"no archive at all " * 100, b"PK\x03\x04", b"\x1f\x8b\x08"])
def test_a_file_that_is_not_an_archive_gives_a_one_line_error(tmp_path: Path, name: str, content: bytes) -> None:
    archive = tmp_path / name
    archive.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} ") as error:
        extract(archive, tmp_path / "out", lambda _: True, "text")
    assert "\n" not in str(error.value)


def test_an_archive_without_requested_files_lists_its_content(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"{archive.name} contains no val2014/\*\.jpg \(its first file is 'top/folder/"
    ):
        extract(archive, tmp_path / "out", lambda path: path.parts[0] == "val2014", "val2014/*.jpg")


def test_a_path_outside_the_folder_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("top/../../outside.txt"), io.BytesIO())
    with pytest.raises(UserError, match=r"top/\.\./\.\./outside\.txt', which leads out"):
        extract(archive, tmp_path / "out" / "deep", lambda _: True, "text")
    assert not (tmp_path / "outside.txt").exists()


def test_free_space_is_checked_before_the_first_file(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(len(content) for content in CONTENT.values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, needed - 1))
    with pytest.raises(UserError, match=rf"unpacking {archive.name} needs about .* free; make room"):
        extract(archive, tmp_path / "out", lambda _: True, "text")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, needed))
    assert extract(archive, tmp_path / "out", lambda _: True, "text") == len(CONTENT)
