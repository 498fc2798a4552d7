"""The frame: sizes, padding, normalisation, and the mapping back to the original image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.data import frame as subject
from src.data.frame import Frame
from tests.fake_cuda import LiveBytes, fake_cuda
from tests.oracles.method import plain_letterbox
from tests.tiny import random_scene


def plain(size: int) -> Frame:
    """A frame whose images are x / 255."""
    return Frame(size, (0, 0, 0), (1, 1, 1))


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
def test_the_longer_side_fills_the_frame_and_the_other_is_floored_to_a_multiple_of_8(
    height: int, width: int, size: int, inner: tuple[int, int]
) -> None:
    assert Frame(size).inner((height, width)) == inner


def test_the_longer_side_fills_the_frame_at_every_size() -> None:
    """389 * (128 / 389) is 127.99 in floating point: flooring that would lose eight pixels of the image."""
    assert int(389 * (128 / 389)) == 127
    for size in (128, 512):
        for side in range(8, 3000):
            assert Frame(size).inner((side, side // 2))[0] == size
            assert Frame(size).inner((side // 2, side))[1] == size


def test_squares_are_as_wide_as_published() -> None:
    """Their height is the frame's, their width int(width * (S / height)), floored: 504 for 91 of the sizes."""
    narrow = []
    for side in range(49, 1020):
        height, width = Frame(512).inner((side, side))
        assert (height, width) == (512, int(side * (512 / side)) // 8 * 8)
        if width < 512:
            narrow.append(side)
    assert len(narrow) == 91
    assert {98, 428, 478, 499} <= set(narrow)
    assert Frame(512).inner((428, 428)) == (512, 504)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3, 400)])
def test_extreme_shapes_have_at_least_one_cell(shape: tuple[int, int]) -> None:
    frame = plain(128)
    assert sorted(frame.inner(shape)) == [8, 128]
    assert (frame.image(np.full((*shape, 3), 200, np.uint8)) != 0).any(0).sum() == 8 * 128
    assert frame.undo(torch.zeros(2, 128, 128), shape).shape == (2, *shape)
    assert frame.labels(torch.zeros(2, 128, 128), shape).shape == shape


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (107, 107), (389, 313), (200, 31)])
def test_image_and_labels_equal_the_description(shape: tuple[int, int]) -> None:
    rgb, labels = random_scene(np.random.default_rng(3), *shape)
    image, target = plain_letterbox(rgb, labels, 128)
    assert np.array_equal(plain(128).image(rgb).permute(1, 2, 0), image / np.float32(255))
    assert np.array_equal(Frame(128).mask(labels, 255), target)
    frame = Frame(128)
    normalised = (image / np.float32(255) - np.array(frame.mean, np.float32)) / np.array(frame.std, np.float32)
    assert np.array_equal(frame.image(rgb).permute(1, 2, 0), normalised)  # whatever the order of the axes in between
    assert frame.image(rgb).is_contiguous()


def test_padding_is_black_and_ignored_at_the_bottom_or_the_right() -> None:
    image = plain(64).image(np.full((40, 80, 3), 51, np.uint8))
    labels = Frame(64).mask(np.full((40, 80), 3, np.uint8), 255)
    assert (image[:, :32] == np.float32(0.2)).all()
    assert (image[:, 32:] == 0).all()
    assert (labels[:32] == 3).all()
    assert (labels[32:] == 255).all()
    upright = Frame(64).mask(np.full((80, 40), 3, np.uint8), 200)
    assert (upright[:, :32] == 3).all()
    assert (upright[:, 32:] == 200).all()


def test_resizing_never_mixes_labels() -> None:
    labels = np.random.default_rng(0).choice(np.uint8([1, 9, 255]), (150, 97))
    assert set(np.unique(Frame(128).mask(labels, 255))) == {1, 9, 255}


def test_padding_is_black_before_normalisation() -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:] = (255, 102, 51)
    image = Frame(64, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)).image(rgb)
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == pytest.approx([2.5, 0.0, -0.2], abs=1e-6)
    assert image[:, -1, 0].tolist() == pytest.approx([-2.5, -1.6, -0.6], abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (7, 300)])
def test_undo_gives_the_untouched_size_without_the_padding(shape: tuple[int, int]) -> None:
    frame = Frame(64)
    height, width = frame.inner(shape)
    maps = torch.full((2, 64, 64), 7.0)  # values in the padding must not reach the result
    maps[0, :height, :width] = 1
    maps[1, :height, :width] = torch.linspace(0, 1, width)
    undone = frame.undo(maps, shape)
    assert undone.shape == (2, *shape)
    torch.testing.assert_close(undone[0], torch.ones(shape))
    assert undone[1].max() <= 1
    assert (undone[1].diff(dim=1) >= 0).all()


def test_labels_return_to_their_original_position() -> None:
    """A box mapped to the frame and back equals itself up to a pixel of its border."""
    mask = np.zeros((180, 240), np.uint8)
    mask[40:120, 60:200] = 1
    frame = Frame(128)
    scores = torch.from_numpy(np.stack([frame.mask(1 - mask, 0), frame.mask(mask, 0)])).float()
    back = frame.labels(scores, (180, 240)).numpy()
    assert np.array_equal(back[42:118, 62:198], mask[42:118, 62:198])
    assert back[:38].max() == back[122:].max() == back[:, :58].max() == back[:, 202:].max() == 0


@pytest.mark.parametrize("classes_at_once", [1, 2, 5])
def test_labels_are_the_argmax_of_the_unpadded_scores(classes_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of classes per chunk; ties go to the first class."""
    monkeypatch.setattr(subject, "CHUNK_PIXELS", classes_at_once * 77 * 131)
    scores = torch.randint(0, 3, (5, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    shape = (77, 131)
    labels = Frame(32).labels(scores, shape)
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels, Frame(32).undo(scores, shape).numpy().argmax(0))  # numpy promises the first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_are_made_on_the_device_of_the_scores() -> None:
    scores = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = Frame(32).labels(scores.cuda(), (770, 1310))
    assert labels.device.type == "cuda"
    assert (labels.cpu() == Frame(32).labels(scores, (770, 1310))).float().mean() > 0.999


def test_labels_at_original_size_are_smooth() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    labels = Frame(32).labels(torch.stack([columns - rows, rows - columns]), (320, 320))  # ten times the frame
    edge = (labels == 0).int().argmax(1)[20:300]  # first background pixel of each row: a diagonal
    assert edge.diff().max() <= 2


def test_labels_on_a_gpu_take_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch), LiveBytes() as calls:
        labels = Frame(32).labels(torch.empty(21, 32, 32, device="cuda"), (77, 131))
    assert (labels.dtype, labels.shape, labels.device.type) == (torch.uint8, (77, 131), "cuda")
    assert calls.calls.total() - calls.calls["device"] < 21
    assert not calls.waits
