"""docs/lower-numbers.md: its table names its sections, and its differences are those of the scores."""

from __future__ import annotations

import re

import pytest

from tests.documents import DOCUMENTS, python_commands

TEXT = DOCUMENTS["docs/lower-numbers.md"]
COMMANDS = [command for command in python_commands(TEXT) if "training_free_blip.py" in command]


def test_every_measurement_has_a_folder_of_its_own() -> None:
    folders = [re.findall(r"--output-dir (\S+)", command) for command in COMMANDS]
    assert len(folders) >= 10
    assert all(len(folder) == 1 for folder in folders)
    assert len({folder[0] for folder in folders}) == len(folders)


def test_every_mistake_has_its_section() -> None:
    headings = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert len(anchors) == len(headings) >= 10
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_differences_are_those_of_the_scores() -> None:
    base = float(re.findall(r"\*\*([\d.]+)\*\*", TEXT)[0])
    rows = re.findall(r"^\|(.+)\| ([\d.]+) \| ([+-][\d.]+) \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) >= 9
    for row, miou, difference in rows:
        against = re.findall(r"\(([\d.]+)[ )]", row)  # of the same images
        assert float(miou) - float(against[0] if against else base) == pytest.approx(float(difference), abs=0.0051)
