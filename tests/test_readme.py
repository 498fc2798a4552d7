"""Every command in README works: on the miniature it is run, elsewhere up to the missing data or model."""

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
from src.files import REPOSITORY
from tests import tiny
from tools.prepare.__main__ import main as prepare
from tools.report import main as report

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
OWN_DATA = [command for command in COMMANDS if "mine" in command]
SCRIPTS = [command for command in COMMANDS if re.match(r"python \w+_blip\.py ", command) and command not in OWN_DATA]
MODULES = [
    command for command in COMMANDS if re.match(r"python -m (?:src|tools)\.", command) and command not in OWN_DATA
]
KNOWN_MODULES = {
    "tools.check",
    "tools.prepare",
    "tools.report",
    "tools.miniature.dataset",
    "tools.miniature.train",
    "tools.benchmark",
    "src.explorer",
    "tools.reproduce",
}


def test_readme_has_its_commands() -> None:
    assert len(SCRIPTS) >= 8
    assert {command.split()[2] for command in MODULES} <= KNOWN_MODULES
    others = [command for command in COMMANDS if command not in SCRIPTS + MODULES + OWN_DATA]
    assert all(command.startswith("python -m venv .venv && .venv/bin/pip install") for command in others)


def test_ci_runs_readme_test_command() -> None:
    command = next(command for command in COMMANDS if command.endswith("-m pytest"))
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    for part in ("pip install -r requirements.txt pytest==", "ruff==", "playwright==", "-m pytest"):
        assert part in command
        assert part in ci


@pytest.mark.parametrize("command", SCRIPTS)
def test_scripts(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, script, *arguments = shlex.split(command)
    main = importlib.import_module(script.removesuffix(".py")).main
    arguments += ["--device", "cpu", "--output-dir", str(tmp_path)]
    if "miniature" not in command:
        # the real data and weights are gigabytes away: everything up to them must be right
        assert cli.run(main, arguments) == 2
        error = capsys.readouterr().err
        assert "does not exist" in error
        assert any(missing in error for missing in ("data_root", "--images"))
        return
    if "one_shot" in command:
        arguments += ["--set", "oneshot.total_runs=1", "oneshot.num_iterations=1", "crf.iters=0"]
    elif "--tuned" in command:
        assert cli.run(main, arguments) == 2  # the file is made by another command of README
        assert "one_shot_blip.py writes such files" in capsys.readouterr().err
        return
    else:
        arguments += ["--limit", "2"]
    assert cli.run(main, arguments) == 0
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize("command", MODULES)
def test_modules(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = shlex.split(command)[2:]
    if module == "tools.prepare":
        arguments = [a for a in arguments if a != "--download"] + ["--root", str(tmp_path)]
        assert cli.run(prepare, arguments) == 2  # nothing lies in that folder
        assert str(tmp_path) in capsys.readouterr().err
    elif module == "tools.report":
        assert cli.run(report, [str(tmp_path)]) == 2
    else:
        with pytest.raises(SystemExit) as end:  # --help comes last: everything before it must be known
            importlib.import_module(_command_of(module)).main([*arguments, "--help"])
        assert end.value.code == 0


def _command_of(module: str) -> str:
    """What ``python -m module`` runs: a package's ``__main__``."""
    return f"{module}.__main__" if (REPOSITORY / module.replace(".", "/")).is_dir() else module


def test_the_lines_of_python_work(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(REPOSITORY)
    names: dict[str, Any] = {}
    exec(block, names)
    shape = names["photo"].shape[:2]
    labels, heat_maps = names["labels"], names["heat_maps"]
    assert (labels.dtype, labels.shape) == (np.uint8, shape)
    assert list(heat_maps) == ["background", "boat", "bus", "couch"]
    assert all((map_.dtype, map_.shape) == (np.float32, shape) for map_ in heat_maps.values())
    np.testing.assert_allclose(sum(heat_maps.values()), 1, atol=1e-5)  # probabilities of the classes at each pixel
    present = np.unique(labels)
    assert set(present) == {0, 1, 2}  # there is a boat and a bus in the scene, and no couch
    for label, name in enumerate(heat_maps):
        if label in present:  # what is called boat is where the boat's heat map is hot
            inside = labels == label
            assert heat_maps[name][inside].mean() > 1.5 * heat_maps[name][~inside].mean()
    assert np.array_equal(names["segmenter"].segment_image(names["photo"]), labels)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_own_data_in_three_lines(tmp_path: Path, model_folder: Path) -> None:
    """From a folder to a result, on drawn scenes of two things that PASCAL does not know."""
    own = tiny.make_data(tmp_path / "my", sizes=((90, 120), (120, 77), (80, 80)))
    made = tmp_path / "data" / "mine"
    assert len(OWN_DATA) == 3
    prepared, named, segmented = (shlex.split(command) for command in OWN_DATA)
    paths = {"my/images": str(own / "images"), "my/masks": str(own / "masks")}
    assert cli.run(prepare, [paths.get(word, word) for word in prepared[3:]] + ["--root", str(made)]) == 0
    assert named[-1] == "data/mine/classes.json"
    entries = json.loads((made / "classes.json").read_text())
    for entry, name in zip(entries[1:], ("kitten", "dog", "red mug"), strict=True):
        entry["name"] = name
    (made / "classes.json").write_text(json.dumps(entries))
    arguments = [word.replace("data/mine", str(made)) for word in segmented[2:]]
    model = [f"model.name={model_folder}", f"model.image_size={tiny.SIZE}", "crf.iters=1", "runtime.amp=false"]
    arguments += ["--device", "cpu", "--output-dir", str(tmp_path / "results"), "--set", *model]
    assert cli.run(importlib.import_module("training_free_blip").main, arguments) == 0
    assert (tmp_path / "results" / "mine_training_free.csv").read_text().count("\n") == 5
