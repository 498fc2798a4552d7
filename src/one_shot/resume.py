"""One-shot runs that were begun before: a finished one is taken as it is, tuned weights are not tuned again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config.schema import OneShotConfig
from ..data.dataset import SegmentationDataset
from ..errors import UserError
from ..evaluation import processes
from ..evaluation.journal import Journal, digest_of_settings, fingerprint
from ..files import write_bytes
from ..method.model import digest_of
from ..method.segmenter import Segmenter
from ..runtime import cores, rank, threads, world_size
from ..screen import note
from .supports import Episode, Episodes
from .tuned_weights import MadeFor, load_tuned

ORIGIN = "made_by"

Weights = dict[str, Tensor]


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


def origin_of(settings: Mapping[str, Any], tuned: Segmenter, queries: SegmentationDataset) -> dict[str, Any]:
    """What the JSON beside a run's weights says so that :func:`finished_run` knows them again.

    ``settings`` are all that the run depends on, :func:`run_settings` among them.
    """
    return {
        ORIGIN: {
            "settings": digest_of_settings(settings),
            "queries": _files(queries),
            "weights": digest_of(tuned.weights),
        }
    }


def finished_run(
    weights: Path, segmenter: Segmenter, settings: Mapping[str, Any], queries: SegmentationDataset
) -> dict | None:
    """The record of a run that an earlier command finished; None if there is none, or if anything was changed since.

    Args:
        weights: where the run's tuned weights belong; the JSON lies beside them.
        segmenter: before tuning.
        settings: see :func:`origin_of`.
        queries: of the run.
    """

    def read() -> dict | None:
        try:
            values = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
            tuned = load_tuned(weights, segmenter)
            if values.pop(ORIGIN) != origin_of(settings, tuned, queries)[ORIGIN]:
                return None
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, UserError):
            return None
        made_for = {field.name for field in dataclasses.fields(MadeFor)}
        return {key: value for key, value in values.items() if key not in made_for}

    return processes.share(read)


def tuned_once(
    journal: Journal, runs: Sequence[int], tune: Callable[[int], tuple[Segmenter, list[float]]]
) -> dict[int, tuple[Weights, list[float]]]:
    """Tune ``runs``, each in one of the processes, and send the weights to all.

    What an interrupted command has tuned is taken as it is.

    Args:
        journal: keeps the tuned weights until the runs are finished.
        runs: numbers of runs.
        tune: tunes the run of a number; returns the segmenter with tuned weights, and the loss of every step.

    Returns:
        By run the tuned weights, on the CPU, and the loss of every step.
    """

    def make(run: int) -> tuple[Weights, list[float]]:
        file = journal.folder / f"tuned_weights_{run}.safetensors"
        kept = None if journal.fresh else _read(file)
        if kept is not None:
            return kept
        segmenter, losses = tune(run)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in segmenter.weights.items()}
        try:
            write_bytes(file, save(tensors, metadata={"losses": json.dumps(losses), "digest": digest_of(tensors)}))
        except UserError as error:
            note(f"note: {error}; an interrupted run would be tuned again")
        return tensors, losses

    # as many threads as one process alone would have: sums of gradients round by their number
    with threads(cores()) if world_size() > 1 else contextlib.nullcontext():
        gathered = processes.gather({run: make(run) for run in runs[rank() :: world_size()]})

    def together() -> dict[int, tuple[Weights, list[float]]]:
        assert gathered is not None
        return {run: made for part in gathered for run, made in part.items()}

    return processes.share(together)


def _read(path: Path) -> tuple[Weights, list[float]] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: Weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        losses = json.loads(metadata["losses"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (tensors, losses) if digest_of(tensors) == metadata.get("digest") else None


def _files(queries: SegmentationDataset) -> str:
    return fingerprint([queries.entries[index] for index in queries.indices], True, "").hex()
