"""Result files: what they are called and how they are written. (What is in them is said by the results themselves.)

Files appear whole or not at all. A result that is already there is never lost: if the new one differs, the earlier file
stays beside it under a name that carries its date.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config.schema import Config
from src.files import write_bytes, write_text
from src.paths import resolve
from src.screen import say

VOLATILE = ("date", "seconds", "images_per_second")
"""Keys of result files whose values differ from run to run of the same command."""


@dataclass(frozen=True)
class Outputs:
    """Decides the paths of result files.

    Args:
        directory: ``--output-dir``; None leaves files where the configuration says.
        multi_prompt: file names gain ``_multi`` before their ending, so that the two modes never meet.
    """

    directory: Path | None
    multi_prompt: bool

    def path(self, configured: str) -> Path:
        """Where the file that the configuration calls ``configured`` goes."""
        path = resolve(configured)
        if self.directory is not None:
            path = self.directory / path.name
        stem = path.stem + ("_multi" if self.multi_prompt else "")
        return path.with_name(stem + path.suffix)

    def infoscore_csv(self, config: Config) -> Path:
        """Where InfoScore goes: ``output.infoscore_csv``, by default beside ``output.csv``."""
        csv = Path(config.output.csv)
        return self.path(config.output.infoscore_csv or str(csv.with_name(f"{csv.stem}_infoscore{csv.suffix}")))


def write_result(path: Path, content: str | bytes) -> None:
    """Write a result; an earlier one with other content is moved aside first, and that is said."""
    data = content.encode() if isinstance(content, str) else content
    keep_earlier(path, data)
    write_bytes(path, data)


def keep_earlier(path: Path, content: bytes) -> None:
    """Move the file at ``path``, if there is one and it is not ``content``, to a name with its date."""
    if not path.is_file() or path.read_bytes() == content:
        return
    date = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
    kept = path.with_name(f"{path.stem}.{date}{path.suffix}")
    number = 2
    while kept.exists():
        kept = path.with_name(f"{path.stem}.{date}-{number}{path.suffix}")
        number += 1
    path.rename(kept)
    say(f"kept the earlier {path.name} as {kept.name}")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table as text; floats are written in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a result as JSON; an earlier one that says more than another time or date is moved aside first.

    A number that is not finite (the correlation of a constant, say) becomes null: JSON has no other word for it.
    """
    text = json.dumps(_finite(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        same = _lasting(json.loads(path.read_text(encoding="utf-8"))) == _lasting(json.loads(text))
    except (OSError, ValueError):
        same = False
    if same:
        write_text(path, text)
    else:
        write_result(path, text)


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _lasting(values: Any) -> Any:
    """``values`` without what differs from run to run of the same command."""
    if isinstance(values, dict):
        return {key: _lasting(value) for key, value in values.items() if key not in VOLATILE}
    return [_lasting(value) for value in values] if isinstance(values, list) else values
