"""Scoring several runs at once: scores equal those of each run alone, and shared work is done once."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from replace_huggingface.modeling_blip_text import CrossAttentionTextEncoder
from src.config.schema import Config, DataloaderConfig
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.errors import UserError
from src.evaluation import loop
from src.evaluation.evaluate import Evaluation, evaluate
from src.evaluation.journal import Journal
from src.method.blip import Blip
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter, segment_with_each
from src.one_shot.evaluation import MeanIoUOfRuns, TunedRun
from tests import tiny

LOADER = DataloaderConfig(batch_size=2, num_workers=0)
QUERIES = ([0, 1, 2, 3, 4], [1, 2, 4], [0, 3])


@pytest.fixture
def config(make_config: Callable[..., Config], data_root: Path) -> Config:
    tiny.make_data(data_root, [(40 + 3 * number, 50) for number in range(5)])
    return make_config(crf={"iters": 2})


@pytest.fixture
def segmenter(config: Config, exact: Blip) -> Segmenter:
    classes = read_class_file(Path(config.class_name_dir), config.dataset.num_classes)
    return Segmenter.from_config(config, exact, build_prompts(classes, True), config.model.layers)


@pytest.fixture
def dataset(config: Config) -> SegmentationDataset:
    return SegmentationDataset.from_config(evaluation_entries(config), config)


@pytest.fixture
def runs(segmenter: Segmenter) -> list[TunedRun]:
    """Three runs with weights far from the model's and from each other's."""
    made = []
    for number, queries in enumerate(QUERIES):
        generator = torch.Generator().manual_seed(number)
        weights = {
            name: value + 0.5 * torch.randn(value.shape, generator=generator)
            for name, value in segmenter.untuned_weights().items()
        }
        made.append(TunedRun(number, segmenter.with_weights(weights), [], str(number), frozenset(queries)))
    return made


def scored(
    runs: Sequence[TunedRun], dataset: SegmentationDataset, journal: Journal, segmenter: Segmenter
) -> list[Evaluation]:
    evaluator = MeanIoUOfRuns(runs, dataset, lambda _, pixels: segmenter.encode_images(pixels))
    return loop.run(evaluator, dataset, LOADER, journal)


@pytest.mark.parametrize("amp", [False, "bf16"])
def test_each_run_segments_as_if_alone(
    amp: bool, config: Config, runs: list[TunedRun], dataset: SegmentationDataset
) -> None:
    config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, amp=amp))
    first = runs[0].segmenter
    again = [
        Segmenter.from_config(config, first.model, first.prompts, first.layers).with_weights(run.segmenter.weights)
        for run in runs
    ]
    pixels = torch.stack([dataset[0].pixels, dataset[1].pixels])
    every = list(segment_with_each(again, pixels, again[0].encode_images(pixels)))
    for segmenter, scores in zip(again, every, strict=True):
        assert torch.equal(scores, segmenter.segment(pixels))
    assert not torch.allclose(every[0], every[1], atol=1e-3)


def test_untuned_layers_process_an_image_once(
    runs: list[TunedRun], dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four layers 0 and 2 are tuned."""
    asked: list[int] = []
    keys_values = CrossAttentionTextEncoder.keys_values
    pixels = dataset[0].pixels[None]
    embeds = runs[0].segmenter.encode_images(pixels)

    def counting(self: CrossAttentionTextEncoder, embeds: Tensor, layers: Sequence[int], *wanted: Any) -> Any:
        asked.extend(layers)
        return keys_values(self, embeds, layers, *wanted)

    monkeypatch.setattr(CrossAttentionTextEncoder, "keys_values", counting)
    list(segment_with_each([run.segmenter for run in runs], pixels, embeds))
    assert sorted(asked) == [0, 0, 0, 1, 2, 2, 2, 3]


def test_scores_are_those_of_each_run_alone(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset
) -> None:
    together = scored(runs, dataset, Journal.nowhere(), segmenter)
    for run, got in zip(runs, together, strict=True):
        alone = evaluate(run.segmenter, dataset.only(sorted(run.queries)), dataclasses.replace(LOADER, batch_size=1))
        # batches of two round differently from single images: a pixel on an edge may differ
        assert (got.confusion.counts - alone.confusion.counts).abs().sum() <= 4
        assert got.confusion.counts.sum() == alone.confusion.counts.sum()
        assert got.images == len(run.queries)
    assert together[1].confusion.counts.sum() < together[0].confusion.counts.sum()


def test_the_scores_of_a_run_are_freed_before_the_next_run(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 16 images of COCO take 1.3 GiB."""
    alive: list[weakref.ref[Tensor]] = []
    segment = Segmenter.segment

    def watched(self: Segmenter, *arguments: Any) -> Tensor:
        assert not any(scores() is not None for scores in alive)
        scores = segment(self, *arguments)
        alive.append(weakref.ref(scores))
        return scores

    monkeypatch.setattr(Segmenter, "segment", watched)
    scored(runs, dataset, Journal.nowhere(), segmenter)
    assert len(alive) == 3 + 3 + 2  # blocks with a query of the run


def test_an_unreadable_image_is_missing_only_where_it_is_a_query(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    dataset.entries[3].image.write_bytes(b"")
    with Journal(tmp_path / "results.csv", {}, skip_unreadable=True) as journal:
        together = scored(runs, dataset, journal, segmenter)
    assert [evaluation.images for evaluation in together] == [4, 3, 1]
    named = [[Path(entry["image"]).name for entry in evaluation.skipped] for evaluation in together]
    assert named == [["3.jpg"], [], ["3.jpg"]]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("damaged", [False, True])
def test_journal_entries_of_other_runs_or_weights_are_ignored(
    damaged: bool, runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset, tmp_path: Path
) -> None:
    if damaged:  # half of the second block
        dataset.entries[3].image.write_bytes(b"")
    nowhere = Journal.nowhere()
    nowhere.skip_unreadable = True
    whole = scored(runs, dataset, nowhere, segmenter)
    tuned_anew = dataclasses.replace(runs[1], segmenter=runs[0].segmenter, digest="other")
    for these in ([runs[0]], [runs[0], tuned_anew]):
        journal = Journal(tmp_path / "results.csv", {}, skip_unreadable=True)
        with contextlib.suppress(Stopped), journal:
            scored(these, dataset, journal, segmenter)
            raise Stopped  # before the results are written
    with Journal(tmp_path / "results.csv", {}, skip_unreadable=True) as journal:
        got = scored(runs, dataset, journal, segmenter)
    for evaluation, expected in zip(got, whole, strict=True):
        assert torch.equal(evaluation.confusion.counts, expected.confusion.counts)
        assert evaluation.skipped == expected.skipped


def test_resumed_blocks_are_in_memory_one_at_a_time(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset, tmp_path: Path, unpacked: list[int]
) -> None:
    journal = Journal(tmp_path / "results.csv", {})
    with contextlib.suppress(Stopped), journal:
        expected = scored(runs, dataset, journal, segmenter)
        raise Stopped
    assert not unpacked
    with Journal(tmp_path / "results.csv", {}) as journal:
        got = scored(runs, dataset, journal, segmenter)
    assert unpacked == [3, 3, 3]  # five images in batches of two
    assert [evaluation.computed for evaluation in got] == [0, 0, 0]
    for evaluation, other in zip(got, expected, strict=True):
        assert torch.equal(evaluation.confusion.counts, other.confusion.counts)


def test_scores_that_are_not_finite_name_the_image(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset
) -> None:
    """The second run uses only the second and third block, and counts its images itself."""
    lost = {name: torch.full_like(value, torch.nan) for name, value in runs[1].segmenter.weights.items()}
    later = dataclasses.replace(runs[1], segmenter=segmenter.with_weights(lost), queries=frozenset([2, 4]))
    with pytest.raises(UserError, match=r"images/2\.jpg is not a number"):
        scored([runs[0], later], dataset, Journal.nowhere(), segmenter)


def test_after_a_lack_of_memory_the_right_image_is_named(
    runs: list[TunedRun], segmenter: Segmenter, dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the second run for a batch that the first run has segmented."""
    segment = Segmenter.segment

    def short(self: Segmenter, pixels: Tensor, *arguments: Any) -> Tensor:
        scores = segment(self, pixels, *arguments)
        if self is runs[1].segmenter and len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores

    def encode(files: Sequence[Path], pixels: Tensor) -> Tensor:
        embeds = segmenter.encode_images(pixels)
        embeds[[file.name == "4.jpg" for file in files]] = torch.inf
        return embeds

    monkeypatch.setattr(Segmenter, "segment", short)
    with pytest.raises(UserError, match=r"images/4\.jpg is not a number"):
        loop.run(MeanIoUOfRuns(runs[:2], dataset, encode), dataset, LOADER, Journal.nowhere())
