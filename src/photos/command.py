"""Segment photos of your own, with classes in your own words; no masks, image list or data root are needed.

    python -m src.photos photo.jpg folder/ --config configs/pascal_blip.yaml --classes "cat; dog = puppy, hound"

Photos come as cameras, phones and scanners write them and are answered at their own size. Results, in results/photos:
the labels of each photo (palette PNG), an overlay with a legend, on demand one heat map per class; and what was found,
with its share of the pixels and its matching score, on the screen.
"""

from __future__ import annotations

import argparse

from src import cli
from src.config.schema import Config
from src.data.images import read_photo
from src.errors import UserError
from src.paths import resolve, user_path
from src.photos.files import find_photos, name_outputs
from src.photos.words import prompts_of_words
from src.result_files import write_result
from src.screen import note, say

FOLDER = "results/photos"
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
    output = args.output_dir or resolve(FOLDER)
    photos = name_outputs(find_photos(args.images, output)[: args.limit])
    prompts = prompts_of_words(config, args.classes, args.background, args.multi_prompt)

    # torch is imported here: what was wrong with the command has been said without waiting for it
    from src.explorer.content import page_content
    from src.explorer.page import page
    from src.photos.photo import draw_pictures, summary
    from src.photos.segmenter import segmenter_of_words

    segmenter = segmenter_of_words(config, prompts, args.device, args.tuned)
    classes = len(prompts.class_names) - 1
    numbers = segmenter.number_format
    say(f"{segmenter.blip.name} on {segmenter.device} in {numbers.name} ({numbers.why})")
    say(f"{classes} classes, {len(prompts)} prompts, {len(photos)} images")
    left_out = []
    for path, name in photos:
        try:
            rgb = read_photo(path)
            analysis = segmenter.analyse_image(rgb)
            drawn = draw_pictures(rgb, analysis, args.save_heatmaps)
            explored = None
            if args.save_explorer:
                explored = page(page_content(segmenter, rgb, analysis.embeds, analysis.labels, path.name))
        except Exception as error:  # whatever one photo brings about, the others are not to wait for it
            left_out.append(path)
            named = isinstance(error, UserError)
            note(f"left out: {error}" if named else f"left out: image {path}: {type(error).__name__}: {error}")
            continue
        say(f"\n{path}  {rgb.shape[1]} x {rgb.shape[0]}\n{summary(analysis)}")
        files = [output / f"{name}_{ending}.png" for ending in drawn]
        for file, content in zip(files, drawn.values(), strict=True):
            write_result(file, content)
        labels, overlay, *heat_maps = files
        say(f"  wrote {labels}, {overlay.name}" + (f" and {len(heat_maps)} heat maps" if heat_maps else ""))
        if explored:
            file = output / f"{name}_explorer.html"
            write_result(file, explored)
            say(f"  wrote {file}: open it in a browser")
    if left_out:
        names = ", ".join(map(str, left_out))
        raise UserError(f"{len(left_out)} of {len(photos)} images could not be segmented: {names}")
