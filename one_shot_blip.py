"""Tune BLIP on one labelled image per class, then segment: several runs, mean and std of mIoU.

    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml
    python one_shot_blip.py --config configs/coco_blip_one_shot.yaml --multi_prompt
    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml --set oneshot.shot=5 oneshot.total_runs=1

Each run draws its supports from the whole list, tunes the word embeddings and the chosen layers' cross-attention on
them, and scores the rest, on COCO the first 10,000 images of it (max_images). Results: output.classwise_csv (IoU per
class and run), output.summary_csv (mIoU per run, mean, std), a JSON beside it, and every run's tuned weights, which
training_free_blip.py --tuned takes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from src import cli
from src.files import check_writable
from src.result_files import csv_text, write_json, write_result
from src.screen import say
from src.task import Task


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    config = cli.load(args)
    oneshot = config.oneshot
    if oneshot is None:
        raise config.refusal("oneshot", None, "a section oneshot, as in configs/pascal_blip_one_shot.yaml")
    task = Task.read(args, config)
    class_names, names = task.prompts.class_names, task.prompts.scored_names
    classwise_csv = task.outputs.path(config.output.classwise_csv)
    summary_csv = task.outputs.path(config.output.summary_csv)
    check_writable(classwise_csv)
    check_writable(summary_csv)

    # torch is imported here: what was wrong with the command has been said without waiting for it
    from src.data.dataset import SegmentationDataset
    from src.data.labels import Labelling
    from src.evaluation.evaluate import evaluate
    from src.loading import load_segmenter, open_journal
    from src.one_shot.embeddings import EmbeddingCache
    from src.one_shot.resume import Tuned, finished_run, origin_of, run_settings, tuned_once
    from src.one_shot.summary import OneShotSummary, run_record
    from src.one_shot.supports import Episode, read_episodes
    from src.one_shot.tuned_weights import save_tuned
    from src.one_shot.tuning import read_supports, tune
    from src.output import charts
    from src.provenance import provenance

    task = task.settled()
    config = task.config
    episodes = read_episodes(config, class_names)
    segmenter = load_segmenter(task, cache=summary_csv.parent)

    def tune_run(episode: Episode, title: str) -> Tuned:
        labelling = Labelling.from_config(config.dataset)
        supports = read_supports(episode.supports, episodes.support_list, segmenter, labelling, cache.get)
        return tune(segmenter, supports, oneshot, config.dataset.ignore_label, f"{title}: tuning")

    runs: list[dict[str, Any]] = []
    with EmbeddingCache.for_runs(config, segmenter, len(episodes.images)) as cache:
        for run, episode in enumerate(episodes):
            title = f"run {run + 1}/{oneshot.total_runs}"
            weights = summary_csv.with_name(f"{summary_csv.stem}_run{run}.safetensors")
            queries = SegmentationDataset.from_config(episodes.evaluation_list, config, indices=episode.queries)
            settings = run_settings(episode, episodes, oneshot, class_names)
            with open_journal("one-shot", task, weights, segmenter, **settings) as journal:
                record = finished_run(weights, segmenter, journal, queries)
                if record is None:
                    tuned, losses, digest = tuned_once(
                        journal,
                        segmenter,
                        partial(tune_run, episode, title),
                        partial(cache.fill, queries, config.dataloader),
                    )
                    evaluation = evaluate(
                        tuned,
                        queries,
                        config.dataloader,
                        journal=journal,
                        encoder=cache.get,
                        description=f"{title}: queries",
                        weights=digest,
                    )
                    record = run_record(run, evaluation, names, losses, settings["supports"])
                    save_tuned(weights, tuned, {**record, **origin_of(journal, tuned, queries)})
                    say(f"{title}: mIoU {100 * record['miou']:.2f} on {record['images']} queries")
                else:
                    say(f"{title}: finished before, mIoU {100 * record['miou']:.2f}; --fresh computes it again")
                say(f"  tuned weights: {weights}")
            runs.append(record)

    summary = OneShotSummary(names, runs)
    say(summary.table())
    write_result(classwise_csv, csv_text(summary.classwise_header, summary.classwise_rows()))
    write_result(summary_csv, csv_text(("Run", "mIoU"), summary.summary_rows()))
    origin = {"experiment": "one-shot", "multi_prompt": args.multi_prompt, **provenance(config, segmenter)}
    write_json(summary_csv.with_suffix(".json"), {**summary.to_dict(), **origin})
    chart = summary_csv.with_name(f"{summary_csv.stem}_iou.png")
    charts.iou_bars(chart, names, summary.class_means, summary.class_stds)
    say(f"wrote {classwise_csv}, {summary_csv}, {summary_csv.stem}.json and {chart.name}")
    return cli.end(summary.skipped)


def _parser() -> argparse.ArgumentParser:
    limit = (
        "score only the first N queries of every run, as max_images does; supports are drawn from the whole list all "
        "the same, so that all of its masks are read"
    )
    return cli.experiment_parser("one_shot_blip.py", __doc__, limit=limit)


if __name__ == "__main__":
    sys.exit(cli.run(main))
