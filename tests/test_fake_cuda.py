"""The CUDA path of the method on tensors without values: devices, number formats, strides, synchronisation.

No kernel runs here: ``test_cuda_*`` of each part compare numbers on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from src.config.schema import Amp
from src.data.frame import Frame
from src.evaluation.metrics import ConfusionMatrix
from src.layer_selection import infoscore as infoscore_module
from src.layer_selection.infoscore import InfoScore, layer_shares
from src.method import attention
from src.method.blip import load_blip
from src.method.crf import ConvCRF
from src.method.prompts import ClassEntry, build_prompts
from src.method.segmenter import Segmenter, labels_of
from src.one_shot.embeddings import EmbeddingCache, Place
from src.one_shot.tuning import summed_loss
from tests import tiny
from tests.fake_cuda import CUDA, LiveBytes, fake_cuda, like, to_fake_cuda

PROMPTS = build_prompts(
    [ClassEntry("sky", ("wall", "red wall")), ClassEntry("dog"), ClassEntry("cat", ("cats", "kitten"))], True
)
CLASSES = len(PROMPTS.class_names)
BATCH = 3


@dataclass
class Fake:
    """A segmenter with its model on the fake GPU, pixels for it, the CRF's launches and the memory counter."""

    segmenter: Segmenter
    pixels: Tensor
    launches: list[tuple[int, ...]]
    memory: LiveBytes


@pytest.fixture(
    params=[(False, True), ("fp16", True), ("bf16", True), ("fp16", False)], ids=lambda p: f"{p[0]}-fused={p[1]}"
)
def fake(request: pytest.FixtureRequest, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    amp, fused = request.param
    yield from make_fake(amp, fused, model_folder, monkeypatch)


def make_fake(amp: Amp, fused: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    launches: list[tuple[int, ...]] = []

    def update(u: Tensor, messages: Tensor, pooled: Tensor) -> None:
        """Replaces the Triton kernel and checks its assumptions."""
        launches.append(tuple(u.shape))
        height, width = u.shape[4:]
        assert {tensor.device for tensor in (u, messages, pooled)} == {CUDA}
        assert {tensor.dtype for tensor in (u, messages, pooled)} == {torch.float32}
        assert u.stride()[-2:] == (width, 1)
        assert u.stride(1) == u.shape[2] * u.stride(2)
        assert messages.stride(-1) == pooled.stride(-1) == 1
        assert messages.shape[2:] == (height + 2, width + 2)

    monkeypatch.setattr(ConvCRF, "_triton", lambda *_: SimpleNamespace(update=update))
    segmenter = Segmenter(
        load_blip(str(folder), torch.device("cpu"), fused),
        PROMPTS,
        (0, 2),
        Frame(tiny.SIZE),
        ConvCRF(iterations=3),
        amp,
    )
    attention._members.cache_clear()  # fake tensors work only within their mode
    with ExitStack() as stack:
        stack.callback(attention._members.cache_clear)
        stack.enter_context(fake_cuda(monkeypatch))
        to_fake_cuda(segmenter.model.model)
        for name in ("input_ids", "attention_mask", "token_ids", "_rows"):
            setattr(segmenter, name, like(getattr(segmenter, name)))
        memory = stack.enter_context(LiveBytes())
        yield Fake(segmenter, torch.empty(BATCH, 3, tiny.SIZE, tiny.SIZE, device=CUDA), launches, memory)


def is_float32_on_cuda(*tensors: Tensor) -> bool:
    return all((tensor.device, tensor.dtype) == (CUDA, torch.float32) for tensor in tensors)


def test_an_evaluation_never_synchronises_with_the_gpu(fake: Fake) -> None:
    segmenter = fake.segmenter
    assert segmenter.device == CUDA
    scores = segmenter.segment(fake.pixels)
    assert is_float32_on_cuda(scores)
    assert fake.launches == [(BATCH, 4, 4, CLASSES, 16, 16)] * 2  # the last of three iterations is torch's
    labels = labels_of(scores)
    assert (labels.device, labels.dtype) == (CUDA, torch.uint8)
    own = segmenter.frame.labels(scores[0], (90, 120))
    assert (own.device, own.dtype, own.shape) == (CUDA, torch.uint8, (90, 120))
    confusion = ConfusionMatrix(CLASSES, 255, CUDA)
    confusion.update(labels[0], torch.zeros(tiny.SIZE, tiny.SIZE, dtype=torch.uint8))  # masks are read on the CPU
    confusion.update(own, torch.zeros(90, 120, dtype=torch.uint8))
    assert confusion.counts.device == CUDA
    assert not fake.memory.waits
    with pytest.raises(DataDependentOutputException):
        segmenter.check_numbers()  # synchronises here


def test_attention_is_float32_whatever_the_format(fake: Fake) -> None:
    segmenter = fake.segmenter
    with torch.no_grad():
        attended = segmenter.attend(segmenter.encode_images(fake.pixels), (0, 1, 2, 3))
    assert is_float32_on_cuda(attended.itm, *attended.token_logits.values())
    for layer in range(tiny.LAYERS):
        maps = attended.prompt_maps(layer)
        assert is_float32_on_cuda(maps, segmenter.layer_class_maps(attended, layer))
        assert maps.shape == (BATCH, len(PROMPTS), segmenter.num_patches)
    assert not fake.memory.waits


def test_matrix_products_run_in_the_format(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise autocast could be off on CUDA unnoticed."""
    formats: list[tuple[Amp, torch.dtype]] = [(False, torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
    for amp, dtype in formats:
        with monkeypatch.context() as patch:
            for fake in make_fake(amp, True, model_folder, patch):
                seen: list[torch.dtype] = []
                # of a layer with requested logits: their inputs stay in float32 beside bfloat16
                attention = fake.segmenter.model.text_encoder.layers[fake.segmenter.layers[0]].crossattention.self
                for linear in (attention.value, attention.key, attention.query):
                    linear.register_forward_hook(lambda *call, seen=seen: seen.append(call[2].dtype))
                fake.segmenter.segment(fake.pixels)
                logits = torch.float32 if amp == "bf16" else dtype
                assert seen == [logits, dtype, logits]


@pytest.mark.parametrize("place", ["device", "memory"])
def test_kept_embeddings_return_to_the_gpu(fake: Fake, place: Place, tmp_path: Path) -> None:
    segmenter = fake.segmenter
    shape = segmenter.model.embeds_shape(segmenter.num_patches)
    dtype = segmenter.dtype or torch.float32
    files = [Path(f"{number}.jpg") for number in range(BATCH)]
    with EmbeddingCache(segmenter.encode_images, place, files[1:], shape, dtype, tmp_path, CUDA) as cache:
        for _ in range(2):
            embeds = cache.get(files, fake.pixels)
            assert (embeds.device, embeds.dtype, embeds.shape) == (CUDA, dtype, (BATCH, *shape))
            assert is_float32_on_cuda(segmenter.segment(fake.pixels, embeds))


def test_infoscore_synchronises_twice_and_copies_nothing_to_the_gpu(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version synchronised 588 times for a batch of 16, for a copy of indices per image and layer.

    As on the miniature, all layers and images have prompts that may cross the clamp.
    """
    segmenter, layers = fake.segmenter, range(tiny.LAYERS)
    crossing = tiny.LAYERS * BATCH * len(PROMPTS) * 3
    places = torch.zeros(crossing, 4, dtype=torch.long, device=CUDA)
    monkeypatch.setattr(infoscore_module, "_places", lambda _: places)
    monkeypatch.setattr(infoscore_module, "CROSSING_BYTES", 4 * 17**2 * crossing // 4)  # several chunks
    with torch.no_grad():
        attended = segmenter.attend(segmenter.encode_images(fake.pixels), layers)
        fake.memory.uploads.clear()
        fake.memory.calls.clear()
        shares = layer_shares(attended, layers, tiny.SIZE)
    assert shares.shape == (tiny.LAYERS, BATCH, len(PROMPTS))
    assert not fake.memory.waits  # but for the places of the cells
    assert not fake.memory.uploads
    assert fake.memory.calls["index_put_"] >= 4
    scores = InfoScore(layers, tiny.SIZE)
    scores.add(shares)
    assert len(fake.memory.waits) == 1
    assert not fake.memory.uploads
    assert scores.images == BATCH


def test_tuning_reaches_its_loss_without_synchronising(fake: Fake) -> None:
    """Gradients of fake tensors need a GPU: the test ends before the backward pass."""
    segmenter = fake.segmenter
    embeds = segmenter.encode_images(fake.pixels[:1])
    fake.memory.calls.clear()
    weights = {name: value.requires_grad_() for name, value in segmenter.untuned_weights().items()}
    learner = segmenter.with_weights(weights)
    prompts = learner.encode_prompts()
    unary = learner.unary(learner.attend(embeds, prompts=prompts))
    loss = summed_loss(unary, torch.empty(1, tiny.SIZE, tiny.SIZE, dtype=torch.uint8, device=CUDA), 255)
    assert is_float32_on_cuda(unary, loss)
    assert loss.requires_grad
    assert not fake.memory.waits
    # whose gradients are not deterministic on CUDA
    assert not [name for name in fake.memory.calls if "scaled_dot_product" in name or "nll_loss" in name]
