"""The identity of a run: code that computes counts, code that prints does not."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from pathlib import Path

import pytest

from src.evaluation.identity import CODE, SPEAKING, code_digest, code_of, digest
from src.evaluation.sources import imported_modules
from src.files import REPOSITORY

CODE_OF_A_FUNCTION = '''"""A module."""
from .errors import UserError
from .screen import note

LIMIT = 3
"""Of images."""

def double(number: int) -> int:
    """Twice a number."""
    if number > LIMIT:  # a comment
        raise UserError(f"{number} is too much")
    note("doubled")
    return 2 * number
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module", "Another module"),
        ("Of images", "Of pictures"),
        ("Twice a number", "A number twice"),
        ("  # a comment", ""),
        ("is too much", "exceeds {LIMIT}"),
        ("doubled", "it was doubled"),
        ("return 2 * number", "return (2\n * number)"),
    ],
)
def test_messages_do_not_change_the_identity(old: str, new: str) -> None:
    assert old in CODE_OF_A_FUNCTION
    assert code_digest(CODE_OF_A_FUNCTION.replace(old, new)) == code_digest(CODE_OF_A_FUNCTION)


@pytest.mark.parametrize(("old", "new"), [("= 3", "= 4"), ("> LIMIT", ">= LIMIT"), ("2 * number", "number + number")])
def test_computation_changes_the_identity(old: str, new: str) -> None:
    assert old in CODE_OF_A_FUNCTION
    assert code_digest(CODE_OF_A_FUNCTION.replace(old, new)) != code_digest(CODE_OF_A_FUNCTION)


@pytest.mark.parametrize("experiment", CODE)
def test_the_code_of_an_experiment_is_the_code_that_computes_its_numbers(experiment: str) -> None:
    files = set(code_of(experiment))
    computing = {"method/attention", "method/crf", "method/crf_triton", "method/segmenter", "data/images", "data/frame"}
    computing |= {"replace_huggingface/modeling_blip_text"}
    assert {f"{name}.py" for name in computing} <= files
    assert not any(name.startswith(("output", "photos", "explorer", "cli")) for name in files)
    assert not files & set(SPEAKING)


def test_the_installed_package_has_the_code_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "segmentation_from_attention"
    shutil.copytree(REPOSITORY / "src", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "replace_huggingface", package / "replace_huggingface")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        installed = importlib.import_module("segmentation_from_attention.evaluation.identity")
        assert installed.__file__.startswith(str(package))
        assert {name: installed.code_of(name) for name in CODE} == {name: code_of(name) for name in CODE}
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]


@pytest.mark.parametrize("name", SPEAKING)
def test_files_that_print_do_not_compute(name: str) -> None:
    """They use no arrays, files or settings, and return text or a progress bar."""
    path = REPOSITORY / "src" / name
    own = {module for module in imported_modules(path) if module.startswith("src.")}
    speaking = {f"src.{Path(other).stem}" for other in SPEAKING}
    assert {".".join(module.split(".")[:2]) for module in own} <= {"src.runtime", *speaking}
    assert {module for module in own if module.startswith("src.runtime.")} <= {"src.runtime.rank"}
    imported = {module.split(".")[0] for module in imported_modules(path)}
    assert not imported & {"torch", "numpy", "cv2", "PIL", "transformers", "safetensors"}
    returned = {
        ast.unparse(node.returns)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.returns and not node.name.startswith("_")
    }
    assert returned <= {"None", "str", "int", "tqdm", "Iterator[None]"}


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
