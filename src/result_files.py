"""Result files: what they are called and how they are written. (What is in them is said by the results themselves.)

Files appear whole or not at all. A result that is already there is never lost: if the new one differs, the earlier file
stays beside it under a name that carries its date.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config.schema import Config
from .errors import UserError
from .files import create_bytes, resolve, utf8
from .runtime import rank
from .screen import say

VOLATILE = ("date", "seconds", "images_per_second")
"""Keys of result files whose values differ from run to run of the same command."""
_KEPT = re.compile(r"(.+)\.\d{8}-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Outputs:
    """Decides the paths of result files.

    Args:
        directory: ``--output-dir``; None leaves files where the configuration says.
        multi_prompt: file names gain ``_multi`` before their ending, so that the two modes never meet.
        tuned: they gain ``_tuned`` (after ``_multi``): results of tuned weights stand beside those of the model's own.
    """

    directory: Path | None
    multi_prompt: bool
    tuned: bool = False

    def path(self, configured: str) -> Path:
        """Where the file that the configuration calls ``configured`` goes."""
        path = resolve(configured)
        if self.directory is not None:
            path = self.directory / path.name
        stem = path.stem + ("_multi" if self.multi_prompt else "") + ("_tuned" if self.tuned else "")
        return path.with_name(stem + path.suffix)

    def infoscore_csv(self, config: Config) -> Path:
        """Where InfoScore goes: ``output.infoscore_csv``, by default beside ``output.csv``."""
        csv = Path(config.output.csv)
        return self.path(config.output.infoscore_csv or str(csv.with_name(f"{csv.stem}_infoscore{csv.suffix}")))


def write_result(path: Path, content: str | bytes) -> None:
    """Write a result; an earlier one with other content is moved aside first, and that is said.

    Of processes that write the same result at once none loses one: each is found at ``path`` or under a name with its
    date.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    data = utf8(content) if isinstance(content, str) else content
    _write(path, data, lambda earlier: earlier == data)


def _write(path: Path, data: bytes, same: Callable[[bytes], bool]) -> None:
    """Write ``data`` to ``path``; what is there is kept unless it is the ``same``. Of a job's processes one writes."""
    if rank() > 0:
        return
    while not create_bytes(path, data):
        _set_aside(path, same)


def _set_aside(path: Path, same: Callable[[bytes], bool]) -> None:
    """Move the file at ``path`` to a name with its date that nobody else has taken; remove it if it is the ``same``."""
    try:
        date = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.lstat().st_mtime))
        kept = _take_name(path, date)
        try:
            os.replace(path, kept)
        except FileNotFoundError:
            kept.unlink()
            raise
        if same(kept.read_bytes()):
            kept.unlink()
        else:
            say(f"kept the earlier {path.name} as {kept.name}")
    except FileNotFoundError:
        return  # another process has moved it
    except OSError as error:
        raise UserError(f"cannot keep the earlier {path}: {error.strerror or error}; choose another folder") from error


def _take_name(path: Path, date: str) -> Path:
    """An empty file beside ``path`` whose name has the date, and a number if need be."""
    kept, number = path.with_name(f"{path.stem}.{date}{path.suffix}"), 1
    while True:
        try:
            kept.open("x").close()
            return kept
        except FileExistsError:
            number += 1
            kept = path.with_name(f"{path.stem}.{date}-{number}{path.suffix}")


def earlier_result_of(path: Path) -> Path | None:
    """The result whose place another one took, if ``path`` is the name that it was then given; else None."""
    match = _KEPT.fullmatch(path.stem)
    return path.with_name(match[1] + path.suffix) if match else None


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
    lasting = _lasting(json.loads(text))

    def same(earlier: bytes) -> bool:
        try:
            return _lasting(json.loads(earlier)) == lasting
        except (ValueError, RecursionError):
            return False

    _write(path, utf8(text), same)


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
