"""Room on a disk, asked for before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from src.errors import UserError

GB = 10**9


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of ``folder``, which need not exist yet."""
    folder = folder.resolve()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def require_space(folder: Path, needed: int, purpose: str, remedy: str) -> None:
    """Make sure that the disk of ``folder`` (which need not exist yet) has ``needed`` bytes free.

    Raises:
        UserError: it has not; the message gives ``purpose``, both numbers and ``remedy``.
    """
    if needed <= 0:
        return
    free = free_space(folder)
    if free < needed:
        raise UserError(f"{purpose} needs about {size(needed)} in {folder}, but {size(free)} are free; {remedy}")


def size(count: int) -> str:
    """A number of bytes for people: ``1.5 GB``, ``30.0 MB``, ``64.0 kB``."""
    for unit, name in ((GB, "GB"), (10**6, "MB")):
        if count >= unit / 10:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
