"""The trial of number formats on a CPU: timed once and cached; a failing cache never fails a run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch

from src import files
from src.config.schema import Amp
from src.method import precision
from src.method.blip import Blip
from src.method.precision import Trial, trial_of

PRODUCTS = ((16, 32), (32, 16))


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Results of the next timings, last first."""
    waiting = [1.5, 0.5, 4.0]
    monkeypatch.setattr(precision, "_gain", lambda *_: waiting.pop())
    return waiting


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached trials."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "segmentation-from-attention"


def again(products: tuple[tuple[int, int], ...] = PRODUCTS) -> Trial:
    """The trial as a new process gets it."""
    trial_of.cache_clear()
    return trial_of(products, "bfloat16")


def test_a_second_run_uses_the_same_number_format(gains: list[float], folder: Path) -> None:
    first = again()
    assert first.gain == 4.0
    assert first.wins
    assert again() == first
    (kept,) = folder.iterdir()
    assert json.loads(kept.read_text())["products"] == [list(product) for product in PRODUCTS]


@pytest.mark.parametrize("change", ["products", "processor", "torch"])
def test_a_change_of_the_machine_or_libraries_repeats_the_trial(
    change: str, gains: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again()
    if change == "processor":
        monkeypatch.setattr(precision, "_processor", lambda: "another")
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    assert again(((8, 8),) if change == "products" else PRODUCTS).gain == 0.5
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"gain": "much"}', '{"gain": 3.0}', "\x00"])
def test_a_damaged_trial_file_is_replaced(content: str, gains: list[float], folder: Path) -> None:
    again()
    (kept,) = folder.iterdir()
    kept.write_text(content)
    assert again().gain == 0.5
    assert again().gain == 0.5


def test_a_folder_in_place_of_the_trial_file_is_ignored(gains: list[float], folder: Path) -> None:
    again()
    (kept,) = folder.iterdir()
    kept.unlink()
    kept.mkdir()
    assert again().gain == 0.5


def test_without_a_cache_folder_each_process_decides_once(gains: list[float], folder: Path) -> None:
    folder.parent.joinpath(folder.name).write_text("no folder")
    assert again().gain == 4.0
    assert trial_of(PRODUCTS, "bfloat16").gain == 4.0
    assert again().gain == 0.5


def test_the_first_of_two_processes_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object) -> float:
        monkeypatch.setattr(precision, "_gain", lambda *_: 0.5)
        assert again().gain == 0.5
        return 4.0

    monkeypatch.setattr(precision, "_gain", meanwhile)
    assert again().gain == 0.5


def test_the_trial_is_kept_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        if os.name == "posix":
            assert precision._folder() == tmp_path / ".cache/segmentation-from-attention"


@pytest.mark.skipif(os.name != "posix", reason="folders have no such permissions")
def test_with_a_read_only_home_the_trial_is_cached_in_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _: not Path(path).is_relative_to(tmp_path / "home"))
    files._temporary_caches.cache_clear()
    try:
        assert precision._folder() == tmp_path / f"uid{os.getuid()}-caches" / "segmentation-from-attention"
    finally:
        files._temporary_caches.cache_clear()


@pytest.mark.parametrize("alternative", ["bfloat16", "oneDNN"])
def test_timing_restores_the_number_of_threads(alternative: precision.Alternative) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert precision._gain(PRODUCTS, alternative) > 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("gain", "wins"), [(2.0, True), (1.2, False), (1.0, False), (0.5, False)])
def test_only_a_clear_gain_counts(gain: float, wins: bool) -> None:
    assert Trial(gain, "", "", ()).wins == wins


def test_the_timed_products_are_those_of_the_model(fused: Blip) -> None:
    """Vision 32 wide with 64 between, text 24 wide with 48 between, and keys and values of an image."""
    assert fused.products == [(24, 24), (24, 48), (32, 24), (32, 32), (32, 64), (32, 96), (48, 24), (64, 32)]


LARGE = [(768, 3072), (1024, 1024)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("gain", "expected"), [(1.9, True), (1.1, False)])
def test_onednn_is_used_where_it_is_clearly_faster(
    gain: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def timed(*arguments: object) -> float:
        asked.append(arguments)
        return gain

    monkeypatch.setattr(precision, "_gain", timed)
    monkeypatch.setattr(precision, "onednn_exists", lambda: True)
    trial_of.cache_clear()
    numbers = precision.number_format(False, torch.device("cpu"), [*LARGE, (16, 1024)])
    assert (numbers.name, numbers.onednn) == ("float32", expected)
    assert ("oneDNN was 1.90 times as fast" in numbers.why) == expected
    assert asked == [(tuple(LARGE), "oneDNN")]
    trial_of.cache_clear()


@pytest.mark.parametrize(
    ("amp", "device", "products", "exact", "exists"),
    [
        ("bf16", "cpu", LARGE, False, True),
        (False, "mps", LARGE, False, True),
        (False, "cpu", PRODUCTS, False, True),
        (False, "cpu", LARGE, True, True),
        (False, "cpu", LARGE, False, False),
    ],
)
def test_onednn_is_not_even_timed(
    amp: Amp,
    device: str,
    products: list[tuple[int, int]],
    exact: bool,
    exists: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another format, on another device, for small products, with exact attention, or where it is missing."""
    monkeypatch.setattr(precision, "_gain", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(precision, "onednn_exists", lambda: exists)
    trial_of.cache_clear()
    assert not precision.number_format(amp, torch.device(device), products, exact).onednn
