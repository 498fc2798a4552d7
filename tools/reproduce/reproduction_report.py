"""The report of a reproduction: one table of all scores, InfoScore's layers, the command of every row."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import read_regular
from src.output.reading import Result, Score, read_named
from src.output.report_tables import NOTHING, markdown_table
from src.screen import counted
from tools.reproduce.jobs import CONFIGS, SCRIPTS, Job

PAPERS_LAYERS = {"blip-itm-large": (0, 3)}
"""The paper's choice of layers, by a part of the model's name."""

COLUMNS = ("data set", "prompts", "experiment", "mIoU")
"""Columns of a reference file, and the first columns of the report."""

Reference = dict[tuple[str, str, str], float]


@dataclass(frozen=True)
class Row:
    """A finished job, its result and how long it took."""

    job: Job
    result: Result
    seconds: float

    @classmethod
    def read(cls, job: Job, seconds: float) -> Row:
        """Read the result of ``job``, which took ``seconds``. Raises UserError if the JSON is not a result."""
        return cls(job, read_named(job.result), seconds)

    @property
    def values(self) -> dict[str, Any]:
        """All that the JSON says."""
        return self.result.values

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.job.data, self.job.prompts, self.job.experiment)

    @property
    def miou(self) -> Score:
        """mIoU of the layers with the highest InfoScore."""
        return self.result.miou or Score(self.choice("InfoScore top"))

    def choice(self, name: str) -> float:
        """mIoU of the choice of layers whose name begins with ``name``, in InfoScore's comparison."""
        choices = self.values["comparison"]["choices"]
        return next(choice["miou"] for choice in choices if choice["name"].startswith(name))


def reproduction_markdown(rows: Sequence[Row], reference: Reference, changes: Sequence[str]) -> str:
    """The report.

    Args:
        rows: all jobs, finished.
        reference: mIoU in percent to compare with; may be empty.
        changes: differences from the shipped configurations, one sentence each.
    """
    parts = ["# Reproduction\n", *(f"**{change}**\n" for change in changes), _scores(rows, reference)]
    unmatched = [", ".join(key) for key in reference if key not in {row.key for row in rows}]
    if unmatched:
        parts.append(f"In the reference, but not computed here: {'; '.join(unmatched)}.\n")
    ranked = [row for row in rows if row.job.experiment == "infoscore"]
    if ranked:
        parts += ["## Layers\n", _layers(ranked)]
    commands = [f"# {row.job.name}\n{row.job.command}\n" for row in rows]
    parts += ["## Commands\n", f"```bash\n{''.join(commands)}```\n"]
    return "\n".join(parts)


def reproduction_bars(
    rows: Sequence[Row],
) -> tuple[list[str], list[tuple[str, list[float | None], list[float | None]]]]:
    """The input of :func:`src.output.charts.grouped_bars`: a group per data set, a bar per experiment and prompts."""
    groups = list(dict.fromkeys(row.job.data for row in rows))
    series = []
    for prompts, experiment in dict.fromkeys(row.key[1:] for row in rows):
        found = {row.job.data: row.miou for row in rows if row.key[1:] == (prompts, experiment)}
        scores = [found.get(group) for group in groups]
        means = [None if score is None else score.mean for score in scores]
        series.append((f"{experiment}, {prompts}", means, [None if score is None else score.std for score in scores]))
    return groups, series


def read_reference(path: Path) -> Reference:
    """Read a CSV with the columns :data:`COLUMNS`, mIoU in percent.

    Raises:
        UserError: the file is not such a table, or a row is a duplicate or its data set, prompts or experiment unknown.
    """
    known = (tuple(CONFIGS), ("single", "multi"), tuple(SCRIPTS))
    try:
        lines = list(csv.reader(read_regular(path, 1 << 20).decode("utf-8-sig").splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"reference {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not lines or tuple(cell.strip() for cell in lines[0]) != COLUMNS:
        raise UserError(f"reference {path}: its first line must be {','.join(COLUMNS)}")
    reference: Reference = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        cells = [cell.strip() for cell in line]
        if len(cells) != len(COLUMNS):
            raise UserError(f"reference {path}, line {number}: expected {len(COLUMNS)} values, got {len(cells)}")
        data, prompts, experiment = cells[0], cells[1], cells[2].replace("-", "_")
        for column, value, choices in zip(COLUMNS, (data, prompts, experiment), known, strict=False):
            if value not in choices:
                raise UserError(
                    f"reference {path}, line {number}: {column} is {value}; expected {' or '.join(choices)}"
                )
        if (data, prompts, experiment) in reference:
            raise UserError(f"reference {path}, line {number}: {data}, {prompts}, {experiment} is given twice")
        reference[data, prompts, experiment] = _percent(cells[3], f"reference {path}, line {number}")
    if reference and all(value <= 1 for value in reference.values()):
        raise UserError(f"reference {path}: mIoU is in percent (69.1, not 0.691)")
    return reference


def _percent(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UserError(f"{place}: mIoU is {text}; expected a number from 0 to 100")
    return value


def _scores(rows: Sequence[Row], reference: Reference) -> str:
    header = [*COLUMNS, "images", "seconds", "device", "number format", "commit"]
    if reference:
        header += ["reference", "difference"]
    lines = []
    for row in rows:
        runs, commit = row.result.facts.get("runs"), row.values.get("git_commit")
        line = [
            *row.key,
            str(row.miou),
            row.result.facts["images"] + (f" in {counted(int(runs), 'run')}" if runs else ""),
            f"{row.seconds:.0f}",
            str(row.values.get("device", NOTHING)),
            str((row.values.get("number_format") or {}).get("name", NOTHING)),
            NOTHING if commit is None else commit[:8] + "+" * commit.endswith("+"),
        ]
        if reference:
            known = reference.get(row.key)
            line += [NOTHING] * 2 if known is None else [f"{known:.2f}", f"{100 * row.miou.mean - known:+.2f}"]
        lines.append(line)
    about = (
        "mIoU in percent; of infoscore, of the layers that it ranks highest; of one_shot, mean ± std over the runs.\n"
    )
    return f"{about}\n{markdown_table(header, lines)}"


def _layers(rows: Sequence[Row]) -> str:
    header = [
        "data set",
        "InfoScore's best",
        "configured",
        "agree",
        "the paper's",
        "agree with it",
        "rho with mIoU",
        "mIoU of InfoScore's",
        "of all layers",
        "of the last",
    ]
    lines = []
    for row in rows:
        config, rho = row.job.task.config, row.values["comparison"]["spearman_rho"]
        best = sorted(row.values["layers"])
        papers = next((layers for name, layers in PAPERS_LAYERS.items() if name in config.model.name), None)
        lines.append(
            [
                row.job.data,
                _numbers(best),
                _numbers(config.model.layers),
                _yes(best == sorted(map(int, config.model.layers))),
                NOTHING if papers is None else _numbers(papers),
                NOTHING if papers is None else _yes(best == sorted(papers)),
                NOTHING if rho is None else f"{rho:.2f}",
                *(f"{100 * row.choice(name):.2f}" for name in ("InfoScore top", "all layers", "last layer")),
            ]
        )
    return markdown_table(header, lines)


def _numbers(layers: Sequence[object]) -> str:
    return ", ".join(map(str, layers))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
