"""Resume one-shot runs: finished runs are not computed again, tuned weights are not tuned again."""

from __future__ import annotations

import contextlib
import dataclasses
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
from ..evaluation.identity import digest, fingerprint
from ..evaluation.journal import Journal
from ..files import read_regular, write_bytes
from ..method.model import digest_of
from ..method.segmenter import Segmenter
from ..result_files import lasting, plain_values
from ..runtime import cores, rank, threads, world_size
from ..screen import counted, note
from .supports import Episode, Episodes
from .tuned_weights import MadeFor, load_tuned

ORIGIN, CONTENT, LOSSES = "made_by", "content", "losses"
MAX_RECORD = 1 << 28  # bytes of the JSON beside tuned weights

Weights = dict[str, Tensor]


def run_settings(episode: Episode, episodes: Episodes, oneshot: OneShotConfig, names: Sequence[str]) -> dict[str, Any]:
    """Everything besides the model that a run depends on: supports and their files, queries, tuning settings."""
    queries = [str(episodes.evaluation_list[index].image) for index in episode.queries]
    supports = [episodes.support_list[support.index] for support in episode.supports]
    return {
        "oneshot": {
            "num_iterations": oneshot.num_iterations,
            "lr": oneshot.lr,
            "weight_decay": oneshot.weight_decay,
            "batch_gradient_accumulation": oneshot.batch_gradient_accumulation,
        },
        "supports": [support.describe(episodes.support_list, names) for support in episode.supports],
        "support_files": fingerprint(supports, masks=True).hex(),
        "queries": digest(queries),
    }


def signed(
    record: Mapping[str, Any], settings: Mapping[str, Any], tuned: Segmenter, queries: SegmentationDataset
) -> dict[str, Any]:
    """Add digests to the ``record`` of a run, by which :func:`finished_run` detects changes.

    ``settings`` are everything that the run depends on, including :func:`run_settings`.
    """
    return {
        **record,
        ORIGIN: {**_origin(settings, tuned, queries), CONTENT: digest(lasting(plain_values(dict(record))))},
    }


def _origin(settings: Mapping[str, Any], tuned: Segmenter, queries: SegmentationDataset) -> dict[str, Any]:
    files = fingerprint([queries.entries[index] for index in queries.indices], masks=True)
    return {"settings": digest(settings), "queries": files.hex(), "weights": digest_of(tuned.weights)}


def finished_run(
    weights: Path, segmenter: Segmenter, settings: Mapping[str, Any], queries: SegmentationDataset
) -> dict | None:
    """The record of a run that an earlier command finished; None if there is none or anything has changed.

    An edited record is not used, with a note.

    Args:
        weights: path of the run's tuned weights; the JSON is next to them.
        segmenter: before tuning.
        settings: see :func:`signed`.
    """
    path = weights.with_suffix(".json")

    def read() -> dict | None:
        try:
            values = json.loads(read_regular(path, MAX_RECORD))
            tuned = load_tuned(weights, segmenter)
            origin = values.pop(ORIGIN)
            content = origin.pop(CONTENT, None)
            if origin != _origin(settings, tuned, queries):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
            return None
        made_for = {field.name for field in dataclasses.fields(MadeFor)}
        record = {key: value for key, value in values.items() if key not in made_for}
        if content != digest(lasting(record)):
            note(f"note: {path} was edited after it was written; computing this run again")
            return None
        return record

    return processes.share(read)


def tuned_once(
    journal: Journal, runs: Sequence[int], tune: Callable[[int], tuple[Segmenter, list[float]]]
) -> dict[int, tuple[Weights, list[float]]]:
    """Tune ``runs`` (numbers), each in one of the processes, and send the weights to all processes.

    A run that an interrupted command has tuned is not tuned again: ``journal`` keeps the weights until the runs are
    finished. ``tune`` returns the segmenter with tuned weights and the loss of every step.

    Returns:
        For each run the tuned weights, on the CPU, and the loss of every step.
    """

    def file_of(run: int) -> Path:
        return journal.folder / f"tuned_weights_{run}.safetensors"

    def make(run: int) -> tuple[Weights, list[float]]:
        file = file_of(run)
        kept = None if journal.fresh else _read(file)
        if kept is not None:
            return kept
        segmenter, losses = tune(run)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in segmenter.weights.items()}
        try:
            metadata = {LOSSES: json.dumps(losses), CONTENT: digest([digest_of(tensors), losses])}
            write_bytes(file, save(tensors, metadata=metadata))
        except UserError as error:
            note(f"note: {error}; if this command is interrupted, this run must be tuned again")
        return tensors, losses

    # as many threads as a single process would use: the rounding of gradient sums depends on it
    with threads(cores()) if world_size() > 1 else contextlib.nullcontext():
        try:
            mine = {run: make(run) for run in runs[rank() :: world_size()]}
        except BaseException as error:
            if kept := sum(file_of(run).is_file() for run in runs):
                error.add_note(
                    f"{kept} of {counted(len(runs), 'tuned run')} kept in {journal.folder}: the same command resumes"
                )
            raise
        gathered = processes.gather(mine)

    def all_runs() -> dict[int, tuple[Weights, list[float]]]:
        assert gathered is not None
        return {run: made for part in gathered for run, made in part.items()}

    return processes.share(all_runs)


def _read(path: Path) -> tuple[Weights, list[float]] | None:
    """Tuned weights and losses of an interrupted command; None if there are none or they were changed."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: Weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        losses = json.loads(metadata[LOSSES])
        if digest([digest_of(tensors), losses]) == metadata[CONTENT]:
            return tensors, losses
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
        pass
    note(f"note: {path} was changed after it was written; tuning this run again")
    return None
