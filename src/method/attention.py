"""From cross-attention logits to class probabilities, one function per step (docs/method.md, "Maps").

B images, P prompts, H heads, T tokens per padded prompt, N = g * g patches, C classes (0 = background), S image side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import threads


def sum_over_tokens(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Reduce a layer's cross-attention logits to one map per prompt.

    Max over heads, CLS patch dropped, padded tokens zeroed, sum over tokens.

    Args:
        logits: [B, P, H, T, 1 + N], before softmax.
        attention_mask: [P, T], 1 for tokens and 0 for padding.

    Returns:
        [B, P, N].
    """
    per_token = logits.amax(2)[..., 1:]  # [B, P, T, N]
    return (per_token * attention_mask[..., None]).sum(2)


def itm_scores(itm_logits: Tensor) -> Tensor:
    """Image-text matching score of every prompt: the best over all its token positions, padding included.

    Args:
        itm_logits: [B, P, T, 2], the matching head on every position of the last hidden state.

    Returns:
        [B, P] in 0..1.
    """
    return itm_logits.float().softmax(-1)[..., 1].amax(-1)


def prompt_maps(token_logits: Tensor, itm: Tensor) -> Tensor:
    """Compete the prompts at each patch and weigh them by their matching scores.

    Args:
        token_logits: [B, P, N], from :func:`sum_over_tokens`.
        itm: [B, P], from :func:`itm_scores`.

    Returns:
        [B, P, N]: softmax over prompts, times itm.
    """
    # On the CPU, the rounding of PyTorch's softmax over a dimension other than the last depends on the thread count.
    with threads(1) if token_logits.device.type == "cpu" else nullcontext():
        return token_logits.softmax(1) * itm[..., None]


def class_maps(maps: Tensor, prompts_per_class: Sequence[int], with_background: bool = True) -> Tensor:
    """Reduce the prompts of each class: sum for the background, max for every other class.

    Args:
        maps: [B, P, N], prompts class by class in label order.
        prompts_per_class: C counts that add up to P.
        with_background: whether a pixel may be background; if not, the background's map is 0.

    Returns:
        [B, C, N].
    """
    words, others = maps.split([prompts_per_class[0], maps.shape[1] - prompts_per_class[0]], dim=1)
    background = words.sum(1, keepdim=True)
    if not with_background:
        background = torch.zeros_like(background)
    if max(prompts_per_class[1:], default=1) > 1:
        # one gather and one maximum: on a GPU, one launch per class would take longer than the computation
        below_all = others.new_full((1, 1, 1), -torch.inf).expand(others.shape[0], 1, others.shape[2])
        members = _members(tuple(prompts_per_class[1:]), maps.device)
        others = torch.cat([others, below_all], 1)[:, members].amax(2)
    return torch.cat([background, others], 1)


@functools.lru_cache
def _members(prompts_per_class: tuple[int, ...], device: torch.device) -> Tensor:
    """[classes, largest number of prompts]: indices of each class's prompts, padded with the index after the last."""
    most, end = max(prompts_per_class), sum(prompts_per_class)
    rows, start = [], 0
    for count in prompts_per_class:
        rows.append([*range(start, start + count), *[end] * (most - count)])
        start += count
    return torch.tensor(rows, device=device)


def class_probabilities(maps: Sequence[Tensor], image_size: int) -> Tensor:
    """Mean over layers, upsampled to the image and normalised over classes: the ``unary``.

    Upsampling is linear, so the mean over layers and the sum over classes come first, while the maps are small.

    Args:
        maps: one [B, C, N] per chosen layer, from :func:`class_maps`.
        image_size: S.

    Returns:
        [B, C, S, S], summing to 1 over classes.
    """
    mean = torch.stack(list(maps)).mean(0)
    return normalise(upsample(mean, image_size), upsample(mean.sum(1, keepdim=True), image_size))


def upsample(maps: Tensor, image_size: int) -> Tensor:
    """Bilinear upsampling with aligned corners of square patch maps [B, K, g * g] to [B, K, S, S]."""
    return _Upsample.apply(maps, image_size)


class _Upsample(torch.autograd.Function):
    """Upsampling whose gradient is two matrix products: PyTorch's own is not deterministic on CUDA, and slower."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, image_size: int) -> Tensor:
        ctx.grid = round(maps.shape[-1] ** 0.5)
        if maps.shape[1] == 3:  # on the CPU, PyTorch's kernel for three channels depends on the number of threads
            return torch.cat([_Upsample.apply(part, image_size) for part in (maps[:, :1], maps[:, 1:])], 1)
        square = maps.unflatten(-1, (ctx.grid, ctx.grid))
        return F.interpolate(square, size=(image_size, image_size), mode="bilinear", align_corners=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        axis = upsampling_matrix(ctx.grid, gradient.shape[-1], gradient)
        return (axis.T @ gradient @ axis).flatten(-2), None


def upsampling_matrix(grid: int, image_size: int, like: Tensor) -> Tensor:
    """[S, g] matrix of linear interpolation with aligned corners, with the dtype and device of ``like``."""
    identity = torch.eye(grid, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(identity, size=image_size, mode="linear", align_corners=True)[0].T


def normalise(maps: Tensor, total: Tensor) -> Tensor:
    """Divide maps [B, C, S, S] by their sum over classes ``total`` [B, 1, S, S], clamped at 1e-12.

    In place if no gradient is needed: for 81 classes at 512 px the maps take 85 MB per image.
    """
    total = total.clamp(min=1e-12)
    return maps / total if maps.requires_grad else maps.div_(total)
