"""Shared by all commands: options, start, exit codes, and the last line of a command that ends early."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .config.reader import load_config
from .config.schema import Config
from .errors import Terminated, UserError, visible
from .files import user_path
from .runtime import check_device_name, check_job, end_early, world_size
from .screen import counted, note, say, steady_console

READER_KILLED = (
    "a process that reads images was killed, most often because memory ran out: lower dataloader.num_workers "
    "(0: no such processes) or dataloader.batch_size"
)
SKIPPED = 3
"""Exit code of a command that finished but skipped unreadable images."""

CHART_FORMATS = ("png", "pdf", "svg")
"""Formats of :mod:`src.output.charts`, which this module does not import: NumPy takes time."""


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` to ``most`` (None: no limit)."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"expected a whole number, {expected}, got {text}")
        return number

    return parse


positive_int = whole_number(1)


def run(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> int:
    """Run ``main(arguments)`` and return its exit code.

    0 or the value of ``main``; 2 for a :class:`UserError`, with one line on stderr (and a traceback with ``--debug``);
    130 for Ctrl-C; 143 for SIGTERM. Of several processes, the first that ends early prints the line and how to resume.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with steady_console(), _ending_on_sigterm():
        try:
            check_job()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        try:
            return main(arguments) or 0
        except UserError as error:
            if "--debug" in arguments:
                traceback.print_exc()
            _end_early(f"error: {error}", error, wait=True)
            return 2
        except KeyboardInterrupt as error:
            _end_early("interrupted", error)
            return 130
        except Terminated as error:
            _end_early("terminated", error)
            return 143
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # a scheduler signals all processes; a worker that reads images may end before this process gets the signal
            if "Terminated" in str(error):
                _end_early("terminated", error)
                return 143
            _end_early(f"error: {READER_KILLED}", error, wait=True)
            return 2


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import modules without garbage collection, and exclude their objects from later collections.

    Traversing the 350,000 permanent objects of PyTorch and transformers took a quarter of the import time. Objects are
    frozen only once, so that the memory of a finished experiment is still collected.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if before:
            gc.enable()


def _end_early(text: str, error: BaseException, wait: bool = False) -> None:
    """Print ``text`` and the notes of ``error``, unless another process of the job has printed its own."""
    if world_size() > 1 and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # torchrun ends all processes as soon as one has ended
            signal.signal(number, signal.SIG_DFL)
    end_early(visible("; ".join([text, *getattr(error, "__notes__", ())])).replace("\n", "\\n"), wait)


def end(skipped: Sequence[Mapping[str, str]]) -> int:
    """Print the skipped images, if any, and return the exit code."""
    for entry in skipped:
        note(f"skipped: {entry['reason']}")
    if not skipped:
        return 0
    unreadable = counted(len(skipped), "unreadable image")
    note(f"the results do not include {unreadable}; fix {'it' if len(skipped) == 1 else 'them'} and rerun")
    return SKIPPED


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated`, so that everything is closed; a second SIGTERM ends immediately."""

    def terminate(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    def send_again(ignored: sys.UnraisableHookArgs) -> None:
        # Python ignores exceptions in callbacks of weak references and in destructors, whatever raised them
        number = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(ignored.exc_type)
        if number is None:
            hook(ignored)
            return
        if number == signal.SIGTERM:
            signal.signal(number, terminate)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()  # when the callback has ended

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before, hook = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


LIMIT = "use only the first N images of the list"


def experiment_parser(
    script: str, manual: str | None, multi_prompt: bool = True, limit: str = LIMIT
) -> argparse.ArgumentParser:
    """A parser with the options that all entry scripts share; ``manual`` is the docstring of the script."""
    parser = argparse.ArgumentParser(
        prog=script, description=manual, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_arguments(parser, multi_prompt, limit)
    return parser


def common_arguments(parser: argparse.ArgumentParser, multi_prompt: bool = True, limit: str = LIMIT) -> None:
    """Add the options that the entry scripts share to ``parser``; ``limit`` is the help text of --limit."""
    model_arguments(parser, limit)
    figures_argument(parser)
    if multi_prompt:
        multi_prompt_argument(
            parser,
            "use the related words of every class as additional prompts; names of result files then end in _multi",
        )
    output_argument(parser)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start from scratch; without it an interrupted command resumes",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="skip unreadable images, list them at the end and in the JSON, and exit with code 3; without it, the "
        "first unreadable image ends the command (fix the file and rerun: it resumes)",
    )


def output_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--output-dir`` to ``parser``."""
    parser.add_argument(
        "--output-dir",
        type=user_path,
        metavar="DIR",
        help="folder for all result files, instead of the configuration's",
    )


def multi_prompt_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--multi_prompt``, the published name, to ``parser``, and the spelling of all other options as an alias."""
    parser.add_argument("--multi_prompt", action="store_true", help=text)
    parser.add_argument("--multi-prompt", action="store_true", dest="multi_prompt", help=argparse.SUPPRESS)


def model_arguments(parser: argparse.ArgumentParser, limit: str = LIMIT) -> None:
    """Add the options of commands with a configuration to ``parser``; ``limit`` is the help text of --limit."""
    parser.add_argument(
        "--config",
        type=user_path,
        required=True,
        help="YAML file, such as those in configs/; configs/reference.yaml explains every key",
    )
    settings_arguments(parser)
    parser.add_argument("--limit", type=positive_int, metavar="N", help=limit)


def settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, ``--device`` and ``--debug`` to ``parser``."""
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        help="override keys of the configuration, for example --set crf.iters=0 model.layers='[0, 3]'",
    )
    parser.add_argument(
        "--device",
        type=check_device_name,
        default="auto",
        help="auto (CUDA if available, else the CPU), cpu, cuda, cuda:N, or mps (Apple GPUs) (default: auto)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of user errors")


def picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for an evaluation's pictures to ``parser``."""
    group = parser.add_argument_group("pictures of the evaluation", "written next to output.csv")
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


def per_image_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--per-image`` to ``parser``."""
    parser.add_argument(
        "--per-image",
        action="store_true",
        help="write the IoU of every image to a CSV beside output.csv; tools.report --compare and --worst read it",
    )


def figures_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--figures`` to ``parser``."""
    parser.add_argument("--figures", choices=CHART_FORMATS, default="png", help="format of charts (default: png)")


def explorer_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--save-explorer`` to ``parser``; ``what`` describes the files."""
    parser.add_argument("--save-explorer", action="store_true", help=f"write {what}; opens in any browser, offline")


def moved_argument(parser: argparse.ArgumentParser, option: str, remedy: str) -> None:
    """Let ``parser`` refuse ``option``, which has moved to another command, with a ``remedy``."""

    class Moved(argparse.Action):
        def __call__(self, *_: object) -> None:
            raise UserError(f"{option} is not an option of {parser.prog}: {remedy}")

    parser.add_argument(option, nargs="*", action=Moved, help=argparse.SUPPRESS)


def again(script: str, args: argparse.Namespace, *more: str) -> str:
    """The command that runs an entry script with the common arguments ``args`` and ``more``, as typed into a shell."""
    words = ["python", script, "--config", str(args.config)]
    words += ["--set", *args.set] if args.set else []
    words += ["--device", args.device] if args.device != "auto" else []
    words += ["--limit", str(args.limit)] if args.limit else []
    words += ["--multi_prompt"] if getattr(args, "multi_prompt", False) else []
    words += ["--output-dir", str(args.output_dir)] if args.output_dir else []
    return shlex.join([*words, *more])


def one_shot_twin(config: Path) -> Path | None:
    """The one-shot configuration beside ``config``, of the same data and model; None if there is none."""
    twin = config.with_name("one_shot.yaml" if config.stem == "training_free" else f"{config.stem}_one_shot.yaml")
    return twin if twin.is_file() else None


def training_free_twin(config: Path) -> Path | None:
    """The configuration whose :func:`one_shot_twin` is ``config``."""
    stem = "training_free" if config.stem == "one_shot" else config.stem.removesuffix("_one_shot")
    twin = config.with_name(f"{stem}.yaml")
    return twin if twin.is_file() and one_shot_twin(twin) == config else None


def report_of(folder: Path) -> str:
    """The command that compares the results in ``folder``."""
    return f"{shlex.join(['python', '-m', 'tools.report', str(folder)])} compares results"


def load(args: argparse.Namespace) -> Config:
    """Load the configuration of the common arguments; see :func:`src.config.reader.load_config`. Prints overrides."""
    config = configuration(args)
    for override in args.set:
        say(f"set {override}")
    return config


def configuration(args: argparse.Namespace) -> Config:
    """Like :func:`load`, without printing."""
    config = load_config(args.config, args.set)
    if args.limit is not None:
        limits = [n for n in (args.limit, config.max_images) if n is not None]
        config = dataclasses.replace(config, max_images=min(limits))
    return config
