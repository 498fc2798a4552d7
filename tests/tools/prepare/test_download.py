"""Downloads from a local server with made-up archives."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from torchvision.datasets import SBDataset, voc

from src.errors import UserError
from tests.tools.prepare.devkits import make_coco, make_sbd, make_voc, pack_tar, pack_zip, snapshot
from tools.prepare import download, pascal
from tools.prepare.coco import prepare_coco
from tools.prepare.pascal import prepare_pascal

Usage = namedtuple("Usage", "total used free")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without writing a log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    folder = tmp_path / "offered"
    folder.mkdir()
    return folder


@pytest.fixture
def address(offered: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(offered)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def pascal_offer(offered: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    make_voc(made)
    make_sbd(made)
    tar = pack_tar(offered / "VOCtrainval_11-May-2012.tar", made, "VOCdevkit")
    tgz = pack_tar(offered / "benchmark.tgz", made, "benchmark_RELEASE", "w:gz")
    entry = {**voc.DATASET_YEAR_DICT["2012"], "url": f"{address}/{tar.name}", "md5": md5(tar)}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", entry)
    monkeypatch.setattr(SBDataset, "url", f"{address}/{tgz.name}")
    monkeypatch.setattr(SBDataset, "md5", md5(tgz))


@pytest.fixture
def coco_offer(offered: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    make_coco(made)
    packed = [
        pack_zip(offered / "annotations_trainval2014.zip", made, "annotations"),
        pack_zip(offered / "val2014.zip", made, "val2014"),
    ]
    monkeypatch.setattr(download, "COCO_URLS", {name: f"{address}/{name}" for name in download.COCO_URLS})
    monkeypatch.setattr(download, "COCO_MD5", {path.name: md5(path) for path in packed})


@pytest.mark.usefixtures("pascal_offer")
def test_pascal_is_downloaded_from_the_official_archives(tmp_path: Path) -> None:
    root, lists = tmp_path / "pascal", tmp_path / "lists"
    prepare_pascal(root, lists, download=True)
    assert len((lists / "train.txt").read_text().splitlines()) == 3
    assert len((lists / "val.txt").read_text().splitlines()) == 2
    before = snapshot(root)
    prepare_pascal(root, lists, download=True)
    assert snapshot(root) == before  # no file is fetched twice


@pytest.mark.usefixtures("pascal_offer")
def test_partial_downloads_are_fetched_again(tmp_path: Path, offered: Path) -> None:
    root = tmp_path / "pascal"
    for part in (root / "VOCtrainval_11-May-2012.tar", root / "SBD" / "benchmark.tgz"):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes((offered / part.name).read_bytes()[:700])
    (root / "SBD" / "benchmark_RELEASE" / "dataset" / "cls").mkdir(parents=True)
    prepare_pascal(root, tmp_path / "lists", download=True)
    assert len((tmp_path / "lists" / "train.txt").read_text().splitlines()) == 3


@pytest.mark.usefixtures("pascal_offer")
def test_interrupted_unpacking_is_completed(tmp_path: Path, offered: Path) -> None:
    root = tmp_path / "pascal"
    make_sbd(root)
    shutil.copy(offered / "VOCtrainval_11-May-2012.tar", root)
    images = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    images.mkdir(parents=True)
    (images / "2007_000001.jpg").write_bytes(b"half")
    prepare_pascal(root, tmp_path / "lists", download=True)
    original = tmp_path / "made" / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000001.jpg"
    assert (root / "JPEGImages" / "2007_000001.jpg").read_bytes() == original.read_bytes()


@pytest.mark.usefixtures("coco_offer")
def test_coco_is_downloaded_from_the_official_archives(tmp_path: Path, offered: Path) -> None:
    root, lists = tmp_path / "coco", tmp_path / "lists"
    prepare_coco(root, lists, ("val",), download=True)
    assert len((lists / "val.txt").read_text().splitlines()) == 3
    assert not (root / ".download").exists()
    shutil.rmtree(offered)
    before = snapshot(root)
    prepare_coco(root, lists, ("val",), download=True)
    assert snapshot(root) == before


@pytest.mark.usefixtures("coco_offer")
def test_a_partial_coco_download_does_not_get_its_final_name(tmp_path: Path, offered: Path) -> None:
    root, lists = tmp_path / "coco", tmp_path / "lists"
    whole = (offered / "val2014.zip").read_bytes()
    (offered / "val2014.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"val2014\.zip failed \(the connection ended early\); run the command again"):
        prepare_coco(root, lists, ("val",), download=True)
    assert not (root / "val2014.zip").exists()
    (offered / "val2014.zip").write_bytes(whole)
    prepare_coco(root, lists, ("val",), download=True)
    assert len((lists / "val.txt").read_text().splitlines()) == 3


@pytest.mark.usefixtures("coco_offer")
def test_a_failed_download_is_one_line_with_the_remedy(tmp_path: Path, offered: Path) -> None:
    (offered / "val2014.zip").unlink()
    said = r"downloading http.*val2014\.zip failed .*404.*https://s3\.amazonaws.*DIaM.*put it in .*coco"
    with pytest.raises(UserError, match=said) as error:
        prepare_coco(tmp_path / "coco", tmp_path / "lists", ("val",), download=True)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("pascal_offer")
def test_failed_pascal_downloads_name_the_alternative(tmp_path: Path, offered: Path) -> None:
    root = tmp_path / "pascal"
    (offered / "benchmark.tgz").unlink()
    with pytest.raises(UserError, match=r"downloading SBD to .*failed .*404.*web\.archive\.org.*--sbd"):
        prepare_pascal(root, tmp_path / "lists", download=True)
    shutil.rmtree(root)
    (offered / "VOCtrainval_11-May-2012.tar").unlink()
    with pytest.raises(UserError, match=r"downloading VOC 2012 to .*failed .*404.*https://thor\.robots.*--voc"):
        prepare_pascal(root, tmp_path / "lists", download=True)


@pytest.mark.usefixtures("pascal_offer")
def test_with_all_masks_only_voc_is_fetched_for_its_image_sets(
    tmp_path: Path, offered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_pascal(tmp_path / "first", tmp_path / "lists", download=True)
    for name in ("JPEGImages", "SegmentationClassAug"):
        shutil.copytree(tmp_path / "first" / name, tmp_path / "ready" / name)
    monkeypatch.setattr(pascal, "EXPECTED_MASKS", 6)
    (offered / "benchmark.tgz").unlink()
    prepare_pascal(tmp_path / "ready", tmp_path / "lists2", download=True)
    assert (tmp_path / "lists2/train.txt").read_bytes() == (tmp_path / "lists/train.txt").read_bytes()
    monkeypatch.setattr(pascal, "EXPECTED_MASKS", 7)
    with pytest.raises(UserError, match="downloading SBD"):
        prepare_pascal(tmp_path / "ready", tmp_path / "lists2", download=True)


@pytest.mark.usefixtures("coco_offer")
def test_an_empty_folder_of_images_does_not_count_as_a_download(tmp_path: Path) -> None:
    (tmp_path / "coco/val2014").mkdir(parents=True)
    prepare_coco(tmp_path / "coco", tmp_path / "lists", ("val",), download=True)
    assert len((tmp_path / "lists/val.txt").read_text().splitlines()) == 3


@pytest.mark.usefixtures("coco_offer")
def test_a_partial_file_of_another_download_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "coco/.download").mkdir(parents=True)
    (tmp_path / "coco/.download/train2014.zip").write_bytes(b"half")
    prepare_coco(tmp_path / "coco", tmp_path / "lists", ("val",), download=True)
    assert len((tmp_path / "lists/val.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_not_reported_as_a_server_error(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "val2014.zip"))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(UserError, match=rf"cannot write .*val2014\.zip while downloading: {os.strerror(number)}; make"):
        download.download_coco("val2014.zip", tmp_path)


@pytest.mark.usefixtures("pascal_offer", "coco_offer")
def test_free_space_is_checked_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**9))
    with pytest.raises(UserError, match=r"downloading and unpacking needs about 8\.0 GB in .*pascal"):
        prepare_pascal(tmp_path / "pascal", tmp_path / "lists", download=True)
    with pytest.raises(UserError, match=r"downloading and unpacking needs about 16\.0 GB in .*coco"):
        prepare_coco(tmp_path / "coco", tmp_path / "lists", ("val",), download=True)
    assert not (tmp_path / "pascal").exists()
    assert not (tmp_path / "coco").exists()


def test_coco_is_downloaded_over_https_with_checksums() -> None:
    assert all(url.startswith("https://") for url in download.COCO_URLS.values())
    assert download.COCO_MD5.keys() == download.COCO_URLS.keys()


@pytest.mark.usefixtures("coco_offer")
def test_a_coco_archive_with_a_wrong_checksum_does_not_get_its_final_name(tmp_path: Path, offered: Path) -> None:
    shutil.copy(offered / "annotations_trainval2014.zip", offered / "val2014.zip")
    with pytest.raises(UserError, match=r"val2014\.zip failed \(its md5 is [0-9a-f]{32}; expected [0-9a-f]{32}\)"):
        prepare_coco(tmp_path / "coco", tmp_path / "lists", ("val",), download=True)
    assert not (tmp_path / "coco/val2014.zip").exists()


@pytest.mark.usefixtures("coco_offer")
def test_a_download_replaces_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "val2014.zip")
    with pytest.raises(UserError, match=r"cannot write .*val2014\.zip: it is a named pipe"):
        download.download_coco("val2014.zip", tmp_path)
    assert (tmp_path / "val2014.zip").is_fifo()
