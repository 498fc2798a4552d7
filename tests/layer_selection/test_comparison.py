"""Choices of layers scored in one pass of the model, each as if evaluated alone."""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import compute_infoscore_blip
from src import cli
from src.config.reader import load_config
from src.config.schema import Config
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.evaluation.evaluate import evaluate
from src.evaluation.journal import Journal
from src.layer_selection.comparison import LayerComparison, compare_layers
from src.layer_selection.ranking import rank_layers, ranking_segmenter
from src.method.blip import load_blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pascal"
CONFIG = ROOT / "tests" / "golden_training_free.yaml"
CPU = torch.device("cpu")


def compared(config: Config, top_k: int, journal: Journal | None = None) -> tuple[LayerComparison, list[int]]:
    """A comparison, and how many images each call of the vision encoder had."""
    blip = load_blip(config.model.name, CPU, config.runtime.attention == "fused")
    encodings: list[int] = []
    blip.model.vision_model.register_forward_hook(lambda *args: encodings.append(len(args[2].last_hidden_state)))
    segmenter = ranking_segmenter(config, blip, read_class_file(GOLDEN / "classes.json", 7))
    return compare_layers(segmenter, evaluation_entries(config), config, top_k, journal), encodings


@pytest.mark.parametrize(("resolution", "batch"), [("letterbox", 1), ("letterbox", 3), ("original", 2)])
def test_every_choice_scores_as_if_evaluated_alone(resolution: str, batch: int) -> None:
    # exact: the rounding of fused kernels depends on which layers' logits are requested, and a pixel may differ
    overrides = ["runtime.attention=exact", "model.image_size=64", "crf.iters=2", "max_images=5"]
    config = load_config(CONFIG, [*overrides, f"eval.resolution={resolution}", f"dataloader.batch_size={batch}"])
    result, encodings = compared(config, 3)
    assert sum(encodings[: math.ceil(5 / batch)]) == 5

    blip = load_blip(config.model.name, CPU, fused=False)
    classes = read_class_file(GOLDEN / "classes.json", 7)
    entries = evaluation_entries(config)
    scores = rank_layers(ranking_segmenter(config, blip, classes), entries, config)
    assert torch.equal(result.scores.infoscore, scores.infoscore)
    assert [(choice.name, choice.layers) for choice in result.choices] == [
        *((f"layer {layer}", (layer,)) for layer in range(4)),
        ("InfoScore top 3", tuple(scores.top(3))),
        ("all layers", (0, 1, 2, 3)),
        ("last layer", (3,)),
    ]
    dataset = SegmentationDataset.from_config(entries, config)
    for choice in result.choices:
        segmenter = Segmenter.from_config(config, blip, build_prompts(classes, False), choice.layers)
        expected = evaluate(segmenter, dataset, config.dataloader).confusion
        assert torch.equal(choice.confusion.counts, expected.counts), choice.name
    assert result.single_layer_miou == [choice.confusion.miou for choice in result.choices[:4]]
    assert len(set(result.single_layer_miou)) == 4  # otherwise the order of layers would not be tested

    ranks = [np.argsort(np.argsort(values)) for values in (scores.infoscore.numpy(), result.single_layer_miou)]
    assert result.rho == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_only_batches_that_guessed_other_layers_run_twice() -> None:
    """One image gives no ranking: it is scored with the first layers, and again once the best are known."""
    result, encodings = compared(load_config(CONFIG, ["model.image_size=64", "crf.iters=0"]), 2)
    assert result.choices[4].layers != (0, 1)
    assert 24 < sum(encodings) < 48


def test_resumed_blocks_are_in_memory_one_at_a_time(tmp_path: Path, unpacked: list[int]) -> None:
    """On COCO the counts of a block take 14 x 81 x 81 numbers."""
    config = load_config(CONFIG, ["model.image_size=64", "crf.iters=0"])
    journal = Journal(tmp_path / "results.csv", {})
    with contextlib.suppress(KeyboardInterrupt), journal:
        expected, encodings = compared(config, 2, journal)
        raise KeyboardInterrupt  # before the results are written
    assert not unpacked
    with Journal(tmp_path / "results.csv", {}) as journal:
        result, again = compared(config, 2, journal)
    assert not again
    assert unpacked == [1] * sum(encodings)  # batches of one image, some of them in both passes
    for choice, other in zip(result.choices, expected.choices, strict=True):
        assert torch.equal(choice.confusion.counts, other.confusion.counts)
    assert torch.equal(result.scores.infoscore, expected.scores.infoscore)


def test_masks_with_nothing_to_score_are_refused(tmp_path: Path) -> None:
    lines = [f"{GOLDEN / 'data' / 'JPEGImages' / f'00000{n}.png'} {tmp_path / 'mask.png'}" for n in range(2)]
    with Image.open(lines[0].split()[0]) as image:
        Image.new("L", image.size, 255).save(tmp_path / "mask.png")
    (tmp_path / "list.txt").write_text(f"{lines[0]}\n{lines[0]}\n")
    config = load_config(CONFIG, ["model.image_size=64", "crf.iters=0", f"val_list={tmp_path / 'list.txt'}"])
    with pytest.raises(UserError, match="no pixel can be scored: every mask value is 255"):
        compared(config, 1)


def test_the_command_writes_and_prints_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(CONFIG), "--device", "cpu", "--output-dir", str(tmp_path), "--limit", "6"]
    settings = ["--set", "model.image_size=64", "crf.iters=0"]
    assert cli.run(compute_infoscore_blip.main, [*arguments, "--compare", "--top", "1", *settings]) == 0
    written = json.loads((tmp_path / "golden_infoscore.json").read_text())
    choices = written["comparison"]["choices"]
    top = written["layers_by_infoscore"][:1]
    assert [choice["layers"] for choice in choices] == [[0], [1], [2], [3], top, [0, 1, 2, 3], [3]]
    assert choices[4]["miou"] == choices[top[0]]["miou"]  # the best alone is a single layer
    said = capsys.readouterr().out
    absent = written["comparison"]["absent_classes"]
    assert ("as published: " + ", ".join(absent) in said) == bool(absent)
    for choice in choices:
        line = next(line for line in said.splitlines() if line.strip().startswith(choice["name"]))
        assert line.split()[-1 if not absent else -2] == f"{100 * choice['miou']:.2f}"
    assert (
        f"Spearman's rho between InfoScore and mIoU of the layers: {written['comparison']['spearman_rho']:.2f}" in said
    )
    assert f"model.layers={top}" in said.splitlines()[-1]
    for name in ("golden_infoscore.png", "golden_infoscore_against_miou.png"):
        with Image.open(tmp_path / name) as chart:
            assert chart.format == "PNG"
    assert len(list(tmp_path.iterdir())) == 4 + 1  # and the kept ranking

    table = (tmp_path / "golden_infoscore.csv").read_text()
    assert cli.run(compute_infoscore_blip.main, [*arguments, "--top", "1", *settings]) == 0
    assert (tmp_path / "golden_infoscore.csv").read_text() == table


def test_temporary_files_of_earlier_versions_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".class_maps.a1b2").write_bytes(b"left by a kill")
    arguments = ["--config", str(CONFIG), "--device", "cpu", "--output-dir", str(tmp_path), "--limit", "2", "--compare"]
    assert cli.run(compute_infoscore_blip.main, [*arguments, "--set", "crf.iters=0"]) == 0
    assert not list(tmp_path.glob(".class_maps.*"))
