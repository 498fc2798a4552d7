"""The letterbox frame: sizes, padding, and the way back to the untouched image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.data.frame import Letterbox, preprocess
from tests.oracles.method import plain_letterbox
from tests.tiny import random_scene


@pytest.mark.parametrize(
    ("height", "width", "size", "inner"),
    [
        (500, 375, 512, (512, 384)),
        (375, 500, 512, (384, 512)),
        (480, 640, 512, (384, 512)),
        (333, 500, 512, (336, 512)),  # 340.99 floored to a multiple of 8
        (128, 128, 128, (128, 128)),
        (60, 40, 128, (128, 80)),  # small images are scaled up: 85.3 floored
    ],
)
def test_longer_side_fills_the_frame_and_the_other_is_floored_to_8(
    height: int, width: int, size: int, inner: tuple[int, int]
) -> None:
    assert Letterbox(height, width, size).inner == inner


def test_longer_side_fills_the_frame_for_every_size() -> None:
    """389 * (128 / 389) is 127.99 in floating point: flooring that would lose eight pixels of the image."""
    assert int(389 * (128 / 389)) == 127
    for size in (128, 512):
        for side in range(8, 3000):
            assert Letterbox(side, side // 2, size).inner[0] == size
            assert Letterbox(side // 2, side, size).inner[1] == size


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (3, 400)])
def test_extreme_shapes_keep_a_cell(height: int, width: int) -> None:
    letterbox = Letterbox(height, width, 128)
    assert sorted(letterbox.inner) == [8, 128]
    pixels = np.full((height, width, 3), 200, np.float32)
    frame = letterbox.image(pixels)
    assert (frame != 0).any(2).sum() == 8 * 128
    assert letterbox.undo(torch.zeros(2, 128, 128)).shape == (2, height, width)


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (389, 313), (200, 31)])
def test_image_and_labels_equal_the_description(shape: tuple[int, int]) -> None:
    pixels, labels = random_scene(np.random.default_rng(3), *shape)
    letterbox = Letterbox(*shape, 128)
    image, target = plain_letterbox(pixels, labels, 128)
    assert np.array_equal(letterbox.image(pixels.astype(np.float32)), image)
    assert np.array_equal(letterbox.label(labels, 255), target)


def test_padding_is_black_and_ignored_at_the_bottom_or_the_right() -> None:
    letterbox = Letterbox(40, 80, 64)
    image = letterbox.image(np.full((40, 80, 3), 100, np.float32))
    labels = letterbox.label(np.full((40, 80), 3, np.uint8), 255)
    assert (image[:32] == 100).all()
    assert (image[32:] == 0).all()
    assert (labels[:32] == 3).all()
    assert (labels[32:] == 255).all()
    upright = Letterbox(80, 40, 64).label(np.full((80, 40), 3, np.uint8), 200)
    assert (upright[:, :32] == 3).all()
    assert (upright[:, 32:] == 200).all()


def test_labels_are_never_mixed() -> None:
    labels = np.random.default_rng(0).choice(np.uint8([1, 9, 255]), (150, 97))
    assert set(np.unique(Letterbox(150, 97, 128).label(labels, 255))) == {1, 9, 255}


def test_padding_is_black_before_normalisation() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:] = (255, 102, 51)
    frame = preprocess(pixels, Letterbox(40, 80, 64), mean, std)
    assert frame.dtype == torch.float32
    assert frame[:, 0, 0].tolist() == pytest.approx([2.5, 0.0, -0.2], abs=1e-6)
    assert frame[:, -1, 0].tolist() == pytest.approx([-2.5, -1.6, -0.6], abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (7, 300)])
def test_undo_gives_the_untouched_size_without_the_padding(shape: tuple[int, int]) -> None:
    letterbox = Letterbox(*shape, 64)
    height, width = letterbox.inner
    maps = torch.full((2, 64, 64), 7.0)  # what the padding holds must not come back
    maps[0, :height, :width] = 1
    maps[1, :height, :width] = torch.linspace(0, 1, width)
    undone = letterbox.undo(maps)
    assert undone.shape == (2, *shape)
    torch.testing.assert_close(undone[0], torch.ones(shape))
    assert undone[1].max() <= 1
    assert (undone[1].diff(dim=1) >= 0).all()


def test_undo_takes_scores_back_to_where_they_came_from() -> None:
    """A box put into the frame and brought back covers itself up to a pixel of its border."""
    labels = np.zeros((180, 240), np.uint8)
    labels[40:120, 60:200] = 1
    letterbox = Letterbox(180, 240, 128)
    scores = torch.from_numpy(np.stack([letterbox.label(1 - labels, 0), letterbox.label(labels, 0)])).float()
    back = letterbox.undo(scores).argmax(0).numpy()
    assert np.array_equal(back[42:118, 62:198], labels[42:118, 62:198])
    assert back[:38].max() == back[122:].max() == back[:, :58].max() == back[:, 202:].max() == 0
