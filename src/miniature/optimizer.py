"""AdamW over one flat vector, for small models trained by several one-thread processes on a CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

BETAS = (0.9, 0.98)
LARGEST_NORM = 1.0


class FlatAdamW:
    """Moves parameters into one bfloat16 vector and trains a float32 master copy of it.

    A model of a few million parameters in hundreds of tensors spends much of a step on small operations; flat, an update
    is a handful of large ones and the gradients of all processes are averaged in one call.

    Args:
        parameters: taken over: from now on they are views of the flat vector, in bfloat16.
        undecayed: those of them that weight decay leaves alone.
        weight_decay: of the others.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        undecayed: Iterable[nn.Parameter] = (),
        weight_decay: float = 0.05,
    ) -> None:
        self.parameters = list(parameters)
        spared = {id(parameter) for parameter in undecayed}
        self.master = torch.cat([parameter.detach().float().flatten() for parameter in self.parameters])
        self.decay = torch.cat(
            [
                torch.full((parameter.numel(),), 0.0 if id(parameter) in spared else weight_decay)
                for parameter in self.parameters
            ]
        )
        self.weights = self.master.bfloat16()
        self.gradient = torch.zeros_like(self.weights)
        self.mean = torch.zeros_like(self.master)
        self.square = torch.zeros_like(self.master)
        self.steps = 0
        for parameter, weight, gradient in zip(
            self.parameters, self._views(self.weights), self._views(self.gradient), strict=True
        ):
            parameter.data = weight
            parameter.grad = gradient

    def step(self, learning_rate: float) -> None:
        """Average the gradients over all processes, clip them, update the weights and clear the gradients."""
        gradient = self.gradient.float()
        self.gradient.zero_()
        if dist.is_initialized():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
        gradient *= (LARGEST_NORM / (gradient.norm() + 1e-6)).clamp(max=1)
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        mean = self.mean / (1 - BETAS[0] ** self.steps)
        scale = (self.square / (1 - BETAS[1] ** self.steps)).sqrt_().add_(1e-8)
        self.master.sub_(learning_rate * (mean / scale + self.decay * self.master))
        self.weights.copy_(self.master)

    def masters(self) -> list[Tensor]:
        """The float32 copy of every parameter, in the order they were given."""
        return self._views(self.master)

    def _views(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.split([parameter.numel() for parameter in self.parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters, strict=True)]
