"""Results side by side: tables and bar charts, differences with intervals, the worst images.

    python -m tools.report results/pascal_training_free.json results/pascal_training_free_multi.json
    python -m tools.report results/ --output results/report.tex
    python -m tools.report results/ --output figure.pdf
    python -m tools.report --compare results/pascal_training_free.json results/pascal_training_free_multi.json
    python -m tools.report results/pascal_training_free.json --worst 10

Reads the JSON files that the three experiments write, or folders of them. A report has one column per result: mIoU and
IoU per class, for one-shot tuning mean and standard deviation over its runs. InfoScore rankings have a table of their
own. Earlier results that were renamed with their date have columns too if they differ. JSON files of a folder that are
no results are listed under the table, with the reason.

The table is written to report.md beside the first result (--latex: report.tex for LaTeX's booktabs, --csv: report.csv
with a row per result), and the chart beside the table. The ending of --output decides: .md, .tex and .csv are tables
with a chart beside them, .png, .pdf and .svg the chart alone.

--compare takes two results of training_free_blip.py --per-image over the same images. It writes comparison.md (or .tex,
.csv) and a chart: the difference of mIoU and of each class, and its 95 % interval from a paired bootstrap over images.

--worst N takes one result of training_free_blip.py --per-image --save-predictions. It writes <result>_worst.png: the N
images of lowest IoU, with prediction and ground truth.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from src import cli
from src.errors import UserError
from src.files import check_writable, real_path, user_path
from src.result_files import write_result
from src.screen import say, say_next

RESAMPLES, SEED, MAX_RESAMPLES = 10_000, 0, 10**5
TABLES, CHARTS = (".md", ".tex", ".csv"), tuple(f".{suffix}" for suffix in cli.CHART_FORMATS)


@dataclass(frozen=True)
class Files:
    """Where a report goes: a table with a chart beside it, or a chart alone."""

    table: Path | None
    chart: Path

    @classmethod
    def of(cls, args: argparse.Namespace, name: str) -> Files:
        """The files of the arguments; without ``--output`` they are called ``name`` and are beside the first result."""
        if args.output is None:
            first: Path = args.results[0]
            ending = ".tex" if args.latex else ".csv" if args.csv else ".md"
            output = (first if first.is_dir() else first.parent) / f"{name}{ending}"
        else:
            output = args.output
        if output.suffix in TABLES:
            return cls(output, output.with_suffix(f".{args.figures}"))
        if output.suffix in CHARTS:
            return cls(None, output)
        raise UserError(f"--output {output}: expected a name that ends in {', '.join((*TABLES, *CHARTS))}")


def main(arguments: list[str]) -> None:
    """Write and print the report that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    if args.worst:
        _worst(args)
    elif args.compare:
        _compare(args)
    else:
        _report(args)


def _report(args: argparse.Namespace) -> None:
    files = Files.of(args, "report")
    difference = files.chart.with_name(f"{files.chart.stem}_difference{files.chart.suffix}")
    _check(args, files.table, files.chart, difference)

    from src.output import charts
    from src.output.reading import find_results
    from src.output.report_tables import csv_table, latex, report_bars, report_markdown

    found = find_results(args.results)
    written = []
    if files.table is not None:
        table = {".md": report_markdown, ".tex": latex, ".csv": csv_table}[files.table.suffix](found)
        write_result(files.table, table)
        written.append(files.table)
    rows, series = report_bars(found)
    if series:
        charts.grouped_bars(files.chart, rows, series)
        written.append(files.chart)
    if len(series) == 2:
        (first_title, first_values, _), (second_title, second_values, _) = series
        charts.difference_bars(difference, rows, first_values, second_values, (first_title, second_title))
        written.append(difference)
    say(report_markdown(found))
    say(" ".join(map(str, ("wrote", *written))) if written else "no evaluation among the results: no chart")
    evaluation = "python training_free_blip.py --config configs/miniature.yaml writes an evaluation, which has a chart"
    say_next(f"open {written[-1]}" if written else evaluation)


def _compare(args: argparse.Namespace) -> None:
    if len(args.results) != 2:
        raise UserError(f"--compare takes two results, got {len(args.results)}")
    files = Files.of(args, "comparison")
    _check(args, files.table, files.chart)

    from src.output import charts
    from src.output.bootstrap import compare_results
    from src.output.per_image_table import read_per_image
    from src.output.reading import read_named
    from src.output.report_tables import latex_of, markdown_of

    paths = (args.results[0], args.results[1])
    results = first, second = read_named(paths[0]), read_named(paths[1])
    found = compare_results(paths, (read_per_image(first), read_per_image(second)), args.resamples, args.seed)
    table = found.table(results)
    text = "\n".join([*markdown_of([table]), f"{found.how()}\n"])
    if files.table is not None:
        written = {".md": text, ".tex": latex_of([table], found.how()), ".csv": found.csv()}
        write_result(files.table, written[files.table.suffix])
    interval = (found.low.tolist(), found.high.tolist())
    charts.difference_bars(files.chart, found.rows, found.first.tolist(), found.second.tolist(), found.titles, interval)
    say(text)
    say(" ".join(str(path) for path in ("wrote", files.table, files.chart) if path))
    say_next(f"open {files.chart}")


def _worst(args: argparse.Namespace) -> None:
    if len(args.results) != 1:
        raise UserError(f"--worst takes one result, got {len(args.results)}")
    result: Path = args.results[0]
    output: Path = args.output or result.with_name(f"{result.stem}_worst.png")
    if output.suffix != ".png":
        raise UserError(f"--output {output}: expected a name that ends in .png")
    _check(args, output)

    from src.output.per_image_table import read_per_image
    from src.output.reading import read_named
    from src.output.worst import worst_images, worst_sheet

    found = read_named(result)
    table = read_per_image(found)
    write_result(output, worst_sheet(found, table, args.worst))
    for number in worst_images(table, args.worst):
        say(f"  {100 * table.counts.miou[number]:6.2f}  {table.images[number]}")
    say(f"wrote {output}")
    say_next(f"open {output}")


def _check(args: argparse.Namespace, *files: Path | None) -> None:
    """Check before reading anything that ``files`` can be written and are none of the results."""
    wanted = [path for path in files if path is not None]
    taken = {real_path(path) for path in args.results}
    for path in wanted:
        if real_path(path) in taken:
            raise UserError(f"--output {args.output or path}: {path} is one of the results; choose another name")
    check_writable(*wanted)


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
        help="the table, with the chart beside it, or the chart (default: report.md beside the first result)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", action="store_true", help="differences of two results, with 95 %% intervals")
    what.add_argument(
        "--worst", type=cli.positive_int, metavar="N", help="draw the N images of lowest IoU of one result"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="write a .tex file instead of .md")
    form.add_argument("--csv", action="store_true", help="write a .csv file instead of .md")
    parser.add_argument(
        "--resamples",
        type=cli.whole_number(1, MAX_RESAMPLES),  # all of them are in memory
        default=RESAMPLES,
        metavar="N",
        help=f"of --compare: number of resamples (default: {RESAMPLES:,})",
    )
    parser.add_argument(
        "--seed",
        type=cli.whole_number(0),
        default=SEED,
        metavar="N",
        help=f"of --compare: seed of the draws (default: {SEED})",
    )
    cli.figures_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of user errors")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
