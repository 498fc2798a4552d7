"""Lines, notes, progress bars and tables on the screen. Only the first process of a job prints."""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from tqdm import tqdm

from .errors import visible
from .runtime import rank


@contextmanager
def steady_console() -> Iterator[None]:
    """Keep the command running when its output is closed (``| head``) or cannot encode a character."""
    with redirect_stdout(_SteadyStream(sys.stdout)), redirect_stderr(_SteadyStream(sys.stderr)):
        yield


class _SteadyStream:
    """A text stream that escapes characters missing in its encoding (``\\u732b``) and writes nothing once closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError:
            self._silence()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        # otherwise Python would try to write the rest of the buffer at exit, and fail again
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(text: str) -> None:
    """Print ``text`` to stdout."""
    if rank() == 0:
        print(visible(text), flush=True)


def note(text: str) -> None:
    """Print ``text`` to stderr: information that is not part of the result."""
    if rank() == 0:
        print(visible(text), file=sys.stderr, flush=True)


def say_next(*steps: str) -> None:
    """Print what to open or run next, as the last line of a command."""
    say(f"next: {'; '.join(filter(None, steps))}")


@functools.cache
def note_once(text: str) -> None:
    """Like :func:`note`, but prints the same text only once."""
    note(text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``1,449 images``; ``plural`` if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """For people: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``; at least ``1 s``."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def progress(total: int, description: str, unit: str = "image", **options: Any) -> tqdm:
    """A progress bar over ``total`` units; ``options`` are tqdm's."""
    wanted = options.pop("disable", False)
    quiet = wanted if rank() == 0 else True
    return tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, disable=quiet, **options)


def table(rows: Sequence[Sequence[str]], indent: int = 2, gap: int = 3) -> str:
    """Rows of cells as aligned text: the first column left-aligned, the others right-aligned."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = (f"{pad}{cell}" for pad, cell in zip(["", *padded[1:]], row, strict=True))
        lines.append((" " * indent + (" " * gap).join([first + padded[0], *others])).rstrip())
    return "\n".join(lines)


def display_width(text: str) -> int:
    """Width of ``text`` in a terminal: wide East Asian characters take two columns, combining characters none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
