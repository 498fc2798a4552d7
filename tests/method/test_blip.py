"""Loading models without a network: what is accepted, and what is refused with which message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer

from src.config.schema import Config
from src.errors import UserError
from src.files import REPOSITORY
from src.method import blip
from src.method.blip import Blip, load_blip
from src.method.checkpoints import load_configured
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(model_folder, tmp_path / "model")


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_loaded_model_is_frozen_in_float32_and_evaluation_mode(fused: Blip) -> None:
    assert {parameter.dtype for parameter in fused.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in fused.model.parameters())
    assert not fused.model.training
    assert (fused.layers, fused.patch_size, fused.device) == (tuple(range(tiny.LAYERS)), tiny.PATCH, CPU)


def test_float32_means_float32_on_cuda_too(folder: Path) -> None:
    """PyTorch lets CUDA's convolutions compute in TF32 by default, 1e-3 off."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    load_blip(str(folder), CPU)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_weights_are_those_of_the_folder(fused: Blip, exact: Blip) -> None:
    expected = tiny.random_blip().state_dict()
    loaded = fused.model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert fused.digest == exact.digest


def test_weights_stored_in_half_precision_are_computed_in_float32(folder: Path) -> None:
    tiny.save_model(folder, tiny.random_blip().half())
    assert load_blip(str(folder), CPU).model.itm_head.weight.dtype == torch.float32


def test_prompts_are_tokenised_together_and_padded_to_the_longest(fused: Blip) -> None:
    input_ids, attention_mask = fused.tokenize(["Image of sky.", "Image of red mug."])
    words = [[tiny.VOCABULARY[token] for token in prompt] for prompt in input_ids]
    assert words == [
        ["[CLS]", "image", "of", "sky", ".", "[SEP]", "[PAD]"],
        ["[CLS]", "image", "of", "red", "mug", ".", "[SEP]"],
    ]
    assert attention_mask.sum(1).tolist() == [6, 7]


def test_a_prompt_too_long_for_the_model_is_named(fused: Blip) -> None:
    with pytest.raises(UserError, match=r"prompt 'red cat .*' has more than 12 tokens"):
        fused.tokenize(["sky", "red cat " * 9])


def test_words_the_vocabulary_cannot_spell_are_found(fused: Blip) -> None:
    assert fused.unknown_words(["cat", "cats", "unicorn", "red unicorn"]) == ["unicorn", "red unicorn"]


@pytest.mark.parametrize("kind", ["BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipModel"])
def test_other_kinds_of_blip_are_refused(folder: Path, kind: str) -> None:
    edit_config(folder, architectures=[kind])
    with pytest.raises(UserError, match=rf"is a {kind}, not a BLIP image-text-matching model .*blip-itm-large-coco"):
        load_blip(str(folder), CPU)


def test_other_models_are_refused(folder: Path) -> None:
    edit_config(folder, model_type="clip", architectures=["CLIPModel"])
    with pytest.raises(UserError, match="is a CLIPModel, not a BLIP"):
        load_blip(str(folder), CPU)


@pytest.mark.parametrize("part", ["itm_head", "text_encoder.encoder.layer.1.crossattention", "vision_model"])
def test_incomplete_weights_are_refused(folder: Path, part: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(part)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    missing = len(weights) - len(kept)
    with pytest.raises(UserError, match=rf"weights lack {part}.* \(and {missing - 1} more\)"):
        load_blip(str(folder), CPU)


def test_missing_projection_heads_do_not_matter(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "_proj" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    load_blip(str(folder), CPU)


def test_damaged_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(
        UserError, match=r"model folder .* cannot be loaded: .*; it must contain config\.json"
    ) as refusal:
        load_blip(str(folder), CPU)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_required_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"model folder .* cannot be loaded"):
        load_blip(str(folder), CPU)


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


QUERY = "text_encoder.encoder.layer.1.crossattention.self.query.weight"


@pytest.mark.parametrize(
    ("more", "counted"), [([], ""), (["vision_model.post_layernorm.bias"], r" \(and 1 more differ\)")]
)
def test_weights_of_another_shape_are_named_with_both_shapes(
    more: list[str], counted: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def cut(weights: dict[str, Tensor]) -> None:
        for name in (QUERY, *more):
            weights[name] = weights[name][..., :20].contiguous()

    edit_weights(folder, cut)
    shapes = rf"{QUERY} has shape \[24, 20\]; expected \[24, 24\]{counted}; use both files"
    with pytest.raises(UserError, match=shapes):
        load_blip(str(folder), CPU)
    assert "MISMATCH" not in "".join(capfd.readouterr())


def test_a_configuration_of_another_size_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, text_config={**config["text_config"], "hidden_size": 26})
    with pytest.raises(
        UserError, match=r"do not fit its config\.json: itm_head\.weight has shape \[2, 24\]; expected \[2, 26\] "
    ):
        load_blip(str(folder), CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [QUERY, "vision_model.embeddings.class_embedding", "itm_head.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, folder: Path) -> None:
    edit_weights(folder, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    with pytest.raises(UserError, match=rf"weight {name} contains NaN or infinity"):
        load_blip(str(folder), CPU)


def test_projection_heads_may_have_any_values(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["vision_proj.weight"].fill_(float("nan")))
    load_blip(str(folder), CPU)


def test_a_folder_without_a_vocabulary_is_refused(folder: Path) -> None:
    for path in folder.iterdir():
        if "token" in path.name or "vocab" in path.name:
            path.unlink()
    with pytest.raises(UserError, match=r"has no vocabulary"):
        load_blip(str(folder), CPU)


def test_vocab_txt_alone_is_a_tokenizer(folder: Path) -> None:
    for path in folder.iterdir():
        if "token" in path.name:
            path.unlink()
    blip = load_blip(str(folder), CPU)
    assert blip.tokenize(["Image of cats."])[0].tolist() == [[2, 5, 6, 11, 12, 7, 3]]


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    """Token ids beyond the embedding table would raise an index error deep inside the model."""
    longer = folder / "vocab.txt"
    longer.write_text("\n".join([*tiny.VOCABULARY, "unicorn"]) + "\n")
    BertTokenizer(vocab=str(longer)).save_pretrained(folder)
    blip = load_blip(str(folder), CPU)
    blip.tokenize(["Image of mug."])
    with pytest.raises(UserError, match=r"tokenizer of .* does not fit .*'Image of unicorn\.'"):
        blip.tokenize(["Image of mug.", "Image of unicorn."])


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/no-such-blip", "models/blip/large", "data/blip"])
def test_missing_folders_are_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.name {name}: the folder .* does not exist"):
        load_blip(name, CPU)


def test_unreachable_hub_names_give_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"model nobody/no-blip is neither in the HuggingFace cache .*hf download"
    ) as refusal:
        load_blip("nobody/no-blip", CPU)
    assert "\n" not in str(refusal.value)


def test_layers_and_sizes_the_model_does_not_have_are_refused(make_config: Callable[..., Config]) -> None:
    assert load_configured(make_config(), CPU).layers == tuple(range(tiny.LAYERS))
    assert load_configured(make_config(model={"layers": "auto", "top_k": 4}), CPU)
    with pytest.raises(UserError, match=r"model\.layers: \[0, 4\] is not valid; expected layers 0 to 3"):
        load_configured(make_config(model={"layers": [0, 4]}), CPU)
    with pytest.raises(UserError, match=r"model\.top_k: 5 is not valid; expected at most 4"):
        load_configured(make_config(model={"layers": "auto", "top_k": 5}), CPU)
    with pytest.raises(UserError, match=r"model\.image_size: 72 is not valid; expected a multiple of 16"):
        load_configured(make_config(model={"image_size": 72}), CPU)


def change_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    edit(values)
    (folder / "config.json").write_text(json.dumps(values))


def test_pointers_of_git_lfs_are_named(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3512345\n"
    )
    with pytest.raises(UserError, match=r"model\.safetensors is a Git LFS pointer.*git lfs pull"):
        load_blip(str(folder), CPU)


def test_a_model_folder_holds_regular_files(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UserError, match=r"config\.json cannot be read: it is a named pipe"):
        load_blip(str(folder), CPU)


@pytest.mark.parametrize("prefix", ["model.", "module."])
def test_weights_of_a_wrapped_model_are_named(prefix: str, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    wrapped = {prefix + name: value for name, value in weights.items()}
    save_file(wrapped, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f'the names of its weights begin with "{prefix}"'):
        load_blip(str(folder), CPU)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.parametrize("value", [10**7, 0, -1, "many"])
def test_impossible_sizes_are_refused_before_allocating_memory(part: str, value: object, folder: Path) -> None:
    change_config(folder, lambda values: values[part].update(num_hidden_layers=value))
    with pytest.raises(UserError, match=rf"{part}\.num_hidden_layers in its config\.json is .*; expected 1 to 1,000"):
        load_blip(str(folder), CPU)


def test_code_that_a_config_names_is_not_loaded(folder: Path) -> None:
    """An ``attn_implementation`` with a slash is the name of a repository of kernels."""

    def name_kernels(values: dict[str, Any]) -> None:
        for section in (values, values["text_config"], values["vision_config"]):
            section["attn_implementation"] = section["_attn_implementation"] = "somebody/kernels"

    change_config(folder, name_kernels)
    config = load_blip(str(folder), CPU).model.config
    used = {each._attn_implementation for each in (config, config.text_config, config.vision_config)}
    assert used == {"eager"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://huggingface.co/Salesforce/blip-itm-base-coco", r"give only the hub name \(Salesforce/blip-itm-base"),
        ("models\\\\blip", r"separate the parts of a path by /"),
        ("./" + "a" * 300, "does not exist"),
    ],
)
def test_names_that_cannot_be_paths_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load_blip(name, CPU)


def test_a_revision_is_only_for_models_of_the_hub(model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.revision v1 is for models on the hub, but model\.name .* is a folder"):
        load_blip(str(model_folder), CPU, revision="v1")


def test_a_pinned_revision_reaches_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(blip, "_hub_answers", lambda name, revision: seen.append(revision) or True)
    monkeypatch.setattr(
        blip.BlipConfig, "get_config_dict", lambda name, **options: seen.append(options["revision"]) or 1
    )
    with pytest.raises(UserError, match="neither in the HuggingFace cache nor reachable"):
        load_blip("a/b", CPU, revision="v1")
    assert seen == ["v1", "v1"]


def test_a_hub_that_does_not_answer_is_tried_once(tmp_path: Path) -> None:
    """transformers tried five times for each of several files, for 47 seconds."""
    look = (
        "import torch; from src.errors import UserError; from src.method.blip import load_blip\n"
        "try: load_blip('nobody/nothing', torch.device('cpu'))\nexcept UserError as error: print(error)"
    )
    own = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", look]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | own, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("model nobody/nothing is neither in the HuggingFace cache nor reachable")
    assert "Retrying" not in done.stderr
