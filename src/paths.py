"""Where this checkout lies, and paths relative to it."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def resolve(path: str) -> Path:
    """An absolute path as it is, any other relative to the root of the repository; ``~`` is the home folder."""
    return REPOSITORY / Path(path).expanduser()
