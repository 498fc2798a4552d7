"""Load the model that a configuration names."""

from __future__ import annotations

import os

import torch

from ..config.schema import Config
from ..errors import UserError
from ..files import resolve
from .albef import ENDINGS, is_albef_folder, load_albef, load_albef_folder
from .blip import load_blip
from .model import Model


def load_model(
    name: str,
    device: torch.device,
    fused: bool = True,
    tokenizer: str | None = None,
    heads: tuple[int, int] | None = None,
    revision: str | None = None,
) -> Model:
    """Load a model from an ALBEF checkpoint (a file), a folder (BLIP or ALBEF, by its config.json) or the hub.

    Args:
        name: file, folder or hub name.
        device: where to put the model.
        fused: see :func:`.blip.prepare`.
        tokenizer: for an ALBEF checkpoint, see :func:`.albef.load_albef`.
        heads: for an ALBEF checkpoint, see :func:`.albef.load_albef`.
        revision: for a model on the hub, see :func:`.blip.load_blip`.

    Raises:
        UserError: see :func:`.blip.load_blip` and :func:`.albef.load_albef`.
    """
    path = resolve(name)
    albef_file = os.path.isfile(path) or (path.suffix in ENDINGS and not os.path.isdir(path))
    if (albef_file or is_albef_folder(path)) and revision is not None:
        raise UserError(f"model.revision {revision} is for models on the hub, but model.name {name} is a local path")
    if albef_file:
        return load_albef(path, name, device, fused, tokenizer, heads)
    for key, value in (("tokenizer", tokenizer), ("heads", heads)):
        if value is not None:
            raise UserError(f"model.{key} is for ALBEF checkpoint files; {name} is not one: remove the key")
    if is_albef_folder(path):
        return load_albef_folder(path, name, device, fused)
    return load_blip(name, device, fused, revision)


def load_configured(config: Config, device: torch.device) -> Model:
    """Load the model that a configuration names and check that its layers and image size fit the model.

    Raises:
        UserError: see :func:`load_model`; or a configured layer has no cross-attention, fewer than ``top_k`` layers
            have it, or the image size is not a multiple of the patch size.
    """
    wanted, fused = config.model, config.runtime.attention == "fused"
    model = load_model(wanted.name, device, fused, wanted.tokenizer, wanted.heads, wanted.revision)
    if config.model.layers != "auto":
        wrong = [layer for layer in config.model.layers if layer not in model.layers]
        if wrong:
            expected = (
                f"layers {model.layers[0]} to {model.layers[-1]}: the text layers of {model.name} with cross-attention"
            )
            raise config.refusal("model.layers", list(config.model.layers), expected)
    if config.model.top_k > len(model.layers):
        expected = f"at most {len(model.layers)}, the number of layers of {model.name} with cross-attention"
        raise config.refusal("model.top_k", config.model.top_k, expected)
    if config.model.image_size % model.patch_size:
        expected = f"a multiple of {model.patch_size}, the patch size of {model.name}"
        raise config.refusal("model.image_size", config.model.image_size, expected)
    return model
