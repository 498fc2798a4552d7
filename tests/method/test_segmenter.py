"""The whole method on images: against the plain formulas, in batches, chunks and number formats, on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from replace_huggingface import modeling_blip_text
from src import runtime
from src.config.schema import Amp, Config
from src.data.frame import Frame
from src.errors import UserError
from src.method.attention import class_probabilities, itm_scores, sum_over_tokens
from src.method.blip import Blip, load_blip
from src.method.crf import ConvCRF
from src.method.prompts import ClassEntry, PromptSet, build_prompts
from src.method.segmenter import NEVER, Segmenter, labels_of
from tests import tiny
from tests.oracles.crf import plain_crf
from tests.oracles.method import plain_forward, plain_itm, plain_token_logits, plain_unary

CPU = torch.device("cpu")
LAYERS = (0, 2)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    classes = [ClassEntry(entry["name"], tuple(entry.get("related_word", ()))) for entry in tiny.CLASSES]
    return build_prompts(classes, multi_prompt=True)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Four images: smooth colours with a box in each, so that neighbouring pixels matter."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(4, 3, 1, 1, generator=generator).expand(-1, -1, tiny.SIZE, tiny.SIZE).clone()
    for number, image in enumerate(images):
        box = torch.randn(3, 1, 1, generator=generator)
        image[:, 8 * number : 8 * number + 24, 16:48] = box
    return images + 0.1 * torch.randn(images.shape, generator=generator)


@pytest.fixture(scope="module")
def expected(prompts: PromptSet, pixels: Tensor, exact: Blip) -> Tensor:
    """Class probabilities [4, C, S, S] by the plain formulas on HuggingFace's original model."""
    model = tiny.random_blip()
    input_ids, attention_mask = exact.tokenize(prompts.prompts)
    unaries = []
    for image in pixels:
        hidden, logits = plain_forward(model, input_ids, attention_mask, image, LAYERS)
        token_logits = [plain_token_logits(logits[layer], attention_mask) for layer in LAYERS]
        unaries.append(plain_unary(token_logits, plain_itm(model, hidden), prompts.prompts_per_class, tiny.SIZE))
    return torch.stack(unaries)


def segmenter_of(blip: Blip, prompts: PromptSet, crf: ConvCRF | None = None, amp: Amp = False) -> Segmenter:
    return Segmenter(blip, prompts, LAYERS, Frame(tiny.SIZE), crf, amp)


@pytest.mark.parametrize("kind", ["exact", "fused"])
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_class_probabilities_equal_the_plain_formulas(
    kind: str, batch: int, prompts: PromptSet, pixels: Tensor, expected: Tensor, request: pytest.FixtureRequest
) -> None:
    segmenter = segmenter_of(request.getfixturevalue(kind), prompts)
    got = torch.cat([segmenter.segment(images) for images in pixels.split(batch)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_scores_are_refined_by_the_crf(fused: Blip, prompts: PromptSet, pixels: Tensor, expected: Tensor) -> None:
    got = segmenter_of(fused, prompts, ConvCRF(iterations=3)).segment(pixels)
    torch.testing.assert_close(got, plain_crf(expected, pixels, 3), rtol=1e-3, atol=1e-3)


def test_different_images_give_different_maps(fused: Blip, prompts: PromptSet, pixels: Tensor) -> None:
    """A vision tower of zeros, HuggingFace's default initialisation, would give the same map for any image."""
    unary = segmenter_of(fused, prompts).segment(pixels)
    for one in range(len(pixels)):
        for other in range(one):
            assert (unary[one] - unary[other]).abs().max() > 0.05
    assert (unary.argmax(1).flatten(1).float().std(1) > 0).any()  # and they are not one class everywhere


def test_layers_are_used_in_any_order_and_in_any_number(fused: Blip, prompts: PromptSet, pixels: Tensor) -> None:
    segmenter = segmenter_of(fused, prompts)
    attended = segmenter.attend(segmenter.encode_images(pixels), (0, 2))
    both, swapped = segmenter.unary(attended, (0, 2)), segmenter.unary(attended, (2, 0))
    torch.testing.assert_close(both, swapped)
    assert (both - segmenter.unary(attended, (0,))).abs().max() > 1e-3


def test_encoded_images_can_be_reused(fused: Blip, prompts: PromptSet, pixels: Tensor) -> None:
    segmenter = segmenter_of(fused, prompts)
    embeds = segmenter.encode_images(pixels)
    torch.testing.assert_close(segmenter.segment(pixels, embeds), segmenter.segment(pixels))
    assert torch.equal(segmenter.segment(pixels, embeds), segmenter.segment(pixels, embeds))


def test_prompts_in_chunks_give_the_same(
    fused: Blip, prompts: PromptSet, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segmenter_of(fused, prompts).segment(pixels)
    monkeypatch.setattr(modeling_blip_text, "LOGITS_BUDGET_BYTES", 1)
    torch.testing.assert_close(segmenter_of(fused, prompts).segment(pixels), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("amp", "least", "most"), [("bf16", 1e-3, 0.02), ("fp16", 1e-4, 0.0025)])
def test_short_formats_are_close_to_float32(
    amp: Amp, least: float, most: float, fused: Blip, prompts: PromptSet, pixels: Tensor
) -> None:
    """float16 has three more bits of mantissa than bfloat16."""
    full, half = (segmenter_of(fused, prompts, amp=each) for each in (False, amp))
    difference = (half.segment(pixels) - full.segment(pixels)).abs()
    assert difference.max() > least  # otherwise it was float32
    assert difference.mean() < most
    assert half.segment(pixels).dtype == torch.float32


def test_overflow_is_not_labelled_background(model_folder: str, prompts: PromptSet, pixels: Tensor) -> None:
    """The argmax of NaN is 0: every pixel would be labelled background."""
    blip = load_blip(str(model_folder), CPU)
    blip.model.vision_model.encoder.layers[0].mlp.fc2.weight.mul_(1e6)  # the maximum of float16 is 65,504
    for amp in (False, "bf16"):
        segmenter = segmenter_of(blip, prompts, amp=amp)
        assert segmenter.segment(pixels).isfinite().all()
        segmenter.check_numbers()
    segmenter = segmenter_of(blip, prompts, amp="fp16")
    segmenter.segment(pixels[:1])
    with pytest.raises(
        UserError, match=r"in float16: .* not a number; its largest number is 65,504: set runtime\.amp to bf16"
    ):
        segmenter.check_numbers()
    segmenter.check_numbers()  # reported once
    blip.model.itm_head.weight.fill_(torch.nan)
    segmenter = segmenter_of(blip, prompts)
    segmenter.segment(pixels[:1])
    with pytest.raises(UserError, match=r"in float32: .*; check the model's weights"):
        segmenter.check_numbers()


def test_the_first_image_that_is_no_number_since_the_last_check_is_named(
    fused: Blip, prompts: PromptSet, pixels: Tensor
) -> None:
    segmenter, files = segmenter_of(fused, prompts), [Path(f"{n}.jpg") for n in range(8)]
    embeds = segmenter.encode_images(pixels)
    broken = embeds.clone()
    broken[2:] = torch.inf
    segmenter.attend(embeds[:1])
    segmenter.check_numbers()
    size = len(embeds)
    for number, batch in enumerate((embeds, broken, broken)):
        with segmenter.watch(files[size * number : size * (number + 1)]):
            segmenter.attend(batch)
    other = segmenter.with_weights({})
    other.check_numbers()  # results of another segmenter do not count
    with pytest.raises(UserError, match=rf"output for image {size + 2}\.jpg is not a number"):
        segmenter.check_numbers()
    segmenter.check_numbers()


def test_an_image_that_is_computed_again_after_an_error_counts_once(
    fused: Blip, prompts: PromptSet, pixels: Tensor
) -> None:
    segmenter, files = segmenter_of(fused, prompts), [Path(f"{n}.jpg") for n in range(8)]
    embeds = segmenter.encode_images(pixels)
    broken = torch.full_like(embeds, torch.inf)
    for batch in (broken, embeds):  # memory may run out after the images were processed
        with pytest.raises(MemoryError), segmenter.watch(files[: len(batch)]):  # noqa: PT012
            segmenter.attend(batch)
            raise MemoryError
    with segmenter.watch(files[: len(embeds)]):
        segmenter.attend(embeds)
    with segmenter.watch(files[len(embeds) :]):
        segmenter.attend(broken[:1])
    with pytest.raises(UserError, match=rf"output for image {len(embeds)}\.jpg is not a number"):
        segmenter.check_numbers()


def test_a_configuration_sets_crf_size_and_format(
    make_config: Callable[..., Config], fused: Blip, prompts: PromptSet
) -> None:
    segmenter = Segmenter.from_config(make_config(crf={"iters": 1}), fused, prompts, (1,))
    assert segmenter.crf.iterations == 1
    assert (segmenter.frame, segmenter.layers, segmenter.dtype) == (Frame(tiny.SIZE), (1,), None)
    plain = Segmenter.from_config(make_config(crf={"iters": 0}, runtime={"amp": "bf16"}), fused, prompts, (1,))
    assert plain.crf is None
    assert plain.dtype is torch.bfloat16


def test_without_a_crf_the_scores_are_the_probabilities(
    make_config: Callable[..., Config], fused: Blip, prompts: PromptSet, pixels: Tensor, expected: Tensor
) -> None:
    segmenter = Segmenter.from_config(make_config(crf={"iters": 0}), fused, prompts, LAYERS)
    torch.testing.assert_close(segmenter.segment(pixels), expected, rtol=1e-4, atol=1e-5)


def test_prompts_are_encoded_once_and_again_for_other_weights(
    model_folder: str, prompts: PromptSet, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    blip = load_blip(str(model_folder), CPU)
    encode, calls = blip.model.text_encoder.encode_prompts, []
    monkeypatch.setattr(
        blip.model.text_encoder, "encode_prompts", lambda *tokens: calls.append(tokens) or encode(*tokens)
    )
    segmenter = segmenter_of(blip, prompts)
    before = segmenter.segment(pixels[:1])
    segmenter.segment(pixels)
    assert len(calls) == 1
    words = blip.model.text_encoder.embeddings.word_embeddings.weight
    other = segmenter.with_weights({"word_embeddings": 2 * words[segmenter.token_ids]})
    assert (other.segment(pixels[:1]) - before).abs().max() > 1e-3
    assert len(calls) == 2
    assert torch.equal(segmenter.segment(pixels[:1]), before)
    assert len(calls) == 2


def test_swapped_weights_equal_a_model_with_those_weights(
    model_folder: str, prompts: PromptSet, pixels: Tensor
) -> None:
    blip, changed = load_blip(str(model_folder), CPU), load_blip(str(model_folder), CPU)
    segmenter = segmenter_of(blip, prompts)
    before = segmenter.segment(pixels)
    words = changed.model.text_encoder.embeddings.word_embeddings.weight
    query = changed.model.text_encoder.encoder.layer[2].crossattention.self.query.weight
    words.mul_(1.5)
    query.mul_(0.5)
    name = "layer.2.crossattention.self.query.weight"
    other = segmenter.with_weights({"word_embeddings": words[segmenter.token_ids], name: query})
    assert torch.equal(other.segment(pixels), segmenter_of(changed, prompts).segment(pixels))
    assert torch.equal(segmenter.segment(pixels), before)
    assert (other.segment(pixels) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["fused", "exact"])
def test_inputs_of_exponentials_are_not_rounded_to_bfloat16(
    kind: str, prompts: PromptSet, pixels: Tensor, request: pytest.FixtureRequest
) -> None:
    """From states in bfloat16, logits and matching scores are computed in float32."""
    blip: Blip = request.getfixturevalue(kind)
    segmenter = Segmenter(blip, prompts, (0,), Frame(tiny.SIZE), None, "bf16")
    last: list[Tensor] = []
    hook = blip.text_encoder.layers[-1].output.register_forward_hook(lambda *call: last.append(call[2]))
    embeds, states = segmenter.encode_images(pixels), segmenter.encode_prompts()
    attended = segmenter.attend(embeds)
    hook.remove()
    attention = blip.text_encoder.layers[0].crossattention.self
    heads = attention.num_attention_heads
    query = attention.query(states.hidden.float()).unflatten(-1, (heads, -1))  # [P, T, H, d]
    key = attention.key(embeds.float()).unflatten(-1, (heads, -1))  # [B, n, H, d]
    logits = torch.einsum("pthd,bnhd->bphtn", query, key) / query.shape[-1] ** 0.5
    expected = sum_over_tokens(logits, states.attention_mask)
    torch.testing.assert_close(attended.token_logits[0], expected, rtol=1e-5, atol=1e-5)
    itm = itm_scores(blip.model.itm_head(last[0].float()))
    torch.testing.assert_close(attended.itm, itm, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("attention", ["fused", "exact"])
def test_cuda_gives_what_the_cpu_gives(
    attention: str, model_folder: str, prompts: PromptSet, pixels: Tensor, expected: Tensor
) -> None:
    device = torch.device("cuda")
    blip = load_blip(str(model_folder), device, attention == "fused")
    got = segmenter_of(blip, prompts).segment(pixels.to(device))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-4)
    refined = segmenter_of(blip, prompts, ConvCRF(iterations=3)).segment(pixels.to(device))
    agreement = refined.argmax(1).cpu() == plain_crf(expected, pixels, 3).argmax(1)
    assert agreement.float().mean() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bfloat16_on_cuda_is_close_to_float32(
    model_folder: str, prompts: PromptSet, pixels: Tensor, expected: Tensor
) -> None:
    blip = load_blip(str(model_folder), torch.device("cuda"))
    segmenter = segmenter_of(blip, prompts, amp="bf16")
    difference = (segmenter.segment(pixels.cuda()).cpu() - expected).abs()
    assert difference.max() > 1e-3
    assert difference.mean() < 0.02


def test_an_image_is_segmented_at_its_original_size(fused: Blip, prompts: PromptSet) -> None:
    rgb, _ = tiny.random_scene(np.random.default_rng(0), 90, 131)
    frame = Frame(tiny.SIZE, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    segmenter = Segmenter(fused, prompts, LAYERS, frame, ConvCRF(iterations=2))
    labels = segmenter.analyse_image(rgb).labels
    assert labels.dtype == np.uint8
    scores = segmenter.segment(frame.image(rgb)[None])[0]
    assert np.array_equal(labels, frame.undo(scores, (90, 131)).argmax(0).numpy())
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("shape", [(5, 8, 8), (2, 21, 40, 60)])
def test_ties_go_to_the_first_class(shape: tuple[int, ...]) -> None:
    scores = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0)).float()  # ties everywhere
    labels = labels_of(scores)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), scores.numpy().argmax(-3))  # numpy promises the first


def test_without_a_background_the_other_classes_are_refined_alone(fused: Blip) -> None:
    """Background words take part in the softmax over prompts, and in no later step."""
    pixels = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3))
    classes = [ClassEntry("sky", ("wall",)), ClassEntry("cat"), ClassEntry("dog"), ClassEntry("red mug")]
    prompts = build_prompts(classes, multi_prompt=False, background=False)
    crf = ConvCRF(iterations=3)
    segmenter = Segmenter(fused, prompts, (0, 2), Frame(tiny.SIZE), crf)
    scores = segmenter.segment(pixels)
    assert (scores[:, 0] == NEVER).all()
    attended = segmenter.attend(segmenter.encode_images(pixels))
    maps = [attended.prompt_maps(layer)[:, 2:] for layer in (0, 2)]  # after the two words of the background
    unary = class_probabilities(maps, tiny.SIZE)
    torch.testing.assert_close(unary.sum(1), torch.ones(2, tiny.SIZE, tiny.SIZE))
    torch.testing.assert_close(scores[:, 1:], crf(unary, pixels), rtol=1e-5, atol=1e-5)


def test_less_working_memory_gives_fewer_prompts_at_once(fused: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(1, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3))
    prompts = build_prompts([ClassEntry("sky", ("wall", "red wall")), ClassEntry("cat"), ClassEntry("dog")], False)
    segmenter = Segmenter(fused, prompts, (0, 2), Frame(tiny.SIZE))
    whole = segmenter.segment(pixels)
    chunks = []
    count = type(fused.text_encoder)._chunks

    def counted(*arguments: object) -> list[object]:
        chunks.append(count(*arguments))
        return chunks[-1]

    monkeypatch.setattr(type(fused.text_encoder), "_chunks", counted)
    monkeypatch.setattr(modeling_blip_text, "LOGITS_BUDGET_BYTES", 2**14)
    monkeypatch.setattr(runtime, "_halvings", 0)
    numbers = []
    for _ in range(runtime.MAX_HALVINGS):
        torch.testing.assert_close(segmenter.segment(pixels), whole, rtol=1e-4, atol=1e-5)
        numbers.append(len(chunks[-1]))
        assert runtime.halve_working_memory()
    assert not runtime.halve_working_memory()
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (1, 5)


def test_images_of_a_batch_are_independent(fused: Blip, prompts: PromptSet) -> None:
    rng = np.random.default_rng(0)
    images = [tiny.random_scene(rng, height, width)[0] for height, width in ((90, 131), (64, 40), (200, 77))]
    segmenter = Segmenter(fused, prompts, LAYERS, Frame(tiny.SIZE), ConvCRF(iterations=2))
    batch = torch.stack([segmenter.frame.image(rgb) for rgb in images])
    together = [seen.at(rgb.shape[:2]) for seen, rgb in zip(segmenter.analyse_batch(batch), images, strict=True)]
    for rgb, analysis in zip(images, together, strict=True):
        alone = segmenter.analyse_image(rgb)
        assert analysis.labels.shape == rgb.shape[:2]
        assert (analysis.labels == alone.labels).mean() > 0.999
        assert analysis.itm == pytest.approx(alone.itm, abs=1e-5)
        torch.testing.assert_close(analysis.unary, alone.unary, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(analysis.embeds, alone.embeds, rtol=1e-4, atol=1e-5)
        for kept in (analysis.unary, analysis.embeds):
            assert kept.untyped_storage().nbytes() == kept.nbytes
        again = segmenter.analyse_image(rgb, analysis.embeds)
        assert (again.labels == alone.labels).mean() > 0.999
