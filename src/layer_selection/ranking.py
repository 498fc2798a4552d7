"""Ranking a model's text layers by InfoScore over an image list."""

from __future__ import annotations

import torch
from tqdm import tqdm

from src.config.schema import Config
from src.data.dataset import SegmentationDataset, batches
from src.data.lists import ListEntry
from src.errors import UserError
from src.layer_selection.infoscore import InfoScore, LayerScores
from src.method.blip import Blip
from src.method.prompts import ClassEntry, build_prompts
from src.method.segmenter import Segmenter


def ranking_segmenter(config: Config, blip: Blip, classes: list[ClassEntry]) -> Segmenter:
    """The segmenter that InfoScore looks through: single-prompt set, all text layers."""
    return Segmenter.from_config(config, blip, build_prompts(classes, multi_prompt=False), range(blip.num_layers))


@torch.no_grad()
def rank_layers(segmenter: Segmenter, entries: list[ListEntry], config: Config) -> LayerScores:
    """InfoScore of all layers of ``segmenter`` over the images of ``entries``; masks are not needed.

    Raises:
        UserError: there is but one image, or one could not be read.
    """
    check_images(entries)
    infoscore = InfoScore(segmenter.layers, segmenter.frame.size)
    dataset = SegmentationDataset.from_config(entries, config, masks=False)
    with tqdm(total=len(dataset), desc="InfoScore", unit="image", dynamic_ncols=True) as bar:
        for batch in batches(dataset, config.dataloader, segmenter.device):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            for layer in segmenter.layers:
                infoscore.update(layer, attended.prompt_maps(layer))
            bar.update(len(batch))
            bar.set_postfix(top=infoscore.running_ranking()[: config.model.top_k])
    segmenter.check_numbers([entry.image for entry in entries])
    return infoscore.scores()


def check_images(entries: list[ListEntry]) -> None:
    """Refuse to rank layers on a single image: nothing varies between images then, and every InfoScore is 0.

    Raises:
        UserError: ``entries`` has fewer than two images.
    """
    if len(entries) < 2:
        raise UserError(f"InfoScore of {len(entries)} image says nothing about layers: give a list of 2 or more")
