"""One-shot tuning: tune BLIP on one labelled image per class, then segment; mean and std of mIoU over several runs.

    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml
    python one_shot_blip.py --config configs/coco_blip_one_shot.yaml --multi_prompt
    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml --set oneshot.shot=5 oneshot.total_runs=1

Each run draws its supports (the labelled images) from the whole list, tunes the word embeddings and the cross-attention
of the chosen layers on them, and scores the other images (on COCO the first 10,000 of them, max_images). All runs are
tuned first; then every image is read and encoded once, and segmented with the weights of each run.

Results: output.classwise_csv (IoU per class and run); output.summary_csv (mIoU per run, mean, std), with a JSON and a
chart next to it; and the tuned weights of every run, for training_free_blip.py --tuned.
"""

from __future__ import annotations

import sys

from src import cli
from src.errors import UserError
from src.files import check_writable
from src.result_files import csv_text, write_json, write_result
from src.screen import say, say_next
from src.task import Task


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` describe."""
    limit_help = (
        "score only the first N queries of every run, like max_images; supports are still drawn from the whole list, "
        "so all of its masks are read"
    )
    args = cli.experiment_parser("one_shot_blip.py", __doc__, limit=limit_help).parse_args(arguments)
    task = Task.read(args, cli.load(args))
    oneshot, output = task.config.oneshot, task.config.output
    if oneshot is None:
        twin = cli.one_shot_twin(args.config) or "one such as configs/pascal_blip_one_shot.yaml"
        raise UserError(f"{args.config}: the section oneshot is missing; use {twin}")
    classwise_csv, summary_csv = task.outputs.path(output.classwise_csv), task.outputs.path(output.summary_csv)
    check_writable(*task.outputs.files_of("one-shot", task.config))

    # torch is imported here, so that errors in the command are reported immediately
    with cli.quick_imports():
        from src.evaluation.provenance import provenance
        from src.loading import load_segmenter, open_journal
        from src.one_shot.runs import complete_runs, settings_of_runs, weights_of
        from src.one_shot.summary import OneShotSummary
        from src.one_shot.supports import read_episodes
        from src.output import charts

    task = task.for_device()
    config, names = task.config, task.prompts.scored_names
    episodes = read_episodes(config, task.prompts.class_names)
    segmenter = load_segmenter(task, cache=summary_csv.parent)
    settings = settings_of_runs(task, oneshot, episodes)
    with open_journal("one-shot", task, summary_csv, segmenter, **settings) as journal:
        runs = complete_runs(task, oneshot, episodes, segmenter, journal, summary_csv)

    summary = OneShotSummary(names, runs)
    say(summary.table())
    write_result(classwise_csv, csv_text(summary.classwise_header, summary.classwise_rows()))
    write_result(summary_csv, csv_text(summary.summary_header, summary.summary_rows()))
    origin = {"experiment": "one-shot", "multi_prompt": args.multi_prompt, **provenance(config, segmenter)}
    write_json(summary_csv.with_suffix(".json"), {**summary.to_dict(), **origin})
    chart = summary_csv.with_name(f"{summary_csv.stem}_iou.{args.figures}")
    absent = [names.index(name) for name in summary.absent]
    charts.iou_bars(chart, names, summary.class_means, summary.class_stds, absent=absent)
    say(f"wrote {classwise_csv}, {summary_csv}, {summary_csv.stem}.json and {chart.name}")
    args.config = cli.training_free_twin(args.config) or args.config
    args.set = [setting for setting in args.set if not setting.startswith("oneshot.")]
    tuned = ("--tuned", str(weights_of(summary_csv, 0)), "--save-overlays", "8")
    say_next(f"open {chart}", f"{cli.again('training_free_blip.py', args, *tuned)} draws what run 0 finds")
    return cli.end(summary.skipped)


if __name__ == "__main__":
    sys.exit(cli.run(main))
