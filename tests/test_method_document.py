"""docs/method.md and the code refer to each other: every named heading, function and file exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from src.files import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "method.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)
LINKS = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", TEXT)
SOURCES = [
    path
    for place in ("*.py", "src/**/*.py", "replace_huggingface/*.py", "tests/**/*.py")
    for path in REPOSITORY.glob(place)
    if path != Path(__file__)
]


def test_headings_that_the_code_names_exist() -> None:
    named = [
        (path.name, heading)
        for path in SOURCES
        for heading in re.findall(r'docs/method\.md, "([^"]+)"', path.read_text(encoding="utf-8"))
    ]
    assert len(named) >= 8
    assert not [(path, heading) for path, heading in named if heading not in HEADINGS]


def test_the_code_names_headings_and_no_numbers() -> None:
    """Section numbers mean nothing to readers of the repository."""
    numbered = re.compile(r"\b(section|step)s? \d[\d, and]* of the method|\bMETHOD\b")
    assert not [path for path in SOURCES if numbered.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("name", "file"), LINKS)
def test_functions_that_the_document_names_exist(name: str, file: str) -> None:
    parts = name.split(".")
    module = next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if _file(parts[:n]).is_file())
    found = importlib.import_module(module)
    for part in parts[module.count(".") + 1 :]:
        found = getattr(found, part)
    assert callable(found)
    assert (DOCUMENT.parent / file).resolve() == _file(module.split("."))


def test_every_step_names_its_function() -> None:
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert not [section.splitlines()[0] for section in sections if not re.search(r"\[`[\w.]+`\]", section)]
    assert len(LINKS) > 30
    assert not re.findall(
        r"`(?:src|replace_huggingface)\.[\w.]+`(?!\]\()", TEXT.replace("`python -m tools.report`", "")
    )


def _file(parts: list[str]) -> Path:
    return REPOSITORY.joinpath(*parts).with_suffix(".py")
