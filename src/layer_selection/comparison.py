"""InfoScore against mIoU: every layer alone, the best by InfoScore, all, and the last, in one pass of the model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from src.config.schema import Config
from src.data.dataset import Batch, SegmentationDataset, batches
from src.data.lists import ListEntry
from src.disk import require_space
from src.evaluation.evaluate import predictions_of
from src.evaluation.metrics import ConfusionMatrix, absence_note
from src.layer_selection.infoscore import InfoScore, LayerScores
from src.layer_selection.ranking import check_images
from src.method import attention
from src.method.segmenter import Segmenter
from src.screen import table


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
def compare(segmenter: Segmenter, entries: list[ListEntry], config: Config, top_k: int, scratch: Path) -> Comparison:
    """Score layers by InfoScore and choices of layers by mIoU on ``entries``.

    The model runs once over the images. Which layers are InfoScore's best is known only after the last image, so every
    layer's class maps at the patch grid are kept in a temporary file in the folder ``scratch``; their mean over the
    best layers is then scored without running the model again.

    Args:
        segmenter: with the single-prompt set and all layers, from :func:`.ranking.ranking_segmenter`.
        entries: images with masks.
        config: for the data set, the frame of the evaluation and the batches.
        top_k: how many of InfoScore's layers to evaluate together.
        scratch: a folder (made if need be) with room for images x layers x classes x patches x 4 bytes.

    Raises:
        UserError: there is but one image, one or its mask could not be read, or ``scratch`` has too little room.
    """
    check_images(entries)
    layers = segmenter.layers
    dataset = SegmentationDataset.from_config(entries, config)
    infoscore = InfoScore(layers, segmenter.frame.size)
    choices = [_choice(f"layer {layer}", (layer,), dataset, segmenter.device) for layer in layers]
    choices += [_choice("all layers", layers, dataset, segmenter.device)]
    shape = (len(entries), len(layers), config.dataset.num_classes, segmenter.num_patches)
    scratch.mkdir(parents=True, exist_ok=True)
    # before the work: a memory map that outgrows its disk ends the process without a word
    remedy = "use --limit, or --output-dir on another disk"
    require_space(scratch, 4 * math.prod(shape), "--compare, with the class maps that it keeps,", remedy)
    with tempfile.NamedTemporaryFile(dir=scratch, prefix=".class_maps.") as file:
        kept = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        with tqdm(total=len(dataset), desc="comparing layers", unit="image", dynamic_ncols=True) as bar:
            for batch in batches(dataset, config.dataloader, segmenter.device):
                attended = segmenter.attend(segmenter.encode_images(batch.pixels))
                for layer in layers:
                    infoscore.update(layer, attended.prompt_maps(layer))
                maps = torch.stack([segmenter.layer_class_maps(attended, layer) for layer in layers], 1)  # [B, L, C, N]
                kept[batch.indices] = maps.cpu().numpy()
                for choice in choices:
                    _score(choice, maps, batch, segmenter, dataset)
                bar.update(len(batch))
        choices[0].confusion.require_pixels()
        segmenter.check_numbers([entry.image for entry in entries])
        scores = infoscore.scores()
        best = _choice(f"InfoScore top {top_k}", tuple(scores.top(top_k)), dataset, segmenter.device)
        description = f"scoring layers {list(best.layers)}"
        with tqdm(total=len(dataset), desc=description, unit="image", dynamic_ncols=True) as bar:
            for batch in batches(dataset, config.dataloader, segmenter.device):
                maps = torch.from_numpy(kept[batch.indices]).to(segmenter.device)
                _score(best, maps, batch, segmenter, dataset)
                bar.update(len(batch))
        del kept
    last = Choice("last layer", (layers[-1],), choices[len(layers) - 1].confusion)
    return Comparison(scores, [*choices[: len(layers)], best, *choices[len(layers) :], last])


def _choice(name: str, layers: tuple[int, ...], dataset: SegmentationDataset, device: torch.device) -> Choice:
    return Choice(name, layers, ConfusionMatrix(dataset.num_classes, dataset.ignore_label, device))


def _score(choice: Choice, maps: Tensor, batch: Batch, segmenter: Segmenter, dataset: SegmentationDataset) -> None:
    """Segment a batch from its class maps [B, L, C, N], averaged over the layers of ``choice``, and score it."""
    chosen = [maps[:, segmenter.layers.index(layer)] for layer in choice.layers]
    scores = segmenter.refine(attention.class_probabilities(chosen, segmenter.frame.size), batch.pixels)
    for prediction in predictions_of(batch, scores, dataset):
        choice.confusion.update(prediction.labels, prediction.target)
