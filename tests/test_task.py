"""Values of ``auto`` for a device, and notes of models about the images that they were trained for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src import task as subject
from src.config.schema import Config
from src.files import REPOSITORY
from src.result_files import Outputs
from src.screen import note_once
from src.task import Task, batch_that_fits, note_scope

GIB = 1 << 30


def config_on(config: Config, device: torch.device, monkeypatch: pytest.MonkeyPatch, memory: int = 80 * GIB) -> Config:
    monkeypatch.setattr(subject, "choose_device", lambda _: device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(subject, "cores", lambda: 6)
    task = Task(config, [], None, [], Outputs(None, False), device.type, False, False)  # pyright: ignore
    return task.for_device().config


@pytest.mark.parametrize("loader", [{}, {"batch_size": "auto", "num_workers": "auto"}])
def test_auto_chooses_workers_and_batch_size_for_a_gpu(
    loader: dict[str, str], make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(dataloader=loader, model={"image_size": 512})
    values = config_on(config, torch.device("cuda", 1), monkeypatch).to_dict()["dataloader"]
    assert values == {"batch_size": 16, "num_workers": 6}  # recorded in results
    values = config_on(config, torch.device("cpu"), monkeypatch).to_dict()["dataloader"]
    assert values == {"batch_size": 1, "num_workers": 0}


def test_processes_of_a_job_share_the_cores(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, of_job: Callable[..., None]
) -> None:
    config = make_config(model={"image_size": 512})
    for processes, workers in (("2", 3), ("4", 1), ("8", 1)):
        of_job(WORLD_SIZE="8", LOCAL_WORLD_SIZE=processes)
        assert config_on(config, torch.device("cuda"), monkeypatch).dataloader.num_workers == workers


def test_a_number_in_the_configuration_is_used(
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


def scoped_model(folder: Path, **values: object) -> str:
    """A folder with only a model's config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


def test_a_model_with_a_scope_names_it_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = scoped_model(tmp_path / "model", scope="drawings of cats", scope_data=str(tmp_path / "cats"))
    inside, outside = tmp_path / "cats" / "a" / "1.png", tmp_path / "1.png"
    note_scope(model, [inside])
    note_scope(model, [])
    assert capsys.readouterr().err == ""
    for images in ([inside, outside], [outside], [None]):
        note_scope(model, images)
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith(f"note: {model} knows drawings of cats only; on other images its labels mean nothing")
    assert "Salesforce/blip-itm-large-coco" in line


def test_models_without_a_scope_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = [{}, {"scope": "cats"}, {"scope": "cats", "scope_data": 3}]
    models = [scoped_model(tmp_path / str(number), **values) for number, values in enumerate(odd)]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[")
    for model in (*models, str(tmp_path / "broken"), "Salesforce/blip-itm-large-coco", str(tmp_path / "none")):
        note_scope(model, [tmp_path / "1.png"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("images", "noted"), [("data/miniature/JPEGImages", False), ("docs/photo.png", True)])
def test_the_miniature_names_its_scope(images: str, noted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    note_scope("data/miniature/blip", [REPOSITORY / images])
    assert ("data/miniature/blip knows drawn scenes of 20 classes only" in capsys.readouterr().err) == noted


def test_circular_links_are_images_without_a_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading the image raises the error, with its line of the list."""
    note_once.cache_clear()
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    note_scope(str(REPOSITORY / "data" / "miniature" / "blip"), [tmp_path / "a.jpg"])
    assert "knows" in capsys.readouterr().err
