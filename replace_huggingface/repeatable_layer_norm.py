"""Layer norms whose gradients do not depend on the number of threads.

On a CPU, PyTorch adds up the gradients of weight and bias in as many parts as there are threads, so that tuned weights
would depend on the machine. Here one sum over all rows takes their place; every other value is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RepeatableLayerNorm(nn.LayerNorm):
    """Drop-in for an ``nn.LayerNorm`` with weight and bias: same parameters and names, same outputs."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        nn.Module.__init__(self)
        self.normalized_shape, self.eps, self.elementwise_affine = norm.normalized_shape, norm.eps, True
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` [..., D] over its last axis."""
        trained = torch.is_grad_enabled() and (self.weight.requires_grad or self.bias.requires_grad)
        if not trained or input.device.type != "cpu" or input.dtype != torch.float32:
            return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        return _LayerNorm.apply(input, self.weight, self.bias, self.eps)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        output, mean, scale = torch.native_layer_norm(input, weight.shape, weight, bias, eps)
        ctx.save_for_backward(input, weight, bias, mean, scale)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (gradient,) = gradients
        input, weight, bias, mean, scale = ctx.saved_tensors
        of_input, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, input, weight.shape, mean, scale, weight, bias, (ctx.needs_input_grad[0], False, False)
        )
        normalised = (input - mean) * scale
        rows = tuple(range(input.ndim - weight.ndim))
        return of_input, (gradient * normalised).sum(rows), gradient.sum(rows), None


def make_repeatable(model: nn.Module) -> None:
    """Replace every ``nn.LayerNorm`` with weight and bias inside ``model`` by a :class:`RepeatableLayerNorm`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.LayerNorm and child.weight is not None and child.bias is not None:
                setattr(module, name, RepeatableLayerNorm(child))
