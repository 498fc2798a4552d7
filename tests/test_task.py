"""What ``auto`` becomes where the device is known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from src import task as subject
from src.config.schema import Config
from src.result_files import Outputs
from src.task import Task, batch_that_fits

GIB = 1 << 30


def config_on(config: Config, device: torch.device, monkeypatch: pytest.MonkeyPatch, memory: int = 80 * GIB) -> Config:
    monkeypatch.setattr(subject, "choose_device", lambda _: device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(subject, "cores", lambda: 6)
    task = Task(config, [], None, [], Outputs(None, False), device.type, False, False)  # pyright: ignore
    return task.for_device().config


@pytest.mark.parametrize("loader", [{}, {"batch_size": "auto", "num_workers": "auto"}])
def test_auto_keeps_a_gpu_busy(
    loader: dict[str, str], make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(dataloader=loader, model={"image_size": 512})
    values = config_on(config, torch.device("cuda", 1), monkeypatch).to_dict()["dataloader"]
    assert values == {"batch_size": 16, "num_workers": 6}  # what a result records
    values = config_on(config, torch.device("cpu"), monkeypatch).to_dict()["dataloader"]
    assert values == {"batch_size": 1, "num_workers": 0}


def test_processes_of_a_job_share_the_cores(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, of_job: Callable[..., None]
) -> None:
    config = make_config(model={"image_size": 512})
    for processes, workers in (("2", 3), ("4", 1), ("8", 1)):
        of_job(WORLD_SIZE="8", LOCAL_WORLD_SIZE=processes)
        assert config_on(config, torch.device("cuda"), monkeypatch).dataloader.num_workers == workers


def test_a_number_in_the_configuration_holds(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ({"batch_size": 1, "num_workers": 0}, {"batch_size": 3, "num_workers": 2}):
        config = make_config(dataloader=loader)
        assert config_on(config, torch.device("cuda"), monkeypatch).to_dict()["dataloader"] == loader


@pytest.mark.parametrize(
    ("memory", "size", "expected"),
    [(80, 512, 16), (24, 512, 16), (16, 512, 8), (8, 512, 4), (4, 512, 1), (24, 768, 8), (2, 512, 1)],
)
def test_the_batch_fits_the_memory(memory: int, size: int, expected: int) -> None:
    assert batch_that_fits(memory * GIB, size) == expected
