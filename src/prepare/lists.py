"""Image lists: written once, compared with what is there, counted against the known numbers."""

from __future__ import annotations

from pathlib import Path

from src.errors import UserError
from src.files import write_text


def check_list(path: Path, lines: list[str], force: bool) -> None:
    """Make sure that :func:`write_list` may write ``lines`` to ``path``.

    Raises:
        UserError: a list with other lines is there and ``force`` is not given; or ``lines`` is empty.
    """
    if not lines:
        raise UserError(f"no images for the list {path}: no image that belongs in it has a mask; check the sources")
    if force or not path.exists():
        return
    present = _lines(path)
    if present != lines:
        raise UserError(
            f"list {path} ({len(present):,} lines) differs from the one made now ({len(lines):,} lines); "
            "--force replaces it, --lists FOLDER writes elsewhere"
        )


def write_list(path: Path, lines: list[str]) -> None:
    """Write an image list, a line per image, or keep the equal one that is there; say which."""
    if path.exists() and _lines(path) == lines:
        print(f"{path}: {len(lines):,} lines, already there and the same: kept")
        return
    write_text(path, "".join(f"{line}\n" for line in lines))
    print(f"{path}: {len(lines):,} lines, written")


def say_count(what: str, count: int, expected: int, remedy: str) -> None:
    """Print how ``count`` compares with the number known for the whole data set."""
    if count == expected:
        print(f"{what}: {count:,}, as expected")
    else:
        print(f"{what}: {count:,}, but {expected:,} expected; {remedy}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {path} cannot be read ({error}); move it away, or --lists FOLDER") from error
