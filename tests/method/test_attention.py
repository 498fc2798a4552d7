"""From cross-attention logits to class probabilities: each function alone, and against the plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from src.method import attention
from tests.oracles.method import plain_token_logits, plain_unary


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_are_summed_after_the_max_over_heads_and_without_the_cls_patch() -> None:
    logits = torch.zeros(1, 1, 2, 2, 3)  # one image, one prompt, two heads, two tokens, CLS and two patches
    logits[0, 0, :, 0] = torch.tensor([[90.0, 1.0, -5.0], [90.0, 4.0, -3.0]])
    logits[0, 0, :, 1] = torch.tensor([[90.0, 10.0, -1.0], [90.0, 2.0, -2.0]])
    assert attention.sum_over_tokens(logits, torch.ones(1, 2)).tolist() == [[[4 + 10, -3 - 1]]]


def test_padded_tokens_count_as_zero() -> None:
    logits = random(2, 3, 4, 5, 7)
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[1, 3:] = 0
    summed = attention.sum_over_tokens(logits, mask)
    assert torch.equal(summed[:, 1], attention.sum_over_tokens(logits[:, 1:2, :, :3], mask[1:2, :3])[:, 0])
    assert not torch.allclose(summed[:, 1], attention.sum_over_tokens(logits, torch.ones_like(mask))[:, 1])


def test_token_sums_equal_the_plain_formula() -> None:
    logits = random(2, 5, 3, 6, 10)
    mask = (torch.arange(6) < torch.tensor([6, 4, 5, 3, 6])[:, None]).long()
    expected = torch.stack([plain_token_logits(image, mask) for image in logits])
    torch.testing.assert_close(attention.sum_over_tokens(logits, mask), expected)


def test_itm_is_the_maximum_over_all_positions_including_padding() -> None:
    logits = torch.zeros(1, 2, 3, 2)
    logits[0, 1, 2] = torch.tensor([-1.0, 2.0])  # the last position, whether a token or padding
    logits[0, 1, 0] = torch.tensor([-1.0, 1.0])
    scores = attention.itm_scores(logits)
    assert scores.tolist() == [[0.5, pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())]]


def test_itm_is_float32_under_bfloat16() -> None:
    assert attention.itm_scores(random(1, 2, 3, 2).bfloat16()).dtype == torch.float32


def test_prompts_compete_at_each_patch_and_are_weighed_by_itm() -> None:
    token_logits = random(2, 5, 9)
    itm = torch.rand(2, 5)
    maps = attention.prompt_maps(token_logits, itm)
    torch.testing.assert_close((maps / itm[..., None]).sum(1), torch.ones(2, 9))
    torch.testing.assert_close(maps[1, 3, 4], token_logits[1, :, 4].softmax(0)[3] * itm[1, 3])


def test_background_sums_its_prompts_and_every_other_class_takes_the_largest() -> None:
    maps = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.6, 0.5]).view(1, 6, 1)
    classes = attention.class_maps(maps, (2, 1, 3))
    torch.testing.assert_close(classes.flatten(), torch.tensor([0.1 + 0.2, 0.4, 0.6]))


def test_the_largest_is_taken_patch_by_patch() -> None:
    maps = torch.tensor([[0.0, 0.0], [0.9, 0.1], [0.2, 0.7]])[None]
    assert attention.class_maps(maps, (1, 2))[0, 1].tolist() == pytest.approx([0.9, 0.7])


def test_one_maximum_for_all_classes_equals_a_maximum_for_each_class() -> None:
    """Bitwise, with gradients: classes with fewer prompts are padded with values that are never the maximum."""
    counts = (3, 1, 4, 2, 1)
    maps = torch.rand(2, sum(counts), 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    background, *others = maps.split(counts, 1)
    expected = torch.stack([background.sum(1), *(own.amax(1) for own in others)], 1)
    upstream = torch.rand(expected.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(expected, maps, upstream)
    got = attention.class_maps(maps, counts)
    assert torch.equal(got, expected)
    assert torch.equal(torch.autograd.grad(got, maps, upstream)[0], gradient)
    assert torch.equal(attention.class_maps(maps, (3, 1, 1, 1, 1, 1, 1, 1, 1))[:, 1:], maps[:, 3:])
    assert attention.class_maps(maps, (11,)).shape == (2, 1, 6)


def test_upsampling_puts_corner_patches_on_corner_pixels() -> None:
    maps = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 1, 4)
    full = attention.upsample(maps, 4)[0, 0]
    assert full[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0, 1, 2, 3]
    assert full[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])  # not so with align_corners=False


def test_rows_of_the_grid_are_rows_of_the_image() -> None:
    maps = torch.arange(9.0).view(1, 1, 9)
    assert torch.equal(attention.upsample(maps, 3)[0, 0], torch.arange(9.0).view(3, 3))


@pytest.mark.parametrize("counts", [(1, 1), (3, 1, 1), (2, 3, 1, 4)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_mean_and_class_sum_before_upsampling_equal_those_after(counts: tuple[int, ...], layers: int) -> None:
    prompts = sum(counts)
    token_logits = [3 * random(2, prompts, 16, seed=layer) for layer in range(layers)]
    itm = torch.rand(2, prompts, generator=torch.Generator().manual_seed(9))
    maps = [attention.class_maps(attention.prompt_maps(logits, itm), counts) for logits in token_logits]
    got = attention.class_probabilities(maps, 24)
    for image in range(2):
        expected = plain_unary([logits[image] for logits in token_logits], itm[image], counts, 24)
        torch.testing.assert_close(got[image], expected, rtol=1e-5, atol=1e-7)


def test_probabilities_sum_to_one_over_classes() -> None:
    maps = [torch.rand(2, 4, 9), torch.rand(2, 4, 9)]
    torch.testing.assert_close(attention.class_probabilities(maps, 16).sum(1), torch.ones(2, 16, 16))


def test_the_sum_is_clamped_where_all_classes_are_zero() -> None:
    maps = torch.zeros(1, 3, 4)
    assert torch.equal(attention.class_probabilities([maps], 8), torch.zeros(1, 3, 8, 8))
    tiny = torch.full((1, 2, 4), 1e-13)
    torch.testing.assert_close(attention.class_probabilities([tiny], 8), torch.full((1, 2, 8, 8), 0.1))


def test_input_maps_are_not_changed() -> None:
    maps = [torch.rand(1, 3, 4)]
    before = maps[0].clone()
    attention.class_probabilities(maps, 2)  # the size of the grid: nothing to interpolate
    attention.class_probabilities(maps, 8)
    assert torch.equal(maps[0], before)


def test_gradients_flow_to_the_logits() -> None:
    token_logits = random(1, 4, 9).requires_grad_()
    maps = attention.class_maps(attention.prompt_maps(token_logits, torch.rand(1, 4)), (2, 1, 1))
    probabilities = attention.class_probabilities([maps], 12)
    F.nll_loss(probabilities.log(), torch.randint(0, 3, (1, 12, 12))).backward()
    assert token_logits.grad.abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("grid", "size"), [(1, 16), (4, 64), (5, 40)])
def test_the_gradient_of_upsampling_is_that_of_interpolate(channels: int, grid: int, size: int) -> None:
    """It is computed by two matrix products, which are deterministic on CUDA."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, channels, grid * grid, generator=generator).requires_grad_()
    weights = torch.randn(2, channels, size, size, generator=generator)
    got = attention.upsample(maps, size)
    expected = F.interpolate(maps.unflatten(-1, (grid, grid)), size=(size, size), mode="bilinear", align_corners=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad((got * weights).sum(), maps)
    (of_interpolate,) = torch.autograd.grad((expected * weights).sum(), maps)
    torch.testing.assert_close(gradient, of_interpolate, rtol=0, atol=1e-6 * float(of_interpolate.abs().max()))
    assert "Upsample" in type(got.grad_fn).__name__
