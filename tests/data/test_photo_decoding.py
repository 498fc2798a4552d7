"""Photos as cameras, phones and scanners write them."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from src.data import images
from src.data.images import photo_pixels, read_image, read_mask, read_photo, to_rgb
from src.data.labels import Labelling
from src.errors import UserError
from tests.pictures import BLUE, RED, left_red_right_blue, save


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its left side: must be rotated clockwise
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


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
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
    """EXIF with the given (tag, type, count, value); a value of more than four bytes follows the entries."""
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
def test_a_damaged_exif_block_is_ignored(tmp_path: Path, exif: bytes, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", left_red_right_blue(), exif=exif)
    image = read_photo(path)
    assert image.shape == (20, 40, 3)
    assert np.abs(image[10, 10].astype(int) - RED).max() <= 30


def test_a_valid_exif_block_rotates_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", left_red_right_blue(), exif=exif_block(LYING))
    assert read_photo(path).shape == (40, 20, 3)


def test_the_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_photo(path)[0, 0].tolist() == list(RED)


def test_the_limit_counts_bytes_and_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image above the limit is not decoded: a PNG of 100 kB may contain 900 million pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's limit, which counts pixels
    colour = save(tmp_path / "a.png", left_red_right_blue())
    grey = save(tmp_path / "b.png", left_red_right_blue("L"))
    limit = 40 * 20 * 4
    assert read_photo(colour, limit).shape == read_photo(grey, limit // 4).shape == (20, 40, 3)
    assert read_photo(colour, None).shape == (20, 40, 3)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    expected = r"a\.png cannot be read \(40 x 20 pixels take 3\.2 kB, the limit is 3\.2 kB\); make it smaller, or else$"
    with pytest.raises(UserError, match=expected):
        read_photo(colour, limit - 1, "make it smaller, or else")
    with pytest.raises(UserError, match=r"b\.png cannot be read \(.* 0\.8 kB.*\); make it smaller$"):
        read_photo(grey, limit // 4 - 1)
    assert photo_pixels(colour) == 40 * 20
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_applies_to_data_set_images_and_masks(tmp_path: Path) -> None:
    """A PNG whose header says 2,000,000 x 2,000,000."""
    huge = tmp_path / "huge.png"
    head = b"IHDR" + struct.pack(">IIBBBBB", 2_000_000, 2_000_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    huge.write_bytes(content + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    for read in (read_image, read_photo, lambda path: read_mask(path, Labelling(2))):
        with pytest.raises(UserError, match=r"2000000 x 2000000 pixels take 4000\.0 GB, the limit is 1\.1 GB"):
            read(huge)


@pytest.mark.parametrize("most", [None, 2**60])
def test_a_header_that_promises_more_than_the_file_contains_is_refused(tmp_path: Path, most: int | None) -> None:
    """Also without a limit: the file has 1,000 bytes, its image would take 1.1 TB."""
    path = save(tmp_path / "a.bmp", Image.new("RGB", (16, 16)))
    whole = bytearray(path.read_bytes())
    whole[18:26] = struct.pack("<Ii", 4_294_967_169, 64)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"its header says 4294967169 x 64 pixels, but it has 822 bytes"):
        read_photo(path, most)


@pytest.mark.parametrize("ending", ["jpg", "png", "eps"])
def test_postscript_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("PostScript was run"))
    path = tmp_path / f"holiday.{ending}"
    left_red_right_blue().save(path, "EPS")
    for read in (read_image, read_photo, lambda path: read_mask(path, Labelling(2))):
        with pytest.raises(UserError, match=r"\(unsupported format\); expected JPEG, PNG, WebP, "):
            read(path)


def test_formats_are_detected_by_content(tmp_path: Path) -> None:
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"):
        path = tmp_path / f"photo.{name}"  # the suffix is ignored
        left_red_right_blue().save(path, name)
        image = read_photo(path)
        assert np.abs(image[10, 10].astype(int) - RED).max() <= 40, name
        assert np.abs(image[10, 30].astype(int) - BLUE).max() <= 40, name


@pytest.mark.parametrize(
    ("values", "tags", "white"),
    [
        (np.uint16([[0, 2048, 4095]]), {}, 4095),  # 12 bits, by the values
        (np.uint16([[0, 100, 1000]]), {281: 4095}, 4095),  # by MaxSampleValue
        (np.uint16([[0, 512, 1023]]), {}, 1023),
        (np.uint16([[0, 16384, 65535]]), {}, 65535),
        (np.uint16([[0, 100, 255]]), {}, 255),
        (np.int16([[0, 2048, 4095]]), {}, 4095),
        (np.int16([[0, 16384, 32767]]), {}, 32767),
        (np.int32([[0, 2**20, 2**21]]), {}, 2**21),
    ],
)
def test_16_bit_values_are_scaled_by_the_bits_in_use(
    tmp_path: Path, values: np.ndarray, tags: dict[int, int], white: int
) -> None:
    path = tmp_path / "scan.tif"
    save_tiff(path, values, tags)
    shown = read_photo(path)[0, :, 0]
    assert np.abs(shown - values[0] / white * 255).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_data_set_images_are_clipped_with_and_without_a_sign(tmp_path: Path, kind: type[np.generic]) -> None:
    save_tiff(tmp_path / "scan.tif", np.array([[0, 100, 4095]], kind), {})
    assert read_image(tmp_path / "scan.tif")[0, :, 0].tolist() == [0, 100, 255]


def test_signed_values_are_shifted_to_their_minimum(tmp_path: Path) -> None:
    """As in computed tomography, from -1024 for air."""
    save_tiff(tmp_path / "scan.tif", np.int16([[-1024, 0, 3071]]), {})
    assert read_photo(tmp_path / "scan.tif")[0, :, 0].tolist() == [0, 63, 255]


def test_a_scale_other_than_16_bits_is_noted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images._scales_said.clear()
    for name in ("a.png", "b.png"):
        read_photo(save(tmp_path / name, Image.fromarray(np.uint16([[0, 4000]]))))
    (note,) = capsys.readouterr().err.splitlines()
    assert note == f"note: {tmp_path / 'a.png'}: its 16-bit values range from 0 to 4095 (printed once for this scale)"


def save_tiff(path: Path, values: np.ndarray, tags: dict[int, int]) -> None:
    """An uncompressed grey TIFF of one strip, with additional tags of one short each; Pillow writes no signed ones."""
    bits, signed = 8 * values.itemsize, values.dtype.kind == "i"
    entries = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: 1, 277: 1, 278: values.shape[0]}
    entries |= {279: values.nbytes, 339: 2 if signed else 1, **tags}
    entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    path.write_bytes(head + directory + bytes(4) + values.astype(values.dtype.newbyteorder("<")).tobytes())


def wide_gamut_profile() -> bytes:
    """A profile whose primaries are swapped: its red is sRGB's green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    places = {bytes(profile[o : o + 4]): o for o in range(132, 132 + 12 * count, 12)}
    red, green = (places[tag] for tag in (b"rXYZ", b"gXYZ"))
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    place, length = struct.unpack(">II", profile[places[b"desc"] + 4 : places[b"desc"] + 12])
    text = bytes(profile[place : place + length]).replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    profile[place : place + length] = text.replace(b"sRGB", b"mine")
    return bytes(profile)


@pytest.mark.parametrize("transparent", [False, True])
def test_photos_are_converted_to_srgb_and_data_set_images_are_not(tmp_path: Path, transparent: bool) -> None:
    picture = Image.new("RGB", (4, 2), (200, 30, 30))
    if transparent:
        picture.putalpha(255)
    path = save(tmp_path / "a.png", picture, icc_profile=wide_gamut_profile())
    red, green, blue = read_photo(path)[0, 0].tolist()
    assert green > 150 > 60 > max(red, blue)
    assert read_image(path)[0, 0].tolist() == [200, 30, 30]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_photo(save(tmp_path / "b.png", picture, icc_profile=srgb))[0, 0].tolist() == [200, 30, 30]


def test_a_damaged_colour_profile_is_ignored_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.png", left_red_right_blue(), icc_profile=b"no profile")
    assert read_photo(path)[10, 10].tolist() == list(RED)
    assert f"note: {path}: the colour profile is ignored" in capsys.readouterr().err


def test_paths_images_and_arrays_are_accepted(tmp_path: Path) -> None:
    picture = left_red_right_blue()
    rgb = np.asarray(picture)
    path = save(tmp_path / "a.png", picture)
    opaque = np.dstack([rgb, np.full((20, 40), 255, np.uint8)])
    for image in (str(path), path, picture, rgb, opaque, rgb / 255, (rgb / 255).astype(np.float32), opaque / 255):
        assert np.array_equal(to_rgb(image), rgb)
    grey = np.asarray(picture.convert("L"))
    for image in (grey, grey / 255, picture.convert("L")):
        assert np.array_equal(to_rgb(image), np.repeat(grey[..., None], 3, 2))
    clear = np.zeros((2, 3, 4), np.uint8)
    assert (to_rgb(clear) == 255).all()  # on white, as read_photo has it


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((3, 20, 40), np.uint8), r"got an array of shape \[3, 20, 40\]"),
        (np.zeros((20, 40, 2), np.uint8), r"shape \[20, 40, 2\]"),
        (np.zeros((1, 20, 40, 3), np.uint8), r"shape \[1, 20, 40, 3\]"),
        (np.zeros((0, 40, 3), np.uint8), r"shape \[0, 40, 3\]"),
        (np.zeros((20, 40, 3), np.int64), "expected uint8, or floating point from 0 to 1, got an array of dtype int64"),
        (np.zeros((20, 40), bool), "got an array of dtype bool"),
        (np.full((20, 40, 3), 255.0, np.float32), "got float32 from 255 to 255"),
        (np.full((20, 40, 3), np.nan), "got float64 from nan to nan"),
        ([[1, 2], [3, 4]], "expected a path, a Pillow image, or an array .*, got builtins.list"),
        (b"bytes", "got builtins.bytes"),
    ],
)
def test_other_arrays_are_refused_with_dtype_and_shape(image: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        to_rgb(image)  # pyright: ignore[reportArgumentType]


def test_the_limit_stays_lifted_until_the_last_thread_has_read_its_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    paths = [save(tmp_path / name, left_red_right_blue()) for name in ("a.png", "b.png")]
    open_image, both_began, a_is_read = Image.open, threading.Barrier(2), threading.Event()

    def opened(path: Path, formats: Sequence[str]) -> Image.Image:
        both_began.wait(60)
        assert path.name == "a.png" or a_is_read.wait(60)
        return open_image(path, formats=formats)

    monkeypatch.setattr(Image, "open", opened)
    with ThreadPoolExecutor(2) as pool:
        a, b = (pool.submit(read_photo, path) for path in paths)
        assert a.result().shape == (20, 40, 3)
        a_is_read.set()
        assert b.result().shape == (20, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_truncated_photo_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", left_red_right_blue())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="truncated"):
        read_photo(path)
