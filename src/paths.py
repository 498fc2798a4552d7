"""Where this checkout lies, and paths relative to it."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def resolve(path: str) -> Path:
    """An absolute path as it is, any other relative to the root of the repository; ``~`` is the home folder."""
    return REPOSITORY / user_path(path)


def user_path(text: str) -> Path:
    """A path as a person types it, ``~`` being the home folder; the type of every path on a command line.

    The shell expands ``--output-dir ~/x``, but not ``--output-dir=~/x``.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name without such a user: a file may be called so
        return Path(text)
