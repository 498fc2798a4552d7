"""``python -m tools.prepare own``: labelled images become a list, a class file and two configurations."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files import check_writable
from src.method.prompts import fault_of_word
from src.screen import counted, say, say_next, table
from src.task import PHOTO_MODEL
from tools.prepare.list_writing import check_list, write_list
from tools.prepare.masks import save_mask
from tools.prepare.own.configurations import MODEL_SIZE, write_class_file, write_configurations
from tools.prepare.own.formats import read_source
from tools.prepare.own.source import BACKGROUND, IGNORED, MAX_CLASSES, Labelled, Source
from tools.prepare.parallel import for_each
from tools.prepare.picture_files import picture_size, read_labels

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

# Values between two labels that smoothing or a lossy format leaves along edges: few of their pixels have four equal
# neighbours. Labels that people draw are areas.
EDGE_SHARE = 0.1
EDGE_VALUES = 5


@dataclass(frozen=True)
class FoundLabel:
    """Number of masks and pixels in which a value occurs; ``edge``: only along edges."""

    label: int
    masks: int
    pixels: int
    edge: bool


def prepare_own(
    images: Path | None,
    masks: Path | None,
    root: Path,
    name: str,
    background: bool | None = None,
    first_label: int | None = None,
    from_colours: Path | None = None,
    threshold: int | None = None,
    force: bool = False,
    workers: int = 1,
) -> None:
    """Write ``<root>/{list.txt,classes.json,training_free.yaml,one_shot.yaml}`` for labelled images.

    Labels that cannot be used directly (colours, annotations of a tool, gaps between labels) are written to
    ``<root>/masks`` as grey PNGs.

    Args:
        images, masks, threshold: see :func:`read_source`.
        name: of the data set, for the names of result files.
        background: whether 0 is the background. None: it is, if 0 occurs.
        first_label: value of the first class in the masks. None: 1 with a background, else the smallest value.
        from_colours: file of colours and labels, for masks of colours.
        force: replace existing files that differ.

    Raises:
        UserError: a file is missing, unreadable or unusable, or a file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected letters, digits, dashes, underscores and dots, no dot first: files are named so"
        )
    if from_colours is not None and threshold is not None:
        raise UserError("--from-colours and --threshold: choose one of them")
    if threshold is not None and not 1 <= threshold <= 255:
        raise UserError(f"--threshold {threshold}: expected a grey value from 1 to 255")
    source = read_source(images, masks, from_colours, threshold)
    say(f"{source.kind}; {counted(len(source.items), 'image')}")
    for text in source.notes:
        say(f"note: {text}")

    found = count_labels(source.items, workers)
    if not source.drawn:
        _refuse_smoothed(found)
    values = [label.label for label in found if label.label != IGNORED]
    background = BACKGROUND in values if background is None else background
    if first_label is None:
        # masks keep their values; labels that are drawn here begin at 1
        first_label = 1 if background or (source.drawn and 0 not in values) else min(values, default=1)
    _require_class(found, background, first_label)
    classes = [value for value in values if value >= first_label]
    renumbered = {old: new for new, old in enumerate(classes, first_label)}
    names = {new: source.names.get(old, f"class {old}") for old, new in renumbered.items()}
    _check_names(names)
    _say_found(found, background, first_label, renumbered, names)
    _say_unused(source, values)

    closed = any(old != new for old, new in renumbered.items())
    if closed:
        say(f"the labels have gaps: they are renumbered from {first_label} in {root / 'masks'}")
    pairs = _pairs(source.items, root / "masks", closed)
    data_root = Path(os.path.commonpath([path.parent for pair in pairs for path in pair]))
    lines = _lines(pairs, data_root)
    image_list = root / "list.txt"
    check_list(image_list, lines, force, "label some images")
    for file in ("classes.json", "training_free.yaml", "one_shot.yaml"):
        check_writable(root / file)
    _write_masks(source.items, [mask for _, mask in pairs], renumbered, force, workers)
    write_list(image_list, lines, force, data_root)
    write_class_file(root / "classes.json", names, force)
    write_configurations(root, name, data_root, image_list, root / "classes.json", background, first_label, force)
    unnamed = [text for text in names.values() if text not in source.names.values()]
    say(f"model: {PHOTO_MODEL} ({MODEL_SIZE}, downloaded on first use); model.name in both configurations")
    say_next(
        f"name the classes in {root / 'classes.json'} (words as you would say them)" if unnamed else "",
        shlex.join(["python", "training_free_blip.py", "--config", str(root / "training_free.yaml")]),
    )


def count_labels(items: Sequence[Labelled], workers: int) -> list[FoundLabel]:
    """The values that occur in the labels of ``items``, in order.

    Raises:
        UserError: labels cannot be read, are not from 0 to 255, or have another size than their image.
    """
    masks, pixels, inner, flat = (np.zeros(256, np.int64) for _ in range(4))
    for counts in for_each(_count, items, len(items), workers, "labels"):
        masks += counts[0] > 0
        pixels += counts[0]
        inner += counts[1]
        flat += counts[2]
    edge = (inner > 0) & (flat < EDGE_SHARE * inner)
    return [FoundLabel(int(v), int(masks[v]), int(pixels[v]), bool(edge[v])) for v in np.flatnonzero(masks)]


def _count(item: Labelled) -> np.ndarray:
    """Pixels of each value, int64 [3, 256]: all; not on the border; of these, with four equal neighbours."""
    labels = item.labels()
    if labels.ndim != 2 or labels.shape != picture_size("image", item.image):
        height, width = picture_size("image", item.image)
        raise UserError(
            f"{item.source}: the labels have {labels.shape[1]} x {labels.shape[0]} pixels, but image {item.image} has "
            f"{width} x {height}; they must agree (an image turned by its EXIF orientation is read as it is stored)"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= IGNORED:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise UserError(f"{item.source} has the value {wrong}; expected labels from 0 to {IGNORED}")
    labels = labels.astype(np.uint8)
    inner = labels[1:-1, 1:-1]
    neighbours = (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:])
    flat = np.logical_and.reduce([inner == other for other in neighbours])
    return np.stack([np.bincount(part.ravel(), minlength=256) for part in (labels, inner, inner[flat])])


def _refuse_smoothed(found: Sequence[FoundLabel]) -> None:
    between = [label for label in found if label.label not in (BACKGROUND, IGNORED)]
    edges = [label for label in between if label.edge]
    if len(edges) >= EDGE_VALUES and 2 * len(edges) > len(between):
        raise UserError(
            f"the masks have {counted(len(found), 'value')}, {len(edges)} of which occur along edges alone (e.g. "
            f"{edges[len(edges) // 2].label}): they were smoothed or saved as JPEG, and these values are not labels; "
            "export the masks again, or name the true values with --from-colours FILE, or with one kind of object on "
            "black pass --threshold 128"
        )


def _require_class(found: Sequence[FoundLabel], background: bool, first: int) -> None:
    """Raise UserError if no value is a class, or ``first`` cannot be the value of the first class."""
    if background and first != 1:
        raise UserError(
            f"--first-label {first}: expected 1, because the masks have a background (0); --no-background says that "
            "every pixel is one of the classes"
        )
    if not 0 <= first <= MAX_CLASSES:
        raise UserError(f"--first-label {first}: expected 0 to {MAX_CLASSES}")
    if any(first <= label.label < IGNORED for label in found):
        return
    shown = ", ".join(str(label.label) for label in found)
    ignored = any(label.label == IGNORED for label in found)
    remedy = f"if {IGNORED} marks an object, pass --threshold 128" if ignored else "label some pixels"
    what = f"{IGNORED} is ignored" if ignored else "0 is the background" if background else f"classes begin at {first}"
    raise UserError(f"the masks have no class: their values are {shown}, and {what}; {remedy}")


def _check_names(names: Mapping[int, str]) -> None:
    seen: dict[str, str] = {}
    for name in names.values():
        if fault := fault_of_word(name, name=True):
            raise UserError(f"the class name {name[:80]!r} {fault}; rename the class where it was labelled")
        first = seen.setdefault(name.strip().casefold(), name)
        if first is not name:
            raise UserError(
                f"the class names {first!r} and {name!r} are the same word; use one of them where they were labelled"
            )


def _say_found(
    found: Sequence[FoundLabel],
    background: bool,
    first_label: int,
    renumbered: Mapping[int, int],
    names: Mapping[int, str],
) -> None:
    total = sum(label.pixels for label in found)
    rows = [("value", "label", "class", "masks", "pixels")]
    for label in found:
        new = renumbered.get(label.label, label.label)
        meaning = names.get(new, "background" if background and label.label < first_label else "ignored")
        meaning = "ignored" if label.label == IGNORED else meaning
        rows.append((str(label.label), str(new), meaning, f"{label.masks:,}", f"{100 * label.pixels / total:.2f} %"))
    say(table(rows))


def _say_unused(source: Source, values: Sequence[int]) -> None:
    unused = [name for label, name in source.names.items() if label not in values and label not in (0, IGNORED)]
    if unused:
        shown = ", ".join(unused[:10]) + (" ..." if len(unused) > 10 else "")
        occur = "class occurs in no mask and is" if len(unused) == 1 else "classes occur in no mask and are"
        say(f"note: {len(unused):,} {occur} left out: {shown}")


def _pairs(items: Sequence[Labelled], folder: Path, closed: bool) -> list[tuple[Path, Path]]:
    """Absolute paths of images and masks, under the names that the user gave them: links are not followed."""
    pairs = []
    for item in items:
        mask = folder / f"{item.name}.png" if closed or item.mask is None else item.mask
        if mask is not item.mask and mask.exists() and mask.resolve() == item.source.resolve():
            raise UserError(f"the masks are in {folder}, where converted ones would go; use another --root")
        pairs.append((_absolute(item.image), _absolute(mask)))
    return pairs


def _absolute(path: Path) -> Path:
    # ".." behind a link cannot be shortened without following it
    return path.resolve() if ".." in path.parts else path.absolute()


def _lines(pairs: Sequence[tuple[Path, Path]], data_root: Path) -> list[str]:
    """The lines of the list. Raises UserError if a name below ``data_root`` has a blank."""
    lines = []
    for pair in pairs:
        for path in pair:
            relative = path.relative_to(data_root)
            for depth, part in enumerate(relative.parts):
                if len(part.split()) != 1:
                    place = data_root.joinpath(*relative.parts[: depth + 1])
                    what = "file" if depth == len(relative.parts) - 1 else "folder"
                    raise UserError(
                        f"{what} {place} has a blank in its name, which image lists cannot contain; rename it"
                    )
        lines.append(" ".join(path.relative_to(data_root).as_posix() for path in pair))
    return lines


def _write_masks(
    items: Sequence[Labelled], targets: Sequence[Path], renumbered: Mapping[int, int], force: bool, workers: int
) -> None:
    lookup = np.arange(256, dtype=np.uint8)
    for old, new in renumbered.items():
        lookup[old] = new
    jobs = [
        (item, target)
        for item, target in zip(items, targets, strict=True)
        if item.mask is None or target != _absolute(item.mask)
    ]
    if not jobs:
        return
    written = sum(for_each(partial(_write_one, lookup, force), jobs, len(jobs), workers, "masks"))
    say(f"{jobs[0][1].parent}: {counted(written, 'mask')} written, {len(jobs) - written:,} already there")


def _write_one(lookup: np.ndarray, force: bool, job: tuple[Labelled, Path]) -> bool:
    item, target = job
    labels = lookup[item.labels().astype(np.uint8)]
    if os.path.lexists(target) and not force:
        if target.is_file() and np.array_equal(read_labels(target), labels):
            return False
        raise UserError(f"mask {target} exists and differs from the one made now; --force replaces it")
    save_mask(target, labels)
    return True
