"""BLIP's text encoder with its cross-attention logits exposed, using HuggingFace's own weights.

HuggingFace's ``BlipTextModel`` does not return cross-attention logits. With the published code, users copied a patched
file over the one in site-packages. Here :class:`CrossAttentionTextEncoder` takes the submodules of a loaded
``BlipTextModel`` and runs them itself; :func:`expose_cross_attention` replaces ``model.text_encoder`` by it. Parameters
and their names stay the same; nothing outside the given model changes.

It gives the same result as one call per image and prompt, with less work:

* the part of a prompt before the first cross-attention (embeddings, first self-attention) is computed once per job;
* keys and values of an image are computed once, and all tokens of all prompts attend to them as one long query
  sequence (cross-attention never mixes prompts). Sets of weights that share a layer also share its keys and values;
* logits are computed in the chosen layers only, reduced immediately by the caller's function, and freed. Prompts are
  processed in chunks, so that the logits of one layer never exceed a given number of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import transformers
from torch import Tensor, nn
from transformers import BlipForImageTextRetrieval
from transformers.models.blip.modeling_blip_text import (
    BlipTextAttention,
    BlipTextEmbeddings,
    BlipTextEncoder,
    BlipTextLayer,
    BlipTextModel,
)

from .cached_attention import attend

TRANSFORMERS_RANGE = ">=5.6,<=5.24"
"""Releases with which the tests were run."""
LOGITS_BUDGET_BYTES = 256 * 2**20

# The attributes used of each part of HuggingFace's BlipTextModel; a missing one means an unsupported release.
_NEEDED = {
    "embeddings": ("word_embeddings", "position_embeddings", "LayerNorm"),
    "encoder.layer.{}": ("attention", "crossattention", "feed_forward_chunk"),
    "encoder.layer.{}.attention": ("self", "output"),
    "encoder.layer.{}.attention.self": ("query", "key", "value", "num_attention_heads"),
    "encoder.layer.{}.crossattention": ("self", "output"),
    "encoder.layer.{}.crossattention.self": ("query", "key", "value", "num_attention_heads"),
}

LogitsReducer = Callable[[Tensor, Tensor], Tensor]
"""``(logits [B, P, H, T, 1 + patches], attention_mask [P, T]) -> [B, P, ...]``"""


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of images in the cross-attention of one layer, [B, H, 1 + patches, head_dim] each."""


class UnsupportedTransformersError(RuntimeError):
    """The installed transformers lacks a part of BLIP's text encoder that this module uses."""


@dataclass(frozen=True)
class PromptStates:
    """States of prompts before the first cross-attention.

    Attributes:
        hidden: [P, T, D] states after the self-attention of the first layer that has cross-attention.
        attention_mask: [P, T] 1 for tokens, 0 for padding.
    """

    hidden: Tensor
    attention_mask: Tensor


@dataclass(frozen=True)
class TextOutput:
    """The text encoder's output for B images and P prompts.

    Attributes:
        last_hidden_state: [B, P, T, D].
        reduced_logits: per chosen layer, its cross-attention logits after the reducer, [B, P, ...].
    """

    last_hidden_state: Tensor
    reduced_logits: dict[int, Tensor]


class CrossAttentionTextEncoder(nn.Module):
    """A HuggingFace ``BlipTextModel`` run on all prompts at a time, with its cross-attention logits exposed.

    The first ``config.fusion_layer`` layers have no cross-attention (0 if the configuration lacks the key, as BLIP's).

    Args:
        text_model: the model whose submodules are used.
        fused: compute softmax(q k^T) v of cross-attention with PyTorch's fused kernel where no logits are wanted.
            Faster, but rounds differently; without it, the order of operations is HuggingFace's.

    Raises:
        UnsupportedTransformersError: a submodule is not where transformers 5.6 to 5.24 have it.
    """

    embeddings: BlipTextEmbeddings
    encoder: BlipTextEncoder

    def __init__(self, text_model: BlipTextModel, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.fusion_layer: int = getattr(text_model.config, "fusion_layer", 0)
        for pattern, names in _NEEDED.items():
            path = pattern.format(self.fusion_layer)
            part = _submodule(text_model, path)
            missing = [name for name in names if not hasattr(part, name)]
            if part is None or missing:
                raise UnsupportedTransformersError(
                    f"transformers {transformers.__version__}: BLIP's text encoder has no "
                    f"{path}{'.' + missing[0] if part is not None else ''}; "
                    f"install a release that was tested: pip install 'transformers{TRANSFORMERS_RANGE}'"
                )
        self.config = text_model.config
        self.embeddings = text_model.embeddings
        self.encoder = text_model.encoder

    @property
    def layers(self) -> list[BlipTextLayer]:
        return cast("list[BlipTextLayer]", list(self.encoder.layer))

    @property
    def image_layers(self) -> tuple[int, ...]:
        """Indices of the layers with cross-attention."""
        return tuple(range(self.fusion_layer, len(self.encoder.layer)))

    def encode_prompts(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> PromptStates:
        """Run prompts ``input_ids`` [P, T] with ``attention_mask`` [P, T] up to the first cross-attention.

        ``words`` [P, T, D] replace the model's own word embeddings of ``input_ids``; they are modified in place.
        """
        hidden = self.embeddings(input_ids=input_ids, inputs_embeds=words)
        for layer in self.layers[: self.fusion_layer]:
            hidden = layer.feed_forward_chunk(_self_attention(layer, hidden, attention_mask))
        return PromptStates(_self_attention(self.layers[self.fusion_layer], hidden, attention_mask), attention_mask)

    def keys_values(
        self, image_embeds: Tensor, layers: Sequence[int], wanted: Collection[int] = ()
    ) -> dict[int, KeysValues]:
        """Keys and values of images ``image_embeds`` [B, 1 + patches, D_vision] in each of ``layers``.

        ``wanted`` are the layers whose logits will be requested.
        """
        found = {}
        for layer in layers:
            attention = self.layers[layer].crossattention.self
            key = unrounded(attention.key, image_embeds) if layer in wanted else attention.key(image_embeds)
            heads = attention.num_attention_heads
            found[layer] = _heads(key, heads), _heads(attention.value(image_embeds), heads)
        return found

    def forward(
        self,
        prompts: PromptStates,
        image_embeds: Tensor,
        layers: Sequence[int],
        reduce: LogitsReducer,
        logits_budget: int | None = None,
        known: Mapping[int, KeysValues] | None = None,
    ) -> TextOutput:
        """Match every image with every prompt.

        Args:
            prompts: P prompts, from :meth:`encode_prompts`.
            image_embeds: [B, 1 + patches, D_vision], the vision encoder's last hidden state.
            layers: layers whose cross-attention logits are wanted: q k^T / sqrt(head_dim), before softmax, float32.
            reduce: reduces the logits of a layer and a chunk of prompts to what is kept of them.
            logits_budget: largest size in bytes of the logits of one layer, unless a single prompt takes more
                (default: :data:`LOGITS_BUDGET_BYTES`). The softmax takes the same size again for a short time.
            known: keys and values of these images from :meth:`keys_values`, if computed before.
        """
        known = known or {}
        missing = [layer for layer in self.image_layers if layer not in known]
        image_keys_values = {**known, **self.keys_values(image_embeds, missing, layers)}  # shared by all prompts
        states, reduced = [], {layer: [] for layer in layers}
        for chunk in self._chunks(prompts, image_embeds, logits_budget or LOGITS_BUDGET_BYTES):
            hidden = chunk.hidden.expand(len(image_embeds), *chunk.hidden.shape)  # [B, P', T, D]
            for index in self.image_layers:
                layer = self.layers[index]
                if index > self.fusion_layer:
                    hidden = _self_attention(layer, hidden, chunk.attention_mask)
                wanted = index in reduced
                hidden, logits = _cross_attention(
                    layer.crossattention, hidden, *image_keys_values[index], wanted, wanted or not self.fused
                )
                if logits is not None and wanted:
                    reduced[index].append(reduce(logits, chunk.attention_mask))
                del logits  # free them before the next layer's are computed
                hidden = layer.feed_forward_chunk(hidden)
            states.append(hidden)
        return TextOutput(torch.cat(states, 1), {layer: torch.cat(parts, 1) for layer, parts in reduced.items()})

    def _chunks(self, prompts: PromptStates, image_embeds: Tensor, budget: int) -> list[PromptStates]:
        batch, positions = image_embeds.shape[:2]
        heads = self.layers[self.fusion_layer].crossattention.self.num_attention_heads
        bytes_per_prompt = batch * heads * prompts.hidden.shape[1] * positions * 4
        size = max(1, budget // bytes_per_prompt)
        return [
            PromptStates(*parts)
            for parts in zip(prompts.hidden.split(size), prompts.attention_mask.split(size), strict=True)
        ]


def expose_cross_attention(model: BlipForImageTextRetrieval, fused: bool = True) -> CrossAttentionTextEncoder:
    """Replace ``model.text_encoder`` by a :class:`CrossAttentionTextEncoder` and return it.

    ``model`` is a HuggingFace ``BlipForImageTextRetrieval``. If it was replaced before, only ``fused`` is set.

    Raises:
        UnsupportedTransformersError: see :class:`CrossAttentionTextEncoder`.
    """
    text_encoder: nn.Module = model.text_encoder
    if not isinstance(text_encoder, CrossAttentionTextEncoder):
        text_encoder = CrossAttentionTextEncoder(model.text_encoder)
        model.add_module("text_encoder", text_encoder)
    text_encoder.fused = fused
    return text_encoder


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except (AttributeError, IndexError):
        return None


def _heads(projected: Tensor, heads: int) -> Tensor:
    return projected.unflatten(-1, (heads, -1)).transpose(-2, -3)  # [..., n, D] -> [..., H, n, head_dim]


def unrounded(linear: nn.Module, states: Tensor) -> Tensor:
    """``linear(states)``, computed in float32 where autocast would use bfloat16 with its 8 bits of precision.

    For values that are summed and exponentiated: cross-attention logits and matching scores. The 11 bits of float16,
    the published format, are enough for them.
    """
    device = states.device.type
    if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.bfloat16:
        return linear(states)
    with torch.autocast(device, enabled=False):
        return linear(states.float())


def _self_attention(layer: BlipTextLayer, hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Self-attention block of ``layer`` on ``hidden`` [..., P, T, D]; padding is never attended to."""
    attention = layer.attention.self
    query, key, value = (  # [..., P, H, T, head_dim] each
        _heads(linear(hidden), attention.num_attention_heads)
        for linear in (attention.query, attention.key, attention.value)
    )
    # no fused kernel: T x T is tiny, so it would not be faster, and it rounds differently
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [..., P, H, T, T]
    padding = attention_mask[:, None, None, :] == 0
    context = logits.masked_fill(padding, -torch.inf).softmax(-1).to(value.dtype) @ value
    return layer.attention.output(context.transpose(-2, -3).flatten(-2), hidden)


def _cross_attention(
    block: BlipTextAttention, hidden: Tensor, key: Tensor, value: Tensor, wanted: bool, form_logits: bool
) -> tuple[Tensor, Tensor | None]:
    """Cross-attention block on ``hidden`` [B, P, T, D] with an image's ``key`` and ``value`` [B, H, n, head_dim].

    Returns:
        The new hidden states, and the logits [B, P, H, T, n] or None without ``form_logits``. ``wanted`` logits are
        computed with :func:`unrounded` queries.
    """
    attention = block.self
    prompts, tokens = hidden.shape[1:3]
    query = unrounded(attention.query, hidden) if wanted else attention.query(hidden)
    query = _heads(query.flatten(1, 2), attention.num_attention_heads)  # [B, H, P * T, head_dim]
    logits = None
    if form_logits:
        # float32 also under autocast: the method sums these logits over tokens and exponentiates the sum
        with torch.autocast(query.device.type, enabled=False):
            logits = query.float() @ key.float().transpose(-1, -2)  # [B, H, P * T, n]
            logits.div_(math.sqrt(query.shape[-1]))  # in place: these are the largest tensors of the text encoder
        context = logits.softmax(-1).to(value.dtype) @ value
        logits = logits.unflatten(2, (prompts, tokens)).transpose(1, 2)
    else:
        context = attend(query, key, value)
    context = context.transpose(1, 2).flatten(2).unflatten(1, (prompts, tokens))
    return block.output(context, hidden), logits
