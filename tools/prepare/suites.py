"""The other data sets of the open-vocabulary suites: Context, COCO-Object, COCO-Stuff, ADE20K and Cityscapes.

Layouts, labels and counts are those documented by their authors, not checked against an official archive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from src.errors import UserError, reason_of
from src.files import require_space
from src.screen import counted, say
from tools.prepare.archives import MAKE_ROOM, extract
from tools.prepare.list_writing import check_list, say_count, write_list
from tools.prepare.masks import MASK_BYTES, require_folder, save_mask
from tools.prepare.pairs import check_pairs
from tools.prepare.parallel import for_each
from tools.prepare.picture_files import read_labels

IGNORED = 255

# Cityscapes: the ids that are evaluated, in the order of their train ids 0 to 18 (cityscapesScripts, labels.py)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# COCO-Stuff: ids 1 to 182, of which these objects have no annotations; a mask's value is the id less 1 (its labels.md)
STUFF_IDS, STUFF_OBJECTS = 182, 91
STUFF_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})

# PASCAL Context: the 59 frequent ones of its 459 labels, which are in alphabetical order
CONTEXT_LABELS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)


def cityscapes_table() -> np.ndarray:
    """Train id of each Cityscapes id, uint8 [256]; 255 for what is not evaluated."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return table


def stuff_table() -> np.ndarray:
    """Label 0 to 170 of each value of COCO-Stuff's masks, uint8 [256]; 255 for unlabelled pixels."""
    table = np.full(256, IGNORED, np.uint8)
    used = [identifier - 1 for identifier in range(1, STUFF_IDS + 1) if identifier not in STUFF_UNUSED]
    table[used] = np.arange(len(used))
    return table


def object_table() -> np.ndarray:
    """Label of each value of COCO-Stuff's masks, uint8 [256]: 1 to 80 for objects, 0 for everything else."""
    table = stuff_table() + 1  # unlabelled pixels become 0
    table[STUFF_OBJECTS:] = 0
    return table


def context_table() -> np.ndarray:
    """Label of each of PASCAL Context's values, uint8 [65536]: 1 to 59 for frequent labels, 0 for the others."""
    table = np.zeros(65536, np.uint8)
    table[list(CONTEXT_LABELS)] = np.arange(1, len(CONTEXT_LABELS) + 1)
    return table


@dataclass(frozen=True)
class Layout:
    """Locations of the files of a data set, relative to one of its folders below the data root.

    Attributes:
        images: pattern of the images of a split, with ``{split}``.
        mask: the mask of an image, by the image's path.
        table: label of each value of a mask; None: masks are used directly.
        read: reads a mask.
        converted: folder of converted masks.
    """

    images: str
    mask: Callable[[PurePosixPath], PurePosixPath]
    table: Callable[[], np.ndarray] | None = None
    read: Callable[[Path], np.ndarray] = read_labels
    converted: str = ""


@dataclass(frozen=True)
class Suite:
    """A data set.

    Attributes:
        folders: possible roots below the data root; archives are unpacked to the first.
        archives: name of each official archive -> folder it is unpacked to, and the needed parts.
        layouts: possible layouts; the first existing one is used.
        splits: the data set's own name of train and val, and the number of images.
        sources: what to put below the data root, for messages.
        image_sets: files that name the images of a split, with ``{split}``; the first that exists. Empty: all.
    """

    folders: tuple[str, ...]
    archives: Mapping[str, tuple[str, tuple[str, ...]]]
    layouts: tuple[Layout, ...]
    splits: Mapping[str, tuple[str, int]]
    sources: str
    image_sets: tuple[str, ...] = ()


def _replaced(path: PurePosixPath, old: str, new: str, ending: str) -> PurePosixPath:
    """``path`` with its folder ``old`` called ``new``, and another ending."""
    parts = [new if part == old else part for part in path.parts]
    return PurePosixPath(*parts).with_suffix(ending)


def _cityscapes_mask(path: PurePosixPath) -> PurePosixPath:
    name = path.name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png"
    return _replaced(path, "leftImg8bit", "gtFine", ".png").with_name(name)


def read_context(path: Path) -> np.ndarray:
    """Read a file of PASCAL Context: uint16 [height, width]. Raises UserError if its field LabelMap is unreadable."""
    from scipy.io import loadmat  # only this function needs it

    try:
        labels = loadmat(path, variable_names=["LabelMap"])["LabelMap"]
        if labels.ndim != 2 or labels.min() < 0 or labels.max() > 459:
            raise ValueError(f"LabelMap has the shape {labels.shape} and values up to {labels.max()}")
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected a LabelMap with values from 0 to 459: "
            "unpack trainval.tar.gz again"
        ) from error
    return labels.astype(np.uint16)


_STUFF = Suite(
    folders=("",),
    archives={
        "train2017.zip": ("images", ("train2017",)),
        "val2017.zip": ("images", ("val2017",)),
        "stuffthingmaps_trainval2017.zip": ("annotations", ("{split}",)),
    },
    layouts=(
        Layout(
            "images/{split}/*.jpg",
            partial(_replaced, old="images", new="annotations", ending=".png"),
            stuff_table,
            converted="stuff",
        ),
    ),
    splits={"train": ("train2017", 118_287), "val": ("val2017", 5_000)},
    sources="images/val2017 (val2017.zip of cocodataset.org) and annotations/val2017 (stuffthingmaps_trainval2017.zip)",
)

SUITES: dict[str, Suite] = {
    "context": Suite(
        folders=("", "VOCdevkit/VOC2010", "VOC2010"),
        archives={
            "VOCtrainval_03-May-2010.tar": ("", ("VOCdevkit/VOC2010/JPEGImages", "VOCdevkit/VOC2010/ImageSets/Main")),
            "trainval.tar.gz": ("VOCdevkit/VOC2010", ("trainval",)),
        },
        layouts=(
            Layout(
                "JPEGImages/*.jpg",
                partial(_replaced, old="JPEGImages", new="trainval", ending=".mat"),
                context_table,
                read_context,
                "context",
            ),
            Layout(
                "JPEGImages/*.jpg", partial(_replaced, old="JPEGImages", new="SegmentationClassContext", ending=".png")
            ),
        ),
        splits={"train": ("train", 4_998), "val": ("val", 5_105)},
        sources="VOCdevkit/VOC2010 (VOCtrainval_03-May-2010.tar of host.robots.ox.ac.uk), and in it PASCAL Context's "
        "trainval/ (trainval.tar.gz of cs.stanford.edu/~roozbeh/pascal-context) or MMSegmentation's "
        "SegmentationClassContext/",
        image_sets=("ImageSets/SegmentationContext/{split}.txt", "ImageSets/Main/{split}.txt"),
    ),
    "coco-stuff": _STUFF,
    "coco-object": Suite(
        _STUFF.folders,
        _STUFF.archives,
        (Layout(_STUFF.layouts[0].images, _STUFF.layouts[0].mask, object_table, converted="objects"),),
        _STUFF.splits,
        _STUFF.sources,
    ),
    "ade20k": Suite(
        folders=("", "ADEChallengeData2016"),
        archives={
            "ADEChallengeData2016.zip": (
                "",
                ("ADEChallengeData2016/images/{split}", "ADEChallengeData2016/annotations/{split}"),
            ),
        },
        layouts=(Layout("images/{split}/*.jpg", partial(_replaced, old="images", new="annotations", ending=".png")),),
        splits={"train": ("training", 20_210), "val": ("validation", 2_000)},
        sources="ADEChallengeData2016/ (ADEChallengeData2016.zip of sceneparsing.csail.mit.edu)",
    ),
    "cityscapes": Suite(
        folders=("",),
        archives={
            "leftImg8bit_trainvaltest.zip": ("", ("leftImg8bit/{split}",)),
            "gtFine_trainvaltest.zip": ("", ("gtFine/{split}",)),
        },
        layouts=(
            Layout("leftImg8bit/{split}/*/*_leftImg8bit.png", _cityscapes_mask, cityscapes_table, converted="trainIds"),
        ),
        splits={"train": ("train", 2_975), "val": ("val", 500)},
        sources="leftImg8bit/ and gtFine/ (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip of "
        "cityscapes-dataset.com, which needs a login)",
    ),
}


def prepare_suite(
    name: str, root: Path, lists: Path, splits: tuple[str, ...] = ("val",), force: bool = False, workers: int = 1
) -> None:
    """Convert the masks of data set ``name`` where needed and write ``lists``/{train,val}.txt; print what was done.

    Args:
        name: key of :data:`SUITES`.
        splits: "train", "val" or both.
        force: replace lists that differ.

    Raises:
        UserError: a source is missing or damaged, or the disk is too full.
    """
    suite = SUITES[name]
    require_folder(root)
    for archive, (folder, parts) in suite.archives.items():
        if (root / archive).is_file():
            _unpack(root / archive, root / folder, parts, {suite.splits[split][0] for split in splits})
    for split in splits:
        _prepare_split(suite, root, lists / f"{split}.txt", split, force, workers)


def _unpack(archive: Path, folder: Path, parts: tuple[str, ...], splits: set[str]) -> None:
    """Unpack the ``parts`` of an archive that belong to ``splits``."""
    tops = {PurePosixPath(part.format(split=split)) for part in parts for split in splits}
    own = {top.name for top in tops} & {"train2017", "val2017"}
    if own and not own & splits:  # images of a split that was not requested
        return
    extract(archive, folder, lambda path: any(top in path.parents for top in tops), " or ".join(map(str, sorted(tops))))


def _prepare_split(suite: Suite, root: Path, list_path: Path, split: str, force: bool, workers: int) -> None:
    theirs, expected = suite.splits[split]
    found = _find(suite, root, theirs)
    if found is None:
        raise UserError(f"{root} has no labelled images of {theirs}; put {suite.sources} there, or name it with --root")
    base, layout, images = found
    masks = {image: layout.mask(image) for image in images}
    kept = [image for image in images if (root / base / masks[image]).is_file()]
    if len(kept) < len(images):
        lost = next(image for image in images if image not in set(kept))
        without = counted(len(images) - len(kept), "image")
        say(f"{without} without a mask, e.g. {root / base / lost}: left out of the list")
    targets = {image: masks[image] for image in kept}
    jobs = []
    if layout.table is not None:
        targets = {image: _target(layout, theirs, image) for image in kept}
        jobs = [
            (root / base / masks[i], root / base / targets[i]) for i in kept if not (root / base / targets[i]).is_file()
        ]
    lines = [f"{(base / image).as_posix()} {(base / targets[image]).as_posix()}" for image in kept]
    check_list(list_path, lines, force, f"put {suite.sources} into {root}")
    require_space(root, len(jobs) * MASK_BYTES, f"writing masks of {split}", MAKE_ROOM)
    if layout.table is not None:
        for_each(partial(_convert, layout.table(), layout.read), jobs, len(jobs), workers, f"masks of {split}")
        there = len(kept) - len(jobs)
        say(f"{root / base / layout.converted}: {counted(len(jobs), 'mask')} written, {there:,} already there")
    check_pairs(root, lines, workers, split)
    write_list(list_path, lines, force, root)
    say_count(f"{split} images", len(lines), expected, "is the data set complete?")


def _find(suite: Suite, root: Path, split: str) -> tuple[PurePosixPath, Layout, list[PurePosixPath]] | None:
    """The first folder and layout with labelled images of a split, and these images, relative to the folder."""
    for folder in suite.folders:
        base = root / folder
        for layout in suite.layouts:
            images = [
                PurePosixPath(path.relative_to(base).as_posix())
                for path in sorted(base.glob(layout.images.format(split=split)))
                if path.is_file() and not path.name.startswith(".")
            ]
            named = _image_set(suite, base, split)
            if named is not None:
                of_name = {image.stem: image for image in images}
                # the official labels cover all images of VOC 2010's sets; a set may name images that are not there
                images = [of_name[name] for name in named if name in of_name]
            if any((base / layout.mask(image)).is_file() for image in images):
                return PurePosixPath(folder), layout, images
    return None


def _image_set(suite: Suite, base: Path, split: str) -> list[str] | None:
    """The names in the first existing image set of a split; None if the data set has no image sets.

    Raises:
        UserError: the image sets are missing or unreadable.
    """
    if not suite.image_sets:
        return None
    paths = [base / path.format(split=split) for path in suite.image_sets]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return []
    try:
        return [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"image set {path} cannot be read ({reason_of(error)}); unpack it again") from error


def _target(layout: Layout, split: str, image: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(layout.converted, split, f"{image.stem}.png")


def _convert(table: np.ndarray, read: Callable[[Path], np.ndarray], job: tuple[Path, Path]) -> None:
    source, target = job
    values = read(source)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(table):
        raise UserError(f"mask {source} has the value {int(values.max())}; expected 0 to {len(table) - 1}")
    save_mask(target, table[values])
