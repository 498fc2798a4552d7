"""The text encoder with exposed cross-attention, against HuggingFace's original."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from replace_huggingface import modeling_blip_text
from replace_huggingface.modeling_blip_text import (
    CrossAttentionTextEncoder,
    LogitsReducer,
    TextOutput,
    UnsupportedTransformersError,
    expose_cross_attention,
)
from replace_huggingface.modeling_blip_vision import FusedVisionAttention
from src.errors import UserError
from src.method.attention import sum_over_tokens
from src.method.blip import Blip, prepare
from tests import tiny
from tests.oracles.method import plain_forward, plain_itm, plain_token_logits
from tests.rounding import rounding, roundings_of_blip

PROMPTS = ["Image of sky.", "Image of red wall.", "Image of kittens.", "Image of cats.", "Image of mug."]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tokens(exact: Blip) -> tuple[Tensor, Tensor]:
    input_ids, attention_mask = exact.tokenize(PROMPTS)
    assert attention_mask.min() == 0  # some prompts are padded, so that the tests below cover padding
    return input_ids, attention_mask


def keep_logits(logits: Tensor, _: Tensor) -> Tensor:
    return logits


def run(
    blip: Blip,
    tokens: tuple[Tensor, Tensor],
    pixels: Tensor,
    layers: tuple[int, ...] = (0, 1, 2, 3),
    reduce: LogitsReducer = keep_logits,
) -> TextOutput:
    with torch.no_grad():
        embeds = blip.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        encoder = blip.model.text_encoder
        return encoder(encoder.encode_prompts(*tokens), embeds, layers, reduce)


def test_exact_equals_huggingface_up_to_rounding(exact: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor) -> None:
    """Not always bitwise: keys and values are one product for all prompts here, one for each in HuggingFace."""
    output = run(exact, tokens, pixels[:1])
    reference = tiny.random_blip()
    hidden, logits = plain_forward(reference, *tokens, pixels[0], (0, 1, 2, 3))
    bound = rounding(roundings_of_blip(reference.config, (tiny.SIZE // tiny.PATCH) ** 2, tokens[0].shape[1]))
    for got, expected in [(output.last_hidden_state[0], hidden)] + [
        (output.reduced_logits[layer][0], logits[layer]) for layer in range(tiny.LAYERS)
    ]:
        torch.testing.assert_close(got, expected, rtol=0, atol=bound * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["exact", "fused"])
def test_batches_are_close_to_huggingface(
    kind: str, tokens: tuple[Tensor, Tensor], pixels: Tensor, request: pytest.FixtureRequest
) -> None:
    blip = request.getfixturevalue(kind)
    output = run(blip, tokens, pixels, layers=(1, 3))
    reference = tiny.random_blip()
    for image in range(len(pixels)):
        hidden, logits = plain_forward(reference, *tokens, pixels[image], (1, 3))
        torch.testing.assert_close(output.last_hidden_state[image], hidden, **CLOSE)
        for layer in (1, 3):
            torch.testing.assert_close(output.reduced_logits[layer][image], logits[layer], **CLOSE)
            torch.testing.assert_close(
                sum_over_tokens(output.reduced_logits[layer], tokens[1])[image],
                plain_token_logits(logits[layer], tokens[1]),
                **CLOSE,
            )


def test_attention_of_the_tiny_model_is_far_from_uniform(
    fused: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor
) -> None:
    """With uniform attention all other tests here would pass for any code."""
    for logits in run(fused, tokens, pixels).reduced_logits.values():
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        assert entropy.mean() < 0.9 * math.log(logits.shape[-1])
        assert (logits[0] - logits[1]).abs().mean() > 0.1  # images differ
        assert (logits[:, 0] - logits[:, 1]).abs().mean() > 0.1  # prompts differ
        assert (logits[:, :, 0] - logits[:, :, 1]).abs().mean() > 0.1  # heads differ
    itm = plain_itm(fused.model, run(fused, tokens, pixels).last_hidden_state[0])
    assert itm.max() - itm.min() > 0.02


@pytest.mark.parametrize("kind", ["exact", "fused"])
@pytest.mark.parametrize("prompts_at_once", [1, 2, 5])
def test_prompts_in_chunks_give_the_same(
    kind: str,
    prompts_at_once: int,
    tokens: tuple[Tensor, Tensor],
    pixels: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    blip = request.getfixturevalue(kind)
    whole = run(blip, tokens, pixels)
    sizes = []

    def count(logits: Tensor, _: Tensor) -> Tensor:
        sizes.append(logits.shape[1])
        assert logits.numel() * logits.element_size() <= modeling_blip_text.LOGITS_BUDGET_BYTES
        return logits

    heads, length, positions = whole.reduced_logits[0].shape[2:]
    budget = prompts_at_once * len(pixels) * heads * length * positions * 4
    monkeypatch.setattr(modeling_blip_text, "LOGITS_BUDGET_BYTES", budget)
    chunked = run(blip, tokens, pixels, reduce=count)
    assert max(sizes) == prompts_at_once
    assert sum(sizes) == tiny.LAYERS * len(PROMPTS)
    torch.testing.assert_close(chunked.last_hidden_state, whole.last_hidden_state, **CLOSE)
    for layer in range(tiny.LAYERS):
        torch.testing.assert_close(chunked.reduced_logits[layer], whole.reduced_logits[layer], **CLOSE)


def test_one_prompt_is_computed_whatever_the_budget(
    fused: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_blip_text, "LOGITS_BUDGET_BYTES", 1)
    assert run(fused, tokens, pixels).last_hidden_state.shape[:2] == (3, len(PROMPTS))


@pytest.mark.parametrize("kind", ["exact", "fused"])
def test_only_chosen_layers_logits_are_reduced(
    kind: str, tokens: tuple[Tensor, Tensor], pixels: Tensor, request: pytest.FixtureRequest
) -> None:
    blip = request.getfixturevalue(kind)
    chosen, every = run(blip, tokens, pixels, layers=(2, 0)), run(blip, tokens, pixels)
    assert set(chosen.reduced_logits) == {0, 2}
    for layer in (0, 2):
        torch.testing.assert_close(chosen.reduced_logits[layer], every.reduced_logits[layer], **CLOSE)


def test_fused_forms_logits_in_chosen_layers_only(
    fused: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, calls = modeling_blip_text.attend, []

    def count(*args: Tensor, **kwargs: object) -> Tensor:
        calls.append(args)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(modeling_blip_text, "attend", count)
    run(fused, tokens, pixels, layers=(1,))
    assert len(calls) == tiny.LAYERS - 1


def test_logits_are_float32_under_autocast(fused: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = run(fused, tokens, pixels)
    assert {logits.dtype for logits in output.reduced_logits.values()} == {torch.float32}


def test_images_of_a_batch_do_not_affect_each_other(fused: Blip, tokens: tuple[Tensor, Tensor], pixels: Tensor) -> None:
    swapped = run(fused, tokens, pixels[[1, 0, 2]]).reduced_logits[3]
    torch.testing.assert_close(swapped[[1, 0, 2]], run(fused, tokens, pixels).reduced_logits[3], **CLOSE)


def test_exposing_keeps_parameters_and_their_names() -> None:
    model = tiny.random_blip()
    names = {name: parameter.clone() for name, parameter in model.named_parameters()}
    prepare(model, fused=True)
    assert isinstance(model.text_encoder, CrossAttentionTextEncoder)
    assert isinstance(model.vision_model.encoder.layers[0].self_attn, FusedVisionAttention)
    after = dict(model.named_parameters())
    assert after.keys() == names.keys()
    assert all(torch.equal(after[name], names[name]) for name in names)
    assert not any(parameter.requires_grad for parameter in after.values())


def test_exposing_changes_no_other_model() -> None:
    before, other = tiny.random_blip(), tiny.random_blip()
    prepare(other)
    assert type(before.text_encoder).__module__.startswith("transformers.")
    assert type(tiny.random_blip().text_encoder).__module__.startswith("transformers.")


def test_exposing_twice_changes_the_kernels_only() -> None:
    model = tiny.random_blip()
    encoder = expose_cross_attention(model, fused=True)
    assert expose_cross_attention(model, fused=False) is encoder
    assert encoder.fused is False


@pytest.mark.parametrize(
    ("parent", "name", "named"),
    [
        ("text_encoder.encoder.layer.0", "crossattention", "encoder.layer.0.crossattention"),
        ("text_encoder.encoder.layer.0.crossattention.self", "query", "encoder.layer.0.crossattention.self.query"),
        ("text_encoder.embeddings", "word_embeddings", "embeddings.word_embeddings"),
        ("text_encoder.encoder", "layer", "encoder.layer.0"),
        ("text_encoder", "embeddings", "embeddings"),
    ],
)
def test_an_incompatible_transformers_is_refused_by_version(parent: str, name: str, named: str) -> None:
    model = tiny.random_blip()
    delattr(model.get_submodule(parent), name)
    with pytest.raises(UnsupportedTransformersError):
        expose_cross_attention(model)
    with pytest.raises(UserError, match=rf"has no {named};.*pip install 'transformers>=5\.6,<=5\.24'"):
        prepare(model)
