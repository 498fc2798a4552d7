"""PASCAL preparation, on a devkit of seven images."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from src.errors import UserError
from tests.tools.prepare.devkits import (
    SBD_MASKS,
    VOC_MASKS,
    make_sbd,
    make_voc,
    pack_tar,
    pixels,
    save_jpeg,
    sbd_labels,
    snapshot,
    voc_labels,
)
from tools.prepare import pascal
from tools.prepare.pascal import prepare_pascal

TRAIN = ["2009_000005", "2008_000004", "2007_000001"]
VAL = ["2008_000003", "2007_000002"]


def lines(names: list[str]) -> list[str]:
    return [f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png" for name in names]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pascal"
    make_voc(root)
    make_sbd(root)
    return root


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return tmp_path / "lists"


def test_lists_hold_the_official_val_and_the_train_images_that_have_a_mask(root: Path, lists: Path) -> None:
    prepare_pascal(root, lists)
    assert (lists / "val.txt").read_text().splitlines() == lines(VAL)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)


def test_train_has_the_published_order(root: Path, lists: Path, tmp_path: Path) -> None:
    """Images of Main/train that SBD has, then the rest of Segmentation/train; both in the order of their files.

    2008_001056 and 2008_001203 are in both sets, and SBD has the first only in the made-up case below.
    """
    sets = root / "VOCdevkit/VOC2012/ImageSets"
    main = ["2009_000005", "2008_001203", "2008_001056", "2008_000004", "2011_000007"]
    (sets / "Main/train.txt").write_text("".join(f"{name} -1\n" for name in main))
    (sets / "Segmentation/train.txt").write_text("2007_000001\n2008_001056\n2008_001203\n")
    for name in ("2008_001203", "2008_001056"):
        save_jpeg(root / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg")
        Image.fromarray(voc_labels(3)).save(root / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png")
    prepare_pascal(root, lists)
    published = ["2009_000005", "2008_000004", "2007_000001", "2008_001056", "2008_001203"]
    assert (lists / "train.txt").read_text().splitlines() == lines(published)

    # masks alone: images missing from SBD are known by name
    shutil.copytree(root / "VOCdevkit/VOC2012/ImageSets", root / "ImageSets")
    for folder in ("VOCdevkit", "benchmark_RELEASE"):
        (root / folder).rename(tmp_path / folder)
    prepare_pascal(root, tmp_path / "ready")
    assert (tmp_path / "ready/train.txt").read_bytes() == (lists / "train.txt").read_bytes()

    # an existing SBD decides
    savemat(tmp_path / "benchmark_RELEASE/dataset/cls/2008_001056.mat", {"GTcls": {"Segmentation": sbd_labels(3)}})
    prepare_pascal(root, tmp_path / "other", sbd=tmp_path / "benchmark_RELEASE")
    other = ["2009_000005", "2008_001056", "2008_000004", "2007_000001", "2008_001203"]
    assert (tmp_path / "other/train.txt").read_text().splitlines() == lines(other)


def test_masks_without_an_sbd_file_stay_in_the_list(root: Path, lists: Path) -> None:
    prepare_pascal(root, lists)
    before = (lists / "train.txt").read_bytes()
    (root / "benchmark_RELEASE/dataset/cls/2008_000004.mat").unlink()
    prepare_pascal(root, lists, force=True)
    assert (lists / "train.txt").read_bytes() == before


def test_the_published_lists_are_known_by_their_md5_sum(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pascal.PUBLISHED_MD5 == {
        "train": "b5c2b03701d0b38ae85bdead426970f9",
        "val": "6a4677fa6be45f515b2cf6807eec4e15",
    }
    assert len(pascal.NOT_IN_SBD) == 17
    monkeypatch.setattr(pascal, "EXPECTED_LINES", {"train": 3, "val": 2})
    known = hashlib.md5("".join(f"{line}\n" for line in lines(TRAIN)).encode()).hexdigest()
    monkeypatch.setattr(pascal, "PUBLISHED_MD5", {**pascal.PUBLISHED_MD5, "train": known})
    prepare_pascal(root, lists)
    out = capsys.readouterr().out
    assert "train.txt: the published list, byte for byte" in out
    assert "val.txt: not the published list (md5 6a4677fa6be45f515b2cf6807eec4e15)" in out


def test_every_listed_file_exists(root: Path, lists: Path) -> None:
    prepare_pascal(root, lists)
    for name in ("train", "val"):
        for line in (lists / f"{name}.txt").read_text().splitlines():
            image, mask = line.split(" ")
            assert (root / image).is_file()
            assert (root / mask).is_file()


def test_an_image_of_the_val_list_is_never_in_train(root: Path, lists: Path) -> None:
    with (root / "VOCdevkit/VOC2012/ImageSets/Main/train.txt").open("a") as main:
        main.write("2008_000003\n")
    prepare_pascal(root, lists)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)


def test_voc_masks_take_precedence_over_sbd(root: Path, lists: Path) -> None:
    prepare_pascal(root, lists)
    masks = root / "SegmentationClassAug"
    assert {path.stem for path in masks.iterdir()} == {*VOC_MASKS, *SBD_MASKS}
    for name in VOC_MASKS:
        np.testing.assert_array_equal(pixels(masks / f"{name}.png"), voc_labels(int(name[-1])))
    for name in set(SBD_MASKS) - set(VOC_MASKS):
        np.testing.assert_array_equal(pixels(masks / f"{name}.png"), sbd_labels(int(name[-1])))


def test_void_of_an_sbd_mask_is_kept(root: Path, lists: Path) -> None:
    labels = sbd_labels(4)
    labels[0] = 255
    savemat(root / "benchmark_RELEASE/dataset/cls/2008_000004.mat", {"GTcls": {"Segmentation": labels}})
    prepare_pascal(root, lists)
    np.testing.assert_array_equal(pixels(root / "SegmentationClassAug/2008_000004.png"), labels)


def test_images_are_hard_links_and_only_those_with_a_mask(root: Path, lists: Path) -> None:
    prepare_pascal(root, lists)
    images = root / "JPEGImages"
    assert {path.stem for path in images.iterdir()} == {*VOC_MASKS, *SBD_MASKS}
    for path in images.iterdir():
        assert path.samefile(root / "VOCdevkit/VOC2012/JPEGImages" / path.name)


def test_images_are_copied_where_links_are_impossible(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prepare_pascal(root, lists)
    image = root / "JPEGImages/2008_000004.jpg"
    original = root / "VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg"
    assert not image.samefile(original)
    assert image.read_bytes() == original.read_bytes()
    assert "6 copied" in capsys.readouterr().out


def test_an_image_missing_from_the_devkit_is_taken_from_sbd(root: Path, lists: Path) -> None:
    (root / "VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg").unlink()
    save_jpeg(root / "benchmark_RELEASE/dataset/img/2008_000004.jpg", 77)
    prepare_pascal(root, lists)
    assert (root / "JPEGImages/2008_000004.jpg").samefile(root / "benchmark_RELEASE/dataset/img/2008_000004.jpg")


def test_a_mask_without_image_is_left_out_of_the_lists_and_named(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "VOCdevkit/VOC2012/JPEGImages/2008_000004.jpg").unlink()
    prepare_pascal(root, lists)
    assert (lists / "train.txt").read_text().splitlines() == lines([n for n in TRAIN if n != "2008_000004"])
    assert "1 mask without an image" in (out := capsys.readouterr().out)
    assert "2008_000004" in out


def test_several_processes_write_the_same_masks(root: Path, lists: Path, tmp_path: Path) -> None:
    prepare_pascal(root, lists)
    other = tmp_path / "other"
    prepare_pascal(other, tmp_path / "lists2", root / "VOCdevkit", root / "benchmark_RELEASE", workers=2)
    for path in (root / "SegmentationClassAug").iterdir():
        assert (other / "SegmentationClassAug" / path.name).read_bytes() == path.read_bytes()


def test_an_error_in_a_process_arrives_with_its_text(root: Path, lists: Path) -> None:
    (root / "benchmark_RELEASE/dataset/cls/2009_000005.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(UserError, match=r"2009_000005\.mat cannot be read"):
        prepare_pascal(root, lists, workers=2)


def test_only_needed_files_of_the_archive_are_unpacked(tmp_path: Path, lists: Path) -> None:
    make_voc(tmp_path / "made")
    root = tmp_path / "pascal"
    pack_tar(root / "VOCtrainval_11-May-2012.tar", tmp_path / "made", "VOCdevkit")
    make_sbd(root)
    prepare_pascal(root, lists)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)
    assert sorted(path.name for path in (root / "VOCdevkit/VOC2012").iterdir()) == [
        "ImageSets",
        "JPEGImages",
        "SegmentationClass",
    ]


def test_an_archive_elsewhere_is_unpacked_below_the_root(tmp_path: Path, lists: Path) -> None:
    make_voc(tmp_path / "made")
    archive = pack_tar(tmp_path / "elsewhere" / "voc.tar", tmp_path / "made", "VOCdevkit")
    sbd = make_sbd(tmp_path / "elsewhere")
    prepare_pascal(tmp_path / "pascal", lists, voc=archive, sbd=sbd)
    assert (tmp_path / "pascal/VOCdevkit/VOC2012/ImageSets").is_dir()
    assert (lists / "val.txt").read_text().splitlines() == lines(VAL)


def test_the_prepared_layout_and_the_image_sets_are_enough_for_lists(root: Path, lists: Path, tmp_path: Path) -> None:
    prepare_pascal(root, lists)
    ready = tmp_path / "ready"
    for name in ("JPEGImages", "SegmentationClassAug"):
        shutil.copytree(root / name, ready / name)
    shutil.copytree(root / "VOCdevkit/VOC2012/ImageSets", ready / "ImageSets")
    before = snapshot(ready)
    prepare_pascal(ready, tmp_path / "lists2")
    assert snapshot(ready) == before
    for name in ("train.txt", "val.txt"):
        assert (tmp_path / "lists2" / name).read_text() == (lists / name).read_text()


def test_a_second_run_writes_nothing(root: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_pascal(root, lists)
    before = snapshot(root), snapshot(lists)
    capsys.readouterr()
    prepare_pascal(root, lists)
    assert (snapshot(root), snapshot(lists)) == before
    out = capsys.readouterr().out
    assert "0 masks written, 6 existing kept" in out
    assert out.count("existing list is the same: kept") == 2


def test_an_interrupted_run_resumes(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, done = pascal.save_mask, []

    def interrupt_the_fourth(path: Path, labels: np.ndarray) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        save(path, labels)
        done.append(path)

    monkeypatch.setattr(pascal, "save_mask", interrupt_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        prepare_pascal(root, lists)
    assert not lists.exists()
    before = snapshot(root / "SegmentationClassAug")
    assert len(before) == 3
    monkeypatch.setattr(pascal, "save_mask", save)
    prepare_pascal(root, lists)
    after = snapshot(root / "SegmentationClassAug")
    assert {name: after[name] for name in before} == before
    assert "3 masks written, 3 existing kept" in capsys.readouterr().out
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)


def test_partial_files_of_a_killed_run_are_not_masks(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = root / "SegmentationClassAug"
    masks.mkdir()
    (masks / ".2011_000007.abc.png").write_bytes(b"half")
    prepare_pascal(root, lists)
    assert "6 masks written, 0 existing kept" in capsys.readouterr().out
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)


PUBLISHED = lines(["2009_000005", "2008_000004", "2007_000001"])


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (
            PUBLISHED[::-1],
            r"the same 3 images in another order \(line 1: 2007_000001, in the new one 2009_000005\), which decides",
        ),
        ([PUBLISHED[0], *PUBLISHED], "the same 3 images, but 1 line twice"),
        (
            [line.replace("SegmentationClassAug", "masks") for line in PUBLISHED],
            r"masks in masks/, which .*pascal has not, not in SegmentationClassAug/",
        ),
        ([line.replace("JPEGImages", "VOCdevkit") for line in PUBLISHED], "images in VOCdevkit/, not in JPEGImages/"),
        (
            ["a/mine.jpg b/mine.png", *PUBLISHED[:2]],
            "1 image only in it, e.g. mine; 1 image only in the new one, e.g. 2007_000001",
        ),
        ([line.replace(".png", ".tif") for line in PUBLISHED], "other names of files, e.g. JPEGImages/2007"),
        (["JPEGImages/2009_000005.jpg"], r"the line 'JPEGImages/2009_000005\.jpg', which is no image path"),
        (["\udcff"], "it is no UTF-8 text"),
    ],
)
def test_a_different_list_is_kept_and_the_difference_is_printed(
    root: Path, lists: Path, present: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lists.mkdir()
    before = "\n".join(present).encode(errors="surrogateescape")
    (lists / "train.txt").write_bytes(before)
    prepare_pascal(root, lists)
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "train.txt: kept, though" in line)
    assert re.search(said, line), line
    assert "--force replaces it" in line
    assert (lists / "train.txt").read_bytes() == before
    assert (lists / "val.txt").read_text().splitlines() == lines(VAL)  # other steps are done
    assert len(list((root / "SegmentationClassAug").iterdir())) == 6
    prepare_pascal(root, lists, force=True)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)
    assert "train.txt: replaced (--force)" in capsys.readouterr().out


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text + "\n \n"])
def test_line_endings_blanks_and_a_byte_order_mark_are_no_difference(
    root: Path, lists: Path, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    lists.mkdir()
    text = change("".join(f"{line}\n" for line in lines(TRAIN))).encode()
    (lists / "train.txt").write_bytes(text)
    prepare_pascal(root, lists)
    assert "train.txt: 3 lines, existing list is the same: kept" in capsys.readouterr().out
    assert (lists / "train.txt").read_bytes() == text


def test_a_folder_in_place_of_a_list_is_refused_beforehand(root: Path, lists: Path) -> None:
    (lists / "train.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*train\.txt: it is a folder"):
        prepare_pascal(root, lists)
    assert not (root / "SegmentationClassAug").exists()


def test_image_sets_with_windows_line_ends_and_a_byte_order_mark(root: Path, lists: Path) -> None:
    for name in ("Main/train", "Segmentation/train", "Segmentation/val"):
        path = root / f"VOCdevkit/VOC2012/ImageSets/{name}.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    prepare_pascal(root, lists)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)
    assert (lists / "val.txt").read_text().splitlines() == lines(VAL)


def test_a_mask_of_another_size_than_its_image_is_reported(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((9, 5), np.uint8)
    savemat(root / "benchmark_RELEASE/dataset/cls/2008_000004.mat", {"GTcls": {"Segmentation": labels}})
    for workers in (1, 2):
        prepare_pascal(root, lists, workers=workers)
        out = capsys.readouterr().out
        assert "train: image and mask differ in size in 1 of 3 pairs, e.g. " in out
        assert re.search(r"2008_000004\.png is 5 x 9 pixels, .*2008_000004\.jpg is 16 x 12; one of the two", out)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)


def test_a_photo_that_cannot_be_read_is_reported(root: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "VOCdevkit/VOC2012/JPEGImages/2008_000003.jpg").write_bytes(b"")
    prepare_pascal(root, lists)
    assert re.search(r"val: a file cannot be read in 1 of 2 pairs, e\.g\. .*2008_000003\.jpg", capsys.readouterr().out)
    assert (lists / "val.txt").read_text().splitlines() == lines(VAL)


@pytest.mark.parametrize("named", [False, True])
def test_the_sbd_archive_is_unpacked(tmp_path: Path, lists: Path, named: bool) -> None:
    make_sbd(tmp_path / "made")
    root = tmp_path / "pascal"
    make_voc(root)
    archive = (tmp_path / "elsewhere" if named else root) / "benchmark.tgz"
    pack_tar(archive, tmp_path / "made", "benchmark_RELEASE", "w:gz")
    prepare_pascal(root, lists, sbd=archive if named else None)
    assert (lists / "train.txt").read_text().splitlines() == lines(TRAIN)
    assert [path.name for path in (root / "benchmark_RELEASE/dataset").iterdir()] == ["cls"]
    before = snapshot(root)
    prepare_pascal(root, lists, sbd=archive if named else None)
    assert snapshot(root) == before


def test_masks_without_a_listed_image_are_reported_differently_from_no_masks(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    prepare_pascal(root, lists)
    ready = tmp_path / "ready"
    shutil.copytree(root / "VOCdevkit/VOC2012/ImageSets", ready / "ImageSets")
    shutil.copytree(root / "SegmentationClassAug", ready / "SegmentationClassAug")
    (ready / "JPEGImages/JPEGImages").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"no image of its set in .*ImageSets has its photo in .*put both directly into"
    ):
        prepare_pascal(ready, tmp_path / "lists2")


def test_unexpected_counts_are_reported(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pascal, "EXPECTED_LINES", {"train": 3, "val": 1449})
    prepare_pascal(root, lists)
    out = capsys.readouterr().out
    assert "train images: 3, as expected" in out
    assert "val images: 2, but 1,449 expected" in out
    assert "masks: 6, but 12,031 expected" in out


def test_the_known_counts_are_the_papers() -> None:
    assert pascal.EXPECTED_LINES == {"train": 5953, "val": 1449}


def test_missing_sources_are_named_with_the_remedy(tmp_path: Path, lists: Path) -> None:
    root = tmp_path / "pascal"
    with pytest.raises(UserError, match=r"no SBD in .*pascal: put benchmark\.tgz .*there.*--sbd.*--download"):
        prepare_pascal(root, lists)
    make_sbd(root)
    with pytest.raises(UserError, match=r"no VOC 2012 in .*pascal: put VOCtrainval_11-May-2012\.tar.*--download"):
        prepare_pascal(root, lists)


@pytest.mark.parametrize("option", ["voc", "sbd"])
def test_a_named_source_without_the_files_is_refused(root: Path, lists: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"--{option} .*empty has no"):
        prepare_pascal(root, lists, **{option: tmp_path / "empty"})
    with pytest.raises(UserError, match=f"--{option} .*nowhere"):
        prepare_pascal(root, lists, **{option: tmp_path / "nowhere"})


def test_a_missing_image_set_is_named(root: Path, lists: Path) -> None:
    (root / "VOCdevkit/VOC2012/ImageSets/Main/train.txt").unlink()
    with pytest.raises(UserError, match=r"ImageSets/Main/train\.txt cannot be read"):
        prepare_pascal(root, lists)


def test_a_devkit_without_masks_is_refused(root: Path, lists: Path) -> None:
    shutil.rmtree(root / "VOCdevkit/VOC2012/SegmentationClass")
    with pytest.raises(UserError, match=r"SegmentationClass has no masks for 3 images .*2007_000001\.png"):
        prepare_pascal(root, lists)


def test_an_sbd_mask_does_not_replace_a_lost_voc_mask(root: Path, lists: Path) -> None:
    (root / "VOCdevkit/VOC2012/SegmentationClass/2008_000003.png").unlink()  # which SBD has too
    with pytest.raises(UserError, match=r"SegmentationClass has no masks for 1 image .*2008_000003\.png"):
        prepare_pascal(root, lists)


def test_a_mask_with_a_foreign_label_is_named(root: Path, lists: Path) -> None:
    Image.fromarray(np.full((4, 4), 21, np.uint8)).save(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png")
    with pytest.raises(UserError, match=r"2007_000001\.png has label 21"):
        prepare_pascal(root, lists)


def test_a_colour_mask_is_refused(root: Path, lists: Path) -> None:
    Image.new("RGB", (4, 4)).save(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png")
    with pytest.raises(UserError, match=r"2007_000001\.png is a RGB image"):
        prepare_pascal(root, lists)


def test_an_sbd_file_without_its_struct_is_named(root: Path, lists: Path) -> None:
    savemat(root / "benchmark_RELEASE/dataset/cls/2008_000004.mat", {"GTinst": np.zeros(3)})
    with pytest.raises(UserError, match=r"2008_000004\.mat cannot be read .*GTcls with the field Segmentation"):
        prepare_pascal(root, lists)


def test_a_root_that_is_no_folder_is_named(root: Path, lists: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--root .*file is a file; name the folder"):
        prepare_pascal(tmp_path / "file", lists, root, root / "benchmark_RELEASE")


def test_free_space_for_copies_is_checked(root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(100))
    with pytest.raises(UserError, match="copying images needs about"):
        prepare_pascal(root, lists)
    assert not any((root / "JPEGImages").iterdir())


def test_special_files_are_neither_images_nor_masks(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading a pipe would block; a folder or a dangling link would count as an existing mask."""
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir()
    (root / "JPEGImages/2007_000001.jpg").symlink_to(root / "nowhere.jpg")
    (root / "SegmentationClassAug/2007_000001.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "benchmark_RELEASE/dataset/cls/2010_000009.mat")
    prepare_pascal(root, lists)
    assert "6 masks written, 0 existing kept" in capsys.readouterr().out
    assert pixels(root / "SegmentationClassAug/2007_000001.png").any()
    for name, make, kind in (("2007_000001", os.mkdir, "a folder"), ("2008_000003", os.mkfifo, "a named pipe")):
        mask = root / f"SegmentationClassAug/{name}.png"
        whole = mask.read_bytes()
        mask.unlink()
        make(mask)
        with pytest.raises(UserError, match=rf"cannot write .*{name}\.png: it is {kind}; choose another name"):
            prepare_pascal(root, lists)
        (os.rmdir if mask.is_dir() else os.unlink)(mask)
        mask.write_bytes(whole)


def test_an_empty_image_set_is_named(root: Path, lists: Path) -> None:
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(UserError, match=r"Segmentation/val\.txt names no images; it is part of VOCtrainval"):
        prepare_pascal(root, lists)
