"""Import the modules that replace HuggingFace's.

In a checkout they are in the folder ``replace_huggingface`` next to this package. In the installed package they are
inside it, so that their name cannot collide with another project's.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING or find_spec(f"{__name__.partition('.')[0]}.replace_huggingface") is None:
    from replace_huggingface import modeling_blip_text
    from replace_huggingface.cast_once_linear import cast_once, onednn_linear, use_onednn
    from replace_huggingface.modeling_blip_text import (
        CrossAttentionTextEncoder,
        KeysValues,
        LogitsReducer,
        PromptStates,
        TextOutput,
        UnsupportedTransformersError,
        expose_cross_attention,
    )
    from replace_huggingface.modeling_blip_vision import fuse_vision_attention
    from replace_huggingface.repeatable_layer_norm import make_repeatable
else:
    from ..replace_huggingface import modeling_blip_text
    from ..replace_huggingface.cast_once_linear import cast_once, onednn_linear, use_onednn
    from ..replace_huggingface.modeling_blip_text import (
        CrossAttentionTextEncoder,
        KeysValues,
        LogitsReducer,
        PromptStates,
        TextOutput,
        UnsupportedTransformersError,
        expose_cross_attention,
    )
    from ..replace_huggingface.modeling_blip_vision import fuse_vision_attention
    from ..replace_huggingface.repeatable_layer_norm import make_repeatable

__all__ = [
    "CrossAttentionTextEncoder",
    "KeysValues",
    "LogitsReducer",
    "PromptStates",
    "TextOutput",
    "UnsupportedTransformersError",
    "cast_once",
    "expose_cross_attention",
    "fuse_vision_attention",
    "make_repeatable",
    "modeling_blip_text",
    "onednn_linear",
    "use_onednn",
]
