"""Photos from the command line: images of the photo's size, nothing lost, invalid options refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import cli
from src.config.reader import load_config
from src.data.frame import Frame
from src.files import REPOSITORY
from src.method.segmenter import FrameAnalysis, ImageAnalysis, Segmenter
from src.photos import command as photos
from src.photos.photo import summary
from src.photos.photo_files import find_photos, name_outputs
from src.photos.photo_segmenter import segmenter_of_words
from src.photos.stages import PhotoStages
from src.photos.words import prompts_of_words
from src.screen import progress
from tests.pictures import BLUE, RED, left_red_right_blue, save
from tools.benchmark.photos import one_by_one

CONFIG = REPOSITORY / "tests/golden_training_free.yaml"


def test_the_summary_names_classes_found_and_not_found() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[:3] = 2
    names = ("background", "cat", "my mug")
    analysis = ImageAnalysis(names, labels, [0.5, 0.125, 0.875], torch.zeros(3, 8, 8), Frame(8), torch.zeros(1, 2, 4))
    lines = [line.split() for line in summary(analysis).splitlines()]
    assert lines == [
        ["class", "pixels", "match"],
        ["background", "70.0%", "0.50"],
        ["my", "mug", "30.0%", "0.88"],
        ["not", "found:", "cat", "(match", "0.12)"],
    ]


def test_a_photo_in_which_every_pixel_has_a_class_has_no_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "photo.png", left_red_right_blue())
    for background in ("true", "false"):
        settings = (f"dataset.background={background}", f"dataset.first_label={1 if background == 'true' else 0}")
        assert run(photo, "--classes", "cat", "--output-dir", tmp_path / background, "--set", *settings) == 0
        shown = capsys.readouterr().out
        assert ("background" in shown.split("photo.png  40 x 20")[1]) == (background == "true")


def test_photos_are_not_shared_among_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "photo.png", left_red_right_blue())
    monkeypatch.setattr(photos, "world_size", lambda: 2)
    assert run(photo, "--classes", "cat", "--output-dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error == "error: photos are segmented by one process; start this command without torchrun\n"
    assert not (tmp_path / "out").exists()


def run(*arguments: object) -> int:
    common = ["--config", CONFIG, "--device", "cpu", "--set", "crf.iters=2", "data_root=nowhere", "val_list=nowhere"]
    return cli.run(photos.main, [str(argument) for argument in (*arguments, *common)])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (53, 37), (200, 340)])  # width, height
def test_images_have_the_size_of_the_photo(
    tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    photo = save(tmp_path / "photo.png", Image.fromarray(pixels))
    output = tmp_path / "out"
    assert run(photo, "--classes", "bus = coach; boat", "--output-dir", output, "--save-heatmaps") == 0
    assert {path.name for path in output.iterdir()} == {
        "photo_labels.png",
        "photo_overlay.png",
        "photo_heatmap_00_background.png",
        "photo_heatmap_01_bus.png",
        "photo_heatmap_02_boat.png",
    }
    with Image.open(output / "photo_labels.png") as labels:
        assert (labels.mode, labels.size) == ("P", size)
        values = np.asarray(labels)
    assert values.max() <= 2
    with Image.open(output / "photo_overlay.png") as overlay:
        shown = np.asarray(overlay)[: size[1], : size[0]]
        assert np.array_equal(shown[values == 0], pixels[values == 0])
    text = capsys.readouterr().out
    assert f"{size[0]} x {size[1]}" in text
    for label, name in enumerate(("background", "bus", "boat")):
        share = (values == label).mean()
        assert (f"{100 * share:.1f}%" if share else f"{name} (match") in text


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, colour in (("x", RED), ("y", BLUE)):
        save(tmp_path / folder / "photo.png", Image.new("RGB", (30, 20), colour))
    output = tmp_path / "out"
    earlier = save(output / "photo_overlay.png", Image.new("RGB", (3, 3)))
    content = earlier.read_bytes()
    arguments = (tmp_path / "x", tmp_path / "y", "--classes", "bus", "--output-dir", output)
    assert run(*arguments) == 2
    assert f"{earlier} exists; choose another --output-dir, or replace" in capsys.readouterr().err
    assert earlier.read_bytes() == content
    assert list(output.iterdir()) == [earlier]
    assert run(*arguments, "--replace") == 0, capsys.readouterr().err
    new = {"photo_labels.png", "photo_overlay.png", "photo-2_labels.png", "photo-2_overlay.png"}
    assert {path.name for path in output.iterdir()} == new
    assert earlier.read_bytes() != content
    assert capsys.readouterr().out.splitlines()[-1] == f"next: open {output / 'photo_overlay.png'}"


def test_without_an_output_folder_every_run_makes_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "cat.png", Image.new("RGB", (30, 20), RED))
    monkeypatch.setattr(photos, "FOLDER", str(tmp_path / "photos"))
    for folder in ("cat", "cat-2"):
        assert run(photo, "--classes", "bus") == 0, capsys.readouterr().err
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"next: open {tmp_path / 'photos' / folder / 'cat_overlay.png'}"
    assert {path.name for path in (tmp_path / "photos").iterdir()} == {"cat", "cat-2"}
    (tmp_path / "file").touch()
    monkeypatch.setattr(photos, "FOLDER", str(tmp_path / "file"))
    assert run(photo, "--classes", "bus") == 2
    assert "--output-dir" in capsys.readouterr().err


def test_an_unreadable_photo_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "b.png", Image.new("RGB", (30, 20)))
    (tmp_path / "a.png").write_bytes(b"broken")
    assert run(tmp_path, "--classes", "bus", "--output-dir", tmp_path / "out") == 2
    assert (tmp_path / "out" / "b_labels.png").exists()
    error = capsys.readouterr().err
    assert "1 of 2 photos could not be segmented" in error
    assert str(tmp_path / "a.png") in error


def photos_of_three(folder: Path) -> Path:
    """Three photos; b is green and has another shape."""
    for name in ("a", "b", "c"):
        save(folder / f"{name}.png", Image.new("RGB", (30, 20), (0, 255, 0)) if name == "b" else left_red_right_blue())
    return folder


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("where", ["model", "way back"])
def test_an_error_in_one_photo_does_not_stop_the_others(
    where: str, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analyse, back = Segmenter.analyse_batch, FrameAnalysis.at

    def analyse_none_green(segmenter: Segmenter, pixels: torch.Tensor) -> list[FrameAnalysis]:
        red, green = pixels[:, 0, 0, 0], pixels[:, 1, 0, 0]
        if where == "model" and (green > red).any():
            raise RuntimeError("no green here")
        return analyse(segmenter, pixels)

    def back_from_none_green(seen: FrameAnalysis, shape: tuple[int, int]) -> ImageAnalysis:
        if where == "way back" and shape == (20, 30):
            raise RuntimeError("no green here")
        return back(seen, shape)

    monkeypatch.setattr(Segmenter, "analyse_batch", analyse_none_green)
    monkeypatch.setattr(FrameAnalysis, "at", back_from_none_green)
    arguments = (photos_of_three(tmp_path), "--classes", "bus", "--output-dir", tmp_path / "out")
    assert run(*arguments, "--set", f"dataloader.batch_size={batch_size}") == 2
    assert {path.name for path in (tmp_path / "out").glob("*_labels.png")} == {"a_labels.png", "c_labels.png"}
    assert f"skipped: image {tmp_path / 'b.png'}: RuntimeError: no green here" in capsys.readouterr().err


def test_a_photo_with_scores_that_are_not_finite_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = Segmenter.encode_images

    def lose_green(segmenter: Segmenter, pixels: torch.Tensor) -> torch.Tensor:
        lost = pixels[:, 1, 0, 0] > pixels[:, 0, 0, 0]
        return encode(segmenter, pixels).masked_fill(lost[:, None, None], torch.nan)

    monkeypatch.setattr(Segmenter, "encode_images", lose_green)
    arguments = (photos_of_three(tmp_path), "--classes", "bus", "--output-dir", tmp_path / "out")
    assert run(*arguments, "--set", "dataloader.batch_size=3") == 2
    assert {path.name for path in (tmp_path / "out").glob("*_labels.png")} == {"a_labels.png", "c_labels.png"}
    error = capsys.readouterr().err
    assert f"skipped: image {tmp_path / 'b.png'}: " in error
    assert "is not a number" in error


def test_photo_batches_too_large_for_memory_are_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analyse, sizes = Segmenter.analyse_batch, []

    def analyse_two(segmenter: Segmenter, pixels: torch.Tensor) -> list[FrameAnalysis]:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return analyse(segmenter, pixels)

    monkeypatch.setattr(Segmenter, "analyse_batch", analyse_two)
    arguments = (photos_of_three(tmp_path), "--classes", "bus", "--output-dir", tmp_path / "out")
    assert run(*arguments, "--set", "dataloader.batch_size=3") == 0
    assert sizes == [3, 1, 2]
    assert len(list((tmp_path / "out").glob("*_labels.png"))) == 3


def test_batches_and_threads_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to rounding: products of several images add in another order. In batches of one, files are equal."""
    folder = REPOSITORY / "tests/golden/pascal/data/JPEGImages"
    shown = {}
    for size in (1, 3):
        output = tmp_path / str(size)
        arguments = (folder, "--classes", "bus = coach; boat; cat", "--output-dir", output)
        assert run(*arguments, "--save-heatmaps", "--set", f"dataloader.batch_size={size}") == 0
        shown[size] = capsys.readouterr().out.replace(str(output), "")
    found = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert found == sorted(path.name for path in (tmp_path / "3").iterdir())
    assert [line for line in shown[1].splitlines() if "wrote" in line] == [
        line for line in shown[3].splitlines() if "wrote" in line
    ]
    for name in found:
        if name.endswith("_labels.png"):
            one, three = (np.asarray(Image.open(tmp_path / size / name)) for size in ("1", "3"))
            assert (one == three).mean() > 0.999

    config = load_config(CONFIG, ["crf.iters=2"])
    segmenter = segmenter_of_words(config, prompts_of_words(config, "bus = coach; boat; cat"), "cpu")
    with progress(0, "none", disable=True) as bar:
        stages = PhotoStages(segmenter, tmp_path / "by hand", bar, heat_maps=True)
        one_by_one(stages, name_outputs(find_photos([folder], tmp_path)))
    for name in found:
        assert (tmp_path / "by hand" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    said = capsys.readouterr().out.replace(str(tmp_path / "by hand"), "")
    assert shown[1].partition("next: ")[0].endswith(said)


def test_results_that_cannot_be_written_end_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out/b_heatmap_01_bus.png").mkdir(parents=True)
    arguments = (photos_of_three(tmp_path), "--classes", "bus", "--output-dir", tmp_path / "out", "--replace")
    assert run(*arguments, "--save-heatmaps") == 2
    assert "b_heatmap_01_bus.png: it is a folder; choose another name" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a_labels.png", "a_overlay.png", "a_heatmap_01_bus.png", "b_labels.png", "b_overlay.png"} <= names
    assert "c_labels.png" not in names


def test_ctrl_c_leaves_no_partial_file_and_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analyse, calls = Segmenter.analyse_batch, []

    def interrupted(segmenter: Segmenter, pixels: torch.Tensor) -> list[FrameAnalysis]:
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return analyse(segmenter, pixels)

    monkeypatch.setattr(Segmenter, "analyse_batch", interrupted)
    assert run(photos_of_three(tmp_path), "--classes", "bus", "--output-dir", tmp_path / "out") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not any(thread.name.startswith("photos") for thread in threading.enumerate())
    for path in (tmp_path / "out").glob("*"):
        assert not path.name.startswith((".", "c"))
        Image.open(path).load()


def test_names_of_maximum_length_and_words_outside_the_console_encoding(tmp_path: Path) -> None:
    """Twice, with different words."""
    photo = save(tmp_path / ("p" * 245 + ".png"), left_red_right_blue())
    output = tmp_path / "out"
    for word in ("猫", "犬"):
        command = [
            sys.executable,
            "-m",
            "src.photos",
            str(photo),
            "--config",
            str(CONFIG),
            "--device",
            "cpu",
            "--save-heatmaps",
        ]
        command += ["--classes", word, "--output-dir", str(output), "--replace", "--set", "crf.iters=0"]
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert rf"\u{ord(word):x}" in done.stdout.decode("cp1252")
    assert (output / ("p" * 150 + "_labels.png")).exists()


def test_closed_standard_output_does_not_end_the_command(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "photos" / f"{number}.png", left_red_right_blue())
    command = [sys.executable, "-m", "src.photos", str(tmp_path / "photos"), "--config", str(CONFIG)]
    command += ["--device", "cpu", "--classes", "bus", "--output-dir", str(tmp_path / "out"), "--set", "crf.iters=0"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        job.stdout.close()  # as head does
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    assert len(list((tmp_path / "out").glob("*_labels.png"))) == 4


def test_the_home_folder_is_found_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "photos" / "a.png", left_red_right_blue())
    shutil.copy(CONFIG, tmp_path / "config.yaml")
    options = ("--config", "~/config.yaml", "--device", "cpu", "--classes", "bus", "--set", "crf.iters=0")
    assert cli.run(photos.main, ["~/photos", "--output-dir=~/out", *options]) == 0
    assert (tmp_path / "out" / "a_labels.png").exists()


def test_photos_are_a_command_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = save(tmp_path / "a.png", left_red_right_blue())
    options = ("--config", CONFIG, "--device", "cpu", "--classes", "bus; boat", "--set", "crf.iters=2")
    assert run(photo, "--classes", "bus; boat", "--output-dir", tmp_path / "one") == 0
    shown = capsys.readouterr().out.splitlines()
    arguments = [str(argument) for argument in (photo, *options, "--output-dir", tmp_path / "other")]
    assert cli.run(photos.main, arguments) == 0
    assert capsys.readouterr().out.splitlines()[-5:-2] == shown[-5:-2]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_words_that_the_vocabulary_cannot_spell_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = save(tmp_path / "a.png", Image.new("RGB", (30, 20)))
    vocabulary = json.loads((REPOSITORY / "tests/golden/pascal/model/tokenizer.json").read_text())["model"]["vocab"]
    assert "bus" in vocabulary
    assert run(photo, "--classes", "bus; żółw", "--output-dir", tmp_path / "out") == 0
    assert 'cannot spell "żółw"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            (CONFIG.parent / "golden/pascal/data/JPEGImages", "--classes", "bus; boat = bus"),
            '"bus" is a word of "bus" and "boat"; remove one',
        ),
        (("nowhere.jpg",), "nowhere.jpg does not exist"),
        ((CONFIG.parent / "golden/pascal/data/JPEGImages", "--set", "model.layers=auto"), "model.layers"),
    ],
)
def test_invalid_commands_are_refused(arguments: tuple, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert reason in capsys.readouterr().err


def test_exports_hold_the_labels_of_every_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    arguments = (photos_of_three(tmp_path), "--classes", "bus; boat", "--output-dir", output)
    assert run(*arguments, "--export", "cvat", "coco") == 0
    content = json.loads((output / "export_coco" / "instances.json").read_text())
    assert len(content["images"]) == 3
    for labels in output.glob("*_labels.png"):
        name = labels.name.removesuffix("_labels.png")
        exported = Image.open(output / "export_cvat" / "SegmentationClass" / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(exported), np.asarray(Image.open(labels)))
    assert run(*arguments, "--replace", "--export", "coco") == 2
    assert "export_coco" in capsys.readouterr().err


def test_the_size_limit_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.photos import stages

    monkeypatch.setattr(stages, "MAX_BYTES", 1000)
    photo = save(tmp_path / "photo.png", left_red_right_blue())
    arguments = (photo, "--classes", "bus", "--output-dir", tmp_path / "out")
    assert run(*arguments) == 2
    assert run(*arguments, "--any-size") == 0


def test_formats_are_those_of_the_exports() -> None:
    from src.output.exports import FORMATS

    assert tuple(FORMATS) == photos.EXPORT_FORMATS


def test_exported_labels_have_the_names_of_their_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Annotation tools find an image by its name; the labels of a second photo of that name would be another's."""
    one, other = (save(tmp_path / folder / "a.png", left_red_right_blue()) for folder in ("one", "other"))
    arguments = (one, other, "--classes", "bus", "--output-dir", tmp_path / "out")
    assert run(*arguments, "--export", "yolo") == 2
    assert f"--export: the labels of {other} would be called a-2, because another photo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*arguments) == 0


@pytest.mark.parametrize("name", ["a_overlay.png", "."])
def test_unwritable_folders_are_refused_before_the_model_is_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save(tmp_path / "a.png", left_red_right_blue())
    output = tmp_path / "out"
    if name == ".":
        os.mkfifo(output)
    else:
        output.mkdir()
        os.mkfifo(output / name)
    arguments = (photo, "--classes", "bus", "--output-dir", output, "--replace", "--set", "model.name=./nowhere")
    assert run(*arguments) == 2
    assert f"error: cannot write {output}" in capsys.readouterr().err
