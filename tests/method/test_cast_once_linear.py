"""Weights cast once instead of at every call: bitwise equal results, and no side effects."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from replace_huggingface.cast_once_linear import CastOnceLinear, cast_once, use_onednn
from src.config.schema import Amp
from src.data.frame import Frame
from src.method import segmenter as segmenter_module
from src.method.blip import Blip
from src.method.precision import NumberFormat, onednn_exists
from src.method.prompts import ClassEntry, build_prompts
from src.method.segmenter import Segmenter
from tests import tiny

SHORT: tuple[Amp, ...] = ("bf16", "fp16")
DTYPES = (torch.bfloat16, torch.float16)


def linear(seed: int = 0, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(24, 8, bias=bias).requires_grad_(False)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Casts(TorchDispatchMode):
    """Counts casts of tensors of the given shapes."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].shape in self.shapes:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_plain_layer_to_the_bit(dtype: torch.dtype, bias: bool) -> None:
    plain, states = linear(bias=bias), random(3, 5, 24)
    once = CastOnceLinear(plain)
    assert torch.equal(once(states), plain(states))
    with torch.autocast("cpu", dtype):
        expected = plain(states)
        for _ in range(2):
            assert once(states).dtype == dtype
            assert torch.equal(once(states), expected)
    assert torch.equal(once(states), plain(states))
    assert once.weight is plain.weight


def test_an_in_place_change_is_detected() -> None:
    plain, states = linear(), random(2, 24)
    once = CastOnceLinear(plain)
    with torch.autocast("cpu", torch.bfloat16):
        before = once(states)
        for parameter in (plain.weight, plain.bias):
            parameter.mul_(1.5)
            assert torch.equal(once(states), plain(states))
            assert not torch.equal(once(states), before)


def test_weights_passed_from_outside_are_used() -> None:
    once, other, states = CastOnceLinear(linear()), linear(seed=1), random(2, 24)
    with torch.autocast("cpu", torch.bfloat16):
        once(states)
        for weights in (dict(other.named_parameters()), dict(once.named_parameters())):
            expected = functional_call(linear(), weights, states)
            assert torch.equal(functional_call(once, weights, states), expected)
            assert torch.equal(functional_call(once, weights, states), expected)


def test_weights_that_are_trained_get_their_gradient() -> None:
    plain, states = linear(), random(2, 24)
    once = CastOnceLinear(plain)
    with torch.autocast("cpu", torch.bfloat16):
        once(states)
        plain.requires_grad_(True)
        gradients = torch.autograd.grad(once(states).float().square().sum(), [once.weight, once.bias])
        expected = torch.autograd.grad(plain(states).float().square().sum(), [plain.weight, plain.bias])
    for got, wanted in zip(gradients, expected, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)


def test_inference_mode_does_not_block_later_gradients() -> None:
    once, states = CastOnceLinear(linear()), random(2, 24)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            once(states)
        states.requires_grad_(True)
        once(states).float().sum().backward()
    assert states.grad is not None


@pytest.mark.parametrize("amp", SHORT)
def test_a_model_rounds_each_linear_weight_once(amp: Amp, fused: Blip) -> None:
    prompts = build_prompts([ClassEntry("sky", ("wall",)), ClassEntry("cat"), ClassEntry("dog")], True)
    segmenter = Segmenter(fused, prompts, (0, 2), Frame(tiny.SIZE), amp=amp)
    pixels = random(2, 3, tiny.SIZE, tiny.SIZE)
    layers = [module for module in fused.model.modules() if isinstance(module, nn.Linear)]
    assert all(type(layer) is CastOnceLinear for layer in layers)
    with Casts({layer.weight.shape for layer in layers}) as casts:
        first = segmenter.segment(pixels)
        rounded = casts.count
        again = segmenter.segment(pixels)
    unused = 2  # the projections of image-text contrast
    apart = 5 if amp == "bf16" else 0  # queries and keys of two layers, and the matching head, stay in float32
    assert rounded >= len(layers) - unused - apart
    assert casts.count == rounded
    assert torch.equal(first, again)


@pytest.mark.parametrize("amp", SHORT)
def test_a_model_and_tuned_weights_give_the_same_to_the_bit(
    amp: Amp, fused: Blip, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = build_prompts([ClassEntry("sky", ("wall",)), ClassEntry("cat"), ClassEntry("dog")], True)
    pixels = random(2, 3, tiny.SIZE, tiny.SIZE)
    name = "layer.2.crossattention.self.query.weight"
    tuned = {name: 1.5 * fused.text_encoder.layers[2].crossattention.self.query.weight}

    def answers() -> list[Tensor]:
        segmenter = Segmenter(fused, prompts, (0, 2), Frame(tiny.SIZE), amp=amp)
        return [each.segment(pixels) for each in (segmenter, segmenter.with_weights(tuned), segmenter)]

    digest, got = fused.digest, answers()
    monkeypatch.setattr(CastOnceLinear, "forward", nn.Linear.forward)
    for once, every_time in zip(got, answers(), strict=True):
        assert torch.equal(once, every_time)
    assert not torch.equal(got[0], got[1])
    del fused.__dict__["digest"]
    assert fused.digest == digest


def test_names_and_convolutions_are_unchanged() -> None:
    model = tiny.random_blip()
    names = list(model.state_dict())
    cast_once(model)
    cast_once(model)
    assert list(model.state_dict()) == names
    assert type(model.vision_model.embeddings.patch_embedding) is nn.Conv2d


class OneDnnCalls(TorchDispatchMode):
    """Counts calls of oneDNN's linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.mkldnn._linear_pointwise
        return func(*args, **(kwargs or {}))


needs_onednn = pytest.mark.skipif(not onednn_exists(), reason="this PyTorch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 24), (5, 24), (0, 24)])
def test_onednn_differs_by_rounding_alone(shape: tuple[int, ...], bias: bool) -> None:
    plain, states = linear(bias=bias), random(*shape)
    layer = CastOnceLinear(plain)
    use_onednn(nn.ModuleList([layer]), True)
    with OneDnnCalls() as calls:
        torch.testing.assert_close(layer(states), plain(states), rtol=1e-6, atol=1e-6)
        with torch.inference_mode():
            torch.testing.assert_close(layer(states), plain(states), rtol=1e-6, atol=1e-6)
    assert calls.count == (2 if states.numel() else 0)


@needs_onednn
def test_onednn_is_not_used_with_gradients_or_other_formats() -> None:
    plain, states = linear(), random(3, 24)
    layer = CastOnceLinear(plain)
    use_onednn(nn.ModuleList([layer]), True)
    with OneDnnCalls() as calls:
        (gradient,) = torch.autograd.grad(layer(states.requires_grad_()).sum(), states)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert torch.equal(layer(states), plain(states))
        replaced = plain.weight.detach().clone().requires_grad_()
        functional_call(layer, {"weight": replaced}, states.detach()).sum().backward()
    assert calls.count == 0
    torch.testing.assert_close(gradient, plain.weight.sum(0).expand(3, 24))
    assert replaced.grad is not None
    with torch.no_grad(), OneDnnCalls() as calls:
        layer(states)
    assert calls.count == 1


@needs_onednn
@pytest.mark.parametrize("use", [False, True])
def test_a_segmenter_chooses_for_its_model(use: bool, fused: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter_module, "number_format", lambda *_: NumberFormat("float32", "", use))
    segmenter = Segmenter(
        fused, build_prompts([ClassEntry("background", ("sky",)), ClassEntry("cat")], False), (1,), Frame(tiny.SIZE)
    )
    try:
        with OneDnnCalls() as calls, torch.no_grad():
            segmenter.encode_images(random(1, 3, tiny.SIZE, tiny.SIZE))
        assert (calls.count > 0) == use
    finally:
        fused.use_onednn(False)
