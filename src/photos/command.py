"""Segment photos of your own, with classes in your own words; no masks, image list or data root are needed.

    python -m src.photos photo.jpg folder/ --config configs/pascal_blip.yaml --classes "cat; dog = puppy, hound"

Formats of cameras, phones and scanners are read. Results have the size of the photo and go to results/photos: the
labels of each photo (palette PNG), an overlay with a legend, on demand a heat map per class. The screen shows what was
found, with its share of the pixels and its matching score.
"""

from __future__ import annotations

import argparse

from .. import cli
from ..config.schema import Config
from ..data.images import MAX_BYTES
from ..errors import UserError
from ..files import resolve, size, user_path
from ..runtime import world_size
from ..screen import counted, progress, say, say_next
from ..task import for_device, note_scope
from .photo_files import (
    EXPLORER,
    OVERLAY,
    check_outputs,
    find_photos,
    name_outputs,
    new_folder,
    refuse_earlier,
    require_own_names,
)
from .words import prompts_of_words

FOLDER = "results/photos"
MANY = 10  # photos for which a progress bar is shown
EXPORT_FORMATS = ("coco", "labelme", "labelme-masks", "cvat", "label-studio", "yolo")
"""Those of :mod:`src.output.exports`, whose imports would make ``--help`` wait."""


def main(arguments: list[str]) -> None:
    """Segment the photos that ``arguments`` name."""
    args = _parser().parse_args(arguments)
    segment_photos(args, cli.load(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.photos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.model_arguments(parser, limit="use only the first N photos")
    cli.multi_prompt_argument(parser, "use the related words of every class as additional prompts")
    cli.output_argument(parser)
    parser.add_argument(
        "images", nargs="+", type=user_path, help="image files, or folders of which every image is segmented"
    )
    parser.add_argument(
        "--tuned", type=user_path, metavar="FILE", help="use weights that one_shot_blip.py saved (.safetensors)"
    )
    parser.add_argument(
        "--classes",
        metavar="WORDS",
        help='what to look for: classes separated by ";", each with optional related words after "=", such as '
        '"cat; dog = puppy, hound; my red mug" (default: the class file)',
    )
    parser.add_argument(
        "--background",
        metavar="WORDS",
        help='what else may be in the photos, such as "table, wall" (default: the background words of the class file)',
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let results replace those of an earlier run in --output-dir; without --output-dir every run has a "
        f"new folder in {FOLDER}",
    )
    parser.add_argument("--save-heatmaps", action="store_true", help="also draw a heat map of each class")
    parser.add_argument(
        "--export",
        nargs="+",
        choices=EXPORT_FORMATS,
        default=[],
        metavar="FORMAT",
        help=f"also write the labels for annotation tools, into export_FORMAT: {', '.join(EXPORT_FORMATS)}",
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help=f"also read photos that take more than {size(MAX_BYTES)} of memory when decoded",
    )
    cli.explorer_argument(parser, "a page of each photo that shows what every layer sees")
    return parser


def segment_photos(args: argparse.Namespace, config: Config) -> None:
    """Segment the photos ``args.images``; write pictures and print what was found.

    A photo that cannot be read or segmented is named and skipped.

    Raises:
        UserError: words, paths or settings are invalid; results cannot be written; or, at the end, photos were skipped.
    """
    if world_size() > 1:
        raise UserError("photos are segmented by one process; start this command without torchrun")
    photos = name_outputs(find_photos(args.images, args.output_dir or resolve(FOLDER))[: args.limit])
    if args.output_dir and not args.replace:
        refuse_earlier(photos, args.output_dir)
    if args.output_dir:
        check_outputs(photos, args.output_dir)
    if args.export:
        require_own_names(photos)
    prompts = prompts_of_words(config, args.classes, args.background, args.multi_prompt)
    note_scope(config.model.name, [photo.path for photo in photos])

    # torch is imported here, after errors in the command were reported
    with cli.quick_imports():
        from ..output.exports import open_exports
        from . import pipeline
        from .photo_segmenter import segmenter_of_words
        from .stages import PhotoStages

    segmenter = segmenter_of_words(config, prompts, args.device, args.tuned)
    output = args.output_dir or new_folder(resolve(FOLDER), photos[0].name)
    exports = open_exports(args.export, output, prompts.class_names)
    loader = for_device(str(segmenter.device), config).dataloader
    classes = len(prompts.class_names) - 1
    numbers = segmenter.number_format
    say(f"{segmenter.model.name} on {segmenter.device} in {numbers.name} ({numbers.why})")
    photos_ = counted(len(photos), "photo")
    say(f"{counted(classes, 'class', 'classes')}, {counted(len(prompts), 'prompt')}, {photos_}")
    shown = len(photos) >= MANY
    with progress(len(photos), "segmenting", disable=None if shown else True) as bar:  # None: shown in a terminal
        stages = PhotoStages(segmenter, output, bar, args.save_heatmaps, args.save_explorer, exports, args.any_size)
        pipeline.run_stages(stages, photos, loader.batch_size)
    for each in exports:
        say(f"wrote {each.finish()}")
    left_out = stages.left_out
    first = next((photo for photo in photos if photo.path not in left_out), None)
    if first:
        say_next(f"open {output / f'{first.name}_{EXPLORER if args.save_explorer else OVERLAY}'}")
    if left_out:
        names = ", ".join(map(str, left_out))
        raise UserError(f"{len(left_out)} of {counted(len(photos), 'photo')} could not be segmented: {names}")
