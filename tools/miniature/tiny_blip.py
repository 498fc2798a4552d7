"""The tiny BLIP: HuggingFace's ``BlipForImageTextRetrieval`` with a small configuration, and its forward in training.

B images, P prompts per image, T tokens per prompt, N patches, D = 128 dimensions, H heads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval, PreTrainedTokenizerBase

from tools.miniature.captions import PICTURE_SIDE

if TYPE_CHECKING:
    from transformers.models.blip.modeling_blip import BlipEncoderLayer
    from transformers.models.blip.modeling_blip_text import BlipTextLayer

PATCH = 16
GRID = PICTURE_SIDE // PATCH
WIDTH = 128
LAYERS = 4
HEADS = 2  # fewer heads are faster on a CPU, and sharper
MASKED = -1e4
SCOPE = {"scope": "drawn scenes of 20 classes", "scope_data": "data/miniature"}
"""In the model's config.json: what it was trained on, and where such images are (see :func:`src.task.note_scope`)."""


def build_model(tokenizer: PreTrainedTokenizerBase) -> BlipForImageTextRetrieval:
    """A freshly initialised tiny BLIP, 1.8 million parameters."""
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "encoder_hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "projection_dim": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "projection_dim": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": PICTURE_SIDE,
            "patch_size": PATCH,
        },
        projection_dim=WIDTH,
        image_text_hidden_size=64,
    )
    config.update(SCOPE)
    model = BlipForImageTextRetrieval(config)
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: BlipForImageTextRetrieval) -> None:
    """Initial weights that can learn, unlike HuggingFace's for the vision encoder (standard deviation 1e-10)."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "embeddings" not in name:
            fan_in = parameter[0].numel()
            nn.init.trunc_normal_(parameter, std=0.8 / math.sqrt(fan_in))
    patch = model.vision_model.embeddings.patch_embedding.weight
    nn.init.trunc_normal_(patch, std=0.8 / math.sqrt(patch[0].numel()))
    nn.init.normal_(model.vision_model.embeddings.class_embedding, std=0.02)
    positions = model.vision_model.embeddings.position_embedding
    positions.zero_()
    positions[0, 1:] = 0.5 * _sine_positions(GRID, WIDTH)
    # prompts are padded to at most 8 tokens in training; later positions must not resemble any of these
    model.text_encoder.embeddings.position_embeddings.weight[8:] = 0
    for layer in cast("list[BlipEncoderLayer]", model.vision_model.encoder.layers):
        # equal queries and keys: patches initially attend to near and similar patches
        weight = layer.self_attn.qkv.weight
        weight[:WIDTH] = weight[WIDTH : 2 * WIDTH]
        weight[: 2 * WIDTH] *= 1.3


def _sine_positions(grid: int, width: int) -> Tensor:
    """Sines and cosines of the columns and rows of a square grid, [grid * grid, width]."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    frequencies = 100.0 ** (-torch.arange(width // 4) / (width / 4))
    angles = [position.reshape(-1, 1) * frequencies for position in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def encode_images(model: BlipForImageTextRetrieval, pixels: Tensor) -> Tensor:
    """The vision encoder: normalised pixels [B, 3, S, S] to embeddings [B, 1 + N, D], equal to HuggingFace's.

    Attention is written out here and in :func:`match_prompts`: with so few patches PyTorch's fused kernel has a slower
    backward pass on a CPU.
    """
    tower = model.vision_model
    hidden = tower.embeddings(pixels)
    for layer in cast("list[BlipEncoderLayer]", tower.encoder.layers):
        qkv = layer.self_attn.qkv(layer.layer_norm1(hidden)).unflatten(-1, (3, HEADS, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, H, 1 + N, D / H]
        mixed = (_logits(query, key).softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = hidden + layer.self_attn.projection(mixed)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return tower.post_layernorm(hidden)


def match_prompts(
    model: BlipForImageTextRetrieval, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Match every image with its own prompts.

    Args:
        image_embeds: [B, 1 + N, D].
        input_ids, attention_mask: [B, P, T].

    Returns:
        Matching logits [B, P, T, 2], and per text layer the cross-attention logits [B, P, N] as the method reduces
        them: max over heads, summed over tokens without padding.
    """
    images, prompts, tokens = input_ids.shape
    hidden = model.text_encoder.embeddings(input_ids.flatten(0, 1))  # [B * P, T, D]
    padding = (1 - attention_mask.flatten(0, 1)[:, None, None]).to(hidden.dtype) * MASKED
    token_logits = []
    for layer in cast("list[BlipTextLayer]", model.text_encoder.encoder.layer):
        block = layer.attention.self
        query, key, value = (_heads(part(hidden)) for part in (block.query, block.key, block.value))
        mixed = (_logits(query, key) + padding).softmax(-1) @ value
        hidden = layer.attention.output(mixed.transpose(1, 2).flatten(2), hidden)

        block = layer.crossattention.self
        query = _heads(block.query(hidden).view(images, prompts * tokens, -1))  # [B, H, P * T, D / H]
        key, value = _heads(block.key(image_embeds)), _heads(block.value(image_embeds))
        logits = _logits(query, key)  # [B, H, P * T, 1 + N]
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(images * prompts, tokens, -1)
        hidden = layer.crossattention.output(mixed, hidden)
        hidden = layer.feed_forward_chunk(hidden)

        per_token = logits.amax(1)[..., 1:].unflatten(1, (prompts, tokens))  # [B, P, T, N]
        token_logits.append((per_token * attention_mask[..., None]).sum(2))
    return model.itm_head(hidden).unflatten(0, (images, prompts)), token_logits


def _heads(states: Tensor) -> Tensor:
    """[.., T, D] to [.., H, T, D / H]."""
    return states.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _logits(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
