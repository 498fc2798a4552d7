"""Make the segmenter of a task (device, model, layers), and the journal of a run with it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .evaluation.identity import settings_of
from .evaluation.journal import Journal
from .layer_selection.choice import choose_layers
from .method.checkpoints import load_configured
from .method.segmenter import Segmenter
from .one_shot.tuned_weights import load_tuned
from .runtime import choose_device, share_cores
from .screen import counted, say
from .task import Task, note_scope


def load_segmenter(task: Task, cache: Path, every_layer: bool = False, tuned: Path | None = None) -> Segmenter:
    """Load the model of ``task``, bind it to its prompts and layers, and print what was loaded.

    Args:
        cache: folder of cached layer rankings (``model.layers: auto``).
        every_layer: use all layers with cross-attention instead of the configured ones.
        tuned: file of tuned weights to use.

    Raises:
        UserError: the device does not exist; the model cannot be loaded; configuration, model and weights do not match.
    """
    device = choose_device(task.device)
    share_cores()
    model = load_configured(task.config, device)
    layers: Sequence[int] = model.layers
    if not every_layer:
        layers = choose_layers(task.config, model, task.classes, task.entries, cache, task.fresh, task.skip_unreadable)
    segmenter = Segmenter.from_config(task.config, model, task.prompts, layers)
    if tuned:
        segmenter = load_tuned(tuned, segmenter)
    note_scope(task.config.model.name, [entry.image for entry in task.entries])
    numbers = segmenter.number_format
    say(f"{model.name} on {device} in {numbers.name} ({numbers.why})")
    images = counted(len(task.entries), "image")
    say(f"{counted(len(task.prompts), 'prompt')}, layers {list(layers)}, {images}")
    return segmenter


def open_journal(experiment: str, task: Task, results: Path, segmenter: Segmenter, **more: Any) -> Journal:
    """The journal of a run that will write ``results``.

    Args:
        experiment: see :data:`src.evaluation.identity.CODE`.
        task: the command.
        results: the run's first result file.
        segmenter: the segmenter of the run.
        more: everything else that the results depend on.
    """
    for left in results.parent.glob(".class_maps.*"):  # temporary files of earlier versions
        with contextlib.suppress(OSError):
            left.unlink()
    settings = settings_of(experiment, task.config, segmenter, task.entries, **more)
    return Journal(results, settings, task.fresh, task.skip_unreadable)
