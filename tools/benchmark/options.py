"""Options of the benchmark. This module does not import torch, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from src.config.schema import Amp

What = Literal["segment", "infoscore", "tuning", "runs", "nothing"]
Side = Literal["ours", "plain", "published"]

MODELS = ("blip", "albef")
CLASSES = {"pascal": 21, "coco": 81}
AMP: dict[str, Amp] = {"false": False, "true": True, "bf16": "bf16", "fp16": "fp16"}
RUNS = 5  # of one-shot tuning, as published
STEP_IMAGES = 2  # images of an optimiser step, as published


@dataclass(frozen=True)
class Options:
    """A measurement, as plain values, so that it can be sent to a process as JSON.

    Attributes:
        what: the job: an image segmented, its InfoScore, a step of tuning, a query image in five runs, or nothing but
            the model.
        model: ``blip``: blip-itm-large's shape; ``albef``: ALBEF's.
        vocabulary: ``pascal`` or ``coco``.
        multi_prompt: use related words too.
        prompts: number of prompts, reached by repeating words; None: the vocabulary's number.
        all_classes: make every prompt a separate class.
        image_size: S, pixels.
        batch_size: images per batch of this project; the published computation always takes one.
        device: as ``--device`` of the experiments.
        amp: as ``runtime.amp``, see :data:`AMP`.
        repeats: timed repetitions, of which the fastest counts.
        warm_up: untimed repetitions before them.
        published: a checkout of the published code, absolute, for the side ``published``.
    """

    what: What = "segment"
    model: Literal["blip", "albef"] = "blip"
    vocabulary: str = "pascal"
    multi_prompt: bool = False
    prompts: int | None = None
    all_classes: bool = False
    image_size: int = 512
    batch_size: int = 1
    device: str = "auto"
    amp: str = "false"
    repeats: int = 3
    warm_up: int = 1
    published: str | None = None

    @property
    def images(self) -> int:
        """Number of images of the job."""
        return STEP_IMAGES if self.what == "tuning" else self.batch_size
