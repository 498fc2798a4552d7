"""Results side by side: what a report takes from result files, its tables and its bars."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError

EXPERIMENTS = ("training-free", "one-shot", "infoscore")
KEPT = re.compile(r"\.\d{8}-\d{6}(-\d+)?$")  # the date in the name of an earlier result that was kept
NOTHING = "–"


@dataclass(frozen=True)
class Score:
    """A score as a fraction; ``std`` over the runs of one-shot tuning, else None."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.mean:.2f}" + ("" if self.std is None else f" ± {100 * self.std:.2f}")


@dataclass(frozen=True)
class Result:
    """One result file. ``scores``: mIoU first, then the classes in label order; empty for an InfoScore ranking."""

    path: Path
    values: dict[str, Any]
    scores: dict[str, Score]

    @property
    def experiment(self) -> str:
        return self.values["experiment"]

    @property
    def facts(self) -> dict[str, str]:
        """What tells this result from others: experiment, prompts, layers, images, runs."""
        runs = self.values.get("runs", [])
        images = [self.values["images"]] if "images" in self.values else [run["images"] for run in runs]
        facts = {
            "experiment": self.experiment,
            "prompts": "multi" if self.values.get("multi_prompt") else "single",
            "layers": ", ".join(map(str, self.values["layers"])),
            "images": " to ".join(map(str, sorted({min(images), max(images)}))),
        }
        return {**facts, "runs": str(len(runs))} if runs else facts


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths``, and of the folders among them every JSON that is a result.

    Earlier results that were kept under a name with their date count only if they are named.

    Raises:
        UserError: a path does not exist, or a folder holds no result.
    """
    found = []
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.glob("*.json")) if not KEPT.search(file.stem)]
            inside = [file for file in files if _experiment(file) is not None]
            if not inside:
                raise UserError(f"folder {path} holds no result; the experiments write JSON files into results/")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"result {path} does not exist")
    return list({path.resolve(): path for path in found}.values())


def read_result(path: Path) -> Result:
    """Read one result file.

    Raises:
        UserError: it is no JSON, or none that one of the experiments wrote.
    """
    if _experiment(path) is None:
        raise UserError(f"{path} is no result: expected a JSON file of an experiment ({', '.join(EXPERIMENTS)})")
    values = json.loads(path.read_text(encoding="utf-8"))
    try:
        result = Result(path, values, _scores(values))
        _ = result.facts  # so that what is missing is found here, with the file's name
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no complete result of {values['experiment']} ({error})") from error
    return result


def column_titles(paths: Sequence[Path]) -> list[str]:
    """File stems; with as many parent folders before them as it takes to tell them apart."""
    whole = [path.resolve().with_suffix("").parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        titles = ["/".join(parts[-count:]) for parts in whole]
        if len(set(titles)) == len(titles):
            break
    return titles


def row_names(scored: Sequence[Result]) -> list[str]:
    """mIoU and all classes, in the order in which they first occur."""
    return list(dict.fromkeys(name for result in scored for name in result.scores))


def markdown(found: Sequence[Result], titles: Sequence[str]) -> str:
    """The report: a table of scores and a table of InfoScore, each only if there is something in it."""
    tables = []
    scored = [(title, result) for title, result in zip(titles, found, strict=True) if result.scores]
    if scored:
        facts = list(dict.fromkeys(fact for _, result in scored for fact in result.facts))
        rows = [[fact, *(result.facts.get(fact, NOTHING) for _, result in scored)] for fact in facts]
        rows += [
            [
                f"**{name}**" if name == "mIoU" else name,
                *(str(result.scores.get(name, NOTHING)) for _, result in scored),
            ]
            for name in row_names([result for _, result in scored])
        ]
        tables.append(_table(["IoU in percent", *(title for title, _ in scored)], rows))
    rankings = [(title, result) for title, result in zip(titles, found, strict=True) if not result.scores]
    if rankings:
        scores = [{row["layer"]: row for row in result.values["table"]} for _, result in rankings]
        layers = sorted({layer for table in scores for layer in table})
        rows = [[str(layer), *(_ranked(table.get(layer)) for table in scores)] for layer in layers]
        tables.append(_table(["InfoScore (rank) of layer", *(title for title, _ in rankings)], rows))
    return "\n".join(tables)


def _experiment(path: Path) -> str | None:
    """Which experiment wrote ``path``; None if it is no result."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    experiment = values.get("experiment") if isinstance(values, dict) else None
    return experiment if experiment in EXPERIMENTS else None


def _scores(values: dict[str, Any]) -> dict[str, Score]:
    if values["experiment"] == "infoscore":
        _ = [(row["layer"], row["infoscore"], row["rank"]) for row in values["table"]]
        return {}
    if values["experiment"] == "training-free":
        return {"mIoU": Score(values["miou"]), **{entry["name"]: Score(entry["iou"]) for entry in values["classes"]}}
    runs = [[entry["iou"] for entry in run["classes"]] for run in values["runs"]]  # [runs, C]
    stds = [statistics.pstdev(iou) for iou in zip(*runs, strict=True)]
    classes = {entry["name"]: Score(entry["iou"], std) for entry, std in zip(values["classes"], stds, strict=True)}
    return {"mIoU": Score(values["miou_mean"], values["miou_std"]), **classes}


def series(title: str, result: Result, rows: Sequence[str]) -> tuple[str, list[float | None], list[float | None]]:
    """Title, means and standard deviations of a result's bars, one per row; None where it has no such score."""
    scores = [result.scores.get(name) for name in rows]
    means = [None if score is None else score.mean for score in scores]
    return title, means, [None if score is None else score.std for score in scores]


def _ranked(row: dict[str, Any] | None) -> str:
    return NOTHING if row is None else f"{row['infoscore']:.3f} ({row['rank']})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned too: first column left, the others right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (cells[0], rule, *cells[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
