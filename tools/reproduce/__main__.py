"""All experiments of the paper in one command.

    python -m tools.reproduce --data pascal coco
    python -m tools.reproduce --data pascal --only training_free --device cuda:1 --set dataloader.batch_size=8
    python -m tools.reproduce --data miniature
    torchrun --nproc-per-node 4 -m tools.reproduce --data coco

For every data set, from the shipped configurations: InfoScore with its comparison of layers, training-free segmentation
and one-shot tuning, both with single and multi prompts, each as a command that the report shows.

First it checks everything (configurations, class files, lists, images, masks, the model), and prints what is finished,
what it will compute and an estimate of the time. The same command resumes and skips what is finished with the same
settings, images, weights, versions and code; it computes other results again and renames earlier ones with their date.

Results and report go to --output-dir: reproduction.md (a table of all scores, InfoScore's layers against the configured
ones and the paper's, the command of every row) and reproduction.png.

--reference compares with the paper or with an earlier run: a CSV with the columns data set,prompts,experiment,mIoU
(in percent), such as: pascal,multi,training_free,12.34
"""

from __future__ import annotations

import argparse
import sys
import time

from src import cli
from src.files import check_writable, resolve, user_path
from src.result_files import write_result
from src.runtime import rank
from src.screen import counted, duration, say, say_next
from tools.reproduce.jobs import CONFIGS, SCRIPTS, read_jobs
from tools.reproduce.reproduction_report import Row, read_reference, reproduction_bars, reproduction_markdown


def main(arguments: list[str]) -> int:
    """Run the experiments of ``arguments`` and write the report."""
    args = _parser().parse_args(arguments)
    report = args.output_dir / "reproduction.md"
    check_writable(report, report.with_suffix(".png"))
    reference = read_reference(args.reference) if args.reference else {}
    jobs = read_jobs(args)

    # torch is imported here, so that errors in the command are reported immediately
    with cli.quick_imports():
        from src.output import charts
        from tools.reproduce.plan import check_data, make_plan, tell
        from tools.reproduce.state import State

    state = State.read(args.output_dir)
    steps = make_plan(jobs, state)
    tell(steps)
    check_data(steps)

    taken = expected = 0.0
    for number, step in enumerate(steps, 1):
        if step.why is None:
            continue
        job = step.job
        say(f"\n[{number}/{len(steps)}] {job.name}\n{job.command}")
        before, begin = 0.0 if args.fresh else state.seconds(job.name, step.settings), time.perf_counter()
        state.keep(job.name, step.settings, before, None)
        finished = None
        try:
            job.run()
            finished = job.result
        finally:
            state.keep(job.name, step.settings, before + time.perf_counter() - begin, finished)
        if step.seconds:
            taken, expected = taken + time.perf_counter() - begin, expected + step.seconds
            left = sum(later.seconds or 0 for later in steps[number:] if later.why) * taken / expected
            if left:
                say(f"about {duration(left)} left")

    if rank() > 0:
        return 0
    rows = [Row.read(step.job, state.seconds(step.job.name, step.settings)) for step in steps]
    changes = []
    if args.limit is not None:
        first = "image" if args.limit == 1 else counted(args.limit, "image")
        changes.append(f"Not the paper's protocol: only the first {first} of every list.")
    changes += [f"Changed from the shipped configurations: {', '.join(args.set)}."] * bool(args.set)
    text = reproduction_markdown(rows, reference, changes)
    say(f"\n{text}")
    write_result(report, text)
    charts.grouped_bars(report.with_suffix(".png"), *reproduction_bars(rows))
    say(f"wrote {report} and {report.with_suffix('.png').name}")
    say_next(f"open {report}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, choices=CONFIGS, help="data sets")
    parser.add_argument(
        "--only", nargs="+", default=[*SCRIPTS], choices=SCRIPTS, help="experiments (default: all of them)"
    )
    cli.settings_arguments(parser)
    parser.add_argument(
        "--output-dir",
        type=user_path,
        metavar="DIR",
        default=resolve("results"),
        help="folder for all results and the report (default: results)",
    )
    parser.add_argument("--limit", type=cli.positive_int, metavar="N", help=f"a short form: {cli.LIMIT}")
    parser.add_argument(
        "--reference", type=user_path, metavar="FILE", help="CSV of mIoU in percent to compare with; see above"
    )
    parser.add_argument("--fresh", action="store_true", help="compute everything again")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
