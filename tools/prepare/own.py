"""A data set of one's own: two folders become a list, a class file to fill in and two configurations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.images import check_file
from src.data.lists import ListEntry, read_list
from src.errors import UserError
from src.files import write_text
from src.screen import say, table
from tools.prepare.lists import check_list, write_list
from tools.prepare.masks import save_mask
from tools.prepare.parallel import for_each

IGNORED = 255
MAX_CLASSES = 254  # labels are bytes, and one of them stands for ignored pixels
BACKGROUND_WORDS = ("wall", "floor", "ceiling", "sky", "ground", "grass", "tree", "building", "road", "water")
LABEL_MODES = ("P", "L", "1", "I", "I;16")
NAME = re.compile(r"[A-Za-z0-9_.-]+")

Colours = Mapping[tuple[int, int, int], int]
"""Label of every colour that a mask may have."""


@dataclass(frozen=True)
class FoundLabel:
    """How often a value occurs in the masks: in how many of them, in how many pixels."""

    label: int
    images: int
    pixels: int


def prepare_own(
    images: Path,
    masks: Path,
    root: Path,
    name: str,
    background: bool | None = None,
    first_label: int | None = None,
    from_colours: Path | None = None,
    force: bool = False,
    workers: int = 1,
) -> None:
    """Write ``<root>/{list.txt,classes.json,training_free.yaml,one_shot.yaml}`` for a folder of images with masks.

    Args:
        images: a folder of images.
        masks: a folder of masks with the images' stems.
        root: where the files go.
        name: of the data set, for the names of result files.
        background: whether a mask's 0 is the background. None: it is, if 0 occurs.
        first_label: value of the first class in the masks. None: 1 with a background, else the smallest value.
        from_colours: a file of colours and labels: masks are converted to ``<root>/masks`` first.
        force: replace files that are there and differ.
        workers: processes that read masks.

    Raises:
        UserError: a folder, an image or a mask is missing or of a kind that cannot be used, or a file cannot be
            written or is there already.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: expected letters, digits, dots, dashes and underscores: files are named so")
    for option, folder in (("--images", images), ("--masks", masks)):
        if not folder.is_dir():
            raise UserError(f"{option} {folder} is no folder; expected one of {option[2:]}")
    names: dict[int, str] = {}
    entries = read_list(images, images, mask_dir=masks)
    if from_colours is not None:
        colours, names = read_colours(from_colours)
        entries = _convert(entries, colours, root / "masks", workers)
    found = count_labels([entry.mask for entry in entries if entry.mask], workers)
    labels = [label.label for label in found if label.label != IGNORED]
    if not labels:
        raise UserError(f"the masks in {masks} hold nothing but {IGNORED}, which is ignored")
    background = 0 in labels if background is None else background
    if first_label is None:
        first_label = 1 if background else min(labels)
    classes = max(labels) - first_label + 1
    if not 1 <= classes <= MAX_CLASSES or (background and first_label != 1):
        raise UserError(
            f"the masks in {masks} hold the values {', '.join(map(str, labels[:12]))}: with --first-label "
            f"{first_label} that makes {classes} classes; expected 1 to {MAX_CLASSES}, and 1 as the first label where "
            "0 is the background"
        )
    _say_found(found, background, first_label)

    data_root = Path(os.path.commonpath([path.resolve().parent for entry in entries for path in _files(entry)]))
    lines = [" ".join(path.resolve().relative_to(data_root).as_posix() for path in _files(entry)) for entry in entries]
    image_list = root / "list.txt"
    check_list(image_list, lines, force, f"put images into {images}")
    write_list(image_list, lines, force, data_root)
    class_file = root / "classes.json"
    _write(class_file, _class_file(range(first_label, first_label + classes), names), force)
    section = _dataset_section(background, first_label, len(labels))
    for file, experiment in (("training_free.yaml", TRAINING_FREE), ("one_shot.yaml", ONE_SHOT)):
        text = HEAD.format(name=name, data_root=_quoted(data_root), class_file=_quoted(class_file)) + section
        _write(root / file, text + experiment.format(name=name, image_list=_quoted(image_list)), force)
    say(
        f"\nname the classes in {class_file} (words as you would say them), then:\n"
        f"python training_free_blip.py --config {root / 'training_free.yaml'}\n"
        f"python compute_infoscore_blip.py --config {root / 'training_free.yaml'}\n"
        f"python one_shot_blip.py --config {root / 'one_shot.yaml'}"
    )


def count_labels(masks: Sequence[Path], workers: int) -> list[FoundLabel]:
    """The values that occur in ``masks``, in order.

    Raises:
        UserError: a mask cannot be read, or has colours instead of labels.
    """
    images, pixels = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for counts in for_each(_count, masks, len(masks), workers, "labels in the masks"):
        images += counts > 0
        pixels += counts
    return [FoundLabel(int(v), int(images[v]), int(pixels[v])) for v in np.flatnonzero(images)]


def _count(path: Path) -> np.ndarray:
    labels = _pixels(path)
    if labels.ndim != 2:
        raise UserError(
            f"mask {path} has colours, where labels are expected; write a line for each colour, `red green blue label "
            "name`, into a file and give it as --from-colours FILE"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= IGNORED:
        raise UserError(f"mask {path} has the value {int(labels.max())}; expected labels from 0 to {IGNORED}")
    return np.bincount(labels.ravel().astype(np.int64), minlength=256)


def _pixels(path: Path) -> np.ndarray:
    """A mask's values [height, width], or its colours [height, width, 3]."""
    check_file("mask", path)
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in LABEL_MODES else image.convert("RGB"))
    except Exception as error:  # a damaged file lets Pillow's plugins raise nearly anything
        raise UserError(f"mask {path} cannot be read ({' '.join(str(error).split())})") from error


def read_colours(path: Path) -> tuple[Colours, dict[int, str]]:
    """Read a file of lines ``red green blue label name``, the name optional; ``#`` begins a comment.

    Returns:
        The label of every colour, and the names of labels that have one.

    Raises:
        UserError: the file cannot be read, or a line is malformed (with its number).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--from-colours {path} cannot be read: {error}") from error
    colours: dict[tuple[int, int, int], int] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split(maxsplit=4)
        if not fields:
            continue
        if len(fields) < 4 or not all(field.isdecimal() and int(field) <= IGNORED for field in fields[:4]):
            raise UserError(f"{path}, line {number}: expected red green blue label name, as in `220 20 60 1 person`")
        red, green, blue, label = map(int, fields[:4])
        if colours.setdefault((red, green, blue), label) != label:
            raise UserError(f"{path}, line {number}: the colour {red} {green} {blue} has another label above")
        if len(fields) == 5:
            names[label] = fields[4].strip()
    if not colours:
        raise UserError(f"--from-colours {path} has no line `red green blue label name`")
    return colours, names


def _convert(entries: Sequence[ListEntry], colours: Colours, folder: Path, workers: int) -> list[ListEntry]:
    """Masks of labels, drawn into ``folder`` from masks of colours."""
    jobs = [(entry.mask, folder / f"{entry.image.stem}.png") for entry in entries if entry.mask]
    if any(source.resolve() == target.resolve() for source, target in jobs):
        raise UserError(f"the masks lie in {folder}, where the converted ones would go; use another --root")
    for_each(partial(_convert_one, colours), jobs, len(jobs), workers, "converting masks")
    return [ListEntry(entry.image, target) for entry, (_, target) in zip(entries, jobs, strict=True)]


def _convert_one(colours: Colours, job: tuple[Path, Path]) -> None:
    source, target = job
    check_file("mask", source)
    try:
        with Image.open(source) as image:
            rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    except Exception as error:  # a damaged file lets Pillow's plugins raise nearly anything
        raise UserError(f"mask {source} cannot be read ({' '.join(str(error).split())})") from error
    codes = (rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]
    labels = np.full(codes.shape, -1, np.int16)
    for (red, green, blue), label in colours.items():
        labels[codes == (red << 16) + (green << 8) + blue] = label
    unknown = codes[labels < 0]
    if len(unknown):
        code = int(np.bincount(np.unique(unknown, return_inverse=True)[1]).argmax())
        value = int(np.unique(unknown)[code])
        raise UserError(
            f"mask {source} has the colour {value >> 16} {value >> 8 & 255} {value & 255} ({len(unknown):,} pixels are "
            "of colours without a label); add its line, with label 255 to ignore it. JPEG blurs colours: masks must be "
            "PNG"
        )
    save_mask(target, labels.astype(np.uint8))


def _files(entry: ListEntry) -> list[Path]:
    return [path for path in (entry.image, entry.mask) if path is not None]


def _say_found(found: Sequence[FoundLabel], background: bool, first_label: int) -> None:
    total = sum(label.pixels for label in found)
    rows = [("value", "meaning", "masks", "pixels")]
    for label in found:
        meaning = f"class {label.label - first_label + 1}"
        if label.label == IGNORED or (label.label < first_label and not background):
            meaning = "ignored"
        elif label.label < first_label:
            meaning = "background"
        rows.append((str(label.label), meaning, f"{label.images:,}", f"{100 * label.pixels / total:.2f} %"))
    say(table(rows))


def _class_file(labels: Sequence[int], names: Mapping[int, str]) -> str:
    """A class file: the background's words, then an entry for every label."""
    entries = [{"id": 0, "name": "background", "related_word": list(BACKGROUND_WORDS)}]
    entries += [
        {"id": number, "name": names.get(label, f"class {label}"), "related_word": []}
        for number, label in enumerate(labels, 1)
    ]
    return "[\n" + ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in entries) + "\n]\n"


def _quoted(path: Path) -> str:
    """An absolute path as YAML reads it, whatever characters it has."""
    return json.dumps(str(path.resolve()), ensure_ascii=False)


def _write(path: Path, text: str, force: bool) -> None:
    """Write a file that users edit: one that is there and differs is kept unless ``force``; says what was done."""
    if path.is_file() and not force:
        same = path.read_text(encoding="utf-8", errors="replace") == text
        say(f"{path}: already there{'' if same else ' and not what would be made now'}: kept (--force replaces it)")
        return
    write_text(path, text)
    say(f"{path}: written")


HEAD = """\
# Made by `python -m tools.prepare own`; configs/reference.yaml explains every key.
data_set: {name}
data_root: {data_root}
class_name_dir: {class_file}
"""


def _dataset_section(background: bool, first_label: int, labels: int) -> str:
    return f"""
dataset:
  # {labels} values occur in the masks; 255 is ignored. The number of classes is the length of the class file
  background: {str(background).lower()}   # false: every pixel is one of the classes, and background words only compete
  first_label: {first_label}  # value of the first class in the masks; without a background, smaller values are ignored
"""


TRAINING_FREE = """
val_list: {image_list}

model:
  layers: [0, 3]      # the paper's choice for BLIP-large; auto: the best by InfoScore, which needs no masks

output:
  csv: results/{name}_training_free.csv
"""

ONE_SHOT = """
oneshot:
  test_list: {image_list}
  total_runs: 5
  min_support_area: 1024  # pixels of a class that make an image a candidate; the paper's 16384 suits VOC's photos

output:
  classwise_csv: results/{name}_one_shot_classwise.csv
  summary_csv: results/{name}_one_shot_summary.csv
"""
