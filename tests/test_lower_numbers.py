"""docs/lower-numbers.md: its commands are understood, and its table points at sections that are there."""

from __future__ import annotations

import re
import shlex

import pytest

import training_free_blip
from src import cli
from src.files import REPOSITORY

TEXT = (REPOSITORY / "docs" / "lower-numbers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    assert script == "training_free_blip.py"
    args = training_free_blip._parser().parse_args(arguments)
    args.config = REPOSITORY / args.config
    cli.configuration(args)  # keys and values are known
    assert args.output_dir is not None


def test_every_trap_has_its_section() -> None:
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
