"""The shipped tiny BLIP: its recorded score, its training data, and the properties that the method needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config.reader import load_config
from src.data.dataset import SegmentationDataset, batches
from src.data.frame import Frame
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import evaluate
from src.evaluation.metrics import ConfusionMatrix
from src.files import REPOSITORY
from src.method.blip import Blip, load_blip
from src.method.prompts import TEMPLATE, PromptSet, build_prompts, read_class_file
from src.method.segmenter import Segmenter
from tools.miniature.class_words import CLASS_FILE, CLASSES, WORDS
from tools.miniature.draw import FOLDER
from tools.miniature.tiny_blip import SCOPE, build_model
from tools.miniature.vocabulary import build_tokenizer

CONFIG = Path(__file__).parents[3] / "configs" / "miniature.yaml"
MODEL = FOLDER / "blip"
REPORT = json.loads((MODEL / "training.json").read_text())
RECORDED = json.loads((MODEL / "scores.json").read_text())


@pytest.fixture(scope="module")
def blip() -> Blip:
    return load_blip(str(MODEL), torch.device("cpu"))


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return build_prompts(read_class_file(CLASS_FILE, 21), multi_prompt=False)


@pytest.fixture(scope="module")
def miou(blip: Blip, prompts: PromptSet) -> dict[str, float]:
    """mIoU without CRF on the first validation scenes: of the supervised layers, every layer, and all layers."""
    config = load_config(CONFIG, [f"max_images={RECORDED['images']}", "dataloader.num_workers=0"])
    segmenter = Segmenter(blip, prompts, blip.layers, Frame.from_config(config))
    sets = {"supervised": RECORDED["layers"], "all": list(blip.layers)}
    sets |= {str(layer): [layer] for layer in blip.layers}
    counts = {name: ConfusionMatrix(21, 255) for name in sets}
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    with torch.no_grad():
        for batch in batches(dataset, config.dataloader, torch.device("cpu")):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            for name, layers in sets.items():
                prediction = segmenter.unary(attended, layers).argmax(1)
                counts[name].update(prediction, torch.stack(batch.labels))
    return {name: 100 * count.miou for name, count in counts.items()}


def test_the_model_gives_the_recorded_score(miou: dict[str, float]) -> None:
    assert miou["supervised"] == pytest.approx(RECORDED["miou"], abs=0.5)


def test_bfloat16_keeps_the_score(blip: Blip, prompts: PromptSet, miou: dict[str, float]) -> None:
    settings = [f"max_images={RECORDED['images']}", "dataloader.num_workers=0", "crf.iters=0", "runtime.amp=bf16"]
    config = load_config(CONFIG, settings)
    segmenter = Segmenter.from_config(config, blip, prompts, RECORDED["layers"])
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    evaluation = evaluate(segmenter, dataset, config.dataloader)
    assert 100 * evaluation.confusion.miou == pytest.approx(miou["supervised"], abs=0.3)
    assert 100 * evaluation.confusion.miou != miou["supervised"]  # it was bfloat16


def test_supervised_layers_beat_all_layers_and_the_last(miou: dict[str, float], blip: Blip) -> None:
    assert miou["supervised"] > miou["all"] > miou[str(blip.layers[-1])]


def test_the_model_records_its_training() -> None:
    assert REPORT["finished"]
    assert REPORT["command"].startswith("python -m tools.miniature.train")
    assert REPORT["supervised_layers"] == RECORDED["layers"]
    for phase, loss in (("teacher", "caption_loss"), ("student", "head_loss")):
        losses = [entry[loss] for entry in REPORT["losses"] if entry["phase"] == phase]
        assert losses[-1] < 0.5 * losses[0]


def test_its_scope_is_that_of_a_model_made_again() -> None:
    made, shipped = build_model(build_tokenizer()).config.to_dict(), json.loads((MODEL / "config.json").read_text())
    assert {key: shipped[key] for key in SCOPE} == {key: made[key] for key in SCOPE} == SCOPE
    assert (REPOSITORY / SCOPE["scope_data"]).resolve() == FOLDER
    assert len(CLASSES) == 20


def test_the_model_is_small_and_its_vocabulary_has_every_word(blip: Blip) -> None:
    assert (MODEL / "model.safetensors").stat().st_size < 12e6
    assert not blip.unknown_words([TEMPLATE.format(word=word) for word in WORDS])
    assert blip.tokenize(["Image of 猫."])[0].tolist()[0].count(blip.tokenizer.unk_token_id) == 1


def test_matching_scores_detect_classes(blip: Blip, prompts: PromptSet) -> None:
    """A class in the picture scores higher than one that is not, in nine pairs of ten (chance: half)."""
    config = load_config(CONFIG, ["max_images=40", "dataloader.num_workers=0"])
    segmenter = Segmenter(blip, prompts, (0,), Frame.from_config(config))
    scores, present = [], []
    dataset = SegmentationDataset.from_config(evaluation_entries(config), config)
    for batch in batches(dataset, config.dataloader, torch.device("cpu")):
        with torch.no_grad():
            itm = segmenter.attend(segmenter.encode_images(batch.pixels)).itm
        scores.append(itm[:, -len(CLASSES) :].numpy())
        present += [np.isin(np.arange(1, 21), labels.numpy()) for labels in batch.labels]
    scores, present = np.concatenate(scores), np.stack(present)
    assert (scores[present][:, None] > scores[~present]).mean() > 0.9
