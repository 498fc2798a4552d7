"""COCO 2014: masks from the instance annotations, and their lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.files import GB, require_space, write_text
from src.screen import counted, say
from tools.prepare.archive_addresses import COCO_ANNOTATIONS
from tools.prepare.archives import MAKE_ROOM, extract
from tools.prepare.coco_masks import Instances, MaskJob, draw_and_save, read_instances
from tools.prepare.download import download_coco
from tools.prepare.list_writing import check_list, say_count, write_list
from tools.prepare.masks import MASK_BYTES, names_in, require_folder
from tools.prepare.pairs import check_pairs
from tools.prepare.parallel import for_each

EXPECTED_LINES = {"train": 82_081, "val": 40_137}
EXPECTED_CATEGORIES = 80

# archive and what is unpacked from it, rounded up
ARCHIVE_BYTES = {COCO_ANNOTATIONS: 2 * GB, "train2014.zip": 28 * GB, "val2014.zip": 14 * GB}

# in the folder of the masks: how they were drawn
RECORD = "masks.json"


def prepare_coco(
    root: Path,
    lists: Path,
    splits: tuple[str, ...] = ("train", "val"),
    crowd: str = "include",
    download: bool = False,
    force: bool = False,
    workers: int = 1,
) -> None:
    """Draw ``root``/{train,val}/*.png from the annotations and write ``lists``/{train,val}.txt; print what was done.

    Existing masks are kept. If they were drawn from other annotations or with another ``crowd``, ``force`` is needed. A
    split with masks and without annotations gets its list only.

    Args:
        lists: folder of the lists.
        splits: "train", "val" or both.
        crowd: "include" or "exclude" crowd regions.
        download: download what is missing.
        force: replace lists that differ, and masks drawn here with other settings.

    Raises:
        UserError: a source is missing or damaged, the masks differ, or the disk is too full.
    """
    require_folder(root)
    _fetch(root, splits, download)
    for split in splits:
        _prepare_split(root, lists / f"{split}.txt", split, crowd, force, workers)


def _fetch(root: Path, splits: tuple[str, ...], download: bool) -> None:
    """Download what is missing, unpack the archives in ``root``, and check that all sources exist."""
    folders = {f"{split}2014.zip": root / f"{split}2014" for split in splits}
    files = {split: _annotations(root, split) for split in splits}
    if download:
        complete = {name: bool(names_in(folder, ".jpg")) for name, folder in folders.items()}
        complete[COCO_ANNOTATIONS] = all(path.is_file() for path in files.values())
        missing = [name for name, done in complete.items() if not done and not (root / name).is_file()]
        require_space(root, sum(ARCHIVE_BYTES[name] for name in missing), "downloading and unpacking", MAKE_ROOM)
        for name in missing:
            download_coco(name, root)
    wanted = {f"annotations/{path.name}" for path in files.values()}
    if (root / COCO_ANNOTATIONS).is_file():
        extract(root / COCO_ANNOTATIONS, root, lambda path: str(path) in wanted, " or ".join(sorted(wanted)))
    for name, folder in folders.items():
        if (root / name).is_file():
            extract(root / name, root, lambda path, top=folder.name: path.parts[0] == top, f"{folder.name}/*.jpg")
    for split in splits:
        folder = folders[f"{split}2014.zip"]
        for path, there, archive, instead in (
            (files[split], _has_sources(root, split), COCO_ANNOTATIONS, f", put existing masks into {root / split}"),
            (folder, folder.is_dir(), f"{split}2014.zip", ""),
        ):
            if not there:
                raise UserError(
                    f"{path} does not exist: put {archive} from cocodataset.org in {root}, add --download{instead}, "
                    "or leave the split out with --splits"
                )


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2014.json"


def _has_sources(root: Path, split: str) -> bool:
    return _annotations(root, split).is_file() or bool(names_in(root / split, ".png"))


def _prepare_split(root: Path, list_path: Path, split: str, crowd: str, force: bool, workers: int) -> None:
    """Draw the masks of a split, or use existing ones if it has no annotations, and write its list."""
    images, folder = root / f"{split}2014", root / split
    instances, annotations = None, _annotations(root, split)
    if annotations.is_file():
        say(f"reading {annotations}")
        instances = read_instances(annotations, crowd == "include")
        if len(instances.labels) != EXPECTED_CATEGORIES:
            count = f"{len(instances.labels)}, but {EXPECTED_CATEGORIES} expected"
            say(f"{split} categories: {count}; are these COCO's own?")
        names = sorted(name for name, image in instances.images.items() if image["id"] in instances.annotations)
    else:
        say(f"{annotations} does not exist: the masks in {folder} are used as they are, and only the list is written")
        names = sorted(names_in(folder, ".png"))
    with_image = names_in(images, ".jpg")
    listed = [name for name in names if name in with_image]
    lines = [f"{split}2014/{name}.jpg {split}/{name}.png" for name in listed]
    check_list(list_path, lines, force, _why_empty(images, names, annotations if instances else folder))

    if instances:
        _match_record(folder, {"annotations": _fingerprint(root, split), "crowd": crowd}, force)
        there = names_in(folder, ".png")
        missing = [name for name in names if name not in there]
        require_space(root, len(missing) * MASK_BYTES, f"writing masks of {split}", MAKE_ROOM)
        for_each(draw_and_save, _jobs(instances, folder, missing), len(missing), workers, f"masks of {split}")
        say(f"{folder}: {counted(len(missing), 'mask')} written, {len(names) - len(missing):,} already there")
    if len(listed) < len(names):
        lost = next(name for name in names if name not in with_image)
        without = len(names) - len(listed)
        say(f"{counted(without, 'mask')} without an image in {images}, e.g. {lost}: left out of the list")
    check_pairs(root, lines, workers, split)
    write_list(list_path, lines, force, root)
    remedy = "are annotations and images complete?" if instances else f"put {annotations.name} in {annotations.parent}"
    say_count(f"{split} images", len(lines), EXPECTED_LINES[split], remedy)


def _why_empty(images: Path, names: list[str], source: Path) -> str:
    """What to do if no image can be listed."""
    if not names:
        return f"{source} has no objects; unpack {COCO_ANNOTATIONS} again"
    found = sorted(path.name for path in images.iterdir())
    contents = f"it contains {found[0]}" if found else "it is empty"
    many = counted(len(names), "image")
    return f"{images} ({contents}) has none of {many}, e.g. {names[0]}.jpg; put them directly into it"


def _jobs(instances: Instances, folder: Path, names: list[str]) -> Iterator[MaskJob]:
    for name in names:
        image = instances.images[name]
        yield MaskJob(
            folder / f"{name}.png",
            image["height"],
            image["width"],
            instances.annotations[image["id"]],
            instances.labels,
        )


def _fingerprint(root: Path, split: str) -> dict[str, str | int]:
    path = _annotations(root, split)
    return {"name": path.name, "bytes": path.stat().st_size}


def _match_record(folder: Path, settings: dict[str, object], force: bool) -> None:
    """Compare ``settings`` with the record of the masks in ``folder``; start a record if there are no masks.

    Raises:
        UserError: the masks were drawn with other settings and ``force`` is not given.
    """
    record = folder / RECORD
    masks = names_in(folder, ".png")
    if record.is_file():
        try:
            same = json.loads(record.read_text(encoding="utf-8")) == settings
        except (OSError, ValueError, RecursionError):
            same = False
        if same:
            return
        if masks and not force:
            raise UserError(
                f"the masks in {folder} were drawn with other settings ({record}: annotations or --crowd differ); "
                "--force draws them again"
            )
    elif masks:
        # not even with force: they may be the only copy of someone's work
        say(f"{folder}: {counted(len(masks), 'mask')} of unknown origin kept; move them away to draw all masks here")
        return
    # the record comes last: after an interruption, old masks still have the old record
    try:
        for name in masks:
            (folder / f"{name}.png").unlink()
    except OSError as error:
        raise UserError(
            f"cannot delete the masks in {folder}: {error.strerror}; fix this and run the command again"
        ) from error
    write_text(record, json.dumps(settings, indent=2) + "\n")
