"""Frozen linear layers that cast their weights for autocast once.

Autocast casts the weights at every call of a layer: for BLIP-large it reads 1.7 GB and writes 0.8 GB per batch, and a
part of that again per chunk of prompts. These layers keep the cast weights next to the float32 ones. Results are
bit-equal, and the parameters can be read, saved and tuned as before. In float32 they can use oneDNN's products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _Rounded:
    """A weight and a bias cast to another number format, and the versions that they were cast from."""

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

    A weight that is trained, replaced (``torch.func.functional_call``) or changed is cast again.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.onednn = False
        self._rounded: _Rounded | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` [..., in_features] to [..., out_features], in autocast's number format if autocast is on."""
        weight, bias, device = self.weight, self.bias, input.device.type
        if not torch.is_autocast_enabled(device) or weight.requires_grad or weight.is_inference():
            if self.onednn and _without_gradient(input, weight, bias):
                return onednn_linear(input, weight, bias)
            return F.linear(input, weight, bias)
        dtype = torch.get_autocast_dtype(device)
        if self._rounded is None or not self._rounded.is_of(weight, bias, dtype):
            with torch.inference_mode(False), torch.no_grad():
                rounded = weight.to(dtype), None if bias is None else bias.to(dtype)
            self._rounded = _Rounded(*rounded, (weight, bias), _versions(weight, bias))
        return F.linear(input, self._rounded.weight, self._rounded.bias)


def cast_once(model: nn.Module) -> None:
    """Replace every ``nn.Linear`` inside ``model`` by a :class:`CastOnceLinear`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, CastOnceLinear(child))


def onednn_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` by oneDNN, on the CPU; it has no gradient."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def use_onednn(model: nn.Module, use: bool) -> None:
    """Let the layers of ``model`` compute float32 products without gradients with oneDNN, or with PyTorch's default.

    The results differ by rounding. On a CPU whose AVX512 the default library does not use, oneDNN is faster.
    """
    for module in model.modules():
        if isinstance(module, CastOnceLinear):
            module.onednn = use


def _without_gradient(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a float32 product on the CPU that no gradient flows through: oneDNN's operation has none."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors) or not input.numel():
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _versions(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """PyTorch's version counters, which every in-place change increments."""
    return weight._version, 0 if bias is None else bias._version
