"""AdamW over one flat vector, for small models trained by several one-thread processes on a CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

BETAS = (0.9, 0.98)
LARGEST_NORM = 1.0


class FlatAdamW:
    """AdamW on one flat vector: parameters become views of it.

    A small model with hundreds of tensors spends much of a step on small operations. Flat, an update is a few large
    ones, and the gradients of all processes are averaged in one call.

    Args:
        parameters: float32; they become views of the flat vector.
        undecayed: parameters without weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        undecayed: Iterable[nn.Parameter] = (),
        weight_decay: float = 0.05,
    ) -> None:
        parameters = list(parameters)
        spared = {id(parameter) for parameter in undecayed}
        sizes = [parameter.numel() for parameter in parameters]
        decays = [0.0 if id(parameter) in spared else weight_decay for parameter in parameters]
        self.weights = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.decay = torch.repeat_interleave(torch.tensor(decays), torch.tensor(sizes))
        self.gradient = torch.zeros_like(self.weights)
        self.mean = torch.zeros_like(self.weights)
        self.square = torch.zeros_like(self.weights)
        self.steps = 0
        for parameter, weight, gradient in zip(
            parameters, self.weights.split(sizes), self.gradient.split(sizes), strict=True
        ):
            parameter.data = weight.view(parameter.shape)
            parameter.grad = gradient.view(parameter.shape)

    def step(self, learning_rate: float) -> None:
        """Average the gradients over all processes, clip them, update the weights and clear the gradients."""
        gradient = self.gradient
        if dist.is_initialized():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
        gradient *= (LARGEST_NORM / (gradient.norm() + 1e-6)).clamp(max=1)
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        mean = self.mean / (1 - BETAS[0] ** self.steps)
        scale = (self.square / (1 - BETAS[1] ** self.steps)).sqrt_().add_(1e-8)
        self.weights -= learning_rate * (mean / scale + self.decay * self.weights)
        gradient.zero_()
