"""Converting an ALBEF checkpoint: the folder computes what the checkpoint does, and nothing is overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from src import cli
from src.errors import UserError
from src.files import REPOSITORY
from src.method.checkpoints import load_model
from tests.parity.test_albef import GOLDEN, load, pixels_of, segmenter_of
from tools import convert

CPU = torch.device("cpu")


def run(folder: Path, checkpoint: Path = GOLDEN / "checkpoint.pth") -> int:
    options = ["--tokenizer", str(GOLDEN), "--heads", "2", "3"]
    return cli.run(convert.main, ["albef", str(checkpoint), str(folder), *options])


def test_the_folder_computes_what_the_checkpoint_does(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "albef"
    assert run(folder) == 0
    assert not list(folder.parent.glob(".*"))
    checkpoint, converted = load(), load_model(str(folder), CPU, fused=False)
    assert converted.digest == checkpoint.digest
    assert converted.architecture == checkpoint.architecture
    assert converted.layers == (6, 7, 8, 9, 10, 11)
    before, after = segmenter_of(checkpoint), segmenter_of(converted)
    assert torch.equal(before.input_ids, after.input_ids)
    assert torch.equal(before.segment(pixels_of(64)), after.segment(pixels_of(64)))


def test_existing_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(tmp_path) == 2
    assert "exists and is not an empty folder; remove it or choose another one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_refused_checkpoint_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "new", REPOSITORY / "README.md") == 2
    assert "cannot be read as weights saved by PyTorch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["config", "weights", "tokenizer"])
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "albef"
    assert run(folder) == 0
    if damage == "config":
        (folder / "config.json").write_text(json.dumps({"model_type": "albef"}))
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    else:
        for path in [*folder.glob("*token*"), *folder.glob("vocab*")]:
            path.unlink()
    expected = "tokenizer .* cannot be loaded" if damage == "tokenizer" else "convert the checkpoint again"
    with pytest.raises(UserError, match=expected):
        load_model(str(folder), CPU)


def edit(folder: Path, part: str, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (
            "num_hidden_layers",
            10**7,
            r"num_hidden_layers in its config\.json is 10000000; expected 1 to 1,000",
        ),
        ("hidden_act", "nothing", "cannot be loaded: .*convert the checkpoint again"),
        ("num_attention_heads", 5, "cannot be loaded: .*convert the checkpoint again"),
        ("layer_norm_eps", "small", "convert the checkpoint again"),
        ("fusion_layer", None, "convert the checkpoint again"),
    ],
)
def test_an_edited_config_is_refused_in_one_line(key: str, value: object, reason: str, tmp_path: Path) -> None:
    assert run(tmp_path / "albef") == 0
    edit(tmp_path / "albef", "text_config", **{key: value})
    with pytest.raises(UserError, match=reason) as refused:
        load_model(str(tmp_path / "albef"), CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_model_folder_with_special_files_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "albef"
    assert run(folder) == 0
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=f"{name} cannot be read: it is a named pipe"):
        load_model(str(folder), CPU)
    (folder / name).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=f"{name} is a Git LFS pointer"):
        load_model(str(folder), CPU)


def test_a_checkpoint_name_that_is_too_long_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"the checkpoint .* does not exist; give a file, a folder or a hub name"):
        load_model(f"{'a' * 300}.pth", CPU)


def test_a_folder_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "albef", tmp_path / "no.pth") == 2
    assert f"cannot write {tmp_path / 'file'}" in capsys.readouterr().err


def test_the_folder_contains_its_tokenizer_and_heads(tmp_path: Path) -> None:
    assert run(tmp_path / "albef") == 0
    with pytest.raises(UserError, match=r"model\.tokenizer is for ALBEF checkpoint files.*remove the key"):
        load_model(str(tmp_path / "albef"), CPU, tokenizer="google-bert/bert-base-uncased")
