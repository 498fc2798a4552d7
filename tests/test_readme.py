"""README's commands work: those on the miniature run, others run up to the missing data or model."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import cli
from tests import tiny
from tests.documents import DOCUMENTS, REPOSITORY, blocks, commands, module_and_arguments, python_commands

README = DOCUMENTS["README.md"]
OWN_DATA = [command for command in commands(README) if "mine" in command]
SCRIPTS = [command for command in python_commands(README) if "_blip.py" in command and command not in OWN_DATA]


def test_commands_begin_with_an_activated_environment() -> None:
    first, *others = commands(README)
    assert first.startswith("python3 -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt")
    programs = {"python", "pip", "nano"}
    assert {command.split()[0] for command in others} <= programs


@pytest.mark.parametrize("command", SCRIPTS)
def test_readme_scripts(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, arguments = module_and_arguments(command)
    main = importlib.import_module(module).main
    arguments += ["--device", "cpu", "--output-dir", str(tmp_path)]
    if "miniature" in command:
        assert cli.run(main, [*arguments, "--limit", "2"]) == 0
        (picture,) = re.findall(r"`results/(\w+\.png)`", README)  # as README promises
        assert (tmp_path / picture).is_file()
        return
    # real data and weights are gigabytes: everything up to loading them must work
    assert cli.run(main, arguments) == 2
    error = capsys.readouterr().err
    assert "data_root" in error
    assert "does not exist" in error


def test_data_commands_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = [
        command for command in python_commands(README) if "tools.prepare" in command and command not in OWN_DATA
    ]
    assert len(prepared) == 2
    for command in prepared:
        module, arguments = module_and_arguments(command)
        arguments = [word for word in arguments if word != "--download"] + ["--root", str(tmp_path)]
        assert cli.run(importlib.import_module(module).main, arguments) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_the_lines_of_python_work(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(README, "python")
    monkeypatch.chdir(REPOSITORY)
    names: dict[str, Any] = {}
    exec(block, names)
    shape = names["result"].rgb.shape[:2]
    labels, heat_maps = names["labels"], names["heat_maps"]
    assert (labels.dtype, labels.shape) == (np.uint8, shape)
    assert list(heat_maps) == ["background", "boat", "bus", "couch"]
    assert all((map_.dtype, map_.shape) == (np.float32, shape) for map_ in heat_maps.values())
    np.testing.assert_allclose(sum(heat_maps.values()), 1, atol=1e-5)  # probabilities of the classes at each pixel
    present = np.unique(labels)
    assert set(present) == {0, 1, 2}  # the scene has a boat and a bus, and no couch
    for label, name in enumerate(heat_maps):
        if label in present:  # pixels labelled boat are those where the boat's heat map is hot
            inside = labels == label
            assert heat_maps[name][inside].mean() > 1.5 * heat_maps[name][~inside].mean()
    assert names["picture"].width == shape[1]


def test_own_data_in_three_lines(tmp_path: Path, model_folder: Path) -> None:
    """From a folder to a result, on drawn scenes of two classes outside PASCAL."""
    own = tiny.make_data(tmp_path / "my", sizes=((90, 120), (120, 77), (80, 80)))
    made = tmp_path / "data" / "mine"
    prepared, named, segmented = OWN_DATA
    paths = {"my/images": str(own / "images"), "my/masks": str(own / "masks")}
    module, arguments = module_and_arguments(prepared)
    arguments = [paths.get(word, word) for word in arguments] + ["--root", str(made)]
    assert cli.run(importlib.import_module(module).main, arguments) == 0
    assert shlex.split(named)[-1] == "data/mine/classes.json"
    entries = json.loads((made / "classes.json").read_text())
    for entry, name in zip(entries[1:], ("kitten", "dog", "red mug"), strict=False):
        entry["name"] = name
    (made / "classes.json").write_text(json.dumps(entries))
    module, arguments = module_and_arguments(segmented)
    arguments = [word.replace("data/mine", str(made)) for word in arguments]
    model = [f"model.name={model_folder}", f"model.image_size={tiny.SIZE}", "crf.iters=1", "runtime.amp=false"]
    arguments += ["--device", "cpu", "--output-dir", str(tmp_path / "results"), "--set", *model]
    assert cli.run(importlib.import_module(module).main, arguments) == 0
    assert (tmp_path / "results" / "mine_training_free.csv").read_text().count("\n") == len(entries) + 1
