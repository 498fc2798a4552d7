"""Choose text layers by InfoScore. A ranking takes hours on a large list, so it is cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..config.schema import Config
from ..data.lists import ListEntry
from ..errors import reason_of
from ..evaluation import processes
from ..evaluation.identity import digest, settings_of
from ..evaluation.journal import Journal
from ..files import check_writable, read_regular, write_text
from ..method.model import Model
from ..method.prompts import ClassEntry
from ..method.segmenter import Segmenter
from ..screen import counted, note, say
from .infoscore import LayerScores
from .ranking import rank_layers, ranking_segmenter

MAX_BYTES = 1 << 20  # of a cached ranking
EXPERIMENT = "InfoScore"
DIGEST = "digest"
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
    """The configured ``model.layers``; for ``auto`` the ``model.top_k`` best layers by InfoScore on ``entries``.

    For other arguments and errors see :func:`score_layers`.
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
    """InfoScore of all layers of ``segmenter`` on ``entries``, read from the cache or computed and cached.

    A ranking is a file named by a digest of everything that it depends on: weights and architecture, the bytes of all
    images, tokens, image size, normalisation, number format, kind of device, code, and versions of libraries. A stale
    ranking is never used. An interrupted ranking resumes. A ranking that skipped unreadable images is not cached.

    Args:
        segmenter: from :func:`.ranking.ranking_segmenter`.
        entries: the images; masks are not needed.
        cache: folder of cached rankings. All commands use the folder of their results.
        fresh: start an interrupted ranking over.
        skip_unreadable: skip images that cannot be read.

    Raises:
        UserError: see :func:`.ranking.rank_layers`; or ``cache`` cannot be written to.
    """
    path, scores = processes.share(lambda: _find(segmenter, entries, config, cache))
    if scores is not None:
        say(f"InfoScore of {counted(len(entries), 'image')}: found in {path}")
        return scores
    check_writable(path)
    settings = settings_of(EXPERIMENT, config, segmenter, entries)
    with Journal(cache / "infoscore", settings, fresh, skip_unreadable) as journal:
        scores = rank_layers(segmenter, entries, config, journal)
        processes.share(lambda: write_scores(scores, path))
    kept = "" if scores.skipped else f", kept in {path}"
    say(f"InfoScore of {counted(len(entries) - len(scores.skipped), 'image')}: computed{kept}")
    return scores


def _find(
    segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path
) -> tuple[Path, LayerScores | None]:
    """The path of the cached scores, and the scores if the file exists."""
    path = kept_path(segmenter, entries, config, cache)
    return path, read_scores(path, segmenter.layers)


def kept_path(segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path) -> Path:
    """The path in the folder ``cache`` for the InfoScore of ``segmenter``'s layers on ``entries``."""
    return cache / f"infoscore_{digest(ranking_settings(segmenter, entries, config))[:32]}.json"


def keep_scores(
    scores: LayerScores, segmenter: Segmenter, entries: list[ListEntry], config: Config, cache: Path
) -> None:
    """Cache ``scores`` for :func:`score_layers`."""
    processes.share(lambda: write_scores(scores, kept_path(segmenter, entries, config, cache)))


def write_scores(scores: LayerScores, path: Path) -> None:
    """Write ``scores`` to ``path``, unless images were skipped; floats at full precision, to read them back exactly."""
    if scores.skipped:
        return
    values = {"layers": list(scores.layers), **{part: getattr(scores, part).tolist() for part in PARTS}}
    write_text(path, json.dumps({**values, DIGEST: digest(values)}) + "\n")


def read_scores(path: Path, layers: tuple[int, ...]) -> LayerScores | None:
    """The scores of ``layers`` in the file ``path``; None if it is missing or, with a note, if it was changed."""
    try:
        values = json.loads(read_regular(path, MAX_BYTES).decode("utf-8"))
        if not isinstance(values, dict) or values.pop(DIGEST, None) != digest(values):
            raise ValueError("it was changed or truncated after it was written")
        if values["layers"] != list(layers):
            raise ValueError(f"it is not for layers {list(layers)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        note(f"note: the ranking kept in {path} cannot be used ({reason_of(error)}); computing it again")
        return None
    entropy, dataset, cov = (torch.tensor(values[part], dtype=torch.float64) for part in PARTS)
    return LayerScores(layers, entropy, dataset, cov)


def ranking_settings(segmenter: Segmenter, entries: list[ListEntry], config: Config) -> dict[str, Any]:
    """Everything that a ranking depends on: the settings of its run without paths, and the bytes of all images."""
    settings = settings_of(EXPERIMENT, config, segmenter, entries)
    model = {key: value for key, value in settings["model"].items() if key != "name"}
    frame = dataclasses.asdict(segmenter.frame)
    same = {key: settings[key] for key in ("runtime", "versions", "code")}
    return {**same, "model": model, "frame": frame, "device": segmenter.device.type, "images": _images(entries)}


def _images(entries: list[ListEntry]) -> list[str]:
    """A digest of each image file; an unreadable one counts as empty here, and decoding it raises the error later."""
    digests = []
    for entry in entries:
        try:
            # reading a named pipe would block
            content = entry.image.read_bytes() if entry.image.is_file() else b""
        except OSError:
            content = b""
        digests.append(hashlib.sha256(content).hexdigest())
    return digests
