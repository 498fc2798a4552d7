"""The command line options for photos; apart from what they do, so that ``--help`` needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for photos to ``parser``."""
    group = parser.add_argument_group("photos", "segment images of your own instead of the configuration's list")
    group.add_argument(
        "--images", nargs="+", type=Path, metavar="PATH", help="image files, or folders of which every image is taken"
    )
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
    """Refuse options that belong to the other way of running the script.

    Raises:
        UserError: an option for photos without ``--images``.
    """
    given = {"--classes": args.classes, "--background": args.background, "--save-heatmaps": args.save_heatmaps}
    for option, value in given.items():
        if value and not args.images:
            raise UserError(f"{option} goes with --images PATH: it says what to do with photos of your own")
