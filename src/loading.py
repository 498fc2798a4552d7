"""From a task to a segmenter: device, model, layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.layer_selection.choice import choose_layers
from src.method.blip import load_configured
from src.method.segmenter import Segmenter
from src.one_shot.tuned_weights import load_tuned
from src.runtime import choose_device
from src.screen import say
from src.task import Task


def load_segmenter(task: Task, cache: Path, every_layer: bool = False, tuned: Path | None = None) -> Segmenter:
    """Load the model of ``task`` and bind it to its prompts and layers; says what was loaded.

    Args:
        task: what is to be done.
        cache: the folder where a ranking of layers is kept (``model.layers: auto``).
        every_layer: take all text layers, whatever the configuration chooses.
        tuned: weights that one-shot tuning saved, to compute with.

    Raises:
        UserError: no such device, a model that cannot be loaded or does not fit the configuration or the weights.
    """
    device = choose_device(task.device)
    blip = load_configured(task.config, device)
    layers: Sequence[int] = range(blip.num_layers)
    if not every_layer:
        layers = choose_layers(task.config, blip, task.classes, task.entries, cache)
    segmenter = Segmenter.from_config(task.config, blip, task.prompts, layers)
    if tuned:
        segmenter = load_tuned(tuned, segmenter)
    numbers, images = segmenter.number_format, len(task.entries)
    say(f"{blip.name} on {device} in {numbers.name} ({numbers.why})")
    say(f"{len(task.prompts)} prompts, layers {list(layers)}, {images} images")
    return segmenter
