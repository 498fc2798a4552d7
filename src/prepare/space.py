"""Room on the disk, asked for before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from src.errors import UserError

GB = 10**9


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Make sure that the disk of ``folder`` (which need not exist yet) has ``needed`` bytes free.

    Raises:
        UserError: it has not; the message gives both numbers and ``purpose``.
    """
    if needed <= 0:
        return
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{purpose} needs about {_size(needed)} in {folder}, but {_size(free)} are free; "
            "make room or choose another --root"
        )


def _size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 10**6:.1f} MB"
