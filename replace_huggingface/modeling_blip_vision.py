"""BLIP's vision attention through fused kernels, using HuggingFace's own weights.

HuggingFace's ``BlipAttention`` stores the softmax matrix of every head (at 512 px: 16 heads of 1025 x 1025 in each of
the 24 layers of BLIP-large). A fused kernel gives the same result without storing it.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from transformers import BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip import BlipAttention, BlipEncoderLayer

from .cached_attention import attend


class FusedVisionAttention(nn.Module):
    """Drop-in for HuggingFace's ``BlipAttention``: same parameters and names, same inputs and outputs."""

    def __init__(self, attention: BlipAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.projection = attention.projection

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:
        """Self-attention of ``hidden_states`` [B, n, D]; the second item, attention probabilities, is always None."""
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))  # [B, n, 3, H, head_dim]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        context = attend(query, key, value)
        return self.projection(context.transpose(1, 2).flatten(2)), None


def fuse_vision_attention(model: BlipForImageTextRetrieval) -> None:
    """Replace the attention of every vision layer of a HuggingFace BLIP by a :class:`FusedVisionAttention`."""
    for layer in cast("list[BlipEncoderLayer]", model.vision_model.encoder.layers):
        attention: nn.Module = layer.self_attn
        if not isinstance(attention, FusedVisionAttention):
            layer.add_module("self_attn", FusedVisionAttention(layer.self_attn))
