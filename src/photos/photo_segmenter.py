"""A segmenter of photos, from a configuration and words (README, "From Python")."""

from __future__ import annotations

from pathlib import Path

from ..config.reader import load_config
from ..config.schema import Config
from ..files import user_path
from ..method.checkpoints import load_configured
from ..method.prompts import PromptSet
from ..method.segmenter import Segmenter
from ..one_shot.tuned_weights import load_tuned
from ..runtime import choose_device
from ..screen import note
from .words import prompts_of_words


def load_photo_segmenter(
    config: str | Path, classes: str | None = None, background: str | None = None, device: str = "auto"
) -> Segmenter:
    """Load the model that a configuration names and bind it to words.

    Args:
        config: a YAML file; its data set need not exist.
        classes: such as ``cat; dog = puppy, hound``; None: the classes of the class file.
        background: other words, such as ``table, wall``; None: the background words of the class file.
        device: as ``--device``.

    Raises:
        UserError: the configuration, a word, the device or the model is refused.
    """
    settings = load_config(user_path(str(config)))
    return segmenter_of_words(settings, prompts_of_words(settings, classes, background), device)


def segmenter_of_words(
    config: Config, prompts: PromptSet, device: str = "auto", tuned: Path | None = None
) -> Segmenter:
    """The same for a loaded configuration and ``prompts``; ``tuned`` is a file of weights to load.

    Prints words that the model's vocabulary does not have.

    Raises:
        UserError: see :func:`load_photo_segmenter`; or ``model.layers`` is ``auto``, which needs a list of images.
    """
    if config.model.layers == "auto":
        expected = "layer numbers for photos; compute_infoscore_blip.py ranks them"
        raise config.refusal("model.layers", "auto", expected)
    model = load_configured(config, choose_device(device))
    segmenter = Segmenter.from_config(config, model, prompts, config.model.layers)
    if tuned:
        segmenter = load_tuned(tuned, segmenter)
    unknown = model.unknown_words(list(prompts.words))
    if unknown:
        words = ", ".join(f'"{word}"' for word in unknown)
        note(f"note: the vocabulary of {model.name} cannot spell {words}; expect little of it")
    return segmenter
