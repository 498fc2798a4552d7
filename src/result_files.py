"""Names and writing of result files.

Files appear whole or not at all. An existing, different result is renamed with its date.
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
"""Keys of result files whose values differ between runs of the same command."""
_KEPT = re.compile(r"(.+)\.\d{8}-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Outputs:
    """Decides the paths of result files.

    Args:
        directory: ``--output-dir``; None uses the paths of the configuration.
        multi_prompt: file names get ``_multi`` before their suffix, so that single- and multi-prompt results differ.
        tuned: they get ``_tuned`` (after ``_multi``), so that results of tuned weights differ from the model's own.
    """

    directory: Path | None
    multi_prompt: bool
    tuned: bool = False

    def path(self, configured: str) -> Path:
        """The path of the result file that is ``configured`` in the configuration."""
        path = resolve(configured)
        if self.directory is not None:
            path = self.directory / path.name
        stem = path.stem + ("_multi" if self.multi_prompt else "") + ("_tuned" if self.tuned else "")
        return path.with_name(stem + path.suffix)

    def infoscore_csv(self, config: Config) -> Path:
        """The path of InfoScore's CSV: ``output.infoscore_csv``, by default beside ``output.csv``."""
        csv = Path(config.output.csv)
        return self.path(config.output.infoscore_csv or str(csv.with_name(f"{csv.stem}_infoscore{csv.suffix}")))

    def per_image_csv(self, config: Config) -> Path:
        """The path of the scores of single images, beside ``output.csv``."""
        csv = self.path(config.output.csv)
        return csv.with_name(f"{csv.stem}_per_image.csv")

    def files_of(self, experiment: str, config: Config) -> list[Path]:
        """The files that an experiment always writes; check before computing that they can be written.

        Args:
            experiment: ``training-free``, ``one-shot`` or ``infoscore``.
            config: names the tables.
        """
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
        """Check that no result of one experiment displaces a result of another.

        The JSON and the charts of a CSV have its name with another suffix, so two suffixes are not enough.

        Raises:
            UserError: two keys of section ``output`` name the same files.
        """
        named = {"output.csv": self.path(config.output.csv), "output.infoscore_csv": self.infoscore_csv(config)}
        if config.oneshot is not None:
            named["output.classwise_csv"] = self.path(config.output.classwise_csv)
            named["output.summary_csv"] = self.path(config.output.summary_csv)
        first: dict[Path, str] = {}
        for key, path in named.items():
            other = first.setdefault(path.with_suffix(""), key)
            if other != key:
                where = "" if self.directory is None else f" in {self.directory}"
                raise config.refusal(key, path.name, f"another name than {other} has{where}, its suffix aside")


def write_result(path: Path, content: str | bytes) -> None:
    """Write a result; an existing, different one is renamed with its date first, and a line says so.

    Where several processes write the same result at once, none is lost: each is at ``path`` or under a name with its
    date.

    Raises:
        UserError: see :func:`src.files.replacing`.
    """
    data = utf8(content) if isinstance(content, str) else content
    _write(path, data, lambda earlier: earlier == data)


def _write(path: Path, data: bytes, same: Callable[[bytes], bool]) -> None:
    """Write ``data`` to ``path``; an existing file is kept unless it is the ``same``. Only the first process writes."""
    if rank() > 0:
        return
    while not create_bytes(path, data):
        _set_aside(path, same)


def _set_aside(path: Path, same: Callable[[bytes], bool]) -> None:
    """Rename the file at ``path`` with its date, to a name that is free; remove it if it is the ``same``."""
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
    """Make an empty file beside ``path`` with the date in its name, and a number where that name is taken."""
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
    """A CSV table as text; floats are written in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a result as JSON; an existing one that differs in more than :data:`VOLATILE` is renamed with its
    date first.

    NaN and infinity (the correlation of a constant, say) become null, because JSON has neither.
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
    """``values`` as :func:`write_json` writes them and JSON gives them back."""
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
