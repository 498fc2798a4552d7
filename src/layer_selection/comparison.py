"""Compare InfoScore with mIoU: of each layer alone, of the best by InfoScore, of all layers and of the last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..config.schema import Config
from ..data.dataset import Batch, SegmentationDataset
from ..data.lists import ListEntry
from ..evaluation import loop
from ..evaluation.evaluate import COUNTS, MeanIoU, predictions_of
from ..evaluation.journal import Journal
from ..evaluation.loop import Arrays, Evaluator, Pass
from ..evaluation.metrics import ConfusionMatrix, absence_note
from ..method import attention
from ..method.segmenter import PatchAttention, Segmenter
from ..screen import table
from .infoscore import LayerScores, layer_shares
from .ranking import SHARES, LayerRanking, require_images

BET = "bet"


@dataclass(frozen=True)
class Choice:
    """A choice of layers and its score."""

    name: str
    layers: tuple[int, ...]
    confusion: ConfusionMatrix


@dataclass(frozen=True)
class LayerComparison:
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
        """Plain values: rho; the absent ones of the classes ``names``; name, layers and mIoU of every choice."""
        choices = [
            {"name": c.name, "layers": c.layers, "miou": c.confusion.miou, "miou_present": c.confusion.miou_present}
            for c in self.choices
        ]
        absent = [names[label] for label in self.choices[0].confusion.absent]
        return {"spearman_rho": self.rho, "absent_classes": absent, "choices": choices}

    def table(self, names: Sequence[str]) -> str:
        """For the screen: mIoU of every choice in percent, rho, and the absent ones of the classes ``names``."""
        rows = [["layers", "mIoU, %", "of the classes present"]]
        for choice in self.choices:
            mious = (choice.confusion.miou, choice.confusion.miou_present)
            rows.append([f"{choice.name} {list(choice.layers)}", *(f"{100 * miou:.2f}" for miou in mious)])
        absent = self.choices[0].confusion.absent  # all were scored on the same masks
        if not absent:
            rows = [row[:2] for row in rows]
        lines = [table(rows), f"  Spearman's rho between InfoScore and mIoU of the layers: {self.rho:.2f}"]
        return "\n".join(lines + [absence_note([names[label] for label in absent])] * bool(absent))


@torch.no_grad()
def compare_layers(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, top_k: int, journal: Journal | None = None
) -> LayerComparison:
    """Score layers by InfoScore and choices of layers by mIoU on ``entries``.

    InfoScore's best layers are known only after the last image, but the ranking becomes stable early. So each batch is
    also scored with the best layers so far (a bet), and the few batches with a wrong bet are segmented again at the
    end. Keeping the class maps of all layers instead would take 40 GB on COCO.

    Args:
        segmenter: with the single-prompt set and all layers, from :func:`.ranking.ranking_segmenter`.
        top_k: number of InfoScore's best layers to evaluate together.
        journal: an open journal, to resume an interrupted comparison; None: it cannot be resumed.

    Raises:
        UserError: an image or its mask cannot be read, or only one image is readable.
    """
    require_images(len(entries))
    dataset, loader = SegmentationDataset.from_config(entries, config), config.dataloader
    scored = loop.run(_Choices(segmenter, dataset, top_k), dataset, loader, journal)
    best, top = scored.scores.top(top_k), scored.top
    indices, size = list(dataset.indices), loader.batch_size
    lost = dataset.only([index for block in scored.lost for index in indices[block * size : (block + 1) * size]])
    if len(lost):
        # ``weights`` distinguishes these records from the first pass's
        again = loop.run(_BestLayers(segmenter, lost, best), lost, loader, journal, weights=f"the layers {best}")
        top.counts += again.confusion.counts
    layers = segmenter.layers
    choices = [Choice(f"layer {layer}", (layer,), one) for layer, one in zip(layers, scored.singles, strict=True)]
    choices.append(Choice(f"InfoScore top {top_k}", tuple(best), top))
    choices.append(Choice("all layers", layers, scored.every))
    return LayerComparison(scored.scores, [*choices, Choice("last layer", (layers[-1],), scored.singles[-1])])


@dataclass(frozen=True)
class _Scored:
    """Result of the first pass: each layer alone, all layers, and the best layers on the blocks that bet on them.

    ``lost`` are the blocks with a wrong bet.
    """

    scores: LayerScores
    singles: list[ConfusionMatrix]
    every: ConfusionMatrix
    top: ConfusionMatrix
    lost: list[int]


class _Choices(Evaluator[_Scored]):
    """InfoScore, and mIoU of each layer, of all layers, and of the layers that are best when a block is computed."""

    def __init__(self, segmenter: Segmenter, dataset: SegmentationDataset, top_k: int) -> None:
        super().__init__(segmenter.device, "comparing layers")
        self.segmenter = segmenter
        self.dataset = dataset
        self.top_k = top_k
        self.ranking = LayerRanking(segmenter, top_k)
        self.choices = [*((layer,) for layer in segmenter.layers), segmenter.layers]
        classes = dataset.labelling.num_classes
        self.counts = torch.zeros(len(self.choices), classes, classes, dtype=torch.int64, device=self.device)
        self.won: defaultdict[tuple[int, ...], Tensor] = defaultdict(lambda: torch.zeros_like(self.counts[0]))
        self.bets: dict[int, tuple[int, ...]] = {}

    def process(self, batch: Batch) -> Arrays:
        segmenter, infoscore = self.segmenter, self.ranking.infoscore
        bet = sorted((infoscore.running_ranking() if infoscore.images else segmenter.layers)[: self.top_k])
        with segmenter.watch(batch.images):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            shares = layer_shares(attended, segmenter.layers, segmenter.frame.size)
            counts = _counts([*self.choices, bet], attended, batch, segmenter, self.dataset)
        return {SHARES: shares, COUNTS: counts, BET: torch.tensor(bet)}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        # both halves have the same bet: nothing is added between them
        return {**self.ranking.merge(one, other), COUNTS: one[COUNTS] + other[COUNTS], BET: one[BET]}

    def add(self, block: int, arrays: Arrays) -> None:
        self.ranking.add(block, arrays)
        counts = arrays[COUNTS].to(self.device)
        self.bets[block] = tuple(arrays[BET].tolist())
        self.counts += counts[:-1]
        self.won[self.bets[block]] += counts[-1]

    def check(self) -> None:
        self.segmenter.check_numbers()

    def status(self) -> dict[str, Any]:
        return self.ranking.status()

    def result(self, done: Pass) -> _Scored:
        scores = self.ranking.result(done)
        best = tuple(scores.top(self.top_k))
        *singles, every, top = (self._confusion(counts) for counts in [*self.counts, self.won[best]])
        every.require_pixels()
        return _Scored(scores, singles, every, top, sorted(block for block, bet in self.bets.items() if bet != best))

    def _confusion(self, counts: Tensor) -> ConfusionMatrix:
        confusion = ConfusionMatrix.of(self.dataset.labelling)
        confusion.counts += counts.cpu()
        return confusion


class _BestLayers(MeanIoU):
    """mIoU of some of a segmenter's layers, with the same rounding as in :class:`_Choices`."""

    def __init__(self, segmenter: Segmenter, dataset: SegmentationDataset, layers: Sequence[int]) -> None:
        super().__init__(segmenter, dataset, description=f"scoring layers {list(layers)}")
        self.layers = layers

    def process(self, batch: Batch) -> Arrays:
        segmenter = self.segmenter
        with segmenter.watch(batch.images):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            return {COUNTS: _counts([self.layers], attended, batch, segmenter, self.dataset)[0]}


def _counts(
    choices: Sequence[Sequence[int]],
    attended: PatchAttention,
    batch: Batch,
    segmenter: Segmenter,
    dataset: SegmentationDataset,
) -> Tensor:
    """Counts [choices, C, C] of a batch, segmented with the layers of each choice."""
    maps = {layer: segmenter.layer_class_maps(attended, layer) for layer in segmenter.layers}  # [B, C, N] each
    confusions = [ConfusionMatrix.of(dataset.labelling, segmenter.device) for _ in choices]
    for layers, confusion in zip(choices, confusions, strict=True):
        unary = attention.class_probabilities([maps[layer] for layer in layers], segmenter.frame.size)
        for prediction in predictions_of(batch, segmenter.refine(unary, batch.pixels), dataset):
            confusion.update(prediction.labels, prediction.target)
    return torch.stack([confusion.counts for confusion in confusions])
