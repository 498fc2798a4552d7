"""InfoScore against mIoU: every layer alone, the best by InfoScore, all, and the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..config.schema import Config
from ..data.dataset import Batch, SegmentationDataset
from ..data.lists import ListEntry
from ..evaluation import processes
from ..evaluation.blocks import Outcome, compute_blocks
from ..evaluation.evaluate import COUNTS, predictions_of
from ..evaluation.journal import Journal
from ..evaluation.metrics import ConfusionMatrix, absence_note
from ..method import attention
from ..method.segmenter import Segmenter
from ..screen import table
from .infoscore import InfoScore, LayerScores, layer_shares
from .ranking import SHARES, add_shares, check_images, join_shares, layer_scores

BET = "bet"


@dataclass(frozen=True)
class Choice:
    """A choice of layers and what it scores."""

    name: str
    layers: tuple[int, ...]
    confusion: ConfusionMatrix


@dataclass(frozen=True)
class Comparison:
    """InfoScore of every layer, and choices of layers with their mIoU: the L single layers first."""

    scores: LayerScores
    choices: list[Choice]

    @property
    def single_layer_miou(self) -> list[float]:
        """[L] mIoU of each layer alone."""
        return [choice.confusion.miou for choice in self.choices[: len(self.scores.infoscore)]]

    @property
    def rho(self) -> float:
        """Spearman's rank correlation between InfoScore and mIoU over the layers."""
        correlation: Any = spearmanr(self.scores.infoscore.numpy(), self.single_layer_miou)
        return float(correlation.statistic)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: rho; which of the classes ``names`` are absent; name, layers and mIoU of every choice."""
        choices = [
            {"name": c.name, "layers": c.layers, "miou": c.confusion.miou, "miou_present": c.confusion.miou_present}
            for c in self.choices
        ]
        absent = [names[label] for label in self.choices[0].confusion.absent]
        return {"spearman_rho": self.rho, "absent_classes": absent, "choices": choices}

    def table(self, names: Sequence[str]) -> str:
        """mIoU of every choice in percent and rho, for the screen; and which of the classes ``names`` are absent."""
        rows = [["layers", "mIoU", "of the classes present"]]
        for choice in self.choices:
            mious = (choice.confusion.miou, choice.confusion.miou_present)
            rows.append([f"{choice.name} {list(choice.layers)}", *(f"{100 * miou:.2f}" for miou in mious)])
        absent = self.choices[0].confusion.absent  # all were scored on the same masks
        if not absent:
            rows = [row[:2] for row in rows]
        lines = [table(rows), f"  Spearman's rho between InfoScore and mIoU of the layers: {self.rho:.2f}"]
        return "\n".join(lines + [absence_note([names[label] for label in absent])] * bool(absent))


@torch.no_grad()
def compare(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, top_k: int, journal: Journal | None = None
) -> Comparison:
    """Score layers by InfoScore and choices of layers by mIoU on ``entries``.

    Which layers are InfoScore's best is known only after the last image. The ranking settles early, so every batch is
    also scored with the layers that are best so far; the few batches that bet wrong are segmented once more at the end.
    That costs less than keeping every layer's class maps, 40 GB on COCO.

    Args:
        segmenter: with the single-prompt set and all layers, from :func:`.ranking.ranking_segmenter`.
        entries: images with masks.
        config: for the data set, the frame of the evaluation and the batches.
        top_k: how many of InfoScore's layers to evaluate together.
        journal: an open one, from which the work goes on and in which it is kept; None: it begins and ends here.

    Raises:
        UserError: there is but one image, or one or its mask could not be read.
    """
    check_images(entries)
    journal = journal or Journal.nowhere()
    layers, size = segmenter.layers, segmenter.frame.size
    dataset = SegmentationDataset.from_config(entries, config)
    singles: list[tuple[int, ...]] = [(layer,) for layer in layers]
    running = InfoScore(layers, size)

    def score(batch: Batch) -> dict[str, Tensor]:
        attended = segmenter.attend(segmenter.encode_images(batch.pixels))
        shares = layer_shares(attended, layers, size)
        running.add(shares)
        bet = sorted(running.running_ranking()[:top_k])
        maps = [segmenter.layer_class_maps(attended, layer) for layer in layers]
        counts = [_counts(choice, maps, batch, segmenter, dataset) for choice in [*singles, layers, bet]]
        return {SHARES: shares, COUNTS: torch.stack(counts), BET: torch.tensor(bet)}

    def score_best(batch: Batch) -> dict[str, Tensor]:
        attended = segmenter.attend(segmenter.encode_images(batch.pixels))
        maps = [segmenter.layer_class_maps(attended, layer) for layer in layers]
        return {COUNTS: _counts(best, maps, batch, segmenter, dataset)[None]}

    outcome = compute_blocks(
        journal,
        dataset,
        config.dataloader,
        segmenter.device,
        score,
        "comparing layers",
        join=lambda one, other: {**one, **join_shares(one, other), COUNTS: one[COUNTS] + other[COUNTS]},
        check=segmenter.check_numbers,
        resume=lambda arrays: add_shares(running, arrays),
        show=lambda bar: bar.set_postfix(top=running.running_ranking()[:top_k]),
    )
    scores = processes.share(lambda: layer_scores(outcome, segmenter))
    best = scores.top(top_k)
    wrong = processes.share(lambda: _lost_bets(outcome, best, list(dataset.indices), config.dataloader.batch_size))
    again = compute_blocks(
        journal,
        dataset.only(wrong),
        config.dataloader,
        segmenter.device,
        score_best,
        f"scoring layers {best}",
        join=lambda one, other: {COUNTS: one[COUNTS] + other[COUNTS]},
        check=segmenter.check_numbers,
        weights=f"the layers {best}",  # the journal has other records of the same images
    )

    def together() -> Comparison:
        assert outcome is not None
        assert again is not None
        every = _matrices([arrays[COUNTS] for arrays in outcome.blocks if COUNTS in arrays], len(layers) + 2, dataset)
        won = [arrays[COUNTS][-1:] for arrays in outcome.blocks if BET in arrays and arrays[BET].tolist() == best]
        every[0].require_pixels()
        top = _matrices([*won, *(arrays[COUNTS] for arrays in again.blocks if COUNTS in arrays)], 1, dataset)
        choices = [Choice(f"layer {layer}", (layer,), every[place]) for place, layer in enumerate(layers)]
        choices.append(Choice(f"InfoScore top {top_k}", tuple(best), top[0]))
        choices.append(Choice("all layers", layers, every[len(layers)]))
        return Comparison(scores, [*choices, Choice("last layer", (layers[-1],), every[len(layers) - 1])])

    return processes.share(together)


def _lost_bets(outcome: Outcome | None, best: list[int], indices: list[int], size: int) -> list[int]:
    """Images of the blocks that were scored with other layers than ``best``."""
    assert outcome is not None
    lost = [number for number, a in enumerate(outcome.blocks) if BET in a and a[BET].tolist() != best]
    return [index for number in lost for index in indices[number * size : (number + 1) * size]]


def _counts(
    layers: Sequence[int], maps: Sequence[Tensor], batch: Batch, segmenter: Segmenter, dataset: SegmentationDataset
) -> Tensor:
    """Counts [C, C] of a batch segmented from its class maps, L of [B, C, N], averaged over ``layers``."""
    confusion = ConfusionMatrix.of(dataset.labelling, segmenter.device)
    chosen = [maps[segmenter.layers.index(layer)] for layer in layers]
    scores = segmenter.refine(attention.class_probabilities(chosen, segmenter.frame.size), batch.pixels)
    for prediction in predictions_of(batch, scores, dataset):
        confusion.update(prediction.labels, prediction.target)
    return confusion.counts


def _matrices(parts: Sequence[np.ndarray], choices: int, dataset: SegmentationDataset) -> list[ConfusionMatrix]:
    """A confusion matrix per choice of layers from the counts [choices, C, C] of all blocks."""
    matrices = [ConfusionMatrix.of(dataset.labelling) for _ in range(choices)]
    for part in parts:
        for matrix, counts in zip(matrices, part, strict=True):
            matrix.counts += torch.from_numpy(counts)
    return matrices
