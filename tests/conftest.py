"""Shared fixtures: no network, a tiny model on disk and in memory, a tiny data set, a configuration for both."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub client is imported: no test may need a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads do not make tiny models faster

import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.config.reader import load_config
from src.config.schema import Config
from src.evaluation import loop
from src.method.blip import Blip, load_blip
from tests import tiny

# Shells (for background jobs) and nohup ignore these signals; the commands under test would inherit that.
for _name in ("SIGINT", "SIGHUP"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BLIP in HuggingFace format."""
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def exact(model_folder: Path) -> Blip:
    """The tiny BLIP, loaded with ``runtime.attention: exact``."""
    return load_blip(str(model_folder), torch.device("cpu"), fused=False)


@pytest.fixture(scope="session")
def fused(model_folder: Path) -> Blip:
    """The tiny BLIP, loaded with ``runtime.attention: fused``."""
    return load_blip(str(model_folder), torch.device("cpu"), fused=True)


@pytest.fixture
def of_job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the environment variables of a process of a job; ``None`` removes one."""

    def set_all(**variables: str | None) -> None:
        job = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        for name, value in {**job, "LOCAL_RANK": None, "LOCAL_WORLD_SIZE": None, **variables}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A tiny data set: three images of different shapes, masks as palette and as grey PNG."""
    return tiny.make_data(tmp_path / "data")


@pytest.fixture
def config_file(data_root: Path, model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a YAML file for the tiny data set and model; keyword arguments are merged into its sections."""

    def make(**sections: Any) -> Path:
        return tiny.write_config(tmp_path / "config.yaml", tiny.config_values(data_root, model_folder, **sections))

    return make


@pytest.fixture
def make_config(config_file: Callable[..., Path]) -> Callable[..., Config]:
    """Load a configuration for the tiny data set and model."""
    return lambda **sections: load_config(config_file(**sections))


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of arrays with counts in each block that is unpacked from a journal.

    A block may be in memory while the next one is unpacked, but not longer.
    """
    blocks: list[list[weakref.ref[np.ndarray]]] = []
    numbers: list[int] = []
    unpack = loop.unpack

    def watched(payload: bytes) -> dict[str, np.ndarray]:
        assert sum(any(array() is not None for array in block) for block in blocks) <= 1
        arrays = unpack(payload)
        blocks.append([weakref.ref(array) for name, array in arrays.items() if name.startswith("counts")])
        numbers.append(len(blocks[-1]))
        return arrays

    monkeypatch.setattr(loop, "unpack", watched)
    return numbers
