"""Results side by side: a Markdown table and a bar chart.

    python -m tools.report results/pascal_training_free.json results/pascal_training_free_multi.json
    python -m tools.report results/ --output results/report.md
    python -m tools.report results/ --latex
    python -m tools.report results/ --output figure.pdf

Takes the JSON files that the three experiments write, or a folder of them. One column per result: mIoU and IoU per
class, for one-shot tuning the mean over its runs and their standard deviation. InfoScore rankings get a table of their
own, a column per ranking and a row per layer. Earlier results, kept under a name with their date, have columns too if
they say something else. A JSON file of a folder that is no result is named under the table, with the reason.

The table goes to report.md beside the first of the results (--latex: report.tex for LaTeX's booktabs, --csv: report.csv
with a row per result), and the chart beside the table, with the ending .png. --output decides by its ending: .md, .tex
and .csv are tables, .png, .pdf and .svg the chart alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src import cli
from src.errors import UserError
from src.files import check_writable, user_path
from src.result_files import write_result
from src.screen import say

TABLES, CHARTS = (".md", ".tex", ".csv"), (".png", ".pdf", ".svg")


def main(arguments: list[str]) -> None:
    """Write and print the report that ``arguments`` ask for."""
    args = _parser().parse_args(arguments)
    first: Path = args.results[0]
    ending = ".tex" if args.latex else ".csv" if args.csv else ".md"
    output: Path = args.output or (first if first.is_dir() else first.parent) / f"report{ending}"
    if args.output is None or output.suffix in TABLES:
        table_file, chart = output, output.with_suffix(f".{args.figures}")
    elif output.suffix in CHARTS:
        table_file, chart = None, output
    else:
        raise UserError(f"--output {output}: expected a name that ends in {', '.join((*TABLES, *CHARTS))}")
    difference = chart.with_name(f"{chart.stem}_difference{chart.suffix}")
    wanted = [path for path in (table_file, chart, difference) if path is not None]
    taken = {path.resolve() for path in args.results}
    for path in wanted:
        if path.resolve() in taken:
            raise UserError(f"--output {output}: {path} is one of the results; choose another name")
    check_writable(*wanted)

    from src.output import charts
    from src.output.reading import find_results
    from src.output.report import bars, csv_table, latex, markdown

    found = find_results(args.results)
    written = []
    if table_file is not None:
        table = {".md": markdown, ".tex": latex, ".csv": csv_table}[table_file.suffix](found)
        write_result(table_file, table)
        written.append(table_file)
    rows, series = bars(found)
    if series:
        charts.grouped_bars(chart, rows, series)
        written.append(chart)
    if len(series) == 2:
        (first_title, first_values, _), (second_title, second_values, _) = series
        charts.difference_bars(difference, rows, first_values, second_values, (first_title, second_title))
        written.append(difference)
    say(markdown(found))
    say(" ".join(map(str, ("wrote", *written))) if written else "no evaluation among the results: no chart")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", nargs="+", type=user_path, metavar="PATH", help="result JSON files, or folders of them"
    )
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="FILE",
        help="where the table goes, the chart beside it (default: report.md beside the first of the results)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="write report.tex")
    form.add_argument("--csv", action="store_true", help="write report.csv")
    cli.figures_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of user errors")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
