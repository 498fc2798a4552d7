"""Rank a model's text layers by InfoScore over an image list."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..config.schema import Config
from ..data.dataset import Batch, SegmentationDataset
from ..data.lists import ListEntry
from ..errors import UserError
from ..evaluation import loop
from ..evaluation.journal import Journal
from ..evaluation.loop import Arrays, Evaluator, Pass
from ..method.model import Model
from ..method.prompts import ClassEntry, build_prompts
from ..method.segmenter import Segmenter
from .infoscore import InfoScore, LayerScores, layer_shares

SHARES = "shares"


def ranking_segmenter(config: Config, model: Model, classes: list[ClassEntry]) -> Segmenter:
    """The segmenter for InfoScore: single-prompt set, all layers with cross-attention."""
    return Segmenter.from_config(config, model, build_prompts(classes, multi_prompt=False), model.layers)


class LayerRanking(Evaluator[LayerScores]):
    """InfoScore of all layers of a :func:`ranking_segmenter`; the progress bar shows the ``top_k`` best."""

    def __init__(self, segmenter: Segmenter, top_k: int) -> None:
        super().__init__(segmenter.device, "InfoScore")
        self.segmenter = segmenter
        self.top_k = top_k
        self.infoscore = InfoScore(segmenter.layers, segmenter.frame.size)

    def process(self, batch: Batch) -> Arrays:
        segmenter = self.segmenter
        with segmenter.watch(batch.images):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            return {SHARES: layer_shares(attended, segmenter.layers, segmenter.frame.size)}

    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        return {SHARES: torch.cat([one[SHARES], other[SHARES]], 1)}

    def add(self, block: int, arrays: Arrays) -> None:
        self.infoscore.add(arrays[SHARES], block)

    def check(self) -> None:
        self.segmenter.check_numbers()

    def status(self) -> dict[str, Any]:
        return {"top": self.infoscore.running_ranking()[: self.top_k]} if self.infoscore.images else {}

    def result(self, done: Pass) -> LayerScores:
        require_images(done.images)
        return dataclasses.replace(self.infoscore.scores(), skipped=done.skipped, halved=done.halved)


@torch.no_grad()
def rank_layers(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, journal: Journal | None = None
) -> LayerScores:
    """InfoScore of all layers of ``segmenter`` over the images of ``entries``; masks are not needed.

    Args:
        segmenter: from :func:`ranking_segmenter`.
        journal: an open journal, to resume an interrupted ranking; None: it cannot be resumed.

    Raises:
        UserError: an image cannot be read, or only one image is readable.
    """
    require_images(len(entries))
    dataset = SegmentationDataset.from_config(entries, config, masks=False)
    return loop.run(LayerRanking(segmenter, config.model.top_k), dataset, config.dataloader, journal)


def require_images(count: int) -> None:
    """Raise UserError for fewer than two images: nothing varies between images, and every InfoScore is 0."""
    if count < 2:
        raise UserError(f"InfoScore needs at least 2 readable images, got {count}: use a longer list")
