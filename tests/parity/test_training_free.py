"""Numbers of the published implementation, reproduced stage by stage and from the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.config.reader import load_config
from src.config.schema import Config
from src.data.dataset import Batch, SegmentationDataset
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import predict
from src.evaluation.metrics import ConfusionMatrix
from src.files import REPOSITORY, resolve
from src.method.blip import load_blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import PatchAttention, Segmenter
from tests.rounding import rounding, roundings_of_blip

CONFIG = REPOSITORY / "tests" / "golden_training_free.yaml"
GOLDEN = REPOSITORY / "tests" / "golden" / "pascal"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ALL_LAYERS = range(4)


@dataclass(frozen=True)
class Case:
    """A variant of the golden case, and the numbers of the published implementation."""

    config: Config
    segmenter: Segmenter
    dataset: SegmentationDataset
    arrays: dict[str, np.ndarray]
    scores: dict[str, Any]

    @property
    def batch_size(self) -> int:
        return self.config.dataloader.batch_size

    def first_batch(self) -> Tensor:
        return Batch.of([self.dataset[position] for position in range(self.batch_size)]).pixels

    def attend(self, layers: Sequence[int] | None = None) -> PatchAttention:
        """Input and output of the text encoder in the first batch."""
        return self.segmenter.attend(self.segmenter.encode_images(self.first_batch()), layers)

    def published(self, name: str) -> Tensor:
        """The published array ``name`` of the first image."""
        array = torch.from_numpy(self.arrays[name])
        return array[0] if array.ndim == 4 else array

    @property
    def rounding(self) -> float:
        """Tolerance for another order of float32 sums, relative to the largest value, up to the last text layer."""
        model, tokens = self.segmenter.model.model, self.segmenter.input_ids.shape[1]
        return rounding(roundings_of_blip(model.config, self.segmenter.num_patches, tokens))


@pytest.fixture(scope="module", params=["single", "multi"])
def prompt_mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["exact", "fused"])
def attention(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=[1, 4], ids=["batch1", "batch4"])
def case(request: pytest.FixtureRequest, prompt_mode: str, attention: str) -> Case:
    config = load_config(CONFIG, [f"dataloader.batch_size={request.param}", f"runtime.attention={attention}"])
    blip = load_blip(config.model.name, torch.device("cpu"), attention == "fused")
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, prompt_mode == "multi")
    segmenter = Segmenter.from_config(config, blip, prompts, config.model.layers)
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    with np.load(GOLDEN / "expected.npz") as file:
        arrays = {name.removeprefix(f"{prompt_mode}_"): file[name] for name in file if name.startswith(prompt_mode)}
    return Case(config, segmenter, dataset, arrays, EXPECTED[prompt_mode])


def test_prompts(case: Case) -> None:
    assert case.segmenter.prompts.prompts == case.scores["prompts"]


def test_pixels_and_target(case: Case) -> None:
    sample = case.dataset[0]
    torch.testing.assert_close(sample.pixels, case.published("pixels"), rtol=0, atol=1e-6)
    assert np.array_equal(sample.labels, case.arrays["target"])


def test_logits_of_all_layers_and_itm(case: Case) -> None:
    attended = case.attend(ALL_LAYERS)
    for layer in ALL_LAYERS:
        expected = case.published("attn")[layer]
        bound = case.rounding * float(expected.abs().max())
        torch.testing.assert_close(attended.token_logits[layer][0], expected, rtol=0, atol=bound)
    # Rounding is relative to the largest term, so scores are compared as inputs of the softmax: l1 - l0.
    got, expected = attended.itm[0].logit(), case.published("itm").logit()
    torch.testing.assert_close(got, expected, rtol=0, atol=2 * case.rounding * float(expected.abs().max()))


def test_unary_of_the_published_logits(case: Case) -> None:
    """The stage alone, on published inputs."""
    logits = case.published("attn")
    attended = PatchAttention(case.published("itm")[None], {layer: logits[layer][None] for layer in ALL_LAYERS})
    # The softmax subtracts the largest logit: up to twice the largest, rounded by half of eps.
    bound = rounding(1) * float(logits.abs().max())
    torch.testing.assert_close(case.segmenter.unary(attended)[0], case.published("unary"), rtol=0, atol=bound)


def test_crf_of_the_published_unary(case: Case) -> None:
    refined = case.segmenter.refine(case.published("unary")[None], case.published("pixels")[None])[0]
    expected = case.published("crf")
    # A message sums 15 x 15 neighbours and is spread over 4 x 4 pixels; where one class has won, later ones repeat it.
    bound = rounding(15 * 15 + 4 * 4) * float(expected.abs().max())
    torch.testing.assert_close(refined, expected, rtol=0, atol=bound)


def test_unary_and_crf_of_an_image(case: Case) -> None:
    unary = case.segmenter.unary(case.attend())
    logits, odds = case.published("attn")[list(case.segmenter.layers)], case.published("itm").logit()
    # A probability moves by at most half of what its logarithms do: the logits' part and the matching score's.
    bound = 0.5 * case.rounding * float(logits.abs().max() + 2 * odds.abs().max())
    torch.testing.assert_close(unary[0], case.published("unary"), rtol=0, atol=bound)
    refined = case.segmenter.refine(unary, case.first_batch())[0]
    assert (refined - case.published("crf")).abs().mean() <= 1e-4


def test_labels_and_scores_of_all_images(case: Case) -> None:
    confusion = ConfusionMatrix(case.config.dataset.num_classes, case.config.dataset.ignore_label)
    labels = []
    for number, prediction in enumerate(predict(case.segmenter, case.dataset, case.config.dataloader)):
        assert prediction.index == number
        confusion.update(prediction.labels, prediction.target)
        labels.append(prediction.labels.numpy())
    assert np.mean(np.stack(labels) == case.arrays["pred"]) >= 0.9999
    np.testing.assert_allclose(confusion.iou.numpy(), case.scores["iou"], rtol=0, atol=1e-4)
    assert confusion.miou == pytest.approx(case.scores["miou"], abs=1e-4)


def test_command_line(prompt_mode: str, tmp_path: Path) -> None:
    multi = ["--multi_prompt"] if prompt_mode == "multi" else []
    command = [sys.executable, "training_free_blip.py", "--config", str(CONFIG), "--device", "cpu", *multi]
    command += ["--output-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = EXPECTED[prompt_mode]
    stem = "golden_multi" if multi else "golden"

    header, *rows = csv.reader((tmp_path / f"{stem}.csv").read_text().splitlines())
    assert header == ["Class Name", "IoU"]
    assert [name for name, _ in rows] == ["background", "airplane", "bicycle", "bird", "boat", "bottle", "bus"]
    np.testing.assert_allclose([float(iou) for _, iou in rows], expected["iou"], rtol=0, atol=1e-4)

    values = json.loads((tmp_path / f"{stem}.json").read_text())
    assert values["prompts"] == expected["prompts"]
    assert values["images"] == 24
    assert values["miou"] == pytest.approx(expected["miou"], abs=1e-4)
    for key in ("intersection", "union"):
        # 390,000 pixels, of which 1 in 10,000 may have another label
        np.testing.assert_allclose([entry[key] for entry in values["classes"]], expected[key], rtol=0, atol=39)
    assert f"{100 * values['miou']:.2f}" in done.stdout  # of this run: the published 4.925 may round either way
