"""The published computation, stage by stage, on HuggingFace's own model; differentiable, and timed by the benchmark."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles.method import plain_match


def attend(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, embeds: Tensor, layers: Iterable[int]
) -> tuple[Tensor, list[Tensor]]:
    """itm [P], and per layer the cross-attention logits of an image reduced over heads and tokens, [P, N]."""
    hidden, logits = plain_match(model, input_ids, attention_mask, embeds, layers)
    itm = model.itm_head(hidden).softmax(dim=-1)[..., 1].max(dim=1).values
    reduced = []
    for layer in layers:
        per_token = logits[layer].max(dim=1).values[:, :, 1:] * attention_mask[:, :, None]
        reduced.append(per_token.sum(dim=1))
    return itm, reduced


def unary(logits: list[Tensor], itm: Tensor, prompts_per_class: Sequence[int], size: int) -> Tensor:
    """Class probabilities [1, C, S, S]: every layer's class maps upsampled, then their mean, normalised."""
    layers = []
    for layer in logits:
        background, *others = (layer.softmax(dim=0) * itm[:, None]).split(list(prompts_per_class))
        by_class = torch.stack([background.sum(dim=0), *(other.max(dim=0).values for other in others)])  # [C, N]
        layers.append(_upsample(by_class, size))
    mean = torch.stack(layers).mean(dim=0)
    return mean / mean.sum(dim=1, keepdim=True).clamp(min=1e-12)


def shares(logits: Tensor, itm: Tensor, size: int) -> Tensor:
    """Share of the image of each prompt [P], from one layer's full-size prompt maps."""
    full = _upsample(logits.softmax(dim=0) * itm[:, None], size)[0]  # [P, S, S]
    return (full / full.sum(dim=0).clamp(min=1e-6)).clamp(min=1e-6).mean(dim=(1, 2))


def _upsample(maps: Tensor, size: int) -> Tensor:
    grid = int(maps.shape[-1] ** 0.5)
    return F.interpolate(maps.reshape(1, -1, grid, grid), size=(size, size), mode="bilinear", align_corners=True)
