"""softmax(q k^T) v without the whole softmax in memory: PyTorch's fused kernel, or a few heads at a time if faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CACHE_BYTES = 2 * 2**20  # softmax of the heads computed at a time: about the cache of a processor core


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of ``query`` [B, H, m, d] over ``key`` and ``value`` [B, H, n, d]: [B, H, m, d].

    - bfloat16 on a CPU: separate operations on a few heads, whose m x n values stay in the cache. PyTorch's fused
      kernel takes 2.5 times as long.
    - gradients on CUDA: separate operations, because the gradients of the fused kernels are not deterministic.
    - otherwise: the fused kernel.
    """
    with_gradients = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    if with_gradients and query.device.type == "cuda":
        return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1).to(value.dtype) @ value
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or with_gradients:
        return F.scaled_dot_product_attention(query, key, value)
    batch, heads, rows, width = query.shape
    together = max(1, CACHE_BYTES // (rows * key.shape[2] * query.element_size()))
    # this memory layout lets the caller concatenate the heads without a copy
    context = query.new_empty(batch, rows, heads, width).transpose(1, 2)
    for image in range(batch):
        for first in range(0, heads, together):
            chosen = image, slice(first, first + together)
            weights = torch.baddbmm(
                query.new_zeros(()), query[chosen], key[chosen].transpose(1, 2), beta=0, alpha=width**-0.5
            ).softmax(-1)
            context[chosen] = weights.to(value.dtype) @ value[chosen]
    return context
