"""COCO preparation, on an annotation file of four images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from src.errors import UserError
from tests.tools.prepare.devkits import HEIGHT, WIDTH, box, crowd_area, crowd_rle, make_coco, pack_zip, pixels, snapshot
from tools.prepare import coco, coco_masks
from tools.prepare.coco import prepare_coco
from tools.prepare.coco_masks import MaskJob, draw_mask, uncompressed

# categories 1, 18 and 90 are the labels 1, 2 and 3
LABELS = {1: 1, 18: 2, 90: 3}


def name(number: int, split: str = "val") -> str:
    return f"COCO_{split}2014_{number:012d}"


def lines(numbers: list[int], split: str = "val") -> list[str]:
    return [f"{split}2014/{name(n, split)}.jpg {split}/{name(n, split)}.png" for n in numbers]


def painted(*annotations: tuple[int, int, object], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Draw annotations given as id, category, segmentation."""
    keys = ("id", "category_id", "segmentation")
    records = [dict(zip(keys, annotation, strict=True)) for annotation in annotations]
    return draw_mask(MaskJob(Path("x.png"), height, width, records, LABELS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_coco(tmp_path / "coco", "val")
    make_coco(tmp_path / "coco", "train")
    return tmp_path / "coco"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return tmp_path / "lists"


def test_lists_hold_the_images_with_annotations_in_the_order_of_their_names(root: Path, lists: Path) -> None:
    prepare_coco(root, lists)
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 5, 9])
    assert (lists / "train.txt").read_text().splitlines() == lines([3, 5, 9], "train")
    for line in (lists / "val.txt").read_text().splitlines():
        assert all((root / path).is_file() for path in line.split(" "))


def test_masks_show_all_parts_and_the_smaller_object_on_top(root: Path, lists: Path) -> None:
    prepare_coco(root, lists)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:6, 1:6] = 1
    expected[4:10, 10:14] = 1
    expected[2:4, 2:4] = 3
    np.testing.assert_array_equal(pixels(root / "val" / f"{name(3)}.png"), expected)


def test_crowds_are_included_by_default(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",))
    expected = np.where(crowd_area(), 2, 0).astype(np.uint8)
    np.testing.assert_array_equal(pixels(root / "val" / f"{name(5)}.png"), expected)
    expected[3:6, 12:15] = 1
    np.testing.assert_array_equal(pixels(root / "val" / f"{name(9)}.png"), expected)


def test_excluded_crowds_are_background_and_an_image_of_crowds_alone_has_no_mask(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",), crowd="exclude")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:6, 12:15] = 1
    np.testing.assert_array_equal(pixels(root / "val" / f"{name(9)}.png"), expected)
    assert not (root / "val" / f"{name(5)}.png").exists()
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 9])


@pytest.mark.parametrize("identifiers", [(1, 2), (2, 1)])
def test_the_order_of_drawing_is_that_of_size_not_of_the_file(identifiers: tuple[int, int]) -> None:
    large, small = (identifiers[0], 1, [box(0, 0, 8, 8)]), (identifiers[1], 90, [box(4, 4, 6, 6)])
    for order in ((large, small), (small, large)):
        labels = painted(*order)
        assert (labels[4:10, 4:10] == 3).all()
        assert (labels == 1).sum() == 64 - 16


def test_size_is_that_of_all_parts_together() -> None:
    labels = painted((1, 1, [box(0, 0, 3, 3), box(10, 0, 5, 5)]), (2, 90, [box(0, 0, 5, 5)]))  # 34 and 25 pixels
    assert (labels[:5, :5] == 3).all()


def test_objects_of_one_size_are_drawn_in_the_order_of_their_ids() -> None:
    first, second = (1, 1, [box(0, 0, 4, 4)]), (2, 18, [box(2, 2, 4, 4)])
    for order in ((first, second), (second, first)):
        assert (painted(*order)[2:6, 2:6] == 2).all()


def test_compressed_rle_is_drawn_like_its_uncompressed_form() -> None:
    mask = crowd_area()
    compressed = rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    as_text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    for segmentation in (crowd_rle(mask), compressed, as_text):
        np.testing.assert_array_equal(painted((1, 18, segmentation)), np.where(mask, 2, 0))


@pytest.mark.parametrize("segmentation", [[], [[1.0, 1.0, 5.0, 5.0]]])
def test_segmentations_without_area_draw_nothing(segmentation: list[list[float]]) -> None:
    assert not painted((1, 1, segmentation)).any()


def test_a_part_without_area_does_not_hide_the_others() -> None:
    assert (painted((1, 1, [[1.0, 1.0, 5.0, 5.0], box(2, 2, 3, 3)])) == 1).sum() == 9


def test_an_rle_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"annotation 7 cannot be decoded .*size \[12, 16\]"):
        painted((7, 18, crowd_rle(crowd_area())), height=HEIGHT + 1)


def test_several_processes_draw_the_same_masks(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",))
    alone = {path.name: path.read_bytes() for path in (root / "val").glob("*.png")}
    for path in (root / "val").glob("*.png"):
        path.unlink()
    prepare_coco(root, lists, ("val",), workers=2)
    assert {path.name: path.read_bytes() for path in (root / "val").glob("*.png")} == alone


def test_a_second_run_writes_nothing(root: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_coco(root, lists)
    before = snapshot(root), snapshot(lists)
    prepare_coco(root, lists, force=True)
    assert (snapshot(root), snapshot(lists)) == before
    assert "0 masks written, 3 already there" in capsys.readouterr().out


def test_an_interrupted_run_resumes(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, done = coco_masks.save_mask, []

    def interrupt_the_third(path: Path, labels: np.ndarray) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        save(path, labels)
        done.append(path)

    monkeypatch.setattr(coco_masks, "save_mask", interrupt_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_coco(root, lists, ("val",))
    assert not lists.exists()
    before = snapshot(root / "val")
    monkeypatch.setattr(coco_masks, "save_mask", save)
    prepare_coco(root, lists, ("val",))
    after = snapshot(root / "val")
    assert {path: after[path] for path in before} == before
    assert "1 mask written, 2 already there" in capsys.readouterr().out


def test_masks_drawn_with_another_crowd_setting_are_not_reused(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",))
    before = snapshot(root / "val")
    other = lists.with_name("lists2")
    with pytest.raises(UserError, match=r"masks in .*val were drawn with other settings .*--force draws them again"):
        prepare_coco(root, other, ("val",), crowd="exclude")
    assert snapshot(root / "val") == before
    prepare_coco(root, other, ("val",), crowd="exclude", force=True)
    assert not (root / "val" / f"{name(5)}.png").exists()
    assert set(np.unique(pixels(root / "val" / f"{name(9)}.png"))) == {0, 1}
    prepare_coco(root, other, ("val",), crowd="exclude")  # the record is updated


def test_masks_of_unknown_origin_are_kept_and_reported(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_coco(root, lists, ("val",))
    (root / "val" / coco.RECORD).unlink()
    (root / "val" / f"{name(9)}.png").unlink()
    before = snapshot(root / "val")
    prepare_coco(root, lists, ("val",))
    after = snapshot(root / "val")
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {f"{name(9)}.png"}
    assert "2 masks of unknown origin kept" in capsys.readouterr().out


def test_masks_of_unknown_origin_survive_force(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",))
    (root / "val" / coco.RECORD).unlink()
    before = snapshot(root / "val")
    prepare_coco(root, lists, ("val",), crowd="exclude", force=True)
    assert before.items() <= snapshot(root / "val").items()


def test_redrawn_masks_never_have_a_wrong_record(root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_coco(root, lists, ("val",))
    unlink, done = Path.unlink, []

    def interrupt_the_second(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".png" and not path.name.startswith("."):
            if done:
                raise KeyboardInterrupt
            done.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupt_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_coco(root, lists, ("val",), crowd="exclude", force=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match="drawn with other settings"):
        prepare_coco(root, lists, ("val",), crowd="exclude")
    prepare_coco(root, lists, ("val",))  # the remaining masks match their record
    assert set(np.unique(pixels(root / "val" / f"{name(9)}.png"))) == {0, 1, 2}


def test_a_list_with_masks_in_another_folder_is_kept_and_reported(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists.mkdir()
    published = [line.replace(" val/", " val_contain_crowd/") for line in lines([3, 5, 9])]
    (lists / "val.txt").write_text("\n".join(published))
    prepare_coco(root, lists, ("val",))
    out = capsys.readouterr().out
    assert re.search(
        r"val\.txt: kept, .*masks in val_contain_crowd/, which .*coco has not, not in val/; --force replaces", out
    )
    assert (lists / "val.txt").read_text().splitlines() == published
    assert len(list((root / "val").glob("*.png"))) == 3
    before = snapshot(root / "val")
    prepare_coco(root, lists, ("val",), force=True)
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 5, 9])
    assert snapshot(root / "val") == before


def test_existing_masks_without_annotations_give_lists_alone(
    root: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_coco(root, lists)
    ready = tmp_path / "ready"
    for folder in ("train", "val", "train2014", "val2014"):
        shutil.copytree(root / folder, ready / folder)
    for split in ("train", "val"):
        (ready / split / coco.RECORD).unlink()
    before = snapshot(ready)
    capsys.readouterr()
    prepare_coco(ready, tmp_path / "lists2")
    assert snapshot(ready) == before
    for file in ("train.txt", "val.txt"):
        assert (tmp_path / "lists2" / file).read_bytes() == (lists / file).read_bytes()
    out = capsys.readouterr().out
    assert "instances_val2014.json does not exist: the masks in" in out
    assert "used as they are, and only the list is written" in out


def test_one_split_may_exist_and_the_other_is_drawn(root: Path, lists: Path) -> None:
    prepare_coco(root, lists, ("val",))
    (root / "annotations/instances_val2014.json").unlink()
    prepare_coco(root, lists, force=True)
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 5, 9])
    assert (lists / "train.txt").read_text().splitlines() == lines([3, 5, 9], "train")


def test_an_empty_folder_of_masks_does_not_count(root: Path, lists: Path) -> None:
    (root / "val").mkdir()
    (root / "annotations/instances_val2014.json").unlink()
    with pytest.raises(UserError, match=r"instances_val2014\.json does not .*, put existing masks into .*coco/val, or"):
        prepare_coco(root, lists, ("val",))


@pytest.mark.parametrize("entries", [["val2014.zip"], ["val2014"], []])
def test_nested_and_missing_images_are_reported(root: Path, lists: Path, entries: list[str]) -> None:
    shutil.rmtree(root / "val2014")
    (root / "val2014").mkdir()
    for entry in entries:
        (root / "val2014" / entry).mkdir()
    contents = f"it contains {entries[0]}" if entries else "it is empty"
    with pytest.raises(
        UserError, match=rf"val2014 \({contents}\) has none of 3 images, e\.g\. .*put them directly into it"
    ):
        prepare_coco(root, lists, ("val",))


def test_a_mask_of_another_size_than_its_image_is_reported(
    root: Path, lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "val2014" / f"{name(5)}.jpg")
    prepare_coco(root, lists, ("val",))
    out = capsys.readouterr().out
    assert "val: image and mask differ in size in 1 of 3 pairs" in out
    assert f"{name(5)}.png is {WIDTH} x {HEIGHT} pixels" in out


BROKEN = [
    ({"size": [HEIGHT, WIDTH], "counts": [10, 50, 5400]}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": [10, 50]}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": [-10, 10, 192]}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": [2**70]}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5, 190.5]}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": "o" * 60}, "breaks off"),
    ({"size": [HEIGHT, WIDTH], "counts": "11"}, "runs of its RLE"),
    ({"size": [HEIGHT, WIDTH], "counts": "!1"}, "character '!'"),
    ({"size": [HEIGHT, WIDTH], "counts": "é"}, "ascii"),
    ({"size": [HEIGHT, WIDTH], "counts": None}, ""),
    ({"counts": [192]}, "size"),
    ([[1.0, 1.0, 5.0, float("nan"), 5.0, 5.0]], "corner at nan"),
    ([[1.0, 1.0, 5.0, float("inf"), 5.0, 5.0]], "corner at inf"),
    ([[1.0, 1.0, 5.0, -1e9, 5.0, 5.0]], "corner at -1000000000.0, far outside an image of 16 x 12 pixels"),
    ([[1.0, 1.0, 1e300, 1.0, 5.0, 5.0]], "far outside"),
    ([[1, 1, 10**400, 1, 5, 5]], "int too large"),
    ([[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 3.0]], "7 numbers"),
    ([[1.0, 1.0, "5", 1.0, 5.0, 5.0]], "lists of numbers"),
    ([1.0, 1.0, 5.0, 1.0, 5.0, 5.0], "lists of numbers, got 1.0"),
    (None, ""),
    (7, ""),
]


@pytest.mark.parametrize(("segmentation", "reason"), BROKEN)
def test_a_broken_annotation_is_named_in_one_line(segmentation: object, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^x\.png: annotation 7 cannot be decoded \(.*{re.escape(reason)}") as error:
        painted((7, 18, segmentation))
    assert "\n" not in str(error.value)


def test_a_compressed_rle_is_read_as_the_codec_reads_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.asfortranarray((rng.random(rng.integers(1, 90, 2)) < rng.random()).astype(np.uint8))
        assert uncompressed(rle_codec.encode(mask)["counts"]) == crowd_rle(mask)["counts"]


def test_a_corner_a_little_outside_is_drawn_to_the_edge() -> None:
    assert (painted((1, 1, [box(WIDTH - 2, HEIGHT - 2, 5, 5)])) == 1).sum() == 4


def test_unexpected_counts_are_reported(
    root: Path, lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coco.EXPECTED_LINES == {"train": 82081, "val": 40137}
    monkeypatch.setattr(coco, "EXPECTED_LINES", {"train": 82081, "val": 3})
    prepare_coco(root, lists)
    out = capsys.readouterr().out
    assert "train images: 3, but 82,081 expected" in out
    assert "val images: 3, as expected" in out
    assert "val categories: 3, but 80 expected" in out


def test_a_missing_image_is_skipped_and_named(root: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "val2014" / f"{name(5)}.jpg").unlink()
    prepare_coco(root, lists, ("val",))
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 9])
    assert name(5) in capsys.readouterr().out


def test_archives_in_the_root_are_unpacked(tmp_path: Path, lists: Path) -> None:
    made, root = tmp_path / "made", tmp_path / "coco"
    make_coco(made)
    (made / "annotations" / "captions_val2014.json").write_text("{}")
    pack_zip(root / "annotations_trainval2014.zip", made, "annotations")
    pack_zip(root / "val2014.zip", made, "val2014")
    prepare_coco(root, lists, ("val",))
    assert (lists / "val.txt").read_text().splitlines() == lines([3, 5, 9])
    assert [path.name for path in (root / "annotations").iterdir()] == ["instances_val2014.json"]


@pytest.mark.parametrize(
    ("missing", "archive"),
    [("annotations/instances_train2014.json", r"annotations_trainval2014\.zip"), ("train2014", r"train2014\.zip")],
)
def test_missing_sources_are_named_with_the_remedy(root: Path, lists: Path, missing: str, archive: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(UserError, match=rf"{missing} does not exist: put {archive} .*--download.*--splits"):
        prepare_coco(root, lists)
    prepare_coco(root, lists, ("val",))  # the other split does not need it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "<html>",
        "[" * 100_000,
        '{"images": [], "categories": []}',
        '{"images": [{"id": 1}]}',
        '{"images": [], "categories": [{"id": 1}, {"id": "2"}], "annotations": []}',
        '{"images": [], "categories": [], "annotations": ["x"]}',
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": "2", "width": 6}], "categories": [], "annotations": []}',
        '{"images": [], "categories": [], "annotations": [{"id": null, "image_id": 1, "category_id": 1}]}',
    ],
)
def test_a_file_without_instances_is_named(root: Path, lists: Path, text: str) -> None:
    (root / "annotations/instances_val2014.json").write_text(text)
    for crowd in ("include", "exclude"):
        with pytest.raises(UserError, match=r"instances_val2014\.json are no COCO instances file") as error:
            prepare_coco(root, lists, ("val",), crowd)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("height", "width"), [(0, 16), (12, -1), (10**6, 10**6)])
def test_an_image_of_impossible_size_is_named(root: Path, lists: Path, height: int, width: int) -> None:
    path = root / "annotations/instances_val2014.json"
    content = json.loads(path.read_text())
    content["images"][1] |= {"height": height, "width": width}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"give image {name(3)} a size of {width} x {height} pixels"):
        prepare_coco(root, lists, ("val",))


def test_a_name_with_a_blank_is_refused(root: Path, lists: Path) -> None:
    path = root / "annotations/instances_val2014.json"
    path.write_text(path.read_text().replace(name(3), "my photo"))
    (root / "val2014" / f"{name(3)}.jpg").rename(root / "val2014/my photo.jpg")
    with pytest.raises(UserError, match=r"'val2014/my photo\.jpg val/my photo\.png' has blanks in its names"):
        prepare_coco(root, lists, ("val",))


def test_a_category_that_is_not_defined_is_named(root: Path, lists: Path) -> None:
    path = root / "annotations/instances_val2014.json"
    content = json.loads(path.read_text())
    content["categories"] = [category for category in content["categories"] if category["id"] != 18]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="use category 18"):
        prepare_coco(root, lists, ("val",))


def test_annotations_without_objects_give_no_list(root: Path, lists: Path) -> None:
    path = root / "annotations/instances_val2014.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    with pytest.raises(UserError, match=r"no images for the list .*val\.txt"):
        prepare_coco(root, lists, ("val",))


def test_a_root_that_is_a_file_is_named(lists: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--root .*file is a file"):
        prepare_coco(tmp_path / "file", lists)
