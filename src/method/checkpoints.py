"""The model that a configuration names."""

from __future__ import annotations

import torch

from ..config.schema import Config
from .blip import load_blip
from .model import Model


def load_configured(config: Config, device: torch.device) -> Model:
    """Load the model that a configuration names and check that the configuration fits it.

    Raises:
        UserError: see :func:`.blip.load_blip`; or the layers do not see the image, there are fewer than ``top_k``, or
            the image size is no multiple of the patch size.
    """
    model = load_blip(config.model.name, device, fused=config.runtime.attention == "fused")
    if config.model.layers != "auto":
        wrong = [layer for layer in config.model.layers if layer not in model.layers]
        if wrong:
            expected = (
                f"layers {model.layers[0]} to {model.layers[-1]}: the text layers of {model.name} that see the image"
            )
            raise config.refusal("model.layers", list(config.model.layers), expected)
    if config.model.top_k > len(model.layers):
        expected = f"at most {len(model.layers)}, the layers of {model.name} that see the image"
        raise config.refusal("model.top_k", config.model.top_k, expected)
    if config.model.image_size % model.patch_size:
        expected = f"a multiple of {model.patch_size}, the patch size of {model.name}"
        raise config.refusal("model.image_size", config.model.image_size, expected)
    return model
