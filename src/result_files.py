"""Names and writing of result files.

Files are written atomically. An existing, different result is renamed with its date.
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
from .files import create_bytes, real_path, resolve, utf8
from .runtime import rank
from .screen import say

VOLATILE = ("date", "seconds", "images_per_second")
"""Keys of result files whose values differ between runs of the same command."""
BESIDE = {
    "output.csv": ("_per_image", "_iou", "_confusion", "_overlays"),
    "output.infoscore_csv": ("_against_miou",),
    "output.summary_csv": ("_iou",),
}
"""Endings of the names of tables and charts beside the CSV of each key."""
_KEPT = re.compile(r"(.+)\.\d{8}-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Outputs:
    """Paths of result files.

    Args:
        directory: ``--output-dir``; None: the paths of the configuration.
        multi_prompt: add ``_multi`` to file names, so that multi-prompt results do not replace single-prompt results.
        tuned: add ``_tuned`` to file names (after ``_multi``), so that results of tuned weights do not replace others.
    """

    directory: Path | None
    multi_prompt: bool
    tuned: bool = False

    def path(self, configured: str) -> Path:
        """The path of a result file; ``configured`` is its path in the configuration."""
        path = resolve(configured)
        if self.directory is not None:
            path = self.directory / path.name
        stem = path.stem + ("_multi" if self.multi_prompt else "") + ("_tuned" if self.tuned else "")
        return path.with_name(stem + path.suffix)

    def infoscore_csv(self, config: Config) -> Path:
        """The path of InfoScore's CSV: ``output.infoscore_csv``, by default next to ``output.csv``."""
        csv = Path(config.output.csv)
        return self.path(config.output.infoscore_csv or str(csv.with_name(f"{csv.stem}_infoscore{csv.suffix}")))

    def per_image_csv(self, config: Config) -> Path:
        """The path of the scores of single images, beside ``output.csv``."""
        csv = self.path(config.output.csv)
        return csv.with_name(f"{csv.stem}_per_image.csv")

    def files_of(self, experiment: str, config: Config) -> list[Path]:
        """The files that ``training-free``, ``one-shot`` or ``infoscore`` (``experiment``) always writes."""
        if experiment == "training-free":
            csv = self.path(config.output.csv)
            return [csv, csv.with_suffix(".json")]
        if experiment == "infoscore":
            csv = self.infoscore_csv(config)
            return [csv, csv.with_suffix(".json"), csv.with_suffix(".png")]
        summary = self.path(config.output.summary_csv)
        chart = summary.with_name(f"{summary.stem}_iou.png")
        return [self.path(config.output.classwise_csv), summary, summary.with_suffix(".json"), chart]

    def check_names(self, config: Config) -> None:
        """Check that no experiment writes to the files of another: names of CSVs must differ in more than the suffix.

        Raises:
            UserError: two keys of section ``output`` have the same name.
        """
        named = {"output.csv": self.path(config.output.csv), "output.infoscore_csv": self.infoscore_csv(config)}
        if config.oneshot is not None:
            named["output.classwise_csv"] = self.path(config.output.classwise_csv)
            named["output.summary_csv"] = self.path(config.output.summary_csv)
        first: dict[Path, str] = {}
        for key, path in named.items():
            for ending in ("", *BESIDE.get(key, ())):
                other = first.setdefault(real_path(path.with_name(path.stem + ending)), key)
                if other != key:
                    where = "" if self.directory is None else f" in {self.directory}"
                    expected = f"a name that differs from the results of {other}{where} in more than its suffix"
                    raise config.refusal(key, path.name, expected)


def write_result(path: Path, content: str | bytes) -> None:
    """Write a result; an existing, different result is first renamed with its date, and a line is printed.

    If several commands write the same result at the same time, each is kept, with or without a date.

    Raises:
        UserError: see :func:`src.files.replacing`.
    """
    data = utf8(content) if isinstance(content, str) else content
    _write(path, data, lambda earlier: earlier == data)


def _write(path: Path, data: bytes, same: Callable[[bytes], bool]) -> None:
    """Write ``data`` to ``path``; an existing file is renamed unless it is the ``same``. Only process 0 writes."""
    if rank() > 0:
        return
    while not create_bytes(path, data):
        _set_aside(path, same)


def _set_aside(path: Path, same: Callable[[bytes], bool]) -> None:
    """Rename the file at ``path`` with its date to an unused name; remove it if it is the ``same``."""
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
            say(f"renamed the earlier {path.name} to {kept.name}")
    except FileNotFoundError:
        return  # another process has renamed it
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot rename the earlier {path}: {reason}; choose another folder") from error


def _take_name(path: Path, date: str) -> Path:
    """Create an empty file next to ``path`` with the date in its name, and a number if that name is taken."""
    kept, number = path.with_name(f"{path.stem}.{date}{path.suffix}"), 1
    while True:
        try:
            kept.open("x").close()
            return kept
        except FileExistsError:
            number += 1
            kept = path.with_name(f"{path.stem}.{date}-{number}{path.suffix}")


def earlier_result_of(path: Path) -> Path | None:
    """The path that a result had before it was renamed with its date to ``path``; None for any other ``path``."""
    match = _KEPT.fullmatch(path.stem)
    return path.with_name(match[1] + path.suffix) if match else None


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table as text, floats at full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a result as JSON; an existing one that differs in more than :data:`VOLATILE` is first renamed.

    NaN and infinity (such as the correlation of a constant) become null, because JSON has neither.
    """
    text = json.dumps(plain_values(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    written = lasting(json.loads(text))

    def same(earlier: bytes) -> bool:
        try:
            return lasting(json.loads(earlier)) == written
        except (ValueError, RecursionError):
            return False

    _write(path, utf8(text), same)


def plain_values(values: Any) -> Any:
    """``values`` as they are after writing and reading them with JSON."""
    if isinstance(values, dict):
        return {key: plain_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain_values(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def lasting(values: Any) -> Any:
    """``values`` without :data:`VOLATILE`."""
    if isinstance(values, dict):
        return {key: lasting(value) for key, value in values.items() if key not in VOLATILE}
    return [lasting(value) for value in values] if isinstance(values, list) else values
