"""Every evaluation runs on a device that refuses float64, such as MPS, and gives the CPU's scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import Config
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.evaluation import loop
from src.evaluation.evaluate import evaluate
from src.layer_selection.comparison import compare_layers
from src.layer_selection.ranking import rank_layers, ranking_segmenter
from src.method.blip import Blip, load_blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot.evaluation import MeanIoUOfRuns, TunedRun
from tests import tiny
from tests.without_float64 import device_without_float64


@pytest.fixture
def config(make_config: Callable[..., Config], data_root: Path) -> Config:
    tiny.make_data(data_root, [(40, 50), (64, 33), (48, 48)])
    return make_config(crf={"iters": 2}, dataloader={"num_workers": 0, "batch_size": 2})


def scores_of(config: Config, model: Blip) -> dict[str, object]:
    """All evaluations of a data set, as plain values."""
    classes = read_class_file(Path(config.class_name_dir), config.dataset.num_classes)
    segmenter = Segmenter.from_config(config, model, build_prompts(classes, True), (0, 2))
    entries = evaluation_entries(config)
    dataset, loader = SegmentationDataset.from_config(entries, config), config.dataloader
    names = segmenter.prompts.class_names
    found = evaluate(segmenter, dataset, loader, per_image=True, boundary=True)
    assert found.per_image is not None
    run = TunedRun(0, segmenter.with_weights(segmenter.untuned_weights()), [], "", frozenset(range(len(entries))))
    (tuned,) = loop.run(
        MeanIoUOfRuns([run], dataset, lambda _, pixels: segmenter.encode_images(pixels), boundary=True), dataset, loader
    )
    ranked = ranking_segmenter(config, model, classes)
    compared = compare_layers(ranked, entries, config, 2)
    return {
        "mIoU": found.confusion.to_dict(names),
        "per image": int(found.per_image.intersections.sum()),
        "runs": tuned.confusion.to_dict(names),
        "InfoScore": rank_layers(ranked, entries, config).to_dict(),
        "comparison": compared.to_dict(names),
    }


def numbers_of(value: Any, name: str = "") -> dict[str, float]:
    """All numbers inside plain values, by path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: number for part, each in items for key, number in numbers_of(each, f"{name}/{part}").items()}
    return {name: value} if isinstance(value, int | float) else {}


def test_every_evaluation_runs_without_float64(
    config: Config, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scores_of(config, load_blip(str(model_folder), torch.device("cpu")))
    model = load_blip(str(model_folder), torch.device("cpu"))
    with device_without_float64(model.model, monkeypatch), torch.no_grad():
        found = scores_of(config, model)
    values, other = numbers_of(found), numbers_of(expected)
    assert values.keys() == other.keys()
    assert values == pytest.approx(other, rel=0.02, abs=1e-3)  # rounding flips single pixels of the small images


def test_the_device_refuses_float64_and_mixed_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in would pass everything if it did not."""
    with device_without_float64(torch.nn.Linear(2, 2), monkeypatch) as device:
        tensor = torch.ones(2, 2).to(device)
        assert tensor.device == device
        with pytest.raises(TypeError, match="float64"):
            tensor.double()
        with pytest.raises(RuntimeError, match="two devices"):
            tensor + torch.ones(2, 2)
        assert tensor.cpu().double().sum() == 4
