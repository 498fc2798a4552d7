"""Choosing text layers by InfoScore. A ranking takes hours on a large list: it is computed once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import transformers

from ..config.schema import Config
from ..data.lists import ListEntry
from ..evaluation import processes
from ..evaluation.identity import settings_of
from ..evaluation.journal import Journal
from ..evaluation.sources import source_files
from ..files import check_writable, read_regular, write_text
from ..method import checkpoints
from ..method.model import Model
from ..method.prompts import ClassEntry
from ..method.segmenter import Segmenter
from ..screen import note, say
from . import ranking
from .infoscore import LayerScores
from .ranking import rank_layers, ranking_segmenter

MAX_BYTES = 1 << 20  # of a kept ranking
PARTS = ("mean_image_entropy", "dataset_entropy", "cov")


def choose_layers(
    config: Config,
    model: Model,
    classes: list[ClassEntry],
    entries: list[ListEntry],
    cache: Path,
    fresh: bool = False,
    skip_unreadable: bool = False,
) -> tuple[int, ...]:
    """The layers that ``model.layers`` names; for ``auto`` the ``model.top_k`` best by InfoScore on ``entries``.

    See :func:`score_layers` for the rest.

    Raises:
        UserError: see :func:`.ranking.rank_layers`.
    """
    if config.model.layers != "auto":
        return tuple(config.model.layers)
    segmenter = ranking_segmenter(config, model, classes)
    scores = score_layers(segmenter, entries, config, cache, fresh, skip_unreadable)
    layers = tuple(scores.top(config.model.top_k))
    say(f"layers: {list(layers)}  # top {config.model.top_k} by InfoScore")
    return layers


def score_layers(
    segmenter: Segmenter,
    entries: list[ListEntry],
    config: Config,
    cache: Path,
    fresh: bool = False,
    skip_unreadable: bool = False,
) -> LayerScores:
    """InfoScore of all layers of ``segmenter`` on ``entries``: kept from an earlier time, else computed and kept.

    A ranking is kept as a file in the folder ``cache`` under a digest of all that it depends on: every weight of the
    model and its architecture, every byte of every image, the prompts' tokens, image size, normalisation, number
    format and kind of device, this project's own code, and the versions of the libraries that decode and compute.
    Whatever changes, the digest does, so that a stale ranking cannot be found. An interrupted ranking goes on. One that
    lacks images that could not be read is not kept.

    Args:
        segmenter: from :func:`.ranking.ranking_segmenter`.
        entries: the images; masks are not needed.
        config: for the images' reading and the number format.
        cache: where rankings are kept; the folder of the results, so that all commands find them.
        fresh: begin an interrupted ranking anew.
        skip_unreadable: leave out images that cannot be read.

    Raises:
        UserError: see :func:`.ranking.rank_layers`; or ``cache`` cannot be written to.
    """
    path, scores = processes.share(lambda: _find(segmenter, entries, config, cache))
    if scores is not None:
        say(f"InfoScore of {len(entries)} images: found in {path}")
        return scores
    check_writable(path)
    settings = settings_of("InfoScore", config, segmenter, entries)
    with Journal(cache / "infoscore", settings, fresh, skip_unreadable) as journal:
        scores = rank_layers(segmenter, entries, config, journal)
        processes.share(lambda: write_scores(scores, path))
    kept = "" if scores.skipped else f", kept in {path}"
    say(f"InfoScore of {len(entries) - len(scores.skipped)} images: computed{kept}")
    return scores


def _find(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path
) -> tuple[Path, LayerScores | None]:
    """Where the scores belong, and those that are there."""
    path = kept_path(segmenter, entries, config, cache)
    return path, read_scores(path, segmenter.layers)


def kept_path(segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path) -> Path:
    """The file in the folder ``cache`` that keeps the InfoScore of ``segmenter``'s layers on ``entries``."""
    return cache / f"infoscore_{_digest(segmenter, entries, config)}.json"


def keep_scores(
    scores: LayerScores, segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path
) -> None:
    """Keep ``scores`` where :func:`score_layers` will find them."""
    processes.share(lambda: write_scores(scores, kept_path(segmenter, entries, config, cache)))


def write_scores(scores: LayerScores, path: Path) -> None:
    """Write ``scores`` to ``path``, unless they lack images; floats in full, so that they are read as they were."""
    if scores.skipped:
        return
    parts = {part: getattr(scores, part).tolist() for part in PARTS}
    write_text(path, json.dumps({"layers": scores.layers, **parts}) + "\n")


def read_scores(path: Path, layers: tuple[int, ...]) -> LayerScores | None:
    """The scores of ``layers`` that are kept at ``path``; None if there are none, or none that can be believed.

    The latter is said: the file may have been cut short by a full disk, or edited.
    """
    try:
        values = json.loads(read_regular(path, MAX_BYTES).decode("utf-8"))
        if not isinstance(values, dict) or values.get("layers") != list(layers):
            raise ValueError(f"it is not about layers {list(layers)}")
        for part in PARTS:
            numbers = values.get(part)
            if not isinstance(numbers, list) or len(numbers) != len(layers) or not all(map(_is_number, numbers)):
                raise ValueError(f"its {part} is not {len(layers)} numbers")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        note(f"the ranking kept in {path} cannot be used ({error}); computing it again")
        return None
    entropy, dataset, cov = (torch.tensor(values[part], dtype=torch.float64) for part in PARTS)
    return LayerScores(layers, entropy, dataset, cov)


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def _digest(segmenter: Segmenter, entries: list[ListEntry], config: Config) -> str:
    digest = hashlib.sha256()
    settings: dict[str, Any] = {
        "frame": dataclasses.asdict(segmenter.frame),
        "dtype": str(segmenter.dtype),
        "attention": config.runtime.attention,
        # what weights do not tell: heads, activation, epsilon, patch size
        **segmenter.model.architecture,
        "tokens": segmenter.input_ids.tolist(),
        "padding": segmenter.attention_mask.tolist(),
        "device": segmenter.device.type,
        "versions": [package.__version__ for package in (torch, transformers, np, cv2, PIL)],
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code_files()],
        "weights": segmenter.model.digest,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for contents in _contents(entries):
        digest.update(len(contents).to_bytes(8, "little"))
        digest.update(contents)
    return digest.hexdigest()[:32]


def code_files() -> list[Path]:
    """The source files that a ranking depends on: where it is computed, and all that is imported there. No chart is."""
    return source_files(ranking.__name__, checkpoints.__name__)


def _contents(entries: list[ListEntry]) -> Iterable[bytes]:
    """Bytes of every image file; a file that cannot be read counts as empty here and is reported when it is decoded."""
    for entry in entries:
        try:
            yield entry.image.read_bytes() if entry.image.is_file() else b""  # from a pipe nothing may ever come
        except OSError:
            yield b""
