"""softmax(q k^T) v without the whole softmax in memory: PyTorch's fused kernel, or a few heads at a time if faster."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

CACHE_BYTES = 2 * 2**20  # softmax of the heads computed at a time: about the cache of a processor core
MOST_BYTES = 4 * CACHE_BYTES  # of one head: more are computed in parts


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of ``query`` [B, H, m, d] over ``key`` and ``value`` [B, H, n, d]: [B, H, m, d].

    - bfloat16 on a CPU: separate operations on a few heads, whose m x n values stay in the cache, or on a few rows of
      one head where these are too many. PyTorch's fused kernel takes 2.5 times as long.
    - gradients on CUDA: separate operations, because the gradients of the fused kernels are not deterministic.
    - otherwise: the fused kernel.
    """
    with_gradients = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    if with_gradients and query.device.type == "cuda":
        return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1).to(value.dtype) @ value
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or with_gradients:
        return F.scaled_dot_product_attention(query, key, value)
    batch, heads, rows, width = query.shape
    bytes_of_head = rows * key.shape[2] * query.element_size()
    together = max(1, CACHE_BYTES // bytes_of_head)
    step = -(-rows // -(-bytes_of_head // MOST_BYTES))
    # this memory layout lets the caller concatenate the heads without a copy
    context = query.new_empty(batch, rows, heads, width).transpose(1, 2)
    for image, first, row in product(range(batch), range(0, heads, together), range(0, rows, step)):
        which = image, slice(first, first + together)
        part = *which, slice(row, row + step)
        weights = torch.baddbmm(
            query.new_zeros(()), query[part], key[which].transpose(1, 2), beta=0, alpha=width**-0.5
        ).softmax(-1)
        context[part] = weights.to(value.dtype) @ value[which]
    return context
