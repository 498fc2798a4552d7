"""The data sets of the open-vocabulary suites, on tiny folders in the official layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from src import cli
from src.config.reader import load_config
from src.data.images import read_mask
from src.data.labels import Labelling
from src.data.lists import read_list
from src.files import REPOSITORY, resolve
from src.method.prompts import read_class_file
from tests.tools.prepare.devkits import pack_tar, pack_zip
from tools.prepare import suites
from tools.prepare.__main__ import SUITE_TEXTS
from tools.prepare.__main__ import main as prepare

HEIGHT, WIDTH = 12, 16


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)
    return path


def mask(path: Path, *values: int) -> np.ndarray:
    """Write a mask of columns of ``values``; return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.resize(np.array(values, np.uint16), WIDTH)[None].repeat(HEIGHT, 0)
    if path.suffix == ".mat":
        savemat(path, {"LabelMap": labels}, do_compression=True)
    else:
        Image.fromarray(labels.astype(np.uint8)).save(path)
    return labels


def run(name: str, root: Path, *options: object) -> int:
    arguments = [name, "--root", str(root), "--lists", str(root / "lists"), "--workers", "1", *map(str, options)]
    return cli.run(prepare, arguments)


def listed(root: Path, split: str = "val") -> list[str]:
    return (root / "lists" / f"{split}.txt").read_text().splitlines()


def class_of(config_name: str, root: Path, line: str) -> list[str]:
    """The class in each column of a mask, by the shipped configuration."""
    config = load_config(REPOSITORY / "configs" / f"{config_name}_blip.yaml")
    names = [entry.name for entry in read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)]
    if config.dataset.background:
        names[0] = "background"
    entry = read_list(root / "lists/val.txt", root)[0]
    assert entry.mask == root / line.split()[1]
    numbers = read_mask(entry.mask, Labelling.from_config(config.dataset))[0]
    return ["ignored" if number == 255 else names[number] for number in numbers.tolist()]


def make_context(devkit: Path, ready: bool = False) -> None:
    for name in ("2008_000002", "2008_000003", "2009_000007"):
        photo(devkit / "JPEGImages" / f"{name}.jpg")
    photo(devkit / "JPEGImages/2010_000001.jpg")  # in no set
    folder, ending = ("SegmentationClassContext", "png") if ready else ("trainval", "mat")
    values = (0, 1, 59) if ready else (0, 2, 458, 1, 459, 284)
    for name in ("2008_000002", "2008_000003", "2009_000007"):
        mask(devkit / folder / f"{name}.{ending}", *values)
    sets = devkit / "ImageSets" / ("SegmentationContext" if ready else "Main")
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("2009_000007\n2008_000002\n")
    (sets / "train.txt").write_text("2008_000003\n")


def test_context_from_the_official_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_context(tmp_path / "VOCdevkit/VOC2010")
    assert run("context", tmp_path, "--splits", "train", "val") == 0
    assert "val images: 2, but 5,105 expected" in capsys.readouterr().out
    folder = "VOCdevkit/VOC2010"
    assert listed(tmp_path) == [
        f"{folder}/JPEGImages/{name}.jpg {folder}/context/val/{name}.png" for name in ("2009_000007", "2008_000002")
    ]
    assert len(listed(tmp_path, "train")) == 1
    line = listed(tmp_path)[0]
    columns = ["aeroplane", "wood", "background", "background", "person"]
    assert class_of("context60", tmp_path, line)[:6] == ["background", *columns]
    columns = ["aeroplane", "wood", "ignored", "ignored", "person"]
    assert class_of("context59", tmp_path, line)[:6] == ["ignored", *columns]


def test_context_from_ready_masks_and_archives(tmp_path: Path) -> None:
    make_context(tmp_path / "ready", ready=True)
    assert run("context", tmp_path / "ready") == 0
    assert listed(tmp_path / "ready")[0] == "JPEGImages/2009_000007.jpg SegmentationClassContext/2009_000007.png"
    assert class_of("context60", tmp_path / "ready", listed(tmp_path / "ready")[0])[:3] == [
        "background", "aeroplane", "wood",
    ]  # fmt: skip
    make_context(tmp_path / "made/VOCdevkit/VOC2010")
    (tmp_path / "packed").mkdir()
    shutil.move(tmp_path / "made/VOCdevkit/VOC2010/trainval", tmp_path / "made/trainval")
    pack_tar(tmp_path / "packed/trainval.tar.gz", tmp_path / "made", "trainval", "w:gz")
    pack_tar(tmp_path / "packed/VOCtrainval_03-May-2010.tar", tmp_path / "made", "VOCdevkit")
    assert run("context", tmp_path / "packed") == 0
    assert len(listed(tmp_path / "packed")) == 2


def make_stuff(root: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(root / f"images/{split}/000000000139.jpg")
        mask(root / f"annotations/{split}/000000000139.png", 0, 12, 89, 91, 181, 255, 95)


@pytest.mark.parametrize(
    ("command", "config", "folder", "columns"),
    [
        ("coco-stuff", "coco_stuff", "stuff",
         ["person", "stop sign", "toothbrush", "banner", "wood", "ignored", "building-other"]),
        ("coco-object", "coco_object", "objects",
         ["person", "stop sign", "toothbrush", "background", "background", "background", "background"]),
    ],
)  # fmt: skip
def test_coco_stuff_and_its_objects(
    command: str, config: str, folder: str, columns: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stuff(tmp_path)
    assert run(command, tmp_path) == 0
    assert "val images: 1, but 5,000 expected" in capsys.readouterr().out
    assert listed(tmp_path) == [f"images/val2017/000000000139.jpg {folder}/val2017/000000000139.png"]
    assert class_of(config, tmp_path, listed(tmp_path)[0])[:7] == columns
    assert run(command, tmp_path) == 0
    assert "0 masks written, 1 already there" in capsys.readouterr().out


def test_coco_stuff_unpacks_only_the_requested_split(tmp_path: Path) -> None:
    make_stuff(tmp_path / "made")
    root = tmp_path / "packed"
    root.mkdir()
    for split in ("train2017", "val2017"):
        pack_zip(root / f"{split}.zip", tmp_path / "made/images", split)
    both = tmp_path / "both"
    shutil.copytree(tmp_path / "made/annotations", both / "top")
    shutil.make_archive(str(root / "stuffthingmaps_trainval2017"), "zip", both / "top")
    assert run("coco-stuff", root) == 0
    assert len(listed(root)) == 1
    assert not (root / "images/train2017").exists()


@pytest.mark.parametrize("packed", [True, False])
def test_ade20k(packed: bool, tmp_path: Path) -> None:
    made = tmp_path / "made/ADEChallengeData2016"
    photo(made / "images/validation/ADE_val_00000001.jpg")
    photo(made / "images/training/ADE_train_00000001.jpg")
    mask(made / "annotations/validation/ADE_val_00000001.png", 0, 1, 150, 13)
    root = tmp_path / "root"
    root.mkdir()
    folder = ""
    if packed:
        pack_zip(root / "ADEChallengeData2016.zip", tmp_path / "made", "ADEChallengeData2016")
        folder = "ADEChallengeData2016/"
    else:
        root = made
    assert run("ade20k", root) == 0
    assert listed(root) == [
        f"{folder}images/validation/ADE_val_00000001.jpg {folder}annotations/validation/ADE_val_00000001.png"
    ]
    assert class_of("ade20k", root, listed(root)[0])[:4] == ["ignored", "wall", "flag", "person"]


def test_cityscapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "frankfurt_000000_000294"
    photo(tmp_path / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png")
    photo(tmp_path / "leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png")  # its labels are missing
    mask(tmp_path / f"gtFine/val/frankfurt/{name}_gtFine_labelIds.png", 0, 7, 33, 18, 26, 29, 12)
    assert run("cityscapes", tmp_path) == 0
    assert "1 image without a mask, e.g." in capsys.readouterr().out
    line = f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png trainIds/val/{name}_leftImg8bit.png"
    assert listed(tmp_path) == [line]
    columns = ["ignored", "road", "bicycle", "ignored", "car", "ignored", "wall"]
    assert class_of("cityscapes", tmp_path, line)[:7] == columns


@pytest.mark.parametrize("name", list(suites.SUITES))
def test_missing_files_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, tmp_path) == 2
    error = capsys.readouterr().err
    assert suites.SUITES[name].sources in error
    assert error.count("\n") == 1


def test_a_damaged_context_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_context(tmp_path)
    (tmp_path / "trainval/2009_000007.mat").write_bytes(b"x")
    assert run("context", tmp_path) == 2
    assert "2009_000007.mat cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("context59", "context"),
        ("context60", "context"),
        ("coco_object", "coco-object"),
        ("coco_stuff", "coco-stuff"),
        ("ade20k", "ade20k"),
        ("cityscapes", "cityscapes"),
    ],
)
def test_configurations_and_commands_agree(name: str, command: str) -> None:
    config = load_config(REPOSITORY / "configs" / f"{name}_blip.yaml")
    assert config.eval.resolution == "original"
    assert config.max_images is None
    assert config.data_set == name
    _, root, lists, classes = SUITE_TEXTS[command]
    assert config.data_root == f"data/{root}"
    assert config.val_list == f"src/lists/{lists}/val.txt"
    assert config.class_name_dir == f"configs/classes/{classes}.json"
    assert len(json.loads(resolve(config.class_name_dir).read_text())) == config.dataset.num_classes


@pytest.mark.parametrize(("name", "of_0"), [("voc21", "background"), ("voc20", "ignored")])
def test_voc_with_and_without_a_background(name: str, of_0: str, tmp_path: Path) -> None:
    photo(tmp_path / "JPEGImages/2007_000033.jpg")
    mask(tmp_path / "SegmentationClassAug/2007_000033.png", 0, 1, 20, 255)
    (tmp_path / "lists").mkdir()
    line = "JPEGImages/2007_000033.jpg SegmentationClassAug/2007_000033.png"
    (tmp_path / "lists/val.txt").write_text(line + "\n")
    assert class_of(name, tmp_path, line)[:4] == [of_0, "airplane", "tv", "ignored"]
    config, pascal = (load_config(REPOSITORY / "configs" / f"{each}_blip.yaml") for each in (name, "pascal"))
    assert (config.data_root, config.val_list, config.class_name_dir) == (
        pascal.data_root, pascal.val_list, pascal.class_name_dir,
    )  # fmt: skip
    assert config.eval.resolution == "original"


def test_every_suite_has_its_own_output() -> None:
    configs = [load_config(path) for path in sorted((REPOSITORY / "configs").glob("*_blip.yaml"))]
    assert len({config.output.csv for config in configs}) == len(configs) == 10


def test_tables_cover_what_the_data_sets_document() -> None:
    stuff = suites.stuff_table()
    assert sorted(stuff[stuff != 255]) == list(range(171))
    objects = suites.object_table()
    assert sorted(objects[objects > 0]) == list(range(1, 81))
    cityscapes = suites.cityscapes_table()
    assert sorted(cityscapes[cityscapes != 255]) == list(range(19))
    context = suites.context_table()
    assert sorted(context[context > 0]) == list(range(1, 60))
