"""One-shot runs that were begun before: a finished one is taken as it is, tuned weights are not tuned again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from src.config.schema import OneShotConfig
from src.data.dataset import SegmentationDataset
from src.errors import UserError
from src.evaluation import processes
from src.evaluation.journal import Journal, fingerprint
from src.files import write_bytes
from src.method.blip import digest_of
from src.method.segmenter import Segmenter
from src.one_shot.supports import Episode, Episodes
from src.one_shot.tuned_weights import MadeFor, load_tuned
from src.runtime import cores, rank, threads, world_size
from src.screen import note

ORIGIN = "made_by"
TUNED = "tuned_weights.safetensors"

Tuned = tuple[Segmenter, list[float]]
"""A segmenter with tuned weights, and the loss of every step."""


def run_settings(episode: Episode, episodes: Episodes, oneshot: OneShotConfig, names: Sequence[str]) -> dict[str, Any]:
    """What a run depends on beside the model: its supports and their files, its queries, how it is tuned."""
    queries = "\n".join(str(episodes.evaluation_list[index].image) for index in episode.queries)
    supports = [episodes.support_list[support.index] for support in episode.supports]
    return {
        "oneshot": {
            "num_iterations": oneshot.num_iterations,
            "lr": oneshot.lr,
            "weight_decay": oneshot.weight_decay,
            "batch_gradient_accumulation": oneshot.batch_gradient_accumulation,
        },
        "supports": [support.describe(episodes.support_list, names) for support in episode.supports],
        "support_files": fingerprint(supports, True, "").hex(),
        "queries": hashlib.sha256(queries.encode(errors="surrogateescape")).hexdigest(),
    }


def origin_of(journal: Journal, tuned: Segmenter, queries: SegmentationDataset) -> dict[str, Any]:
    """What the JSON beside a run's weights says so that :func:`finished_run` knows them again."""
    return {
        ORIGIN: {
            "settings": journal.digest,
            "queries": _files(queries),
            "weights": digest_of(tuned.weights),
        }
    }


def finished_run(weights: Path, segmenter: Segmenter, journal: Journal, queries: SegmentationDataset) -> dict | None:
    """The record of a run that an earlier command finished; None if there is none, or if anything was changed since.

    Args:
        weights: where the run's tuned weights belong; the JSON lies beside them.
        segmenter: before tuning.
        journal: of the run.
        queries: of the run.
    """

    def read() -> dict | None:
        try:
            values = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
            tuned = load_tuned(weights, segmenter)
            if journal.fresh or values.pop(ORIGIN) != origin_of(journal, tuned, queries)[ORIGIN]:
                return None
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, UserError):
            return None
        made_for = {field.name for field in dataclasses.fields(MadeFor)}
        return {key: value for key, value in values.items() if key not in made_for}

    return processes.share(read)


def tuned_once(
    journal: Journal, segmenter: Segmenter, tune: Callable[[], Tuned], meanwhile: Callable[[], None]
) -> tuple[Segmenter, list[float], str]:
    """Tune in the first process and send the weights to the others; or take what an interrupted run has tuned.

    Args:
        journal: of the run; keeps the tuned weights until it is finished.
        segmenter: to be tuned.
        tune: tunes it.
        meanwhile: what the other processes do while the first one tunes.

    Returns:
        The segmenter with tuned weights, the loss of every step, and the digest of the weights.
    """

    def make() -> tuple[dict[str, Tensor], list[float]]:
        kept = None if journal.fresh else _read(journal.folder / TUNED)
        if kept is not None:
            return kept
        # as many threads as one process alone would have: sums of gradients round by their number
        with threads(cores()) if world_size() > 1 and segmenter.device.type == "cpu" else contextlib.nullcontext():
            tuned, losses = tune()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tuned.weights.items()}
        try:
            metadata = {"losses": json.dumps(losses), "digest": digest_of(tensors)}
            write_bytes(journal.folder / TUNED, save(tensors, metadata=metadata))
        except UserError as error:
            note(f"note: {error}; an interrupted run would be tuned again")
        return tensors, losses

    if rank() > 0 and not (journal.folder / TUNED).exists():
        meanwhile()
    weights, losses = processes.share(make)
    tuned = segmenter.with_weights({name: tensor.to(segmenter.device) for name, tensor in weights.items()})
    return tuned, losses, digest_of(weights)


def _read(path: Path) -> tuple[dict[str, Tensor], list[float]] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        losses = json.loads(metadata["losses"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (tensors, losses) if digest_of(tensors) == metadata.get("digest") else None


def _files(queries: SegmentationDataset) -> str:
    return fingerprint([queries.entries[index] for index in queries.indices], True, "").hex()
