"""Captions name what is drawn, and training data contain nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.miniature import captions
from tools.miniature.backgrounds import wall
from tools.miniature.canvas import Canvas, Pen, Placement
from tools.miniature.class_words import SUBJECT_NUMBER, SUBJECTS, WORDS_OF
from tools.miniature.draw import FIRST_SEED, SCENES_PER_LIST
from tools.miniature.objects import LOOKS
from tools.miniature.scenes import Scene, draw_scene

WHOLE = (slice(None), slice(None))


def describe(scene: Scene, window: tuple[slice, slice], seed: int) -> list[str]:
    return captions.describe(scene, window, np.random.default_rng(seed)).split(", ")


@pytest.mark.parametrize("seed", range(12))
def test_a_caption_names_what_covers_enough_of_the_picture_and_nothing_else(seed: int) -> None:
    scene = draw_scene(seed)
    for window in (WHOLE, (slice(0, 200), slice(80, 280))):
        words = describe(scene, window, seed)
        numbers = scene.canvas.subjects[window]
        for subject in SUBJECTS[1:]:
            share = (numbers == SUBJECT_NUMBER[subject]).mean()
            named = [word for word in words if word in WORDS_OF[subject]]
            assert len(named) == (share >= captions.SMALLEST_SHARE), (subject, share, words)


def test_words_fit_the_drawing() -> None:
    trousers, dress = LOOKS["person"]
    assert "man" in trousers.words
    assert "woman" not in trousers.words
    assert "person in dress" in dress.words
    assert "boy" not in dress.words

    rng = np.random.default_rng(0)
    canvas = Canvas(100, 200)
    wall(canvas, rng)
    for look, x in ((dress, 50), (trousers, 150)):
        look.draw(Pen(canvas, Placement(x, 50, 40), "person"), rng)
    scene = Scene(canvas, (dress, trousers))
    left, right = ((slice(None), slice(0, 100)), (slice(None), slice(100, 200)))
    assert set(captions.fitting_words(scene, left, "person")) == set(dress.words)
    assert set(captions.fitting_words(scene, right, "person")) == set(trousers.words)
    assert set(captions.fitting_words(scene, WHOLE, "person")) == set(WORDS_OF["person"])
    said = {word for seed in range(300) for word in describe(scene, left, seed)}
    assert said == {*dress.words, "wall"}


def test_every_word_of_a_class_occurs() -> None:
    canvas = Canvas(100, 100)
    wall(canvas, np.random.default_rng(0))
    look = LOOKS["tv"][0]
    look.draw(Pen(canvas, Placement(50, 50, 45), "tv"), np.random.default_rng(0))
    said = [word for seed in range(400) for word in describe(Scene(canvas, (look,)), WHOLE, seed) if word != "wall"]
    assert len(said) == 400
    assert set(said) == set(WORDS_OF["tv"])
    assert 0.45 < np.mean([word == "tv" for word in said]) < 0.7


def test_a_scene_gives_the_full_picture_and_close_ups() -> None:
    pairs = captions.draw_pairs(7)
    assert len(pairs) == 1 + captions.CLOSE_UPS
    for picture, caption in pairs:
        assert picture.shape == (captions.PICTURE_SIDE, captions.PICTURE_SIDE, 3)
        assert picture.dtype == np.uint8
        assert caption
    for picture, _ in pairs[1:]:  # close-ups are square and fill the picture
        assert picture[-1].any()
        assert picture[:, -1].any()


def test_writing_pairs_gives_pictures_and_captions_only(tmp_path: Path) -> None:
    captions.write_pairs(tmp_path, scenes=3, processes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.txt", "pictures.npy"]
    pictures, words = captions.read_pairs(tmp_path)
    expected = [pair for seed in range(3) for pair in captions.draw_pairs(captions.FIRST_SEED + seed)]
    assert len(words) == len(expected) == len(pictures)
    for picture, caption_words, (drawn, caption) in zip(pictures, words, expected, strict=True):
        assert np.array_equal(picture, drawn)
        assert ", ".join(caption_words) == caption


def test_training_scenes_are_not_those_of_the_lists() -> None:
    listed = {seed + number for seed in FIRST_SEED.values() for number in range(SCENES_PER_LIST)}
    assert len(listed) == 2 * SCENES_PER_LIST
    assert max(listed) < captions.FIRST_SEED
