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

--save-explorer writes pages that open in any browser: which layer sees what, which word wins where, what changes
without a layer.
"""

from __future__ import annotations

import argparse
import sys

from src import cli
from src.files import check_writable, user_path
from src.photos import command as photos
from src.result_files import csv_text, write_json, write_result
from src.screen import say
from src.task import Task


def main(arguments: list[str]) -> int | None:
    """Run the experiment that ``arguments`` describe."""
    args = _parser().parse_args(arguments)
    photos.check_arguments(args)
    config = cli.load(args)
    if args.images:
        return photos.segment_photos(args, config)
    task = Task.read(args, config)
    names = task.prompts.scored_names
    csv = task.outputs.path(config.output.csv)
    check_writable(*task.outputs.files_of("training-free", config))

    # torch is imported here: what was wrong with the command has been said without waiting for it
    with cli.quick_imports():
        from src.data.dataset import SegmentationDataset
        from src.evaluation.evaluate import evaluate
        from src.evaluation.identity import file_digest
        from src.evaluation.provenance import provenance
        from src.explorer.evaluation import write_evaluation_pages
        from src.loading import load_segmenter, open_journal
        from src.one_shot.tuned_weights import describe_tuned
        from src.output.evaluation_pictures import EvaluationPictures

    task = task.settled()
    config = task.config
    segmenter = load_segmenter(task, cache=csv.parent, tuned=args.tuned)
    dataset = SegmentationDataset.from_config(task.entries, config)
    pictures = EvaluationPictures(
        csv, dataset, task.prompts.class_names, args.save_predictions, args.save_overlays, args.figures
    )
    with open_journal("training-free", task, csv, segmenter, tuned=file_digest(args.tuned)) as journal:
        evaluation = evaluate(segmenter, dataset, config.dataloader, pictures.observers, journal, pictures.lacks)

        say(evaluation.confusion.table(names))
        iou = evaluation.confusion.iou.tolist()
        write_result(csv, csv_text(("Class Name", "IoU"), zip(names, iou, strict=True)))
        tuned = describe_tuned(args.tuned) if args.tuned else None
        origin = {"experiment": "training-free", "multi_prompt": args.multi_prompt, "tuned": tuned}
        origin |= provenance(config, segmenter)
        write_json(csv.with_suffix(".json"), {**evaluation.to_dict(names), **origin})
        drawn = pictures.write(evaluation)
        if args.save_explorer:
            drawn += write_evaluation_pages(csv, segmenter, dataset, args.save_overlays, evaluation)
        say(" ".join(map(str, ("wrote", csv, csv.with_suffix(".json").name, *(path.name for path in drawn)))))
    return cli.end(evaluation.skipped)


def _parser() -> argparse.ArgumentParser:
    parser = cli.experiment_parser("training_free_blip.py", __doc__)
    parser.add_argument(
        "--tuned",
        type=user_path,
        metavar="FILE",
        help="use weights that one_shot_blip.py saved (.safetensors); result files then end in _tuned",
    )
    cli.picture_arguments(parser)
    photos.add_arguments(parser)
    what = "pages that show what every layer sees: of each photo, or of each of --save-overlays' N images with an index"
    cli.explorer_argument(parser, what)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
