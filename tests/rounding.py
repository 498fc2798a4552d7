"""Tolerances for float32 results whose sums are computed in another order.

A sum of n terms is rounded n times, each time by up to eps / 2 of the partial sum, up or down. Such errors
add up like a random walk: their standard deviation is eps * sqrt(n / 12) of the largest value, and sqrt(2) times that
between two kernels with different orders. Twice eps * sqrt(n) is five of those deviations, enough for a million values.
"""

from __future__ import annotations

from typing import Any

import torch

EPS = torch.finfo(torch.float32).eps


def rounding(terms: int) -> float:
    """The difference, relative to the largest value, that float32 allows after ``terms`` roundings in a row."""
    return 2 * EPS * terms**0.5


def roundings_of_blip(config: Any, patches: int, tokens: int) -> int:
    """Terms that are added in sequence from an image's pixels to the last text layer of a BLIP of ``config``."""
    vision, text = config.vision_config, config.text_config
    into_patches = 3 * vision.patch_size**2
    in_vision = vision.num_hidden_layers * (_attention(vision, patches + 1) + _mlp(vision))
    in_text = text.num_hidden_layers * (_attention(text, tokens) + _attention(text, patches + 1) + _mlp(text))
    return into_patches + in_vision + in_text


def _attention(config: Any, keys: int) -> int:
    """Projection, score, softmax and mean over the keys, projection, layer norm."""
    return 3 * config.hidden_size + config.hidden_size // config.num_attention_heads + 2 * keys


def _mlp(config: Any) -> int:
    """Two projections and a layer norm."""
    return 2 * config.hidden_size + config.intermediate_size
