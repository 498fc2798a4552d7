"""ALBEF checkpoints: what is accepted, and what is refused with which message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertTokenizer

from src.config.schema import Config
from src.errors import UserError
from src.method.checkpoints import load_configured, load_model
from tests.parity.test_albef import GOLDEN, HEADS, load

CPU = torch.device("cpu")
Weights = dict[str, Any]


@pytest.fixture
def weights() -> Weights:
    """The weights of the tiny checkpoint."""
    return torch.load(GOLDEN / "checkpoint.pth", weights_only=True)["model"]


def save(folder: Path, saved: object) -> Path:
    path = folder / "albef.pth"
    torch.save(saved, path)
    return path


def refused(
    path: Path, message: str, tokenizer: str | None = str(GOLDEN), heads: tuple[int, int] | None = HEADS
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load_model(str(path), CPU, tokenizer=tokenizer, heads=heads)
    assert "\n" not in str(refusal.value)


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path, weights: Weights) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    albef = load(save(tmp_path, {"model": halves}))
    assert {value.dtype for value in albef.state_dict().values()} == {torch.float32}
    # the token type is added in float32
    name = "text_encoder.embeddings.position_embeddings.weight"
    types = halves["text_encoder.embeddings.token_type_embeddings.weight"]
    assert torch.equal(albef.state_dict()[name], halves[name].float() + types[0].float())


def test_files_of_the_old_format_are_read(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    assert load(path).digest == load().digest


def test_loading_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "mscoco.pth", r"the checkpoint .*mscoco\.pth does not exist")


def test_a_folder_name_may_end_in_pth(model_folder: Path, tmp_path: Path) -> None:
    """The content of a folder decides, not its name."""
    folder = shutil.copytree(model_folder, tmp_path / "blip.pth")
    assert load_model(str(folder), CPU).layers == (0, 1, 2, 3)
    (folder / "config.json").unlink()
    refused(folder, r"blip\.pth cannot be loaded", None, None)


class Code:
    """Creates a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_executed(zipped: bool, tmp_path: Path, weights: Weights) -> None:
    path, trace = tmp_path / "albef.pth", tmp_path / "executed"
    torch.save({"model": weights, "config": Code(trace)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"contains code \(.*mkdir\), which is not executed" if zipped else "cannot be read as weights")
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 100, 700_000, 1_488_000])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "albef.pth"
    path.write_bytes((GOLDEN / "checkpoint.pth").read_bytes()[:kept])
    refused(path, "cannot be read as weights saved by PyTorch: .*; download it again")


def test_other_files_are_refused(tmp_path: Path, weights: Weights) -> None:
    save_file({"itm_head.weight": weights["itm_head.weight"]}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", "cannot be read as weights saved by PyTorch")
    refused(save(tmp_path, [1, 2]), "contains a list; expected a dict of weights")
    refused(save(tmp_path, {"model": 3}), "contains a int; expected a dict of weights")


def test_checkpoints_of_other_tasks_are_refused(tmp_path: Path, weights: Weights) -> None:
    without = {name: value for name, value in weights.items() if not name.startswith("itm_head.")}
    vqa = {**without, "text_decoder.bert.embeddings.word_embeddings.weight": torch.zeros(3)}
    refused(save(tmp_path, {"model": vqa}), r"is not an ALBEF with a matching head: it has no itm_head\..*text_decoder")
    only_momentum = {name.replace("visual_encoder.", "visual_encoder_m."): value for name, value in weights.items()}
    refused(save(tmp_path, {"model": only_momentum}), r"has no visual_encoder\.\*")


def test_the_original_blip_checkpoint_is_refused(tmp_path: Path, weights: Weights) -> None:
    block = {name: value for name, value in weights.items() if ".layer.6.crossattention." in name}
    for layer in range(6):
        weights |= {name.replace(".layer.6.", f".layer.{layer}."): value for name, value in block.items()}
    refused(save(tmp_path, weights), "cross-attention in text layer 0, like BLIP")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text_encoder.encoder.layer.3.output.dense.weight", r"has no {}; expected shape \[48, 96\]"),
        ("text_encoder.encoder.layer.9.crossattention.self.key.bias", r"has no {}; expected shape \[48\]"),
        ("visual_encoder.blocks.1.attn.proj.weight", r"has no {}; expected shape \[32, 32\]"),
        ("visual_encoder.pos_embed", r"{} is missing; expected \[1, 1 \+ patches, width\]"),
        ("itm_head.bias", r"has no {}; expected shape \[2\]"),
    ],
)
def test_a_missing_weight_is_named(name: str, message: str, tmp_path: Path, weights: Weights) -> None:
    del weights[name]
    refused(save(tmp_path, {"model": weights}), message.format(name.replace(".", r"\.")))


def test_weights_of_another_shape_are_named_with_both_shapes(tmp_path: Path, weights: Weights) -> None:
    name = "text_encoder.encoder.layer.7.crossattention.self.key.weight"
    weights[name] = weights[name][:, :20].clone()
    refused(save(tmp_path, weights), rf"{name} has shape \[48, 20\]; expected \[48, 32\]")
    weights["visual_encoder.pos_embed"] = torch.zeros(1, 16, 32)
    refused(save(tmp_path, weights), r"visual_encoder\.pos_embed has 16 positions; expected 1 \+ a square")


def test_weights_that_albef_does_not_have_are_named(tmp_path: Path, weights: Weights) -> None:
    weights["text_encoder.encoder.layer.2.adapter.weight"] = torch.zeros(3, 4)
    refused(save(tmp_path, weights), r"has text_encoder\.encoder\.layer\.2\.adapter\.weight of shape \[3, 4\]")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, weights: Weights) -> None:
    weights["visual_encoder.norm.bias"][3] = float("nan")
    refused(save(tmp_path, weights), r"weight visual_encoder\.norm\.bias contains NaN or infinity")


def test_head_counts_are_required_if_the_width_is_not_a_multiple_of_64() -> None:
    refused(GOLDEN / "checkpoint.pth", r"width is 32, not a multiple of 64.*set model\.heads to", heads=None)
    refused(GOLDEN / "checkpoint.pth", r"5 does not divide 48, the width of the text encoder", heads=(2, 5))


def tokenizer_of(folder: Path, words: list[str], **options: Any) -> Path:
    folder.mkdir()
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(path), **options).save_pretrained(folder)
    return folder


def test_unsuitable_tokenizers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = GOLDEN / "checkpoint.pth"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    refused(
        checkpoint,
        r"tokenizer google-bert/bert-base-uncased cannot be loaded.*; run `hf download google-bert/bert-base-uncased`",
        None,
    )
    (tmp_path / "empty").mkdir()
    refused(
        checkpoint, r"tokenizer .*empty cannot be loaded.*; the folder must contain vocab\.txt", str(tmp_path / "empty")
    )
    refused(checkpoint, r"model\.tokenizer \./nowhere: the folder .* does not exist", "./nowhere")
    words = (GOLDEN / "vocab.txt").read_text().split()
    cased = tokenizer_of(tmp_path / "cased", [*words, "Image"], do_lower_case=False)
    refused(checkpoint, "is case-sensitive; ALBEF needs the vocabulary of bert-base-uncased", str(cased))


def test_a_vocabulary_beyond_the_weights_is_refused(tmp_path: Path, weights: Weights) -> None:
    name = "text_encoder.embeddings.word_embeddings.weight"
    weights[name] = weights[name][:20].clone()
    albef = load(save(tmp_path, weights))
    with pytest.raises(UserError, match=r"does not fit its weights.*vocabulary of 20.*model\.tokenizer"):
        albef.tokenize(["Image of sky.", "Image of road coach."])


def test_layers_without_cross_attention_are_refused(make_config: Callable[..., Config]) -> None:
    facts = {"name": str(GOLDEN / "checkpoint.pth"), "tokenizer": str(GOLDEN), "heads": [2, 3]}
    assert load_configured(make_config(model={**facts, "layers": [6, 11]}), CPU).layers == (6, 7, 8, 9, 10, 11)
    with pytest.raises(UserError, match=r"model\.layers: \[3\] is not valid; expected layers 6 to 11: the text layers"):
        load_configured(make_config(model={**facts, "layers": [3]}), CPU)
    with pytest.raises(UserError, match=r"model\.top_k: 7 is not valid; expected at most 6"):
        load_configured(make_config(model={**facts, "layers": "auto", "top_k": 7}), CPU)


def test_keys_of_albef_are_refused_for_blip(model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.heads is for ALBEF checkpoint files"):
        load_model(str(model_folder), CPU, heads=(2, 3))
