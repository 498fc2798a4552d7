"""From a task to a segmenter (device, model, layers) and to the journal of a run with it."""

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
from .screen import say
from .task import Task


def load_segmenter(task: Task, cache: Path, every_layer: bool = False, tuned: Path | None = None) -> Segmenter:
    """Load the model of ``task`` and bind it to its prompts and layers; says what was loaded.

    Args:
        task: what is to be done.
        cache: the folder where a ranking of layers is kept (``model.layers: auto``).
        every_layer: take all layers that see the image, whatever the configuration chooses.
        tuned: weights that one-shot tuning saved, to compute with.

    Raises:
        UserError: no such device, a model that cannot be loaded or does not fit the configuration or the weights.
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
    numbers, images = segmenter.number_format, len(task.entries)
    say(f"{model.name} on {device} in {numbers.name} ({numbers.why})")
    say(f"{len(task.prompts)} prompts, layers {list(layers)}, {images} images")
    return segmenter


def open_journal(experiment: str, task: Task, results: Path, segmenter: Segmenter, **more: Any) -> Journal:
    """The journal of a run that is to write ``results``.

    Args:
        experiment: see :data:`src.evaluation.identity.CODE`.
        task: what is done.
        results: the run's first result file.
        segmenter: what it is done with.
        more: what else the results depend on.
    """
    for left in results.parent.glob(".class_maps.*"):  # scratch of earlier versions, which a kill left behind
        with contextlib.suppress(OSError):
            left.unlink()
    settings = settings_of(experiment, task.config, segmenter, task.entries, **more)
    return Journal(results, settings, task.fresh, task.skip_unreadable)
