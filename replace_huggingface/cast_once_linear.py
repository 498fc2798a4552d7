"""Frozen linear layers under autocast, their weights rounded to the number format once.

Autocast rounds weights anew at every call of a layer: of BLIP-large 1.7 GB are read and 0.8 GB written for every batch,
and part of them again for every chunk of prompts. Here the rounded weights are kept beside the float32 ones. Results
are the same to the bit, and whoever reads, saves or tunes the model's parameters finds them as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _Rounded:
    """Copies in another number format of a weight and a bias as they were at some time."""

    weight: Tensor
    bias: Tensor | None
    source: tuple[Tensor, Tensor | None]
    versions: tuple[int, int]

    def is_of(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
        return (
            (self.weight.dtype, self.weight.device) == (dtype, weight.device)
            and self.source[0] is weight
            and self.source[1] is bias
            and self.versions == _versions(weight, bias)
        )


class CastOnceLinear(nn.Linear):
    """Drop-in for an ``nn.Linear``: same parameters and names, same results.

    A weight that is trained, is given from outside (``torch.func.functional_call``) or has changed is rounded anew.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._rounded: _Rounded | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``input`` [..., in_features] to [..., out_features], in autocast's number format where that is on."""
        weight, bias, device = self.weight, self.bias, input.device.type
        if not torch.is_autocast_enabled(device) or weight.requires_grad or weight.is_inference():
            return F.linear(input, weight, bias)
        dtype = torch.get_autocast_dtype(device)
        if self._rounded is None or not self._rounded.is_of(weight, bias, dtype):
            with torch.inference_mode(False), torch.no_grad():
                rounded = weight.to(dtype), None if bias is None else bias.to(dtype)
            self._rounded = _Rounded(*rounded, (weight, bias), _versions(weight, bias))
        return F.linear(input, self._rounded.weight, self._rounded.bias)


def cast_once(model: nn.Module) -> None:
    """Put a :class:`CastOnceLinear` in the place of every ``nn.Linear`` below ``model``."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, CastOnceLinear(child))


def _versions(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """What PyTorch counts up at every change in place."""
    return weight._version, 0 if bias is None else bias._version
