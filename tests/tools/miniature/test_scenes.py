"""The drawn scenes: reproducibility, lists, palette and void, and the drawing of every class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src.errors import UserError
from tools.miniature import draw, objects
from tools.miniature.backgrounds import OUTDOOR_GROUNDS, draw_background
from tools.miniature.canvas import Canvas, Pen, Placement
from tools.miniature.class_words import (
    BACKGROUND_WORDS,
    CLASSES,
    SCENERY,
    SUBJECT_NUMBER,
    SUBJECTS,
    UNDRAWN_WORDS,
    VOID,
    WORDS,
    WORDS_OF,
)
from tools.miniature.scenes import draw_scene

SHIPPED = draw.FOLDER
LOOKS = [(name, look) for name in CLASSES for look in objects.LOOKS[name]]
SIDE = 200


def listed(split: str) -> list[tuple[Path, Path]]:
    lines = (SHIPPED / f"{split}.txt").read_text().splitlines()
    return [(SHIPPED / image, SHIPPED / mask) for image, mask in (line.split() for line in lines)]


def draw_alone(look: objects.Look, name: str, seed: int) -> tuple[Canvas, np.ndarray]:
    """A canvas with one object that nearly fills it, and where the object is."""
    canvas = Canvas(SIDE, SIDE)
    look.draw(Pen(canvas, Placement(SIDE / 2, SIDE / 2, 0.43 * SIDE), name), np.random.default_rng(seed))
    return canvas, canvas.subjects == SUBJECT_NUMBER[name]


@pytest.mark.parametrize("split", ["val", "train"])
def test_redrawing_gives_the_shipped_masks_and_images(split: str, tmp_path: Path) -> None:
    for number in range(0, draw.SCENES_PER_LIST, 9):
        image, mask = listed(split)[number]
        canvas = draw.draw_listed_scene(split, number).canvas
        assert np.array_equal(np.array(Image.open(mask)), canvas.labels()), mask
        draw.write_picture(canvas.picture, tmp_path / "again.jpg")
        assert np.array_equal(np.array(Image.open(tmp_path / "again.jpg")), np.array(Image.open(image))), image


@pytest.mark.parametrize("split", ["val", "train"])
def test_every_list_contains_every_class(split: str) -> None:
    masks = [np.array(Image.open(mask)) for _, mask in listed(split)]
    assert len(masks) == draw.SCENES_PER_LIST
    scenes_with = np.sum([np.isin(np.arange(256), mask) for mask in masks], axis=0)
    assert (scenes_with[1:21] >= 5).all()
    assert set(np.flatnonzero(scenes_with)) == {*range(21), VOID}


@pytest.mark.parametrize("split", ["val", "train"])
def test_every_class_has_scenes_fit_for_one_shot_supports(split: str) -> None:
    fit = np.zeros(21, int)
    for _, mask in listed(split):
        areas = np.bincount(np.array(Image.open(mask)).ravel(), minlength=256)[1:21]
        if np.count_nonzero(areas) == 1 and areas.max() >= 16 * 32 * 32:
            fit[areas.argmax() + 1] += 1
    assert (fit[1:] >= 3).all()


def test_shipped_files_are_those_of_the_lists_and_small() -> None:
    files = [path for pair in (*listed("val"), *listed("train")) for path in pair]
    assert len(set(files)) == len(files)
    folders = [SHIPPED / "JPEGImages", SHIPPED / "SegmentationClassAug"]
    assert sorted(files) == sorted(path for folder in folders for path in folder.iterdir())
    assert sum(path.stat().st_size for path in files) < 8e6
    for image, mask in listed("val"):
        with Image.open(image) as picture, Image.open(mask) as labels:
            assert picture.size == labels.size
            assert (picture.mode, labels.mode) == ("RGB", "P")
            assert max(picture.size) == 384


def test_masks_have_the_colours_of_voc() -> None:
    _, mask = listed("val")[0]
    palette = np.array(Image.open(mask).getpalette()).reshape(-1, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    for label, colour in known.items():
        assert tuple(palette[label]) == colour


def test_void_is_along_the_outlines_of_objects_alone() -> None:
    canvas = Canvas(60, 60)
    draw_background(canvas, np.random.default_rng(0), "grass")
    Pen(canvas, Placement(20, 30, 10), "bus").rectangle(-1, -1, 1, 1, (255, 0, 0))
    Pen(canvas, Placement(36, 30, 6), "cat").rectangle(-1, -1, 1, 1, (0, 0, 255))
    labels = canvas.labels()
    row = labels[30]
    assert row[:8].tolist() == [0] * 8
    assert row[8:12].tolist() == [VOID] * 4
    assert row[12:28].tolist() == [CLASSES.index("bus") + 1] * 16
    assert row[29:31].tolist() == [VOID] * 2  # where the objects touch
    assert row[34:40].tolist() == [CLASSES.index("cat") + 1] * 6
    assert row[46:].tolist() == [0] * 14


@pytest.mark.parametrize(("name", "look"), LOOKS, ids=[look.draw.__name__ for _, look in LOOKS])
def test_a_drawing_fills_its_frame_with_its_class(name: str, look: objects.Look) -> None:
    for seed in range(5):
        canvas, shows = draw_alone(look, name, seed)
        assert set(np.unique(canvas.subjects)) == {0, SUBJECT_NUMBER[name]}
        assert 0.12 < shows.mean() < 0.75
        rows, columns = np.flatnonzero(shows.any(1)), np.flatnonzero(shows.any(0))
        assert min(rows[0], columns[0]) >= 0.01 * SIDE
        assert max(rows[-1], columns[-1]) <= 0.99 * SIDE
        assert max(np.ptp(rows), np.ptp(columns)) > 0.75 * SIDE
        # paint exceeds the label only by the smooth rim of a shape
        rim = cv2.dilate(shows.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert not (canvas.picture.any(2) & ~rim).any()
        assert (canvas.objects == shows).all()


def test_no_two_classes_look_the_same() -> None:
    shapes = {look.draw.__name__: draw_alone(look, name, 0)[1] for name, look in LOOKS}
    assert len(shapes) == len(LOOKS)
    names = list(shapes)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            overlap = (shapes[first] & shapes[second]).sum() / (shapes[first] | shapes[second]).sum()
            assert overlap < 0.9, (first, second)


def test_scenes_contain_the_objects_they_name_and_depend_on_their_seed_alone() -> None:
    for seed in range(20):
        first = CLASSES[seed % len(CLASSES)]
        scene = draw_scene(seed, first)
        canvas = scene.canvas
        assert SUBJECT_NUMBER[first] in canvas.subjects[canvas.objects == 1]
        assert 1 <= len(scene.looks) <= 3
        for number in range(1, len(scene.looks) + 1):
            assert (canvas.objects == number).mean() > 0.015
        assert (canvas.subjects > 0).all()
        again = draw_scene(seed, first).canvas
        assert np.array_equal(again.picture, canvas.picture)
        assert np.array_equal(again.subjects, canvas.subjects)


def test_all_scenery_is_drawn() -> None:
    seen = set()
    for seed in range(60):
        canvas = Canvas(96, 128)
        draw_background(canvas, np.random.default_rng(seed), (*OUTDOOR_GROUNDS, "floor")[seed % 5])
        assert (canvas.objects == 0).all()
        assert (canvas.labels() == 0).all()
        seen |= set(np.unique(canvas.subjects))
    assert {SUBJECTS[number] for number in seen} == set(SCENERY)


def test_words_are_those_of_the_class_file() -> None:
    assert (len(CLASSES), len(BACKGROUND_WORDS), len(WORDS)) == (20, 29, 116)
    drawn = {word for words in WORDS_OF.values() for word in words}
    assert drawn | set(UNDRAWN_WORDS) == set(WORDS)
    assert not drawn & set(UNDRAWN_WORDS)
    for name in CLASSES:
        called = [set(look.words) for look in objects.LOOKS[name]]
        assert set.union(*called) == set(WORDS_OF[name])
        assert all(look.words[0] == name for look in objects.LOOKS[name])


def test_drawing_into_a_folder_with_scenes_needs_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "SCENES_PER_LIST", 2)
    monkeypatch.setattr(draw, "draw_dataset", lambda folder: (folder / "JPEGImages").mkdir(parents=True))
    command = ["--output", str(tmp_path)]
    draw.main(command)
    with pytest.raises(UserError, match="--force"):
        draw.main(command)
    draw.main([*command, "--force"])


def test_the_command_writes_the_layout_of_voc(tmp_path: Path) -> None:
    draw.draw_dataset(tmp_path, scenes_per_list=2)
    assert (tmp_path / "val.txt").read_text() == (
        "JPEGImages/val_000.jpg SegmentationClassAug/val_000.png\n"
        "JPEGImages/val_001.jpg SegmentationClassAug/val_001.png\n"
    )
    assert len(list(tmp_path.rglob("*.jpg"))) == len(list(tmp_path.rglob("*.png"))) == 4
