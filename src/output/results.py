"""Result files: CSV tables, a JSON that says where the numbers come from, and the table on the screen.

Files appear whole or not at all. A result that is already there is never lost: if the new one differs, the earlier file
stays beside it under a name that carries its date.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from src.config.schema import Config
from src.evaluation.metrics import ConfusionMatrix
from src.files import write_bytes, write_text
from src.method.prompts import PromptSet
from src.paths import REPOSITORY, resolve

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

    def path(self, configured: str, ending: str | None = None) -> Path:
        """Where the file that the configuration calls ``configured`` goes; ``ending`` replaces its suffix."""
        path = resolve(configured)
        if self.directory is not None:
            path = self.directory / path.name
        stem = path.stem + ("_multi" if self.multi_prompt else "")
        return path.with_name(stem + (path.suffix if ending is None else ending))

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
    print(f"kept the earlier {path.name} as {kept.name}")


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


def iou_values(confusion: ConfusionMatrix, names: Sequence[str]) -> dict[str, Any]:
    """Scores of an evaluation as plain values: mIoU, and IoU, intersection and union per class."""
    return {
        "miou": confusion.miou,
        "classes": [
            {"name": name, "iou": iou, "intersection": intersection, "union": union}
            for name, iou, intersection, union in zip(
                names,
                confusion.iou.tolist(),
                confusion.intersection.tolist(),
                confusion.union.tolist(),
                strict=True,
            )
        ],
        "confusion": confusion.counts.tolist(),
    }


def provenance(config: Config, prompts: PromptSet, layers: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Where numbers come from: command, settings, prompts, software, hardware, commit."""
    cuda = device.type == "cuda"
    return {
        "command": " ".join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config_file": config.source,
        "config": config.to_dict(),
        "layers": list(layers),
        "prompts": prompts.prompts,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "git_commit": _git_commit(),
    }


def score_table(names: Sequence[str], iou: Sequence[float], miou: str) -> str:
    """Per-class IoU in percent for the screen, two classes a line, and ``miou`` as the last line."""
    cells = [f"{name:<16}{100 * value:6.2f}" for name, value in zip(names, iou, strict=True)]
    half = (len(cells) + 1) // 2
    right = cells[half:] + [""] * (2 * half - len(cells))
    lines = [f"  {a}     {b}".rstrip() for a, b in zip(cells[:half], right, strict=True)]
    return "\n".join([*lines, f"  {'mIoU':<16}{miou:>6}"])


def _git_commit() -> str | None:
    """Commit of this checkout, with ``+`` if tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
