"""Training-free open-vocabulary segmentation from BLIP's cross-attention: mIoU and IoU per class on an image list.

    python training_free_blip.py --config configs/pascal_blip.yaml
    python training_free_blip.py --config configs/pascal_blip.yaml --multi_prompt
    python training_free_blip.py --config configs/coco_blip.yaml --device cuda:1 --set dataloader.batch_size=8
    python training_free_blip.py --config configs/pascal_blip.yaml --limit 20 --output-dir /tmp/try

Results: output.csv (class, IoU); next to it a JSON with scores, settings, prompts and versions, and charts of the IoU
per class and of the confusion matrix. Optional: label maps, overlays, pages with the attention of each layer, and a CSV
with the IoU of every image.

To segment your own photos with your own words, use `python -m src.photos`.
"""

from __future__ import annotations

import sys

from src import cli
from src.errors import UserError
from src.files import check_writable, user_path
from src.result_files import csv_text, write_json, write_result
from src.screen import say, say_next
from src.task import Task


def main(arguments: list[str]) -> int:
    """Run the experiment that ``arguments`` describe."""
    parser = cli.experiment_parser("training_free_blip.py", __doc__)
    tuned_help = "use weights saved by one_shot_blip.py (.safetensors); names of result files then end in _tuned"
    parser.add_argument("--tuned", type=user_path, metavar="FILE", help=tuned_help)
    cli.per_image_argument(parser)
    cli.picture_arguments(parser)
    cli.explorer_argument(parser, "a page with the attention of each layer for each of the N images of --save-overlays")
    cli.moved_argument(parser, "--images", "python -m src.photos PATH ... segments your own photos")
    args = parser.parse_args(arguments)
    if args.save_explorer and not args.save_overlays:
        raise UserError("--save-explorer needs --save-overlays N: it writes one page for each of these N images")
    task = Task.read(args, cli.load(args))
    csv = task.outputs.path(task.config.output.csv)
    per_image = [task.outputs.per_image_csv(task.config)] if args.per_image else []
    check_writable(*task.outputs.files_of("training-free", task.config), *per_image)

    # torch is imported here, so that errors in the command are reported immediately
    with cli.quick_imports():
        from src.data.dataset import SegmentationDataset
        from src.evaluation.evaluate import evaluate
        from src.evaluation.identity import file_digest
        from src.evaluation.provenance import provenance
        from src.explorer.evaluation_pages import write_evaluation_pages
        from src.loading import load_segmenter, open_journal
        from src.one_shot.tuned_weights import describe_tuned
        from src.output.evaluation_pictures import EvaluationPictures
        from src.output.per_image_table import write_per_image

    task = task.for_device()
    config, names = task.config, task.prompts.scored_names
    segmenter = load_segmenter(task, cache=csv.parent, tuned=args.tuned)
    dataset = SegmentationDataset.from_config(task.entries, config)
    pictures = EvaluationPictures(
        csv, dataset, task.prompts.class_names, args.save_predictions, args.save_overlays, args.figures
    )
    with open_journal("training-free", task, csv, segmenter, tuned=file_digest(args.tuned)) as journal:
        options = {"per_image": args.per_image, "boundary": config.eval.boundary}
        evaluation = evaluate(segmenter, dataset, config.dataloader, journal, pictures, **options)

        say(evaluation.confusion.table(names))
        write_result(csv, csv_text(*evaluation.confusion.columns(names)))
        origin = {"experiment": "training-free", "multi_prompt": args.multi_prompt, "tuned": describe_tuned(args.tuned)}
        for path in per_image:
            origin |= write_per_image(path, evaluation, dataset, names, config, pictures)
        write_json(csv.with_suffix(".json"), {**evaluation.to_dict(names), **origin, **provenance(config, segmenter)})
        written = [csv.with_suffix(".json"), *per_image, *pictures.write(evaluation)]
        if args.save_explorer:
            written += write_evaluation_pages(csv, segmenter, dataset, args.save_overlays, evaluation)
        say(f"wrote {csv} {' '.join(path.name for path in written)}")
    endings = ("_explorer.html", "_overlays.png", f"_iou.{args.figures}")
    shown = [path for ending in endings for path in written if path.name == csv.stem + ending]
    say_next(f"open {shown[0]}" if shown else "", cli.report_of(csv.parent))
    return cli.end(evaluation.skipped)


if __name__ == "__main__":
    sys.exit(cli.run(main))
