"""The runs of one-shot tuning: tune all of them, then score all on one image after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.schema import OneShotConfig
from ..data.dataset import SegmentationDataset
from ..data.labels import Labelling
from ..evaluation import loop
from ..evaluation.journal import Journal
from ..evaluation.memory import explaining_lack_of_memory
from ..files import refuse_special
from ..method.model import digest_of
from ..method.segmenter import Segmenter
from ..screen import counted, say
from ..task import Task
from .embeddings import EmbeddingCache
from .evaluation import MeanIoUOfRuns, TunedRun
from .resume import finished_run, run_settings, signed, tuned_once
from .summary import run_record
from .supports import Episode, Episodes
from .tuned_weights import save_tuned
from .tuning import read_supports, tune

RUNS = "runs"
LESS_MEMORY = (
    "lower model.image_size, use fewer model.layers or prompts, set runtime.amp to bf16, or use another device "
    "(oneshot.batch_gradient_accumulation does not matter: one image at a time is in memory)"
)


@dataclass(frozen=True)
class Run:
    """One of the runs.

    Attributes:
        number: from 0.
        title: its name on the screen.
        settings: everything that it depends on, as plain values.
        weights: path of its tuned weights.
        queries: the images that it is scored on.
    """

    number: int
    title: str
    episode: Episode
    settings: dict[str, Any]
    weights: Path
    queries: SegmentationDataset


def settings_of_runs(task: Task, oneshot: OneShotConfig, episodes: Episodes) -> dict[str, Any]:
    """Everything besides model and images that ``episodes`` depend on, for the journal of :func:`complete_runs`."""
    names = task.prompts.class_names
    return {RUNS: [run_settings(episode, episodes, oneshot, names) for episode in episodes]}


def weights_of(results: Path, number: int) -> Path:
    """Where the tuned weights of run ``number``, from 0, belong: beside ``results``, and called after it."""
    return results.with_name(f"{results.stem}_run{number}.safetensors")


def complete_runs(
    task: Task, oneshot: OneShotConfig, episodes: Episodes, segmenter: Segmenter, journal: Journal, results: Path
) -> list[dict[str, Any]]:
    """Compute the unfinished runs, write their results, and return the records of all runs.

    Args:
        segmenter: before tuning.
        journal: an open journal with :func:`settings_of_runs`.
        results: the tuned weights are written next to this file; its name begins theirs.

    Returns:
        A :func:`src.one_shot.summary.run_record` for each run.

    Raises:
        UserError: an image or mask cannot be read, a loss is not a number, a device, pipe or folder has the name of a
            run's weights, or another process has ended.
    """
    config = task.config
    shared = {key: value for key, value in journal.settings.items() if key != RUNS}
    queries = SegmentationDataset.from_config(episodes.evaluation_list, config, indices=episodes.queries)
    runs = [
        Run(
            number,
            f"run {number} (of {len(episodes.runs)})",
            episode,
            {**shared, **settings},
            weights_of(results, number),
            queries.only(episode.queries),
        )
        for number, (episode, settings) in enumerate(zip(episodes, journal.settings[RUNS], strict=True))
    ]
    for run in runs:  # before hours of work
        refuse_special(run.weights)
        refuse_special(run.weights.with_suffix(".json"))
    records: dict[int, dict[str, Any]] = {}
    for run in [] if journal.fresh else runs:
        record = finished_run(run.weights, segmenter, run.settings, run.queries)
        if record is not None:
            records[run.number] = record
            say(f"{run.title}: finished before, mIoU {100 * record['miou']:.2f}; --fresh computes it again")
            say(f"  tuned weights: {run.weights}")
    left = [run for run in runs if run.number not in records]
    if left:
        with EmbeddingCache.for_runs(config, segmenter, episodes) as cache:
            tuned = _tune(left, task, oneshot, episodes, segmenter, journal, cache)
            evaluator = MeanIoUOfRuns(tuned, queries, cache.get, config.eval.boundary)
            evaluations = loop.run(evaluator, queries, config.dataloader, journal)
        for run, made, evaluation in zip(left, tuned, evaluations, strict=True):
            supports = run.settings["supports"]
            record = run_record(run.number, evaluation, task.prompts.scored_names, made.losses, supports)
            save_tuned(run.weights, made.segmenter, signed(record, run.settings, made.segmenter, run.queries))
            say(f"{run.title}: mIoU {100 * record['miou']:.2f} on {counted(record['images'], 'query', 'queries')}")
            say(f"  tuned weights: {run.weights}")
            records[run.number] = record
    return [records[run.number] for run in runs]


def _tune(
    runs: list[Run],
    task: Task,
    oneshot: OneShotConfig,
    episodes: Episodes,
    segmenter: Segmenter,
    journal: Journal,
    cache: EmbeddingCache,
) -> list[TunedRun]:
    labelling = Labelling.from_config(task.config.dataset)
    by_number = {run.number: run for run in runs}

    def tune_run(number: int) -> tuple[Segmenter, list[float]]:
        run = by_number[number]
        work = f"{run.title}: tuning"
        with explaining_lack_of_memory(work, LESS_MEMORY):
            supports = read_supports(run.episode.supports, episodes.support_list, segmenter, labelling, cache.get)
            return tune(segmenter, supports, oneshot, labelling.ignore_label, work)

    tuned = []
    for number, (weights, losses) in sorted(tuned_once(journal, list(by_number), tune_run).items()):
        here = segmenter.with_weights({name: tensor.to(segmenter.device) for name, tensor in weights.items()})
        queries = frozenset(by_number[number].episode.queries)
        tuned.append(TunedRun(number, here, losses, digest_of(weights), queries))
    return tuned
