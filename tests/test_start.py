"""Before torch is imported, which takes seconds: --help, and errors of options and configurations."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path

import pytest

import training_free_blip
from src import cli
from src.files import REPOSITORY

WATCHED = """
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    (runpy.run_path if script.endswith(".py") else runpy.run_module)(script, run_name="__main__")
except SystemExit as end:
    print("exit", end.code, "torch" if "torch" in sys.modules else "no torch")
"""
SCRIPTS = ("training_free_blip.py", "compute_infoscore_blip.py", "one_shot_blip.py")
CONFIG = "configs/miniature_one_shot.yaml"
ANSWERED = {
    "help": ["--help"],
    "no_such_option": ["--confg", CONFIG],
    "no_such_file": ["--config", "configs/none.yaml"],
    "unknown_key": ["--config", CONFIG, "--set", "crf.iterations=3"],
    "wrong_class_file": ["--config", CONFIG, "--set", "class_name_dir=configs/classes/coco.json"],
    "no_device": ["--config", CONFIG, "--device", "gpu"],
    "no_list": ["--config", CONFIG, "--set", "oneshot.test_list=nowhere.txt"],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", ANSWERED.values(), ids=ANSWERED)
def test_help_and_errors_need_no_torch(script: str, arguments: list[str]) -> None:
    command = [sys.executable, "-c", WATCHED, script, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    expected = "0" if arguments == ["--help"] else "2"
    assert done.stdout.splitlines()[-1] == f"exit {expected} no torch", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["nowhere.jpg"], ["docs/photo.png", "--classes", "cat; cat"]])
def test_wrong_photos_and_words_are_refused_without_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-c", WATCHED, "src.photos", *arguments, "--config", "configs/miniature.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "exit 2 no torch", done.stderr


def test_images_option_names_the_photo_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(training_free_blip.main, ["--images", "photo.jpg", "--classes", "cat"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--images is not an option of training_free_blip.py: python -m src.photos PATH" in line


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["default", "count", "policy"],
)
def test_idle_threads_sleep_soon_unless_the_user_sets_otherwise(own: dict[str, str], expected: str) -> None:
    """The variable is set before torch loads OpenMP."""
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    look = 'import os, sys; import src; print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)'
    command = [sys.executable, "-c", look]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, env=others | own)
    assert done.stdout.split() == [expected, "False"]


FIRST_IMAGE = """
import gc, importlib, sys
from src import cli
from src.method.segmenter import Segmenter

def first_image(self, *_):
    print("first image", "matplotlib" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000)
    sys.exit(0)

Segmenter.encode_images = first_image
cli.run(importlib.import_module(sys.argv[1]).main, sys.argv[2:])
"""


@pytest.mark.parametrize("script", ["training_free_blip", "compute_infoscore_blip"])
def test_charts_and_garbage_collection_do_not_delay_the_first_image(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_IMAGE, script, "--config", "configs/miniature.yaml", "--device", "cpu"]
    command += ["--output-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "first image False True True"


@pytest.mark.parametrize("before", [True, False])
def test_garbage_is_collected_again_after_imports(before: bool) -> None:
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with suppress(ImportError), cli.quick_imports():
            during = gc.isenabled()
            importlib.import_module("src.no_such_module")
        assert not during
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()
        gc.unfreeze()


def test_memory_of_a_finished_experiment_is_collected() -> None:
    """A command that runs others enters quick_imports repeatedly; frozen objects would never be freed."""

    class Model:
        def __init__(self) -> None:
            self.itself = self

    try:
        with cli.quick_imports():
            pass
        model = weakref.ref(Model())  # only a reference cycle holds it
        with cli.quick_imports():
            pass
        gc.collect()
        assert model() is None
    finally:
        gc.unfreeze()


NAMELESS = """
import os, pwd, sys
def lack(*_):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = lack
import src
import getpass
from src.errors import UserError
from src.files import user_path
from src.method.precision import _folder
print(getpass.getuser(), os.path.isabs(_folder()))
from transformers.utils.hub import constants
print(os.path.isabs(constants.HF_HOME))
try:
    print(user_path("~/x"))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no passwd")
@pytest.mark.parametrize("own", [{}, {"USER": "x", "XDG_CACHE_HOME": "/caches"}])
def test_a_user_without_name_and_home_gets_defaults(own: dict[str, str], tmp_path: Path) -> None:
    """As in `docker run --user 12345`: importing transformers raised a KeyError, and a folder ~ was made."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), **own}
    command = [sys.executable, "-c", NAMELESS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == [
        f"{own.get('USER', f'uid{os.getuid()}')} True",
        "True",
        "~/x: this user has no home folder; give an absolute path",
    ]
    assert not (tmp_path / "~").exists()
