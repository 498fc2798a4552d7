"""Attention without its softmax in memory equals softmax(q k^T / sqrt(d)) v, in every number format and grouping."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from replace_huggingface import cached_attention
from replace_huggingface.cached_attention import attend

SHAPES = [(1, 4, 20, 20, 8), (2, 3, 7, 50, 16), (3, 2, 1, 1, 5)]


def states(batch: int, heads: int, rows: int, columns: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value with heads adjacent in memory, as linear layers return them."""
    generator = torch.Generator().manual_seed(rows)
    return [
        torch.randn(batch, n, heads, width, generator=generator).to(dtype).transpose(1, 2)
        for n in (rows, columns, columns)
    ]


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula in float64."""
    query, key, value = query.double(), key.double(), value.double()
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value


@pytest.mark.parametrize("cache", [1, 1000, 2 * 2**20])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_equals_the_formula(
    dtype: torch.dtype, rounding: float, shape: tuple[int, ...], cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_attention, "CACHE_BYTES", cache)
    monkeypatch.setattr(cached_attention, "MOST_BYTES", 4 * cache)
    query, key, value = states(*shape, dtype)
    context = attend(query, key, value)
    assert (context.dtype, context.shape) == (dtype, query.shape)
    torch.testing.assert_close(
        context.double(), plain(query, key, value), rtol=0, atol=rounding * float(value.abs().max())
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_equals_the_fused_kernel_bit_for_bit(shape: tuple[int, ...]) -> None:
    query, key, value = states(*shape, torch.float32)
    assert torch.equal(attend(query, key, value), F.scaled_dot_product_attention(query, key, value))


class LargestProduct(TorchDispatchMode):
    """Records the bytes of the largest result of a batched product."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.baddbmm, torch.ops.aten.bmm):
            self.bytes = max(self.bytes, result.nbytes)
        return result


@pytest.mark.parametrize(("patches", "parts"), [(1025, 1), (4097, 5)])
def test_a_large_head_is_computed_in_parts(patches: int, parts: int) -> None:
    """1025 patches are 512 px; at 1024 px the softmax of one head would take 34 MB."""
    query, key, value = states(1, 1, patches, patches, 8, torch.bfloat16)
    with LargestProduct() as largest:
        context = attend(query, key, value)
    assert largest.bytes == 2 * patches * -(-patches // parts)
    rows = slice(0, None, 97)
    torch.testing.assert_close(context[:, :, rows].double(), plain(query[:, :, rows], key, value), rtol=0, atol=0.01)


def test_autocast_keeps_bfloat16() -> None:
    query, key, value = states(*SHAPES[0], torch.bfloat16)
    alone = attend(query, key, value)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(query, key, value), alone)


def test_gradients_flow() -> None:
    inputs = [each.requires_grad_() for each in states(*SHAPES[1], torch.bfloat16)]
    found = torch.autograd.grad(attend(*inputs).float().square().sum(), inputs)
    doubles = [each.detach().double().requires_grad_() for each in inputs]
    expected = torch.autograd.grad(plain(*doubles).square().sum(), doubles)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=0.02 * float(other.abs().max()))


def test_heads_are_put_side_by_side_without_a_copy() -> None:
    query, key, value = states(*SHAPES[1], torch.bfloat16)
    context = attend(query, key, value)
    assert context.transpose(1, 2).flatten(2).data_ptr() == context.data_ptr()
