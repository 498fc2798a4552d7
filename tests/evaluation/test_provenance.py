"""The provenance in result files."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable

import pytest
import torch

from src.config.schema import Config
from src.evaluation.provenance import command_line, provenance
from src.method.blip import Blip
from src.method.prompts import PromptSet
from src.method.segmenter import Segmenter


def test_provenance_says_where_numbers_come_from(make_config: Callable[..., Config], fused: Blip) -> None:
    prompts = PromptSet(("background", "cat"), ("sky", "cat"), (1, 1))
    config = make_config()
    segmenter = Segmenter.from_config(config, fused, prompts, (0, 2))
    values = provenance(config, segmenter)
    assert values["prompts"] == ["Image of sky.", "Image of cat."]
    assert values["layers"] == [0, 2]
    assert provenance(config, segmenter, layers=[3])["layers"] == [3]
    assert values["config"]["crf"] == {"iters": 2}
    assert values["config"]["model"]["image_size"] == 64
    assert values["torch"] == torch.__version__
    assert values["number_format"] == {"name": "float32", "why": "runtime.amp is false", "onednn": False}
    assert (values["device"], values["cuda"]) == ("cpu", None)
    assert {"transformers", "python", "git_commit", "date", "command", "config_file"} <= values.keys()
    json.dumps(values)


@pytest.mark.parametrize("start", [["training_free_blip.py"], ["-m", "src.photos", "my photo.jpg"]])
def test_the_recorded_command_can_be_pasted_into_a_shell(start: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [*start, "--set", "model.layers=[0, 3]", "--output-dir", "my results"]
    monkeypatch.setattr(sys, "orig_argv", ["/opt/venv/bin/python3", *typed])
    monkeypatch.setattr(sys, "argv", ["/checkout/src/photos/__main__.py", *typed[2:]] if start[0] == "-m" else typed)
    assert shlex.split(command_line()) == ["python", *typed]
