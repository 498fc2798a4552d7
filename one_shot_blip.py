"""Tune BLIP on one labelled image per class, then segment: several runs, mean and std of mIoU.

    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml
    python one_shot_blip.py --config configs/coco_blip_one_shot.yaml --multi_prompt
    python one_shot_blip.py --config configs/pascal_blip_one_shot.yaml --set oneshot.shot=5 oneshot.total_runs=1

Each run draws its supports, tunes the word embeddings and the chosen layers' cross-attention on them, and scores the
rest of the list. Results: output.classwise_csv (IoU per class and run), output.summary_csv (mIoU per run, mean, std), a
JSON beside it, and every run's tuned weights, which training_free_blip.py --tuned takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from src import cli
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import evaluate
from src.files import check_writable
from src.layer_selection.ranking import choose_layers
from src.method.blip import load_configured
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot.embeddings import EmbeddingCache
from src.one_shot.supports import Draws
from src.one_shot.tuned_weights import save_tuned
from src.one_shot.tuning import Tunable, read_supports, tune
from src.output import charts, results
from src.paths import resolve
from src.runtime import choose_device


def main(arguments: list[str]) -> None:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    config = cli.load(args)
    oneshot = config.oneshot
    if oneshot is None:
        raise config.refusal("oneshot", None, "a section oneshot, as in configs/pascal_blip_one_shot.yaml")
    device = choose_device(args.device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, args.multi_prompt)
    names = prompts.class_names
    entries = evaluation_entries(config)
    outputs = results.Outputs(args.output_dir, args.multi_prompt)
    classwise_csv, summary_csv = outputs.path(config.output.classwise_csv), outputs.path(config.output.summary_csv)
    check_writable(classwise_csv)
    check_writable(summary_csv)

    draws = Draws(config, entries, names)
    blip = load_configured(config, device)
    layers = choose_layers(config, blip, classes, entries, cache=summary_csv.parent)
    segmenter = Segmenter.from_config(config, blip, prompts, layers)
    tunable = Tunable(segmenter)
    untuned = tunable.state()
    print(f"{blip.name} on {device}: {len(prompts)} prompts, layers {list(layers)}, {len(entries)} images")

    runs: list[dict[str, Any]] = []
    with EmbeddingCache.for_runs(config, segmenter, len(entries)) as cache:
        for run in range(oneshot.total_runs):
            title = f"run {run + 1}/{oneshot.total_runs}"
            supports, queries = draws.next()
            encode = cache.get if draws.from_evaluation else (lambda _, pixels: segmenter.encode_images(pixels))
            images = read_supports(supports, draws.entries, config, device, encode)
            losses = tune(tunable, images, oneshot, config.dataset.ignore_label, f"{title}: tuning")
            evaluation = evaluate(
                segmenter,
                SegmentationDataset(entries, config, config.eval.resolution == "original", indices=queries),
                config,
                encoder=lambda batch: cache.get(batch["index"], batch["pixels"]),
                description=f"{title}: queries",
            )
            runs.append(
                {
                    "run": run,
                    **results.iou_values(evaluation.confusion, names),
                    **evaluation.timing(),
                    "losses": losses,
                    "supports": [support.describe(draws.entries, names) for support in supports],
                }
            )
            weights = summary_csv.with_name(f"{summary_csv.stem}_run{run}.safetensors")
            save_tuned(weights, tunable, runs[-1])
            tunable.load(untuned)
            print(f"{title}: mIoU {100 * evaluation.confusion.miou:.2f} on {len(queries)} queries")
            print(f"  tuned weights: {weights} ({weights.stat().st_size / 1e6:.1f} MB)")

    mious = [record["miou"] for record in runs]
    mean, std = statistics.fmean(mious), statistics.pstdev(mious)
    ious = [[entry["iou"] for entry in record["classes"]] for record in runs]  # [runs, C]
    class_means = [statistics.fmean(values) for values in zip(*ious, strict=True)]
    class_stds = [statistics.pstdev(values) for values in zip(*ious, strict=True)]
    header = ("Classname", *(f"IOU Run_{run}" for run in range(len(runs))))
    results.write_result(classwise_csv, results.csv_text(header, zip(names, *ious, strict=True)))
    rows = [*enumerate(mious), ("mean", mean), ("std", std)]
    results.write_result(summary_csv, results.csv_text(("Run", "mIoU"), rows))
    results.write_json(
        summary_csv.with_suffix(".json"),
        {
            "experiment": "one-shot",
            "multi_prompt": args.multi_prompt,
            "miou_mean": mean,
            "miou_std": std,
            "classes": [{"name": name, "iou": iou} for name, iou in zip(names, class_means, strict=True)],
            "runs": runs,
            **results.provenance(config, prompts, layers, device),
        },
    )
    charts.iou_bars(summary_csv.with_name(f"{summary_csv.stem}_iou.png"), names, class_means, class_stds)
    print(results.score_table(names, class_means, f"{100 * mean:.2f} ± {100 * std:.2f}"))
    print(f"wrote {classwise_csv}, {summary_csv}, {summary_csv.stem}.json and {summary_csv.stem}_iou.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="one_shot_blip.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.common_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
