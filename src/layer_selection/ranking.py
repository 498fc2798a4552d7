"""Ranking a model's text layers by InfoScore over an image list, and choosing layers by it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import transformers
from tqdm import tqdm

from src.config.schema import Config
from src.data.dataset import SegmentationDataset, batches
from src.data.lists import ListEntry
from src.errors import UserError
from src.files import write_text
from src.layer_selection.infoscore import InfoScore, LayerScores
from src.method.blip import Blip
from src.method.prompts import ClassEntry, build_prompts
from src.method.segmenter import Segmenter
from src.screen import say
from src.sources import source_files


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
    infoscore = InfoScore(len(segmenter.layers), segmenter.frame.size)
    dataset = SegmentationDataset.from_config(entries, config, masks=False)
    with tqdm(total=len(dataset), desc="InfoScore", unit="image", dynamic_ncols=True) as bar:
        for batch in batches(dataset, config.dataloader, segmenter.device):
            attended = segmenter.attend(segmenter.encode_images(batch.pixels))
            for layer in segmenter.layers:
                infoscore.update(layer, attended.prompt_maps(layer))
            bar.update(len(batch))
            # scoring goes over all images so far: ever more rarely, so that the whole stays linear
            if infoscore.images & (infoscore.images - 1) == 0 or infoscore.images % 100 == 0:
                bar.set_postfix(top=infoscore.scores().ranking[: config.model.top_k])
    return infoscore.scores()


def check_images(entries: list[ListEntry]) -> None:
    """Refuse to rank layers on a single image: nothing varies between images then, and every InfoScore is 0.

    Raises:
        UserError: ``entries`` has fewer than two images.
    """
    if len(entries) < 2:
        raise UserError(f"InfoScore of {len(entries)} image says nothing about layers: give a list of 2 or more")


def choose_layers(
    config: Config, blip: Blip, classes: list[ClassEntry], entries: list[ListEntry], cache: Path
) -> tuple[int, ...]:
    """The layers that ``model.layers`` names; for ``auto`` the ``model.top_k`` best by InfoScore on ``entries``.

    A ranking is kept as a file in the folder ``cache`` under a digest of all that it depends on: every weight of the
    model and its architecture, every byte of every image, the prompts' tokens, image size, normalisation, number
    format and kind of device, this project's own code, and the versions of the libraries that decode and compute.
    Whatever changes, the digest does, so that a stale ranking cannot be found.

    Raises:
        UserError: see :func:`rank_layers`.
    """
    if config.model.layers != "auto":
        return tuple(config.model.layers)
    segmenter = ranking_segmenter(config, blip, classes)
    digest = _digest(segmenter, entries, config)
    path = cache / f"infoscore_{digest}.json"
    if path.is_file():
        ranking = json.loads(path.read_text())["ranking"]
        origin = f"kept in {path}"
    else:
        ranking = rank_layers(segmenter, entries, config).ranking
        write_text(path, json.dumps({"ranking": ranking, "digest": digest}) + "\n")
        origin = f"computed on {len(entries)} images"
    layers = tuple(sorted(ranking[: config.model.top_k]))
    say(f"layers: {list(layers)}  # top {config.model.top_k} by InfoScore, {origin}")
    return layers


def _digest(segmenter: Segmenter, entries: list[ListEntry], config: Config) -> str:
    digest = hashlib.sha256()
    settings: dict[str, Any] = {
        "frame": dataclasses.asdict(segmenter.frame),
        "dtype": str(segmenter.dtype),
        "attention": config.runtime.attention,
        # what weights do not tell: heads, activation, epsilon, patch size
        "text_config": segmenter.blip.text_config.to_dict(),
        "vision_config": segmenter.blip.vision_config.to_dict(),
        "tokens": segmenter.input_ids.tolist(),
        "padding": segmenter.attention_mask.tolist(),
        "device": segmenter.device.type,
        "versions": [package.__version__ for package in (torch, transformers, np, cv2, PIL)],
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code_files()],
        "weights": segmenter.blip.digest,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for contents in _contents(entries):
        digest.update(len(contents).to_bytes(8, "little"))
        digest.update(contents)
    return digest.hexdigest()[:32]


def code_files() -> list[Path]:
    """The source files that a ranking depends on: this one and all that it imports. Charts, say, are not among them."""
    return source_files(__name__)


def _contents(entries: list[ListEntry]) -> Iterable[bytes]:
    """Bytes of every image file; a file that cannot be read counts as empty here and is reported when it is decoded."""
    for entry in entries:
        try:
            yield entry.image.read_bytes()
        except OSError:
            yield b""
