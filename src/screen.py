"""What a command shows: lines, notes, progress bars and tables. Of several processes only the first one speaks."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from src.runtime import rank


def say(text: str) -> None:
    """Print ``text`` on the standard output."""
    if rank() == 0:
        print(text, flush=True)


def note(text: str) -> None:
    """Print ``text`` on the standard error: what does not belong to the result but should be known."""
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def progress(total: int, description: str, unit: str = "image", **options: Any) -> tqdm:
    """A progress bar over ``total`` units; ``options`` are tqdm's."""
    return tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, disable=rank() != 0, **options)


def table(rows: Sequence[Sequence[str]], indent: int = 2, gap: int = 3) -> str:
    """Rows of cells as aligned text: the first column to the left, all others to the right, whatever their length."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = (f"{pad}{cell}" for pad, cell in zip(["", *padded[1:]], row, strict=True))
        lines.append((" " * indent + (" " * gap).join([first + padded[0], *others])).rstrip())
    return "\n".join(lines)


def display_width(text: str) -> int:
    """Columns that ``text`` takes in a terminal: wide East Asian characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
