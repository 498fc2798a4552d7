"""Lists, images and masks: how they are read, and the error for each kind of broken file."""

from __future__ import annotations

import errno
import os
import pickle
import re
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from src.config.schema import Config
from src.data import dataset as data_module
from src.data import images
from src.data.dataset import Batch, Sample, SegmentationDataset, batches
from src.data.images import images_in, read_image, read_mask, read_photo
from src.data.labels import Labelling
from src.data.lists import _how_to_prepare, evaluation_entries, read_list
from src.errors import UserError
from src.files import REPOSITORY
from src.method.blip import check_folder
from tests import tiny
from tests.oracles.method import plain_letterbox
from tools.prepare import __main__ as prepare

CPU = torch.device("cpu")
LABELS = np.array([[0, 1, 2], [3, 255, 20]], np.uint8)


def dataset_of(config: Config, **options: bool) -> SegmentationDataset:
    return SegmentationDataset.from_config(evaluation_entries(config), config, **options)


# lists


def test_list_lines_are_image_and_mask_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("a/1.jpg b/1.png\n\n  a/2.jpg\tb/2.png  \r\n")
    entries = read_list(tmp_path / "val.txt", tmp_path)
    assert [(entry.image, entry.mask) for entry in entries] == [
        (tmp_path / "a/1.jpg", tmp_path / "b/1.png"),
        (tmp_path / "a/2.jpg", tmp_path / "b/2.png"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_path(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbfa/1.jpg b/1.png\r\n")
    assert read_list(tmp_path / "val.txt", tmp_path)[0].image == tmp_path / "a/1.jpg"


def test_limit_takes_the_first_lines(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("".join(f"{n}.jpg {n}.png\n" for n in range(9)))
    assert [entry.image.stem for entry in read_list(tmp_path / "val.txt", tmp_path, limit=2)] == ["0", "1"]


def test_masks_are_optional_where_they_are_not_needed(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("1.jpg\n2.jpg 2.png\n")
    assert [entry.mask for entry in read_list(tmp_path / "val.txt", tmp_path, masks=False)] == [
        None,
        tmp_path / "2.png",
    ]
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert [entry.image.name for entry in read_list(tmp_path, Path("nowhere"), masks=False)] == ["a.png", "b.JPG"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1.jpg 1.png\n2.jpg\n", r"val\.txt, line 2: expected image path, space, mask path .*got '2\.jpg'"),
        ("1.jpg 1.png\n\nmy cat.jpg 2.png\n", r"line 3: .*paths without spaces"),
        ("a\0.jpg 1.png\n", r"line 1: .*got 'a\\x00\.jpg 1\.png'"),
        ("", r"val\.txt is empty"),
        ("\n \n", r"val\.txt is empty"),
        (b"\xff\xfe", r"val\.txt is not UTF-8 text"),
    ],
)
def test_malformed_lists_are_refused(tmp_path: Path, content: str | bytes, reason: str) -> None:
    (tmp_path / "val.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=reason):
        read_list(tmp_path / "val.txt", tmp_path)


def test_missing_lists_and_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image list .*val\.txt cannot be read .*tools\.prepare"):
        read_list(tmp_path / "val.txt", tmp_path)
    with pytest.raises(UserError, match=r"data_root .*nowhere does not exist"):
        read_list(tmp_path / "val.txt", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"image list .* is a folder without images"):
        read_list(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"is a folder without images"):
        read_list(tmp_path, tmp_path, masks=False)


def test_a_configuration_without_a_list_is_refused(make_config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: key val_list is missing"):
        evaluation_entries(make_config(val_list=None))


# masks


@pytest.mark.parametrize("palette", [True, False], ids=["palette", "grey"])
def test_mask_values_are_labels(tmp_path: Path, palette: bool) -> None:
    path = tiny.save_mask(tmp_path / "mask.png", LABELS, palette)
    with Image.open(path) as mask:
        assert mask.mode == ("P" if palette else "L")
    labels = read_mask(path, Labelling(21))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, LABELS)


def test_a_palette_with_few_colours_is_read_by_index(tmp_path: Path) -> None:
    """PNG packs two pixels of a palette of 16 colours into a byte."""
    mask = Image.fromarray(np.uint8([[0, 1, 2, 3]])).convert("L")
    mask.putpalette(bytes(range(200, 248)))
    mask.save(tmp_path / "mask.png", bits=4)
    assert read_mask(tmp_path / "mask.png", Labelling(4)).tolist() == [[0, 1, 2, 3]]


def test_sixteen_bit_masks_are_read(tmp_path: Path) -> None:
    Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", Labelling(21)), LABELS)
    Image.fromarray(np.uint16([[0, 256]])).save(tmp_path / "wrong.png")
    with pytest.raises(UserError, match="has label 256"):
        read_mask(tmp_path / "wrong.png", Labelling(21))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "pbm"])
def test_one_bit_masks_have_labels_0_and_1(tmp_path: Path, ending: str) -> None:
    drawn = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(drawn).save(tmp_path / f"mask.{ending}")
    assert read_mask(tmp_path / f"mask.{ending}", Labelling(2)).tolist() == drawn.astype(int).tolist()


@pytest.mark.parametrize(("ending", "name"), [("jpg", "JPEG"), ("webp", "WebP"), ("jp2", "JPEG 2000")])
def test_masks_in_lossy_formats_are_refused(tmp_path: Path, ending: str, name: str) -> None:
    Image.fromarray(LABELS).save(tmp_path / f"mask.{ending}")
    with pytest.raises(UserError, match=rf"is in the format {name}, which changes labels; save masks as PNG"):
        read_mask(tmp_path / f"mask.{ending}", Labelling(21))


def test_masks_with_lossy_compression_are_refused(tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / "mask.tif", compression="jpeg")
    with pytest.raises(UserError, match="is a TIFF compressed as jpeg, which changes labels; save masks as PNG"):
        read_mask(tmp_path / "mask.tif", Labelling(21))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_masks_with_lossless_compression_are_read(tmp_path: Path, compression: str | None) -> None:
    Image.fromarray(LABELS).save(tmp_path / "mask.tif", compression=compression)
    assert np.array_equal(read_mask(tmp_path / "mask.tif", Labelling(21)), LABELS)


@pytest.mark.parametrize("palette", [True, False], ids=["palette", "grey"])
def test_labels_outside_the_classes_are_named(tmp_path: Path, palette: bool) -> None:
    path = tiny.save_mask(tmp_path / "mask.png", LABELS, palette)
    with pytest.raises(UserError, match=r"mask\.png has label 20; expected 0 to 19 or 255 \(ignored\)"):
        read_mask(path, Labelling(20))
    with pytest.raises(UserError, match="has label 255; expected 0 to 20 or 200"):
        read_mask(path, Labelling(21, 200))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_masks_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=rf"mask\.png is a {mode} image; expected a palette or grey PNG"):
        read_mask(tmp_path / "mask.png", Labelling(21))


# images


def test_images_are_decoded_to_rgb_as_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(pixels[..., :1], 3, axis=2))


@pytest.mark.parametrize("reader", [read_image, lambda path: read_mask(path, Labelling(21))], ids=["image", "mask"])
@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", None])
def test_missing_files_and_non_images_are_named(
    tmp_path: Path, reader: Callable[[Path], np.ndarray], content: bytes | None
) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    reason = "does not exist; check data_root" if content is None else "cannot be read"
    with pytest.raises(UserError, match=rf"a\.png {reason}"):
        reader(path)
    with pytest.raises(UserError, match="cannot be read"):
        reader(tmp_path)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_damaged_images_and_masks_raise_only_user_errors(tmp_path: Path, ending: str) -> None:
    """Truncated or overwritten anywhere: either an image is read or the error names the file."""
    rng = np.random.default_rng(0)
    scene, labels = tiny.random_scene(rng, 30, 40)
    path = tmp_path / f"a.{ending}"
    for array, reader in ((scene, read_image), (labels, lambda path: read_mask(path, Labelling(4)))):
        Image.fromarray(array).save(path)
        whole = path.read_bytes()
        messages = []
        for _ in range(60):
            damaged = bytearray(whole)
            if rng.random() < 0.5:
                del damaged[rng.integers(0, len(whole)) :]
            else:
                start = rng.integers(0, len(whole))
                damaged[start : start + 8] = rng.bytes(8)
            path.write_bytes(damaged)
            try:
                reader(path)
            except UserError as error:
                messages.append(str(error))
        assert messages
        assert all(str(path) in message and "\n" not in message for message in messages)


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    Image.fromarray(tiny.random_scene(np.random.default_rng(0), 60, 80)[0]).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError,
        match=r"a\.jpg cannot be read \(.*truncated.*\); the file may be truncated: download or copy it again",
    ):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "values",
    [
        np.uint16([[0, 100, 255, 256, 4095, 65535]]),
        np.int32([[-5, 0, 100, 255, 256, 2**20]]),
        np.float32([[-1, 0, 0.4, 1, 254.9, 1e9]]),
        np.float32([[0, 0.25, 0.5, 1]]),
    ],
    ids=["16 bits", "32 bits", "float", "float to 1"],
)
def test_data_set_images_of_high_bit_depth_are_clipped_as_published_and_noted(
    tmp_path: Path, values: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_clipped_said", threading.Event())
    for name in ("a.tif", "b.tif"):
        Image.fromarray(values).save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            published = np.asarray(image.convert("RGB"))
        assert np.array_equal(read_image(tmp_path / name), published)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: image {tmp_path / 'a.tif'} has values from {values.min():g} to {values.max():g}; ")


def test_small_values_of_high_bit_depth_images_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Independently of other images: the same value is the same grey in each."""
    for top in (20, 255):
        Image.fromarray(np.uint16([[0, top]])).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, top]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["16 bits", "float"])
def test_photos_of_high_bit_depth_are_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / ("a.png" if kind == "16 bits" else "a.tif")
    Image.fromarray(values.astype(np.uint16) * 257 if kind == "16 bits" else values.astype(np.float32) / 255).save(path)
    assert np.array_equal(read_photo(path), np.repeat(values[..., None], 3, axis=2))


@pytest.mark.parametrize("reader", [read_image, read_photo, lambda path: read_mask(path, Labelling(21))])
def test_special_files_are_refused_without_waiting(tmp_path: Path, reader: Callable[[Path], np.ndarray]) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # a pipe without a writer: opening it would block forever
    with pytest.raises(UserError, match=r"pipe\.png cannot be read: it is a named pipe; expected an image file$"):
        reader(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"cannot be read: it is a folder; expected an image file$"):
        reader(tmp_path)
    with pytest.raises(UserError, match=r"/dev/null cannot be read: it is a device or a socket"):
        reader(Path("/dev/null"))
    with pytest.raises(UserError, match=r"a (cannot be read \(File name too long\)|does not exist .*)$"):
        reader(tmp_path / (300 * "a"))


@pytest.mark.parametrize("reader", [read_image, read_photo, lambda path: read_mask(path, Labelling(21))])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"\(the file is empty\); download or copy it again$"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            r"\(it is a Git LFS pointer.*; run `git lfs pull`$",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"\(unsupported format\); expected JPEG, PNG$"),
        (b"\0\0\0\x18ftypheic" + bytes(16), r"\(HEIC needs the package pillow-heif\); install it"),
    ],
    ids=["empty", "pointer", "PostScript", "HEIC"],
)
def test_advice_fits_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], np.ndarray], content: bytes, reason: str
) -> None:
    monkeypatch.setattr(images, "formats", lambda: ("JPEG", "PNG"))
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jpg cannot be read {reason}"):
        reader(tmp_path / "a.jpg")


# the data set


def test_items_are_letterboxed_and_normalised(make_config: Callable[..., Config]) -> None:
    config = make_config(dataset={"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]})
    dataset = dataset_of(config)
    assert len(dataset) == 3
    for position, entry in enumerate(dataset.entries):
        pixels, labels = read_image(entry.image), read_mask(entry.mask, Labelling(4))
        image, target = plain_letterbox(pixels, labels, tiny.SIZE)
        sample = dataset[position]
        assert (sample.index, sample.shape) == (position, labels.shape)
        expected = (image / 255 - (0.1, 0.2, 0.3)) / (0.5, 0.6, 0.7)
        np.testing.assert_allclose(sample.pixels.permute(1, 2, 0).numpy(), expected, atol=1e-6)
        assert np.array_equal(sample.labels, target)


def test_labels_at_original_resolution_are_unchanged(make_config: Callable[..., Config]) -> None:
    dataset = dataset_of(make_config(eval={"resolution": "original"}))
    for position, entry in enumerate(dataset.entries):
        assert np.array_equal(dataset[position].labels, read_mask(entry.mask, Labelling(4)))


def test_indices_choose_images_and_keep_their_numbers(make_config: Callable[..., Config]) -> None:
    config = make_config()
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config, indices=[2, 0])
    assert [dataset[position].index for position in range(len(dataset))] == [2, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_the_order_of_the_list(make_config: Callable[..., Config], workers: int) -> None:
    config = make_config(dataloader={"batch_size": 2, "num_workers": workers}, eval={"resolution": "original"})
    dataset = dataset_of(config)
    got = list(batches(dataset, config.dataloader, CPU))
    assert [batch.indices for batch in got] == [[0, 1], [2]]
    assert [len(batch.pixels) for batch in got] == [2, 1]
    assert torch.equal(torch.cat([batch.pixels for batch in got]), torch.stack([dataset[n].pixels for n in range(3)]))
    assert [tuple(labels.shape) for labels in got[0].labels] == got[0].shapes == [(90, 120), (120, 77)]


def test_image_and_mask_must_agree_in_size(make_config: Callable[..., Config], data_root: Path) -> None:
    tiny.save_mask(data_root / "masks" / "1.png", np.zeros((77, 120), np.uint8), palette=False)
    dataset = dataset_of(make_config())
    with pytest.raises(
        UserError, match=r"1\.png has 120 x 77 pixels, but image .*1\.jpg has 77 x 120; use a mask of the image's size"
    ):
        dataset[1]


@pytest.mark.parametrize(("folder", "number"), [("masks", 0), ("images", 2)])
def test_a_differently_named_folder_is_found_and_named(
    make_config: Callable[..., Config], data_root: Path, folder: str, number: int
) -> None:
    """A list names val_contain_crowd/, and only val/ exists."""
    dataset = dataset_of(make_config())
    (data_root / folder).rename(data_root / "val")
    expected = (
        rf"the folder {folder} does not exist, but .*val/{number}\.\w+ does: rename val to {folder}, or rewrite "
        rf".*--force \(line {number + 1} of the image list\)$"
    )
    with pytest.raises(UserError, match=expected):
        dataset[number]


def test_backslashes_of_a_list_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\\1\.jpg does not exist; separate the parts of a path by /, not by \\"):
        read_image(tmp_path / "images\\1.jpg")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_ends_the_run_and_is_named(
    make_config: Callable[..., Config], data_root: Path, workers: int
) -> None:
    (data_root / "images" / "2.jpg").unlink()
    config = make_config(dataloader={"batch_size": 3, "num_workers": workers})
    with pytest.raises(UserError, match=r"^image .*2\.jpg does not exist; check .* \(line 3 of the image list\)$"):
        list(batches(dataset_of(config), config.dataloader, CPU))


def test_masks_are_not_read_where_they_are_not_needed(make_config: Callable[..., Config], data_root: Path) -> None:
    (data_root / "masks" / "0.png").unlink()
    sample = dataset_of(make_config(), masks=False)[0]
    assert sample.labels is None
    assert Batch.of([sample, sample]).labels == []


def test_workers_stack_batches_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each batch would be copied again when it leaves the worker."""
    samples = [Sample(number, Path("a.jpg"), torch.full((3, 8, 8), float(number)), (8, 8), None) for number in range(2)]
    assert not Batch.of(samples).pixels.is_shared()
    monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_info", object())  # as in a worker
    batch = Batch.of(samples)
    assert batch.pixels.is_shared()
    assert torch.equal(batch.pixels, torch.stack([sample.pixels for sample in samples]))


def test_all_malformed_lines_of_a_list_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg a.png\nb.jpg\n\nc.jpg c.png\nd.jpg d.png e\nf.jpg\n")
    expected = r"list\.txt, line 2: expected .* got 'b\.jpg'; also line 5, 6$"
    with pytest.raises(UserError, match=expected):
        read_list(tmp_path / "list.txt", tmp_path)


def test_a_list_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"image list .*list\.txt cannot be read \(it is a named pipe"):
        read_list(tmp_path / "list.txt", tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match=r"image list .*circle cannot be read \(Too many levels of symbolic links\)"):
        read_list(tmp_path / "circle", tmp_path)


@pytest.mark.parametrize(
    ("free", "processes", "workers"), [(10**9, 1, 4), (10**9, 4, 2), (10**9, 16, 0), (10**6, 1, 0)]
)
def test_workers_use_the_shared_memory_of_this_process_alone(
    free: int, processes: int, workers: int, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many workers as fit, each with three batches of float32 images: here 100 MB."""
    monkeypatch.setattr(data_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(data_module, "SHARED_MEMORY", Path.cwd())
    monkeypatch.setattr(data_module, "local_world_size", lambda: processes)
    config = make_config(model={"image_size": 1672}, dataloader={"num_workers": 4})
    dataset = SegmentationDataset.from_config([], config)
    assert data_module._workers(dataset, config.dataloader) == workers


def test_masks_of_original_size_use_no_shared_memory(data_root: Path) -> None:
    """With eval.resolution: original they may have any size, and a worker without room would block forever."""
    labels = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    batch = Batch([0], [Path("a.jpg")], torch.zeros(1, 3, 16, 16), [(3, 4)], [labels])
    sent = bytes(ForkingPickler.dumps(batch))
    assert labels.numpy().tobytes() in sent
    received = pickle.loads(sent)
    assert torch.equal(received.labels[0], labels)
    assert torch.equal(received.pixels, batch.pixels)
    assert (received.indices, received.shapes, received.unreadable) == ([0], [(3, 4)], {})


MISSING = {
    "pascal": "python -m tools.prepare pascal --download",
    "coco": "python -m tools.prepare coco --download",
    "context": "python -m tools.prepare context",
    "coco_object": "python -m tools.prepare coco-object",
    "coco_stuff": "python -m tools.prepare coco-stuff",
    "ade20k": "python -m tools.prepare ade20k",
    "cityscapes": "python -m tools.prepare cityscapes",
}


@pytest.mark.parametrize("folder", MISSING)
def test_a_missing_data_set_names_the_command_that_prepares_it(folder: str, tmp_path: Path) -> None:
    path = REPOSITORY / "src" / "lists" / folder / "no_such_list.txt"
    command = MISSING[folder]
    with pytest.raises(UserError, match=f"data_root .* does not exist; `{command} --root {tmp_path}/none` prepares it"):
        read_list(path, tmp_path / "none")
    usual = REPOSITORY / "data" / ("coco_stuff" if folder == "coco_object" else folder)
    with pytest.raises(UserError, match=f"`{command}` prepares it"):
        read_list(path, usual)
    module, *arguments = command.split()[2:]
    prepare.parser().parse_args(arguments)
    assert module == "tools.prepare"


def test_every_configurations_data_set_has_a_command_that_prepares_it() -> None:
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        images = values.get("val_list") or values["oneshot"]["test_list"]
        remedy = _how_to_prepare(REPOSITORY / images, REPOSITORY / values["data_root"])
        assert re.search(r"`python -m tools[\w. -]+`", remedy), path
        assert "--root" not in remedy, path


def test_missing_lists_name_the_command_that_makes_them(tmp_path: Path) -> None:
    assert "`python -m tools.miniature.draw`" in _how_to_prepare(REPOSITORY / "data/miniature/x.txt", tmp_path)
    (tmp_path / "training_free.yaml").touch()
    with pytest.raises(UserError, match=f"`python -m tools.prepare own --root {tmp_path} "):
        read_list(tmp_path / "list.txt", tmp_path)
    with pytest.raises(UserError, match=r"docs/data\.md describes the layout"):
        read_list(tmp_path / "other" / "list.txt", tmp_path)


def test_folders_that_cannot_be_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    for read, what in ((images_in, "folder"), (check_folder, "model folder")):
        with pytest.raises(UserError, match=rf"^{what} {tmp_path} cannot be read.*Permission denied"):
            read(tmp_path)
