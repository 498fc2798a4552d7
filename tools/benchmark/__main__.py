"""Time and memory of this project against the published computation, in one run.

    python -m tools.benchmark                                  # PASCAL single-prompt, stage by stage
    python -m tools.benchmark --vocabulary coco --multi_prompt
    python -m tools.benchmark --model albef                    # ALBEF's shape instead of BLIP-large's
    python -m tools.benchmark --what infoscore
    python -m tools.benchmark --what tuning                    # one step of two images
    python -m tools.benchmark --what runs                      # one query image in five runs of one-shot tuning
    python -m tools.benchmark --what growth --plot docs/growth.png
    python -m tools.benchmark --what precision                 # what bfloat16 and float16 change
    python -m tools.benchmark --what photos --repeats 2        # 200 photos, overlapping against one by one
    python -m tools.benchmark --what startup                   # what users wait for before the first image
    python -m tools.benchmark --device cuda --batch-size 16
    python -m tools.benchmark --published ../Segmentation-From-Attention   # also time the published scripts

The baseline is the computation of the published code (docs/speed.md, tests/oracles): HuggingFace's eager attention with
one image at a time, keys and values of the image, full-size maps, the unfolded CRF, images encoded again at every step
and run, and tuning with gradients through the vision encoder. Both sides run a model of BLIP-large's shape with
the same random weights on the same synthetic photos, in the same number formats, with the same warm-up and repeats.
Each side runs in a separate process, so that its peak memory can be measured. The floor of a stage is the time of its
matrix products at the rate of one large product on this machine, in the same number format. Photos go through the photo
command's own code with the shipped miniature model; one by one is the same work without overlap.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from src import cli
from src.errors import UserError
from src.files import user_path
from src.runtime import DEVICES
from src.screen import say, say_next
from tools.benchmark.options import AMP, CLASSES, MODELS, Options

COMPARED = ("segment", "infoscore", "tuning", "runs")
JOBS = (*COMPARED, "growth", "precision", "photos", "startup")


def main(arguments: list[str]) -> None:
    """Run the benchmark of the command line."""
    args = _parser().parse_args(arguments)
    if args.side:
        from tools.benchmark.measure import measure

        print(json.dumps(dataclasses.asdict(measure(args.side, Options(**json.loads(args.options))))))
        return
    if args.published:
        args.published = _checkout(args)
    import torch

    from src.runtime import choose_device

    device = choose_device(args.device)
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {device}")
    names = {field.name for field in dataclasses.fields(Options)} - {"what", "amp"}
    options = Options(**{name: value for name, value in vars(args).items() if name in names})
    if args.what == "growth":
        from tools.benchmark.growth import growth

        growth(options, args.amp, args.plot)
    elif args.what == "precision":
        from tools.benchmark.short_formats import compare_formats

        compare_formats(options)
    elif args.what == "photos":
        from tools.benchmark.photos import photos

        photos(options, args.amp[0])
    elif args.what == "startup":
        from tools.benchmark.startup import startup

        startup(options.repeats)
    else:
        from tools.benchmark.against_published import compare_with_published

        compare_with_published(dataclasses.replace(options, what=args.what), args.amp)
    plot = f"open {args.plot}" if args.what == "growth" and args.plot else ""
    say_next(plot, "docs/speed.md says what the rows mean and compares with other machines")


def _checkout(args: argparse.Namespace) -> str:
    """The folder of ``--published``, absolute.

    Raises:
        UserError: it lacks a script, or the job or model has no published counterpart.
    """
    if args.what not in COMPARED:
        raise UserError(
            f"--what {args.what} has no published counterpart; --published needs one of: {', '.join(COMPARED)}"
        )
    if args.model != "blip":
        raise UserError(f"--model {args.model}: the published scripts run BLIP; leave out --published or --model")
    from tools.benchmark.published import scripts_folder

    return str(scripts_folder(args.published.resolve()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Options()
    positive = cli.positive_int
    parser.add_argument("--what", choices=JOBS, default=usual.what, help="what to time (default: segment)")
    parser.add_argument("--model", choices=MODELS, default=usual.model, help="whose shape (default: blip)")
    parser.add_argument("--vocabulary", choices=tuple(CLASSES), default=usual.vocabulary)
    cli.multi_prompt_argument(parser, "with related words, too")
    parser.add_argument("--prompts", type=positive, metavar="N", help="use N prompts, by repeating words")
    parser.add_argument("--all-classes", action="store_true", help="every prompt is a class of its own")
    parser.add_argument("--image-size", type=positive, default=usual.image_size, metavar="S", help="default: 512")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=usual.batch_size,
        metavar="N",
        help="images per batch of this project; the published computation takes one at a time (default: 1)",
    )
    parser.add_argument("--device", default=usual.device, help=f"{DEVICES} (default: auto)")
    parser.add_argument(
        "--amp",
        nargs="+",
        choices=tuple(AMP),
        default=["false", "true"],
        help="both sides, with each of these values of runtime.amp (default: false true)",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=usual.repeats,
        metavar="N",
        help="timed repetitions of each side, of which the fastest counts (default: 3)",
    )
    parser.add_argument(
        "--warm-up", type=int, default=usual.warm_up, metavar="N", help="untimed repetitions before (default: 1)"
    )
    parser.add_argument(
        "--published",
        type=user_path,
        metavar="FOLDER",
        help="a checkout of the published code, whose scripts are timed too",
    )
    parser.add_argument("--plot", type=user_path, metavar="FILE", help="where to draw the plot of --what growth")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error that you can fix")
    parser.add_argument("--side", choices=("ours", "plain", "published"), help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
