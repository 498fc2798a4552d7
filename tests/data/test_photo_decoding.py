"""Photos as cameras, phones and scanners write them."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.images import photo_pixels, read_photo
from src.errors import UserError
from tests.pictures import BLUE, RED, left_red_right_blue, save


def test_photos_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: to be turned clockwise
    image = read_photo(save(tmp_path / "a.png", left_red_right_blue(), exif=exif))
    assert image.shape == (40, 20, 3)
    assert image[0, 10].tolist() == list(RED)
    assert image[39, 10].tolist() == list(BLUE)


@pytest.mark.parametrize(
    ("mode", "ending", "tolerance"), [("RGB", "png", 0), ("CMYK", "jpg", 12), ("P", "gif", 30), ("RGB", "webp", 30)]
)
def test_colour_photos_come_out_as_rgb(tmp_path: Path, mode: str, ending: str, tolerance: int) -> None:
    image = read_photo(save(tmp_path / f"a.{ending}", left_red_right_blue(mode)))
    assert image.dtype == np.uint8
    assert np.abs(image[10, 10].astype(int) - RED).max() <= tolerance
    assert np.abs(image[10, 30].astype(int) - BLUE).max() <= tolerance


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = left_red_right_blue("RGBA")
    picture.putalpha(Image.fromarray(np.repeat(np.uint8([[255] * 20 + [0] * 20]), 20, 0)))
    image = read_photo(save(tmp_path / "a.png", picture))
    assert image[5, 5].tolist() == list(RED)
    assert image[5, 35].tolist() == [255, 255, 255]
    grey = Image.new("LA", (4, 4), (0, 0))
    assert (read_photo(save(tmp_path / "b.png", grey)) == 255).all()


def test_grey_photos_keep_their_brightness(tmp_path: Path) -> None:
    assert read_photo(save(tmp_path / "a.png", Image.new("L", (3, 2), 77)))[0, 0].tolist() == [77] * 3
    assert read_photo(save(tmp_path / "b.png", Image.new("1", (3, 2), 1))).tolist() == [[[255] * 3] * 3] * 2
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    for ending in ("png", "tif"):
        image = read_photo(save(tmp_path / f"sixteen.{ending}", Image.fromarray(ramp)))
        assert np.array_equal(image[0, :, 0], np.arange(256))
    image = read_photo(save(tmp_path / "float.tif", Image.fromarray(np.float32([[0, 0.5, 1]]))))
    assert image[0, :, 0].tolist() == [0, 128, 255]


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with the given (tag, type, count, value); a value of more than four bytes lies behind the entries."""
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            values, value = values + value, struct.pack("<I", 8 + 2 + 12 * len(entries) + 4 + len(values))
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + values


SHORT, RATIO, SIGNED_RATIO = 3, 5, 10
LYING = (0x0112, SHORT, 1, struct.pack("<H", 6))
DAMAGED = {
    "negative resolution": exif_block(LYING, (0x011A, SIGNED_RATIO, 1, struct.pack("<ii", -1, 0))),
    "a ratio where text belongs": exif_block(LYING, (0x0131, RATIO, 1, struct.pack("<II", 1, 0))),
    "cut off": exif_block(LYING)[:20],
    "no TIFF header": b"not a tiff header",
}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_exif_block_leaves_the_pixels_unturned(tmp_path: Path, exif: bytes, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", left_red_right_blue(), exif=exif)
    image = read_photo(path)
    assert image.shape == (20, 40, 3)
    assert np.abs(image[10, 10].astype(int) - RED).max() <= 30


def test_a_whole_exif_block_made_by_hand_turns_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", left_red_right_blue(), exif=exif_block(LYING))
    assert read_photo(path).shape == (40, 20, 3)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_photo(path)[0, 0].tolist() == list(RED)


def test_photos_of_more_than_a_hundred_megapixels_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_photo(save(tmp_path / "a.png", left_red_right_blue())).shape == (20, 40, 3)
    assert photo_pixels(tmp_path / "a.png") == 40 * 20
    assert Image.MAX_IMAGE_PIXELS == 100  # data sets keep the guard


def test_the_limit_is_lifted_until_the_last_thread_has_read_its_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    paths = [save(tmp_path / name, left_red_right_blue()) for name in ("a.png", "b.png")]
    open_image, both_began, a_is_read = Image.open, threading.Barrier(2), threading.Event()

    def opened(path: Path) -> Image.Image:
        both_began.wait(60)
        assert path.name == "a.png" or a_is_read.wait(60)
        return open_image(path)

    monkeypatch.setattr(Image, "open", opened)
    with ThreadPoolExecutor(2) as pool:
        a, b = (pool.submit(read_photo, path) for path in paths)
        assert a.result().shape == (20, 40, 3)
        a_is_read.set()
        assert b.result().shape == (20, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_photo_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    reason = "no image format known here" if content else "the file is empty"
    with pytest.raises(UserError, match=rf"a\.png cannot be read \({reason}\); save it as JPEG or PNG"):
        read_photo(path)


def test_a_truncated_photo_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", left_red_right_blue())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="truncated"):
        read_photo(path)
