"""Layer norms with gradients independent of the number of threads, equal to PyTorch's up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from replace_huggingface.repeatable_layer_norm import RepeatableLayerNorm, make_repeatable
from src.runtime import threads


def layer_norm(width: int, eps: float = 1e-12) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=eps)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    return norm.requires_grad_(False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def trained(module: nn.Module, norm: nn.LayerNorm, states: Tensor) -> tuple[Tensor, ...]:
    """Output, and gradients of weight, bias and input, with weights replaced as in tuning."""
    weights = {name: getattr(norm, name).clone().requires_grad_() for name in ("weight", "bias")}
    states = states.clone().requires_grad_()
    output = functional_call(module, weights, states)
    return output.detach(), *torch.autograd.grad(output.square().sum(), [*weights.values(), states])


@pytest.mark.parametrize("shape", [(7, 16), (2, 3, 5, 16), (400, 7, 64)])
def test_values_equal_pytorchs_and_gradients_differ_by_rounding(shape: tuple[int, ...]) -> None:
    norm, states = layer_norm(shape[-1]), random(*shape)
    repeatable = RepeatableLayerNorm(norm)
    assert torch.equal(repeatable(states), norm(states))
    (output, *gradients), (expected, *others) = trained(repeatable, norm, states), trained(norm, norm, states)
    assert torch.equal(output, expected)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    assert torch.equal(gradients[2], others[2])  # of the input: PyTorch's own


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    norm, states = layer_norm(768), random(49, 7, 768)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(trained(RepeatableLayerNorm(norm), norm, states))
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_without_gradients_and_in_other_formats_pytorchs_layer_norm_is_used() -> None:
    norm, states = layer_norm(16), random(5, 16)
    repeatable = RepeatableLayerNorm(norm)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(repeatable(states.bfloat16()), norm(states.bfloat16()))
    states.requires_grad_()
    assert type(repeatable(states).grad_fn).__name__ == "NativeLayerNormBackward0"  # frozen weights


def test_all_norms_of_a_model_are_replaced_once() -> None:
    model = nn.Sequential(nn.Sequential(nn.LayerNorm(4)), nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4))
    names = list(model.state_dict())
    make_repeatable(model)
    make_repeatable(model)
    assert [isinstance(part, RepeatableLayerNorm) for part in (model[0][0], model[1], model[2])] == [True, False, True]
    assert list(model.state_dict()) == names
