"""What the numbers of a run depend on, apart from the images' contents: a run goes on only where all of it is equal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import transformers

from ..config.schema import Config
from ..data.lists import ListEntry
from ..files import REPOSITORY
from ..method.segmenter import Segmenter
from ..runtime import device_name
from .sources import source_files

MODEL = "src.method.checkpoints"

CODE = {
    "training-free": ("src.evaluation.evaluate", MODEL),
    "InfoScore": ("src.layer_selection.ranking", MODEL),
    "comparison of layers": ("src.layer_selection.comparison", MODEL),
    "one-shot": ("src.one_shot.evaluation", MODEL, "src.one_shot.tuning", "src.one_shot.embeddings"),
}
"""The modules that do an experiment; what they import counts too."""


def settings_of(
    experiment: str, config: Config, segmenter: Segmenter, entries: Sequence[ListEntry], **more: Any
) -> dict[str, Any]:
    """Settings of a run as plain values, under the names of the configuration where they have one.

    Args:
        experiment: a key of :data:`CODE`.
        config: the resolved configuration.
        segmenter: model, prompts, layers, device.
        entries: the images, by path; their contents are looked at block by block.
        more: what else matters to this run.
    """
    model = segmenter.model
    return {
        "experiment": experiment,
        "list": {"images": len(entries), "paths": _digest(f"{entry.image} {entry.mask}\n" for entry in entries)},
        "prompts": segmenter.prompts.prompts,
        "dataset": dataclasses.asdict(config.dataset),
        "model": {
            "name": model.name,
            "weights": model.digest,
            # what weights do not tell: heads, activation, epsilon, patch size
            **{part: _digest([json.dumps(values, sort_keys=True)]) for part, values in model.architecture.items()},
            "tokens": _digest([repr(segmenter.input_ids.tolist()), repr(segmenter.attention_mask.tolist())]),
            "image_size": config.model.image_size,
            "layers": list(segmenter.layers),
        },
        "dataloader": {"batch_size": config.dataloader.batch_size},
        "crf": {"iters": config.crf.iters},
        "eval": {"resolution": config.eval.resolution},
        "runtime": {"attention": config.runtime.attention, "number_format": str(segmenter.dtype or torch.float32)},
        "device": device_name(segmenter.device),
        "versions": {package.__name__: package.__version__ for package in (torch, transformers, np, cv2, PIL)},
        "code": {
            str(path.relative_to(REPOSITORY)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in source_files(*CODE[experiment])
        },
        **more,
    }


def file_digest(path: Path | None) -> str | None:
    """SHA-256 of a file; None of none."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(texts: Any) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()
