"""``python -m tools.prepare DATASET``: lay out a data set and write its image lists."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from typing import Any

from src.cli import run
from src.errors import UserError
from src.files import REPOSITORY, user_path
from src.screen import say_next

OVERVIEW = """\
Lay out a data set and write its image lists.

  python -m tools.prepare pascal --help    PASCAL VOC 2012 with the masks of SBD
  python -m tools.prepare coco --help      COCO 2014
  python -m tools.prepare context|coco-object|coco-stuff|ade20k|cityscapes --help
                                           the other data sets of the open-vocabulary suites
  python -m tools.prepare own --help       your own images, with masks or an export of a labelling tool

A list has one line per image, "image mask", both relative to the data root:
  src/lists/pascal/{train,val}.txt    JPEGImages/2007_000033.jpg SegmentationClassAug/2007_000033.png
  src/lists/coco/{train,val}.txt      val2014/COCO_val2014_000000000042.jpg val/COCO_val2014_000000000042.png
"""

ENDING = """
After an interruption, run the command again: it resumes. Files are written atomically, and existing files are
kept. An existing list that differs is kept too, and the difference is printed (other images, another order, masks in
another folder); --force replaces it. Images and masks that cannot be read or differ in size are reported.
"""

PASCAL = (
    """\
PASCAL VOC 2012 (Everingham et al.) with the masks of SBD (Hariharan et al.).

Put one of each below --root, or name it, or add --download (about 8 GB with everything unpacked):
  VOC 2012   VOCtrainval_11-May-2012.tar      the archive (host.robots.ox.ac.uk/pascal/VOC/voc2012)
             VOCdevkit/VOC2012/               or unpacked: ImageSets, JPEGImages, SegmentationClass
  SBD        benchmark.tgz                    the archive
             benchmark_RELEASE/dataset/cls/   or unpacked: a .mat file per image
             SegmentationClassAug/            or, instead of SBD, masks in the layout below, beside JPEGImages/, as in
                                              the archive of DIaM: only lists are written, from ImageSets/

Results:
  data/pascal/
    JPEGImages/             images that have a mask; hard links to the devkit's, or copies
    SegmentationClassAug/   grey PNGs: 0 background, 1..20 classes, 255 void; VOC's own mask where it exists,
                            SBD's (which have no void) elsewhere; 12,031 in all
  src/lists/pascal/
    val.txt     ImageSets/Segmentation/val in its order: 1,449 images
    train.txt   5,953 images, in the published order: those of ImageSets/Main/train that SBD has (5,623), then the
                others of ImageSets/Segmentation/train (330); none of val
  Both equal the published lists byte for byte; the command checks this and prints the result.
"""
    + ENDING
)

COCO = (
    """\
COCO 2014 (Lin et al.): one mask per image from the instance annotations.

Put this below --root, or add --download for what is missing (about 44 GB with everything unpacked; --splits val
alone: 16 GB). Archives in --root are unpacked there:
  annotations/instances_{train,val}2014.json   or annotations_trainval2014.zip
  train2014/, val2014/                         or train2014.zip, val2014.zip
Without annotations, but with masks in train/ and val/, as in the archive of DIaM, only lists are written, of the images
that have a mask.

Results:
  data/coco/
    train/, val/    grey PNGs: 0 background, 1..80 the categories in the order of their ids. All parts of an object
                    are drawn, larger objects first, so that smaller ones stay visible
  src/lists/coco/
    train.txt   images with at least one annotation, by file name (which is the order of image ids): 82,081
    val.txt     likewise: 40,137; evaluation takes the first 10,000
"""
    + ENDING
)


SUITE = """\
{title}

Put this below --root; archives there are unpacked:
{sources}

Results: masks with the labels of configs/classes/{classes}.json where the official ones have others, and the list
src/lists/{lists}/val.txt; --splits train val makes both lists. Existing masks and lists are kept.
Not checked against an official archive: layout, labels and counts are those that the authors document.
"""

# data set -> its title, folder in data/, folder in src/lists/, class file
SUITE_TEXTS = {
    "context": ("PASCAL Context, 59 classes with or without the background.", "context", "context", "context"),
    "coco-object": ("COCO-Object: COCO 2017's 80 objects and the background.", "coco_stuff", "coco_object", "coco"),
    "coco-stuff": ("COCO-Stuff, 171 classes, on COCO 2017.", "coco_stuff", "coco_stuff", "coco_stuff"),
    "ade20k": ("ADE20K, the 150 classes of the scene parsing challenge.", "ade20k", "ade20k", "ade20k"),
    "cityscapes": ("Cityscapes, 19 classes.", "cityscapes", "cityscapes", "cityscapes"),
}

# data set -> its configuration in configs/
CONFIGURATIONS = {
    "pascal": "pascal_blip",
    "coco": "coco_blip",
    "context": "context60_blip",
    "coco-object": "coco_object_blip",
    "coco-stuff": "coco_stuff_blip",
    "ade20k": "ade20k_blip",
    "cityscapes": "cityscapes_blip",
}

OWN = """\
Your own data: images with masks or an export of a labelling tool. The format is detected and printed:

  masks       a folder of images and a folder of masks with the same names (cat.jpg, cat.png or cat_mask.png), or both
              in one folder. Masks are grey, palette or 1-bit PNG, BMP, TIFF, GIF or PPM files; values are labels
  labelme     a folder of JSON files with polygons, rectangles, circles and masks
  CVAT        an unpacked export "Segmentation mask 1.1": labelmap.txt, SegmentationClass/; --images if it has no
              JPEGImages/
  Roboflow    a split of an export "Semantic Segmentation Masks": images, *_mask.png, _classes.csv
  COCO JSON   instances (polygons, RLE) or panoptic: --masks FILE.json --images DIR

--images alone is enough if one folder contains everything; otherwise --masks names the folder or file of the labels.

Label 255 is ignored. With 0 among the labels, 0 is the background and the classes begin at 1. With --no-background
every pixel is one of the classes, and 0 is the first of them; with --first-label 1 it is ignored. Gaps between labels
are closed. Grey masks of one kind of object, also smoothed ones and JPEGs, become labels with --threshold 128. Masks in
colours are converted with --from-colours FILE, one line per colour, the name optional:

  220 20 60 1 person
  0 0 142   2 car
  0 0 0     255

Results in data/NAME:
  list.txt             a line per image: image, mask
  classes.json         one class per label found; labels without a name are placeholders, and you name them
  training_free.yaml   configuration of training_free_blip.py and compute_infoscore_blip.py
  one_shot.yaml        configuration of one_shot_blip.py
  masks/               masks that had to be drawn, converted or renumbered
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; its help is the manual of data preparation."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="python -m tools.prepare", description=OVERVIEW, formatter_class=raw)
    commands = top.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    pascal = commands.add_parser("pascal", help="PASCAL VOC 2012 with SBD", description=PASCAL, formatter_class=raw)
    coco = commands.add_parser("coco", help="COCO 2014", description=COCO, formatter_class=raw)
    for name, command in (("pascal", pascal), ("coco", coco)):
        command.add_argument(
            "--root", type=user_path, default=REPOSITORY / "data" / name, help=f"data root (default: data/{name})"
        )
        command.add_argument(
            "--lists",
            type=user_path,
            default=REPOSITORY / "src" / "lists" / name,
            help=f"folder the lists are written to (default: src/lists/{name})",
        )
        command.add_argument("--download", action="store_true", help="download official archives that are missing")
    pascal.add_argument("--force", action="store_true", help="replace lists that differ")
    pascal.add_argument("--voc", type=user_path, metavar="PATH", help="VOC archive or unpacked devkit elsewhere")
    pascal.add_argument(
        "--sbd", type=user_path, metavar="PATH", help="SBD archive or folder benchmark_RELEASE elsewhere"
    )
    coco.add_argument(
        "--force",
        action="store_true",
        help="replace lists that differ; draw masks again that were drawn here with other annotations or --crowd",
    )
    coco.add_argument(
        "--splits", nargs="+", choices=("train", "val"), default=("train", "val"), help="default: train val"
    )
    coco.add_argument(
        "--crowd",
        choices=("include", "exclude"),
        default="include",
        help="crowd regions (many objects of a class under one outline): include (default) draws them as their class, "
        "because their pixels show it; exclude leaves them background",
    )
    suites = [_suite_parser(commands, name) for name in SUITE_TEXTS]
    own = commands.add_parser(
        "own", help="your own images, with masks or a labelling tool's files", description=OWN, formatter_class=raw
    )
    own.add_argument("--images", type=user_path, metavar="DIR", help="folder of images")
    own.add_argument(
        "--masks", type=user_path, metavar="PATH", help="folder of masks or of a tool's files, or a COCO JSON file"
    )
    own.add_argument("--name", default="own", help="of the data set (default: own)")
    own.add_argument("--root", type=user_path, metavar="DIR", help="where the files go (default: data/NAME)")
    own.add_argument(
        "--background",
        action=argparse.BooleanOptionalAction,
        help="whether a mask's 0 is the background (default: yes, if 0 occurs)",
    )
    own.add_argument(
        "--first-label",
        type=int,
        metavar="N",
        help="value of the first class in the masks (default: 1, without a background the smallest that occurs)",
    )
    own.add_argument("--from-colours", type=user_path, metavar="FILE", help="convert masks of colours to labels")
    own.add_argument(
        "--threshold",
        type=int,
        metavar="N",
        help="convert grey masks of one kind of object: values from N on are the object",
    )
    own.add_argument("--force", action="store_true", help="replace existing files that differ")
    for command in (pascal, coco, *suites, own):
        command.add_argument(
            "--workers",
            type=int,
            default=min(8, os.cpu_count() or 1),
            help="processes that read and write masks (default: one per core, up to 8)",
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def _suite_parser(commands: Any, name: str) -> argparse.ArgumentParser:
    from tools.prepare.suites import SUITES

    title, root, lists, classes = SUITE_TEXTS[name]
    sources = textwrap.fill(SUITES[name].sources, 100, initial_indent="  ", subsequent_indent="  ")
    manual = SUITE.format(title=title, sources=sources, lists=lists, classes=classes)
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=title.rstrip("."), description=manual, formatter_class=raw)
    command.add_argument(
        "--root", type=user_path, default=REPOSITORY / "data" / root, help=f"data root (default: data/{root})"
    )
    command.add_argument(
        "--lists",
        type=user_path,
        default=REPOSITORY / "src" / "lists" / lists,
        help=f"folder the lists are written to (default: src/lists/{lists})",
    )
    command.add_argument("--splits", nargs="+", choices=("train", "val"), default=("val",), help="default: val")
    command.add_argument("--force", action="store_true", help="replace lists that differ")
    return command


def main(arguments: list[str]) -> None:
    """Run the command line."""
    options = vars(parser().parse_args(arguments))
    dataset = options.pop("dataset")
    del options["debug"]
    if options["workers"] < 1:
        raise UserError(f"--workers {options['workers']}: expected 1 or more")
    usual = parser().parse_args([dataset])
    try:
        _prepare(dataset, options)
        if dataset != "own":  # which prints more
            _say_next(dataset, options, usual)
    except OSError as error:
        if error.filename is None:
            raise
        # no permission, a name that is too long, a disk that is gone
        raise UserError(
            f"{error.filename} cannot be used: {error.strerror}; fix this and run the command again, it resumes"
        ) from error


def _say_next(dataset: str, options: dict[str, Any], usual: argparse.Namespace) -> None:
    if "val" not in options.get("splits", ("val",)):
        say_next(f"python -m tools.prepare {dataset} --splits val prepares the images of the evaluation")
        return
    command = ["python", "-m", "tools.check", "--config", f"configs/{CONFIGURATIONS[dataset]}.yaml"]
    changed = [f"data_root={options['root']}"] if options["root"] != usual.root else []
    changed += [f"val_list={options['lists'] / 'val.txt'}"] if options["lists"] != usual.lists else []
    command += ["--set", *changed] if changed else []
    say_next(f"{shlex.join(command)} checks data and model")


def _prepare(dataset: str, options: dict[str, Any]) -> None:
    # imported here, so that each data set needs only its own packages
    if dataset == "pascal":
        from tools.prepare.pascal import prepare_pascal

        prepare_pascal(**options)
    elif dataset == "own":
        from tools.prepare.own.prepare import prepare_own

        options["root"] = options["root"] or REPOSITORY / "data" / options["name"]
        prepare_own(**options)
    elif dataset in SUITE_TEXTS:
        from tools.prepare.suites import prepare_suite

        options["splits"] = tuple(dict.fromkeys(options["splits"]))
        prepare_suite(dataset, **options)
    else:
        from tools.prepare.coco import prepare_coco

        options["splits"] = tuple(dict.fromkeys(options["splits"]))
        prepare_coco(**options)


if __name__ == "__main__":
    sys.exit(run(main))
