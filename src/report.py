"""Results side by side: a Markdown table and a bar chart.

    python -m src.report results/pascal_training_free.json results/pascal_training_free_multi.json
    python -m src.report results/ --output results/report.md

Takes the JSON files that the three experiments write, or a folder of them. One column per result: mIoU and IoU per
class, for one-shot tuning the mean over its runs and their standard deviation. InfoScore rankings get a table of their
own, a column per ranking and a row per layer. The chart lies beside the table, with the ending .png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src import cli
from src.errors import UserError
from src.output import charts
from src.output.report import column_titles, find_results, markdown, read_result, row_names, series
from src.result_files import write_result
from src.screen import say


def main(arguments: list[str]) -> None:
    """Write and print the report that ``arguments`` ask for."""
    args = _parser().parse_args(arguments)
    if args.output.suffix == ".png":
        raise UserError(
            f"--output {args.output}: expected a name for the table, such as report.md; the chart gets .png"
        )
    found = [read_result(path) for path in find_results(args.results)]
    titles = column_titles([result.path for result in found])
    table = markdown(found, titles)
    write_result(args.output, table)
    written = [args.output]
    scored = [(title, result) for title, result in zip(titles, found, strict=True) if result.scores]
    if scored:
        chart = args.output.with_suffix(".png")
        rows = row_names([result for _, result in scored])
        charts.grouped_bars(chart, rows, [series(title, result, rows) for title, result in scored])
        written.append(chart)
    say(table)
    say(" ".join(map(str, ("wrote", *written))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="PATH", help="result JSON files, or folders of them")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/report.md"),
        metavar="FILE",
        help="where the table goes, the chart beside it (default: results/report.md)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error that is yours to mend")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
