"""Training from captions: its parts against formulas, and a short run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, BlipForImageTextRetrieval

from src.method.attention import sum_over_tokens
from src.method.prompts import TEMPLATE
from tools.miniature import batches, student, teacher
from tools.miniature.captions import PICTURE_SIDE
from tools.miniature.class_words import CLASSES, SUBJECT_NUMBER, UNDRAWN_WORDS, WORDS
from tools.miniature.optimizer import FlatAdamW
from tools.miniature.tiny_blip import GRID, HEADS, LAYERS, WIDTH, build_model, encode_images, match_prompts
from tools.miniature.train import learning_rate, main, mirror_labels
from tools.miniature.vocabulary import build_tokenizer

CAT, WALL, SKY = (SUBJECT_NUMBER[name] - 1 for name in ("cat", "wall", "sky"))
PROMPTS = [TEMPLATE.format(word=word) for word in ("cat", "person in jacket", "sky")]


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: BertTokenizerFast) -> BlipForImageTextRetrieval:
    torch.manual_seed(0)
    return build_model(tokenizer).eval()


def test_the_vocabulary_has_every_word_of_the_class_file(tokenizer: BertTokenizerFast) -> None:
    for word in WORDS:
        tokens = tokenizer.tokenize(TEMPLATE.format(word=word))
        assert tokens == ["image", "of", *word.lower().split(), "."]


def test_other_words_are_spelled_and_the_rest_is_unknown(tokenizer: BertTokenizerFast) -> None:
    assert tokenizer.tokenize("zebra 7") == ["z", "##e", "##b", "##r", "##a", "7"]
    assert tokenizer.tokenize("猫") == ["[UNK]"]


@torch.no_grad()
def test_the_training_forward_is_that_of_huggingface(
    model: BlipForImageTextRetrieval, tokenizer: BertTokenizerFast
) -> None:
    pixels = torch.randn(2, 3, PICTURE_SIDE, PICTURE_SIDE)
    encoded = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    inputs = [tensor.expand(2, -1, -1) for tensor in (encoded.input_ids, encoded.attention_mask)]
    embeds = encode_images(model, pixels)
    itm_logits, token_logits = match_prompts(model, embeds, *inputs)
    torch.testing.assert_close(embeds, model.vision_model(pixels).last_hidden_state)
    assert [tuple(logits.shape) for logits in token_logits] == [(2, len(PROMPTS), GRID**2)] * LAYERS

    seen: list[torch.Tensor] = []
    block = model.text_encoder.encoder.layer[2].crossattention.self
    hook = block.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs.get("hidden_states", *args[:1])), with_kwargs=True
    )
    for image in range(2):
        output = model(pixel_values=pixels[[image]].expand(len(PROMPTS), -1, -1, -1), **encoded)
        torch.testing.assert_close(itm_logits[image], model.itm_head(output.question_embeds))
        query, key = (
            states.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for states in (block.query(seen.pop()), block.key(embeds[[image]]))
        )
        logits = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5  # [P, H, T, 1 + N]
        torch.testing.assert_close(token_logits[2][[image]], sum_over_tokens(logits[None], encoded.attention_mask))
    hook.remove()


def test_flat_adamw_is_adamw() -> None:
    torch.manual_seed(0)
    flat, plain = (torch.nn.Linear(3, 2) for _ in range(2))
    plain.load_state_dict(flat.state_dict())
    groups = [{"params": [plain.weight], "weight_decay": 0.05}, {"params": [plain.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98))
    optimizer = FlatAdamW(flat.parameters(), undecayed=[flat.bias])
    for seed in range(5):
        inputs = 0.05 * torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))  # gradients below the clip
        reference.zero_grad()
        for layer in (flat, plain):
            (layer(inputs) ** 2).sum().mul(0.1).backward()
        optimizer.step(0.1)
        reference.step()
    torch.testing.assert_close(flat.weight, plain.weight)
    torch.testing.assert_close(flat.bias, plain.bias)


def test_prompts_contain_the_caption_and_absent_words(tokenizer: BertTokenizerFast) -> None:
    sampler = batches.PromptSampler(tokenizer)
    caption = ["kitty" if "kitty" in WORDS else "cats", "wall"]
    asked = set()
    for seed in range(200):
        prompts = sampler.sample([caption], np.random.default_rng(seed))
        texts = tokenizer.batch_decode(prompts.input_ids[0], skip_special_tokens=True)
        words = [text.removeprefix("image of ").removesuffix(".").strip() for text in texts]
        assert words[:2] == caption
        assert prompts.wanted[0].tolist() == [1, 1] + [0] * (batches.PROMPTS_PER_PICTURE - 2)
        assert prompts.subjects[0, :2].tolist() == [CAT, WALL]
        assert not {"cat", "cats", "wall"} & set(words[2:])
        asked |= set(words[2:])
        absent = len(WORDS) - len(["cat", "cats", "wall"])
        assert prompts.absent_words[0] == pytest.approx(absent / (batches.PROMPTS_PER_PICTURE - 2))
    assert set(CLASSES) - {"cat"} <= asked
    assert set(UNDRAWN_WORDS) <= asked


def test_mirrored_pictures_and_labels_belong_together() -> None:
    pictures = np.zeros((1, PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    pictures[:, :, : PICTURE_SIDE // GRID] = 200  # the first column of patches; the rest is black
    labels = torch.zeros(1, GRID, GRID, 2)
    labels[:, :, 0, 1] = 1
    sampler = batches.PictureSampler(pictures, [["cat"]])
    seen = set()
    for seed in range(20):
        batch = sampler.sample(np.zeros(1, np.int64), np.random.default_rng(seed))
        turned = mirror_labels(labels.flatten(1, 2), batch.mirrored)[0, :, 1]
        assert torch.equal(batch.content[0], turned)
        assert batch.content.sum() == GRID
        seen.add(bool(batch.mirrored))
    assert seen == {False, True}
    assert pictures[0, 0, 0, 0] == 200  # the pictures are not modified


def test_patch_labels_name_words_of_the_caption_only() -> None:
    torch.manual_seed(0)
    network = teacher.build_teacher().eval()
    named = batches.named_subjects([["cat", "wall"], ["sky"]])
    labels = teacher.patch_labels(network, torch.randn(2, 3, PICTURE_SIDE, PICTURE_SIDE), named, GRID)
    assert labels.shape == (2, GRID**2, teacher.NUM_SUBJECTS)
    torch.testing.assert_close(labels.sum(-1), torch.ones(2, GRID**2))
    assert labels[0, :, [CAT, WALL]].sum(-1).min() > 0.999
    assert labels[1, :, SKY].min() > 0.999


def test_the_caption_loss_falls_when_patches_show_what_the_caption_says() -> None:
    named = batches.named_subjects([["cat", "wall"]])
    content = torch.ones(1, GRID**2)

    def loss(subjects: list[int]) -> float:
        logits = torch.full((1, GRID**2, teacher.NUM_SUBJECTS), -4.0)
        for patch in range(GRID**2):
            logits[0, patch, subjects[patch % len(subjects)]] = 4
        return float(teacher.caption_loss(logits, named, content))

    both, one, wrong = loss([CAT, WALL]), loss([WALL]), loss([SKY])
    assert both < one < wrong


def test_the_matching_loss_includes_padding() -> None:
    logits = torch.zeros(1, 2, 4, 2)
    logits[..., 0] = 5  # nothing found
    wanted = torch.zeros(1, 2)
    before = student.matching_loss(logits, wanted)
    logits[0, 1, 3, 1] = 9  # the last position of the second prompt matches an absent object
    assert student.matching_loss(logits, wanted) > before + 1
    assert student.matching_accuracy(logits, wanted) == 0.5


def test_the_attention_loss_is_smallest_where_attention_follows_the_labels(tokenizer: BertTokenizerFast) -> None:
    prompts = batches.PromptSampler(tokenizer).sample([["cat", "wall"]], np.random.default_rng(0))
    labels = torch.zeros(1, GRID**2, teacher.NUM_SUBJECTS)
    labels[0, :10, CAT] = 1
    labels[0, 10:, WALL] = 1
    weights = student.patch_weights(labels, torch.ones(1, GRID**2))
    assert weights.mean() == pytest.approx(1)
    assert float(weights[0, 0] / weights[0, -1]) == pytest.approx(2)
    right = torch.zeros(1, batches.PROMPTS_PER_PICTURE, GRID**2)
    right[0, 0, :10] = 12
    right[0, 1, 10:] = 12
    swapped = right[:, [1, 0, *range(2, batches.PROMPTS_PER_PICTURE)]]
    assert student.attention_loss([right], prompts, labels, weights) < 0.01
    assert student.attention_loss([swapped], prompts, labels, weights) > 5
    assert student.attention_loss([right, swapped], prompts, labels, weights) > 2


def test_the_learning_rate_warms_up_and_cools_down() -> None:
    rates = [learning_rate(1.0, step, 400) for step in range(400)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(rates[100], rel=0.1)
    assert rates[-1] < 0.02


def test_twenty_steps_lower_the_losses_and_save_a_loadable_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # matching starts early, so that its losses fall too
    for name, value in (("LOG_EVERY", 5), ("WARM_UP", 5), ("BATCH", 8), ("VISION_ONLY", 0.3)):
        monkeypatch.setattr(f"tools.miniature.train.{name}", value)
    output = tmp_path / "blip"
    folders = ["--cache", str(tmp_path / "pairs"), "--output", str(output)]
    main(["--steps", "20", "20", "--scenes", "8", "--processes", "1", *folders])

    report = json.loads((output / "training.json").read_text())
    assert (report["teacher_steps"], report["student_steps"], report["finished"]) == (20, 20, True)
    entries = {phase: [e for e in report["losses"] if e["phase"] == phase] for phase in ("teacher", "student")}
    assert [entries[phase][-1]["step"] for phase in ("teacher", "student")] == [20, 20]
    assert entries["teacher"][-1]["caption_loss"] < 0.9 * entries["teacher"][0]["caption_loss"]
    assert entries["student"][-1]["head_loss"] < 0.97 * entries["student"][0]["head_loss"]
    joint = [entry for entry in entries["student"] if "attention_loss" in entry]
    for name in ("matching_loss", "attention_loss"):
        assert joint[-1][name] < joint[0][name]

    model = BlipForImageTextRetrieval.from_pretrained(output)
    assert model.config.vision_config.patch_size * GRID == PICTURE_SIDE
    assert model.dtype == torch.float16
    loaded = BertTokenizerFast.from_pretrained(output)
    assert loaded(PROMPTS, padding=True).input_ids == build_tokenizer()(PROMPTS, padding=True).input_ids
