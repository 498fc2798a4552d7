"""Segment photos of your own, with classes in your own words; no masks, image list or data root are needed.

    python -m src.photos photo.jpg folder/ --config configs/pascal_blip.yaml --classes "cat; dog = puppy, hound"

Photos come as cameras, phones and scanners write them and are answered at their own size. Results, in results/photos:
the labels of each photo (palette PNG), an overlay with a legend, on demand one heat map per class; and what was found,
with its share of the pixels and its matching score, on the screen.
"""

from __future__ import annotations

import argparse

from .. import cli
from ..config.schema import Config
from ..errors import UserError
from ..files import resolve, user_path
from ..runtime import world_size
from ..screen import progress, say
from ..task import settled_on
from .files import find_photos, name_outputs
from .words import prompts_of_words

FOLDER = "results/photos"
MANY = 10  # photos for which a progress bar is shown
IMAGES_HELP = "image files, or folders of which every image is taken"


def main(arguments: list[str]) -> None:
    """Segment the photos that ``arguments`` name."""
    parser = cli.experiment_parser("python -m src.photos", __doc__)
    parser.add_argument("images", nargs="+", type=user_path, help=IMAGES_HELP)
    parser.add_argument(
        "--tuned", type=user_path, metavar="FILE", help="use weights that one_shot_blip.py saved (.safetensors)"
    )
    _word_arguments(parser)
    cli.explorer_argument(parser, "a page of each photo that shows what every layer sees")
    args = parser.parse_args(arguments)
    segment_photos(args, cli.load(args))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for photos to the ``parser`` of another command, which hands over where ``--images`` is given."""
    group = parser.add_argument_group("photos", "segment images of your own instead of the configuration's list")
    group.add_argument("--images", nargs="+", type=user_path, metavar="PATH", help=IMAGES_HELP)
    _word_arguments(group)


def _word_arguments(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--classes",
        metavar="WORDS",
        help='what to look for: classes apart by ";", words for the same thing after "=", such as '
        '"cat; dog = puppy, hound; my red mug" (default: the class file)',
    )
    group.add_argument(
        "--background",
        metavar="WORDS",
        help='what else may be there, such as "table, wall" (default: the background words of the class file)',
    )
    group.add_argument("--save-heatmaps", action="store_true", help="also draw how strongly each class was seen where")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that belong to the other way of running a command that can hand over to photos.

    Raises:
        UserError: an option for photos without ``--images``, or one for evaluations with it; an explorer of no image.
    """
    for_photos = {"--classes": args.classes, "--background": args.background, "--save-heatmaps": args.save_heatmaps}
    for_lists = {"--save-predictions": args.save_predictions, "--save-overlays": args.save_overlays}
    for option, value in for_photos.items():
        if value is not None and value is not False and not args.images:
            raise UserError(f"{option} goes with --images PATH: it says what to do with photos of your own")
    for option, value in for_lists.items():
        if value and args.images:
            raise UserError(
                f"{option} goes with an image list, not with --images: of every photo, labels and an overlay are "
                "written anyway"
            )
    if args.save_explorer and not (args.images or args.save_overlays):
        raise UserError(
            "--save-explorer goes with --images PATH, or with --save-overlays N, of whose N images it makes pages"
        )


def segment_photos(args: argparse.Namespace, config: Config) -> None:
    """Segment the photos ``args.images``; write pictures, say what was found.

    A photo that cannot be read or segmented is named and left out; the others are segmented all the same.

    Raises:
        UserError: wrong words, paths or settings before the start; results that cannot be written; photos that were
            left out, at the end.
    """
    if world_size() > 1:
        raise UserError("photos are segmented by one process; start this command without torchrun")
    output = args.output_dir or resolve(FOLDER)
    photos = name_outputs(find_photos(args.images, output)[: args.limit])
    prompts = prompts_of_words(config, args.classes, args.background, args.multi_prompt)

    # torch is imported here: what was wrong with the command has been said without waiting for it
    with cli.quick_imports():
        from . import pipeline
        from .segmenter import segmenter_of_words
        from .stages import PhotoStages

    segmenter = segmenter_of_words(config, prompts, args.device, args.tuned)
    loader = settled_on(str(segmenter.device), config).dataloader
    classes = len(prompts.class_names) - 1
    numbers = segmenter.number_format
    say(f"{segmenter.model.name} on {segmenter.device} in {numbers.name} ({numbers.why})")
    say(f"{classes} classes, {len(prompts)} prompts, {len(photos)} images")
    shown = len(photos) >= MANY
    with progress(len(photos), "segmenting", disable=None if shown else True) as bar:  # None: shown in a terminal
        stages = PhotoStages(segmenter, output, args.save_heatmaps, args.save_explorer, bar)
        pipeline.run(stages, photos, loader.batch_size)
    left_out = stages.left_out
    if left_out:
        names = ", ".join(map(str, left_out))
        raise UserError(f"{len(left_out)} of {len(photos)} images could not be segmented: {names}")
