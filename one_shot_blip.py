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
import random
import statistics
import sys

from src import cli, results
from src.blip import check_fit, choose_device, load_blip
from src.config import resolve
from src.data import SegmentationDataset, evaluation_entries, read_list
from src.embeddings import EmbeddingCache
from src.evaluate import evaluate
from src.oneshot import Tunable, read_supports, tune
from src.prompts import build_prompts, read_class_file
from src.ranking import choose_layers
from src.segmenter import Segmenter
from src.supports import SEED, choose_supports, class_areas, find_candidates, find_queries, only_class
from src.tuned import save_tuned


def main(arguments: list[str]) -> None:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    config = cli.load(args)
    oneshot = config.oneshot
    if oneshot is None:
        raise config.refuse("oneshot", None, "a section oneshot, as in configs/pascal_blip_one_shot.yaml")
    device = choose_device(args.device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, args.multi_prompt)
    outputs = results.Outputs(args.output_dir, args.multi_prompt)
    summary_csv = outputs.path(config.output.summary_csv)

    queries_from = supports_from = evaluation_entries(config)
    if oneshot.use_training_images_for_supports:
        if oneshot.train_list is None:
            raise config.refuse("oneshot.train_list", None, "an image list, because supports are to come from it")
        supports_from = read_list(resolve(oneshot.train_list), resolve(config.data_root))
    query_areas = support_areas = class_areas(queries_from, config, "reading masks")
    if supports_from is not queries_from:
        support_areas = class_areas(supports_from, config, "reading train masks")
    candidates = find_candidates(support_areas, oneshot, prompts.class_names)
    in_total = len(find_queries(query_areas))

    blip = load_blip(config.model.name, device, config.runtime.attention == "fused")
    check_fit(config, blip)
    layers = choose_layers(config, blip, classes, queries_from, cache=summary_csv.parent)
    segmenter = Segmenter.from_config(config, blip, prompts, layers)
    tunable = Tunable(segmenter)
    untuned = tunable.state()
    print(f"{blip.name} on {device}: {len(prompts)} prompts, layers {list(layers)}, {in_total} images")

    rng, runs = random.Random(SEED), []
    with EmbeddingCache.for_runs(config, segmenter, len(queries_from)) as cache:
        for run in range(oneshot.total_runs):
            name = f"run {run + 1}/{oneshot.total_runs}"
            supports = choose_supports(
                candidates,
                oneshot.shot,
                lambda index, label: not oneshot.support_only_one_novel or only_class(support_areas, index, label),
                rng,
            )
            # without a training list, supports stand in the query list and must not be scored
            shared = supports_from is queries_from
            queries = find_queries(query_areas, supports if shared else ())
            encode = cache.get if shared else (lambda _, pixels: segmenter.encode_images(pixels))
            images = read_supports(supports, supports_from, config, device, encode)
            losses = tune(tunable, images, oneshot, config.dataset.ignore_label, f"{name}: tuning")

            dataset = SegmentationDataset(
                queries_from, config, original_labels=config.eval.resolution == "original", indices=queries
            )
            evaluation = evaluate(
                segmenter,
                dataset,
                config,
                encoder=lambda batch: cache.get(batch["index"], batch["pixels"]),
                description=f"{name}: queries",
            )
            record = {
                "run": run,
                **results.iou_values(evaluation.confusion, prompts.class_names),
                **evaluation.timing(),
                "losses": losses,
                "supports": [
                    {
                        "image": str(supports_from[support.index].image),
                        "class": prompts.class_names[support.label],
                        "other_classes_removed": support.isolated,
                    }
                    for support in supports
                ],
            }
            weights = summary_csv.with_name(f"{summary_csv.stem}_run{run}.safetensors")
            save_tuned(weights, tunable, record)
            tunable.load(untuned)
            runs.append(record)
            print(
                f"{name}: mIoU {100 * record['miou']:.2f} on {len(queries)} queries; tuned weights in {weights} "
                f"({weights.stat().st_size / 1e6:.1f} MB)"
            )

    mious = [record["miou"] for record in runs]
    mean, std = statistics.fmean(mious), statistics.pstdev(mious)
    ious = [[entry["iou"] for entry in record["classes"]] for record in runs]  # [runs, C]
    results.write_result(
        outputs.path(config.output.classwise_csv),
        results.csv_text(
            ("Classname", *(f"IOU Run_{run}" for run in range(len(runs)))), zip(prompts.class_names, *ious, strict=True)
        ),
    )
    results.write_result(
        summary_csv, results.csv_text(("Run", "mIoU"), [*enumerate(mious), ("mean", mean), ("std", std)])
    )
    class_means = [statistics.fmean(values) for values in zip(*ious, strict=True)]
    results.write_json(
        summary_csv.with_suffix(".json"),
        {
            "experiment": "one-shot",
            "multi_prompt": args.multi_prompt,
            "miou_mean": mean,
            "miou_std": std,
            "classes": [{"name": name, "iou": iou} for name, iou in zip(prompts.class_names, class_means, strict=True)],
            "runs": runs,
            **results.provenance(config, prompts, layers, device),
        },
    )
    print(results.score_table(prompts.class_names, class_means, f"{100 * mean:.2f} ± {100 * std:.2f}"))
    print(
        f"wrote {outputs.path(config.output.classwise_csv)}, {summary_csv} and {summary_csv.with_suffix('.json').name}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="one_shot_blip.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.common_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
