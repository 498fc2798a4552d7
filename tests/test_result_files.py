"""Result files: their format, atomic writes, and earlier results that are kept."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.schema import Config
from src.errors import UserError
from src.files import REPOSITORY, check_writable, read_regular, replacing, require_new_or_empty, write_text
from src.result_files import Outputs, csv_text, earlier_result_of, write_json, write_result


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# paths


def test_paths_are_the_configurations_or_in_the_output_folder(tmp_path: Path) -> None:
    assert Outputs(None, False).path("results/iou.csv") == REPOSITORY / "results/iou.csv"
    assert Outputs(None, False).path("/elsewhere/iou.csv") == Path("/elsewhere/iou.csv")
    assert Outputs(tmp_path, False).path("results/iou.csv") == tmp_path / "iou.csv"


def test_multi_prompt_names_end_in_multi(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, True)
    assert outputs.path("results/iou.csv") == tmp_path / "iou_multi.csv"
    assert outputs.path("results/my.run.csv") == tmp_path / "my.run_multi.csv"


def test_infoscore_is_written_beside_the_csv_by_default(make_config: Callable[..., Config]) -> None:
    outputs = Outputs(None, False)
    assert outputs.infoscore_csv(make_config(output={"csv": "/a/b/iou.csv"})) == Path("/a/b/iou_infoscore.csv")
    config = make_config(output={"csv": "/a/b/iou.csv", "infoscore_csv": "/c/rank.csv"})
    assert outputs.infoscore_csv(config) == Path("/c/rank.csv")


# atomic writes


def test_an_error_while_writing_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("earlier")

    def fail() -> None:
        with replacing(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".csv"
            temporary.write_text("half")
            assert path.read_text() == "earlier"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names_in(tmp_path) == ["a.csv"]
    assert path.read_text() == "earlier"


def test_folders_are_made_and_files_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    mask = os.umask(0o022)
    try:
        write_text(path, "żółw\n")
    finally:
        os.umask(mask)
    assert path.read_bytes() == "żółw\n".encode()
    assert names_in(path.parent) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/a\.csv: .*; choose another folder"):
        write_text(tmp_path / "file" / "a.csv", "")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*a\.csv"):
        write_text(tmp_path / "a.csv", "")
    assert names_in(tmp_path) == ["a.csv"]


def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    def fail(error: OSError) -> None:
        with replacing(tmp_path / "a.csv"):
            raise error

    with pytest.raises(UserError, match=r"cannot write .*a\.csv: No space left on device"):
        fail(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(FileNotFoundError):  # of another file: raised unchanged
        fail(FileNotFoundError(errno.ENOENT, "No such file"))
    assert not names_in(tmp_path)


def test_unwritable_files_are_found_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "a.csv")
    assert not names_in(tmp_path)
    (tmp_path / "file").touch()
    for path in ("file/a.csv", "file/in/a.csv"):
        with pytest.raises(UserError, match=rf"cannot write .*{path}: .*; choose another folder"):
            check_writable(tmp_path / path)
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*a\.csv: it is a folder"):
        check_writable(tmp_path / "a.csv")


# earlier results


def test_a_different_earlier_result_is_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "iou.csv"
    for content in ("one", "two", "three"):
        write_result(path, content)
        os.utime(path, (0, 0))  # within the same second: names must still differ
    kept = [name for name in names_in(tmp_path) if name != "iou.csv"]
    assert path.read_text() == "three"
    assert sorted((tmp_path / name).read_text() for name in kept) == ["one", "two"]
    assert all(name.startswith("iou.19") and name.endswith(".csv") for name in kept)
    assert capsys.readouterr().out.count("renamed the earlier iou.csv to iou.19") == 2


def test_an_equal_result_leaves_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        write_result(tmp_path / "iou.csv", "same\n")
        write_json(tmp_path / "iou.json", {"miou": 0.5, "classes": [{"iou": 0.5}]})
    assert names_in(tmp_path) == ["iou.csv", "iou.json"]
    assert capsys.readouterr().out == ""


def test_json_that_differs_in_time_alone_is_an_equal_result(tmp_path: Path) -> None:
    path = tmp_path / "iou.json"
    write_json(path, {"miou": 0.5, "date": "monday", "runs": [{"seconds": 5, "images_per_second": 1}]})
    write_json(path, {"miou": 0.5, "date": "tuesday", "runs": [{"seconds": 6, "images_per_second": 2}]})
    assert names_in(tmp_path) == ["iou.json"]
    assert json.loads(path.read_text())["date"] == "tuesday"
    write_json(path, {"miou": 0.6, "date": "tuesday", "runs": [{"seconds": 6, "images_per_second": 2}]})
    assert len(names_in(tmp_path)) == 2


def test_nan_is_null_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"rho": float("nan"), "rows": [(0.5, float("inf"))]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"rho": None, "rows": [[0.5, None]]}


def test_an_earlier_file_that_is_not_json_is_kept(tmp_path: Path) -> None:
    (tmp_path / "iou.json").write_text("not ours")
    write_json(tmp_path / "iou.json", {"miou": 0.5})
    assert len(names_in(tmp_path)) == 2


# contents


def test_csv_has_a_header_and_floats_in_full() -> None:
    text = csv_text(("Class Name", "IoU"), [("background", 1 / 3), ("cup, red", 0.0)])
    assert text == 'Class Name,IoU\nbackground,0.3333333333333333\n"cup, red",0.0\n'


# several processes


def _write_many(path: Path, writer: int, rounds: int) -> None:
    for number in range(rounds):
        if path.suffix == ".json":
            write_json(path, {"writer": writer, "number": number})
        else:
            write_result(path, f"{writer} {number}\n")


@pytest.mark.parametrize("name", ["iou.csv", "iou.json"])
def test_processes_that_write_the_same_result_lose_none(tmp_path: Path, name: str) -> None:
    writers, rounds = 4, 40
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_write_many, args=(tmp_path / name, n, rounds)) for n in range(writers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * writers
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == writers * rounds
    assert len(names_in(tmp_path)) == writers * rounds


def test_without_hard_links_results_are_written_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as exFAT answers

    monkeypatch.setattr(os, "link", refuse)
    for content in ("one", "two"):
        write_result(tmp_path / "iou.csv", content)
    assert (tmp_path / "iou.csv").read_text() == "two"
    assert len(names_in(tmp_path)) == 2


def test_a_folder_in_the_place_of_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "iou.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*iou\.csv: it is a folder"):
        write_result(tmp_path / "iou.csv", "one")
    assert names_in(tmp_path) == ["iou.csv"]


def test_a_dated_name_names_the_renamed_file(tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        write_result(tmp_path / "my.iou.csv", content)
        os.utime(tmp_path / "my.iou.csv", (0, 0))
    kept = [path for path in tmp_path.iterdir() if path.name != "my.iou.csv"]
    assert [earlier_result_of(path) for path in kept] == [tmp_path / "my.iou.csv"] * 2
    assert earlier_result_of(tmp_path / "my.iou.csv") is None


def test_undecodable_bytes_of_a_file_name_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"command": "--output-dir a\udcff", "date": "1"})
    write_json(path, {"command": "--output-dir a\udcff", "date": "2"})
    assert json.loads(path.read_text(encoding="utf-8"))["command"] == "--output-dir a\udcff"
    assert len(list(tmp_path.iterdir())) == 1


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ż" * 125 + ".csv")  # 254 bytes
    write_result(path, "a")
    assert path.read_text() == "a"
    with pytest.raises(UserError, match="File name too long"):
        check_writable(tmp_path / ("a" * 256))


# files that results must not replace


@pytest.fixture(params=["a device", "a named pipe", "a socket", "a link to a named pipe"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file in a temporary folder that is not regular."""
    path = tmp_path / "iou.csv"
    if request.param == "a device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # like /dev/null
        except PermissionError:
            pytest.skip("only root may make a device node")
    elif request.param == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif request.param == "a named pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    return path


@pytest.mark.parametrize("write", [write_result, write_text, lambda path, _: write_json(path, {})])
def test_writers_replace_only_regular_files(special: Path, write: Callable[[Path, str], None]) -> None:
    before = special.lstat().st_mode
    for attempt in (lambda: check_writable(special), lambda: write(special, "a")):
        with pytest.raises(UserError, match=r"cannot write .*iou\.csv: it is a .*; choose another name"):
            attempt()
    assert special.lstat().st_mode == before
    assert {path.name for path in special.parent.iterdir()} <= {"iou.csv", "pipe"}


def test_two_results_with_one_name_are_refused(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"two results would be written to .*a\.csv; give them different names"):
        check_writable(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "a.csv")
    oneshot = {"classwise_csv": "/a/one.csv", "summary_csv": "/b/one.csv"}
    config = make_config(output=oneshot, oneshot={"test_list": "list.txt"})
    Outputs(None, False).check_names(config)
    expected = (
        r"config\.yaml: output\.summary_csv: 'one\.csv' .*differs from the results of output\.classwise_csv in .*"
    )
    with pytest.raises(UserError, match=expected):
        Outputs(tmp_path, False).check_names(config)
    config = make_config(output={"csv": "/a/iou.csv", "infoscore_csv": "/a/iou.txt"})  # both have /a/iou.json
    expected = (
        r"output\.infoscore_csv: 'iou\.txt' .*a name that differs from the results of output\.csv in more than its"
    )
    with pytest.raises(UserError, match=expected):
        Outputs(None, False).check_names(config)


@pytest.mark.parametrize(
    ("csv", "infoscore"),
    [
        ("/a/iou.csv", "/a/iou_per_image.csv"),
        ("/a/iou.csv", "/a/iou_confusion.txt"),  # the charts have one name
        ("/a/iou.csv", "/a/b/../iou.csv"),
        ("/a/iou_against_miou.csv", "/a/iou.csv"),
    ],
)
def test_tables_and_charts_beside_a_result_have_names_of_their_own(
    csv: str, infoscore: str, make_config: Callable[..., Config]
) -> None:
    config = make_config(output={"csv": csv, "infoscore_csv": infoscore})
    with pytest.raises(UserError, match=r"output\.infoscore_csv: .* differs from the results of output\.csv"):
        Outputs(None, False).check_names(config)


def test_two_paths_of_one_result_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="two results would be written to"):
        check_writable(tmp_path / "a.csv", tmp_path / "link" / "a.csv")


def test_a_folder_that_must_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        require_new_or_empty(tmp_path / name, "export folder")
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "exists and is not an empty folder; remove it or choose another one"),
        (tmp_path / "file", "exists and is not an empty folder"),
        (tmp_path / "pipe", "exists and is not an empty folder"),
        (tmp_path / "broken", "cannot be used: No such file or directory; choose another folder"),
    ):
        with pytest.raises(UserError, match=f"export folder {path} {reason}"):
            require_new_or_empty(path, "export folder")


def test_results_are_written_where_chmod_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as CIFS and NTFS answer

    monkeypatch.setattr(os, "chmod", refuse)
    check_writable(tmp_path / "iou.csv")
    for content in ("one", "two"):
        write_result(tmp_path / "iou.csv", content)
        write_text(tmp_path / "settings.json", content)
    assert (tmp_path / "iou.csv").read_text() == (tmp_path / "settings.json").read_text() == "two"


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_or_a_refused_rename_is_found_before_computing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check does what the writers do, also in missing folders."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, call, refuse)
    if call == "link":
        monkeypatch.setattr(os, "replace", refuse)
    for path in (tmp_path / "a.csv", tmp_path / "new" / "a.csv"):
        with pytest.raises(UserError, match=r"cannot write .*a\.csv: Disk quota exceeded"):
            check_writable(path)
    assert not names_in(tmp_path)


def test_another_users_file_in_a_sticky_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "iou.csv").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    check_writable(tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"cannot write .*iou\.csv: the existing file belongs to another user"):
        check_writable(tmp_path / "iou.csv")


# reading


def test_only_regular_files_of_a_stated_size_are_read(special: Path) -> None:
    with pytest.raises(OSError, match=r"it is a .*; expected a regular file"):
        read_regular(special, 10)
    file = special.parent / "file"
    file.write_bytes(b"0123456789")
    assert read_regular(file, 10) == b"0123456789"
    with pytest.raises(OSError, match=r"it has 0\.0 kB; expected at most 0\.0 kB"):
        read_regular(file, 9)
    with pytest.raises(OSError, match="it is a folder"):
        read_regular(special.parent, 10)
    with pytest.raises(FileNotFoundError):
        read_regular(special.parent / "nothing", 10)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="has no /proc")
def test_a_file_without_a_stated_size_is_limited_too() -> None:
    with pytest.raises(OSError, match="it has more than 0"):
        read_regular(Path("/proc/self/status"), 10)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 300])
def test_impossible_file_names_are_an_os_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"its name has|too long"):
        read_regular(tmp_path / name, 10)
    with pytest.raises(UserError, match="cannot write"):
        check_writable(tmp_path / name)
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / name, "")
