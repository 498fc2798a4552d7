"""Open-vocabulary segmentation from BLIP's cross-attention, without training.

Runs over the images of a configuration's list and prints and writes mIoU and IoU per class:

    python training_free_blip.py --config configs/pascal_blip.yaml
    python training_free_blip.py --config configs/pascal_blip.yaml --multi_prompt
    python training_free_blip.py --config configs/coco_blip.yaml --device cuda:1 --set dataloader.batch_size=8
    python training_free_blip.py --config configs/pascal_blip.yaml --limit 20 --output-dir /tmp/try

Results: output.csv (class, IoU) and beside it a JSON with scores, settings, prompts and versions, and charts of the IoU
per class and of the confusion matrix; label maps and overlays on demand.

With --images it segments photos of your own instead, at their own size, with classes in your own words; pictures go to
results/photos:

    python training_free_blip.py --config configs/pascal_blip.yaml --images photo.jpg folder/ \\
        --classes "cat; dog = puppy, hound; my red mug"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src import cli
from src.data.dataset import SegmentationDataset
from src.data.lists import evaluation_entries
from src.evaluation.evaluate import evaluate
from src.files import check_writable
from src.layer_selection.ranking import choose_layers
from src.method.blip import load_configured
from src.method.prompts import build_prompts, read_class_file
from src.method.segmenter import Segmenter
from src.one_shot.tuned_weights import load_tuned
from src.output import evaluation_pictures, results
from src.paths import resolve
from src.photos import command as photos
from src.runtime import choose_device


def main(arguments: list[str]) -> None:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    photos.check_arguments(args)
    config = cli.load(args)
    if args.images:
        photos.segment_photos(args, config)
        return
    device = choose_device(args.device)
    classes = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    prompts = build_prompts(classes, args.multi_prompt)
    entries = evaluation_entries(config)
    csv = results.Outputs(args.output_dir, args.multi_prompt).path(config.output.csv)
    check_writable(csv)

    blip = load_configured(config, device)
    layers = choose_layers(config, blip, classes, entries, cache=csv.parent)
    segmenter = Segmenter.from_config(config, blip, prompts, layers)
    if args.tuned:
        load_tuned(args.tuned, segmenter)
    print(f"{blip.name} on {device}: {len(prompts)} prompts, layers {list(layers)}, {len(entries)} images")
    dataset = SegmentationDataset(entries, config, original_labels=config.eval.resolution == "original")
    pictures = evaluation_pictures.EvaluationPictures(
        csv, dataset, prompts.class_names, args.save_predictions, args.save_overlays
    )
    evaluation = evaluate(segmenter, dataset, config, pictures.observers)

    iou = evaluation.confusion.iou.tolist()
    results.write_result(csv, results.csv_text(("Class Name", "IoU"), zip(prompts.class_names, iou, strict=True)))
    results.write_json(
        csv.with_suffix(".json"),
        {
            "experiment": "training-free",
            "multi_prompt": args.multi_prompt,
            **results.iou_values(evaluation.confusion, prompts.class_names),
            **evaluation.timing(),
            **results.provenance(config, prompts, layers, device),
        },
    )
    print(results.score_table(prompts.class_names, iou, f"{100 * evaluation.confusion.miou:.2f}"))
    drawn = pictures.write(evaluation.confusion)
    print("wrote", csv, csv.with_suffix(".json").name, *(path.name for path in drawn))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training_free_blip.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.common_arguments(parser)
    parser.add_argument(
        "--tuned", type=Path, metavar="FILE", help="use weights that one_shot_blip.py saved (.safetensors)"
    )
    evaluation_pictures.add_arguments(parser)
    photos.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
