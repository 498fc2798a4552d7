"""Results side by side: the tables and the bars of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import real_path
from ..result_files import csv_text
from .reading import Found, Result

NOTHING = "–"
# settings that are shown if they differ between columns
TELLING = (
    ("data_set",),
    ("model", "name"),
    ("model", "image_size"),
    ("crf", "iters"),
    ("eval", "resolution"),
    ("runtime", "attention"),
    ("runtime", "amp"),
)


def column_titles(paths: Sequence[Path]) -> list[str]:
    """File stems, with enough parent folders to distinguish them."""
    whole = [real_path(path).with_suffix("").parts for path in paths]
    count = 1
    while len({parts[-count:] for parts in whole}) < len({*whole}):
        count += 1
    return ["/".join(parts[-count:]) for parts in whole]


def columns(found: Found) -> list[tuple[str, Result]]:
    """Every result with its title."""
    return list(zip(column_titles([result.path for result in found.results]), found.results, strict=True))


def row_names(scored: Sequence[Result]) -> list[str]:
    """Names of all classes, in the order in which they first occur."""
    return list(dict.fromkeys(name for result in scored for name in result.classes))


@dataclass(frozen=True)
class Table:
    """Groups of rows of cells under a header; the first row of the group ``means`` stands out, if there is one."""

    header: list[str]
    groups: list[list[list[str]]]
    means: int | None = None

    def stands_out(self, group: int, row: int) -> bool:
        """Whether a row of a group is printed in bold."""
        return (group, row) == (self.means, 0)


MEAN = "mIoU"


def tables(found: Found) -> list[Table]:
    """A table of scores and one of InfoScore, if not empty; a column per result."""
    scored = [(title, result) for title, result in columns(found) if result.miou is not None]
    ranked = [(title, result) for title, result in columns(found) if result.miou is None]
    made = []
    if scored:
        results = [result for _, result in scored]
        means = [[MEAN, *(str(result.miou) for result in results)]]
        if any(result.miou_present for result in results):  # otherwise it is equal
            means.append(
                ["mIoU of the classes present", *(str(result.miou_present or result.miou) for result in results)]
            )
        classes = [[name, *(_cell(result.classes.get(name)) for result in results)] for name in row_names(results)]
        made.append(Table(["IoU in percent", *(title for title, _ in scored)], [facts_of(results), means, classes], 1))
    if ranked:
        results = [result for _, result in ranked]
        layers = sorted({layer for result in results for layer in result.ranking})
        rows = [[str(layer), *(_cell(result.ranking.get(layer)) for result in results)] for layer in layers]
        made.append(Table(["InfoScore (rank) of layer", *(title for title, _ in ranked)], [rows]))
    return made


def report_markdown(found: Found) -> str:
    """The tables in Markdown; last the files that were left out."""
    parts = markdown_of(tables(found))
    return "\n".join([*parts, left_out_lines(found)] if found.left_out else parts)


def markdown_of(tables: Iterable[Table]) -> list[str]:
    """Each table in Markdown."""
    parts = []
    for each in tables:
        rows = [
            [f"**{row[0]}**", *row[1:]] if each.stands_out(number, place) else row
            for number, group in enumerate(each.groups)
            for place, row in enumerate(group)
        ]
        parts.append(markdown_table(each.header, rows))
    return parts


def latex(found: Found) -> str:
    """The tables for LaTeX, mean and standard deviation as a sum."""
    return latex_of(tables(found))


def latex_of(tables: Iterable[Table], note: str = "") -> str:
    """Tables for LaTeX's booktabs; ``note`` is a comment above them."""
    parts = ["% needs \\usepackage{booktabs}\n" + (f"% {note}\n" if note else "")]
    for each in tables:
        columns_ = "l" + "r" * (len(each.header) - 1)
        groups = [
            "".join(_latex_row(map(_latex, row), each.stands_out(number, place)) for place, row in enumerate(group))
            for number, group in enumerate(each.groups)
            if group
        ]
        rules = "\\midrule\n".join(groups)
        header = _latex_row(map(_latex, each.header))
        parts.append(
            f"\\begin{{tabular}}{{{columns_}}}\n\\toprule\n{header}\\midrule\n{rules}\\bottomrule\n\\end{{tabular}}\n"
        )
    return "\n".join(parts)


def _latex_row(cells: Iterable[str], bold: bool = False) -> str:
    return " & ".join(f"\\textbf{{{cell}}}" if bold else cell for cell in cells) + " \\\\\n"


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _line(text))


def csv_table(found: Found) -> str:
    """One row per result: file, facts, mIoU and IoU per class as fractions, and InfoScore per layer.

    Standard deviations are over the runs of one-shot tuning; other results have none.
    """
    results = found.results
    facts = list(dict.fromkeys(fact for result in results for fact in result.facts))
    names = row_names([result for result in results if result.miou is not None])
    layers = sorted({layer for result in results for layer in result.ranking})
    rows = []
    for result in results:
        scores = [result.miou, result.miou_present, *(result.classes.get(name) for name in names)]
        means = ["" if score is None else score.mean for score in scores]
        stds = ["" if score is None or score.std is None else score.std for score in scores]
        ranks = [result.ranking[layer].infoscore if layer in result.ranking else "" for layer in layers]
        values = [value for pair in zip(means, stds, strict=True) for value in pair]
        rows.append([str(result.path), *(result.facts.get(fact, "") for fact in facts), *values, *ranks])
    scored = [MEAN, "mIoU of the classes present", *names]
    header = ["file", *facts, *(column for name in scored for column in (name, f"{name} std"))]
    return csv_text([*header, *(f"InfoScore of layer {layer}" for layer in layers)], rows)


def left_out_lines(found: Found) -> str:
    """Files that are not results, by reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in found.left_out:
        by_reason.setdefault(reason, []).append(path.name)
    lines = [f"- {', '.join(map(_line, files))}: {_line(reason)}\n" for reason, files in by_reason.items()]
    return "Left out:\n\n" + "".join(lines)


def report_bars(found: Found) -> tuple[list[str], list[tuple[str, list[float | None], list[float | None]]]]:
    """Input of :func:`src.output.charts.grouped_bars` for the evaluations among the results.

    Returns:
        Names of the rows, mIoU first; per evaluation its title, means and standard deviations, None where it has none.
    """
    scored = [(title, result) for title, result in columns(found) if result.miou is not None]
    names = row_names([result for _, result in scored])
    series = []
    for title, result in scored:
        scores = [result.miou, *(result.classes.get(name) for name in names)]
        means = [None if score is None else score.mean for score in scores]
        series.append((_line(title), means, [None if score is None else score.std for score in scores]))
    return ["mIoU", *map(_line, names)], series


def facts_of(results: Sequence[Result]) -> list[list[str]]:
    """A row for each fact, and for each setting of :data:`TELLING` that differs."""
    names = list(dict.fromkeys(fact for result in results for fact in result.facts))
    rows = [[fact, *(result.facts.get(fact, NOTHING) for result in results)] for fact in names]
    for keys in TELLING:
        values = [_setting(result.settings, keys) for result in results]
        if len({*values}) > 1:
            rows.append([".".join(keys), *values])
    return rows


def _setting(settings: Any, keys: Sequence[str]) -> str:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return NOTHING if settings is None else str(settings)


def _cell(value: object | None) -> str:
    return NOTHING if value is None else str(value)


def _line(text: str) -> str:
    """``text`` in one line; unprintable characters, such as escape codes of terminals, become a replacement sign."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned too: first column left, the others right."""
    cells = [[_line(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    justified: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    lines = [
        [justify(cell, width) for justify, cell, width in zip(justified, row, widths, strict=True)]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
