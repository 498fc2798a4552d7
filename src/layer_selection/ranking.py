"""Ranking a model's text layers by InfoScore over an image list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config.schema import Config
from ..data.dataset import Batch, SegmentationDataset
from ..data.lists import ListEntry
from ..errors import UserError
from ..evaluation import processes
from ..evaluation.blocks import Arrays, Outcome, compute_blocks
from ..evaluation.journal import Journal
from ..method.model import Model
from ..method.prompts import ClassEntry, build_prompts
from ..method.segmenter import Segmenter
from .infoscore import InfoScore, LayerScores, layer_shares

SHARES = "shares"


def ranking_segmenter(config: Config, model: Model, classes: list[ClassEntry]) -> Segmenter:
    """The segmenter that InfoScore looks through: single-prompt set, all layers that see the image."""
    return Segmenter.from_config(config, model, build_prompts(classes, multi_prompt=False), model.layers)


@torch.no_grad()
def rank_layers(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, journal: Journal | None = None
) -> LayerScores:
    """InfoScore of all layers of ``segmenter`` over the images of ``entries``; masks are not needed.

    Args:
        segmenter: from :func:`ranking_segmenter`.
        entries: the images.
        config: says how they are read.
        journal: an open one, from which the work goes on and in which it is kept; None: it begins and ends here.

    Raises:
        UserError: there is but one image, or one could not be read.
    """
    check_images(entries)
    running = InfoScore(segmenter.layers, segmenter.frame.size)

    def shares(batch: Batch) -> dict[str, Tensor]:
        attended = segmenter.attend(segmenter.encode_images(batch.pixels))
        found = layer_shares(attended, segmenter.layers, segmenter.frame.size)
        running.add(found)
        return {SHARES: found}

    outcome = compute_blocks(
        journal or Journal.nowhere(),
        SegmentationDataset.from_config(entries, config, masks=False),
        config.dataloader,
        segmenter.device,
        shares,
        "InfoScore",
        join=join_shares,
        check=segmenter.check_numbers,
        resume=lambda arrays: add_shares(running, arrays),
        show=lambda bar: bar.set_postfix(top=running.running_ranking()[: config.model.top_k]),
    )
    return processes.share(lambda: layer_scores(outcome, segmenter))


def join_shares(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the two parts of a batch contributed, together."""
    return {SHARES: torch.cat([one[SHARES], other[SHARES]], 1)}


def add_shares(infoscore: InfoScore, arrays: Arrays) -> None:
    """Add what a block contributed; a block of images that could not be read has no shares."""
    if SHARES in arrays:
        infoscore.add(torch.from_numpy(arrays[SHARES]))


def layer_scores(outcome: Outcome | None, segmenter: Segmenter) -> LayerScores:
    """InfoScore from the prompt shares of all images, in the order of the list."""
    assert outcome is not None
    infoscore = InfoScore(segmenter.layers, segmenter.frame.size)
    for arrays in outcome.blocks:
        add_shares(infoscore, arrays)
    return dataclasses.replace(infoscore.scores(), skipped=outcome.skipped, halved=outcome.halved)


def check_images(entries: list[ListEntry]) -> None:
    """Refuse to rank layers on a single image: nothing varies between images then, and every InfoScore is 0.

    Raises:
        UserError: ``entries`` has fewer than two images.
    """
    if len(entries) < 2:
        raise UserError(f"InfoScore of {len(entries)} image says nothing about layers: give a list of 2 or more")
