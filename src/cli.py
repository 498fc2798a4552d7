"""What every command of the project shares: how it starts, and how it ends when the user has to do something."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import traceback
from collections.abc import Callable

from src.config.reader import load_config
from src.config.schema import Config
from src.errors import UserError
from src.paths import user_path
from src.screen import note, say, steady_console


def run(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Run ``main(arguments)`` and return its exit code.

    0 when it ends, 2 with one line on stderr for a :class:`UserError` (a traceback too with ``--debug`` among the
    arguments), 130 for Ctrl-C. Any other exception is a defect of ours and keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with steady_console():
        return _run(main, arguments)


def _run(main: Callable[[list[str]], None], arguments: list[str]) -> int:
    try:
        main(arguments)
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        note(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    return 0


LIMIT = "use only the first N images of the list"


def experiment_parser(
    script: str, manual: str | None, multi_prompt: bool = True, limit: str = LIMIT
) -> argparse.ArgumentParser:
    """A parser for an entry script: its docstring is the manual, the options that all of them share are there."""
    parser = argparse.ArgumentParser(
        prog=script, description=manual, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_arguments(parser, multi_prompt, limit)
    return parser


def common_arguments(parser: argparse.ArgumentParser, multi_prompt: bool = True, limit: str = LIMIT) -> None:
    """Add what the three entry scripts share to ``parser``; ``limit`` says what --limit does."""
    parser.add_argument(
        "--config",
        type=user_path,
        required=True,
        help="YAML file; the shipped ones are in configs/, with every key explained",
    )
    if multi_prompt:
        parser.add_argument(
            "--multi_prompt",
            action="store_true",
            help="ask with the related words of every class too, not with its name only; "
            "result files then end in _multi",
        )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        help="replace single keys of the configuration, for example --set crf.iters=0 model.layers='[0, 3]'",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA when there is one, else the CPU), cpu, cuda, cuda:N, or mps (Apple GPUs) (default: auto)",
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help=limit)
    parser.add_argument(
        "--output-dir",
        type=user_path,
        metavar="DIR",
        help="folder for all result files, instead of the configuration's",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error that is yours to mend")


def picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for an evaluation's pictures to ``parser``."""
    group = parser.add_argument_group("pictures of the evaluation", "written beside output.csv")
    group.add_argument(
        "--save-predictions",
        action="store_true",
        help="write every predicted label map as a palette PNG at the image's own size",
    )
    group.add_argument(
        "--save-overlays",
        type=positive_int,
        metavar="N",
        help="draw image, prediction and ground truth of N images, evenly spaced in the list, in one picture",
    )


def explorer_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--save-explorer`` to ``parser``; ``what`` says what is written."""
    parser.add_argument("--save-explorer", action="store_true", help=f"write {what}; opens in any browser, offline")


def positive_int(text: str) -> int:
    """A command line value that must be a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def load(args: argparse.Namespace) -> Config:
    """The configuration that the common arguments ask for, overrides applied; says what was overridden.

    Raises:
        UserError: see :func:`src.config.schema.load_config`.
    """
    config = load_config(args.config, args.set)
    for override in args.set:
        say(f"set {override}")
    if args.limit is not None:
        limits = [n for n in (args.limit, config.max_images) if n is not None]
        config = dataclasses.replace(config, max_images=min(limits))
    return config
