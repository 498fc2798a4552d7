"""PASCAL VOC 2012 with the masks of SBD: JPEGImages, SegmentationClassAug and their lists."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from src.disk import GB, require_space
from src.errors import UserError
from src.files import replacing
from src.prepare.archives import MAKE_ROOM
from src.prepare.download import download_sbd, download_voc
from src.prepare.lists import check_list, say_count, write_list
from src.prepare.masks import MASK_BYTES, names_in, save_mask
from src.prepare.parallel import for_each
from src.prepare.pascal_sources import (
    VOC_ARCHIVE,
    Devkit,
    find_devkit,
    find_sbd,
    read_sbd_mask,
    read_voc_mask,
)

EXPECTED_MASKS = 12_031  # 10,582 images outside the official val and its 1,449
EXPECTED_LINES = {"train": 5_953, "val": 1_449}

# archive and what is unpacked from it, rounded up
VOC_BYTES = 4 * GB
SBD_BYTES = 4 * GB


@dataclass(frozen=True)
class MaskJob:
    """A mask to convert: from a VOC palette PNG or an SBD .mat file to a grey PNG."""

    source: Path
    target: Path


def prepare_pascal(
    root: Path,
    lists: Path,
    voc: Path | None = None,
    sbd: Path | None = None,
    download: bool = False,
    force: bool = False,
    workers: int = 1,
) -> None:
    """Build ``root``/JPEGImages, ``root``/SegmentationClassAug and ``lists``/{train,val}.txt; say what was done.

    Masks are SBD's, and VOC's own where both exist. What is there already is kept. If SegmentationClassAug is there
    and SBD is not, the folders are taken as they are and only the lists are made.

    Args:
        root: the data root.
        lists: folder of the lists.
        voc: the unpacked devkit or its archive; None looks below ``root``.
        sbd: the folder benchmark_RELEASE; None looks below ``root``.
        download: fetch what is not found.
        force: replace lists that differ.
        workers: processes that convert masks.

    Raises:
        UserError: a source is missing or damaged, a list differs, or the disk has no room.
    """
    devkit, sbd_folder = _sources(root, voc, sbd, download)
    images, masks = root / "JPEGImages", root / "SegmentationClassAug"
    there = names_in(masks, ".png")
    jobs = _mask_jobs(devkit, sbd_folder, masks, there) if sbd_folder else []
    names = there | {job.target.stem for job in jobs}
    links = _image_links(devkit, sbd_folder, images, names)
    with_image = names & (names_in(images, ".jpg") | {target.stem for _, target in links})
    lines = {split: _lines(chosen) for split, chosen in _splits(devkit, with_image).items()}
    for split in lines:
        check_list(lists / f"{split}.txt", lines[split], force)

    _link(links)
    require_space(root, len(jobs) * MASK_BYTES, "writing masks", MAKE_ROOM)
    for_each(convert, jobs, len(jobs), workers, "masks")
    print(f"{masks}: {len(jobs):,} masks written, {len(there):,} already there")
    if len(with_image) < len(names):
        lost = min(names - with_image)
        print(f"{len(names - with_image):,} masks have no image in {images}, e.g. {lost}: left out of the lists")
    say_count("masks", len(names), EXPECTED_MASKS, "is SBD whole? its benchmark.tgz has 11,355 files in dataset/cls")
    for split in lines:
        write_list(lists / f"{split}.txt", lines[split])
        say_count(f"{split} images", len(lines[split]), EXPECTED_LINES[split], "are VOC and SBD whole?")


def _sources(root: Path, voc: Path | None, sbd: Path | None, download: bool) -> tuple[Devkit, Path | None]:
    sbd_folder = find_sbd(root, sbd)
    ready = root / "SegmentationClassAug"
    if sbd_folder is None and not ready.is_dir() and not download:
        raise UserError(
            f"no SBD in {root}: unpack benchmark.tgz there (folder benchmark_RELEASE), name it with --sbd, "
            f"or add --download; it is not needed only where {ready} is there already"
        )
    # an archive alone may be what an interrupted download left: torchvision compares its checksum
    unsure = download and voc is None and not any((root / f).is_dir() for f in ("VOCdevkit", "VOC2012", "ImageSets"))
    devkit = None if unsure else find_devkit(root, voc)
    if download:
        needed = (devkit is None) * VOC_BYTES + (sbd_folder is None) * SBD_BYTES
        require_space(root, needed, "downloading and unpacking", MAKE_ROOM)
        if devkit is None:
            download_voc(root)
            devkit = find_devkit(root, None)
        if sbd_folder is None:
            download_sbd(root / "SBD")
            sbd_folder = find_sbd(root, None)
    if devkit is None:
        raise UserError(
            f"no VOC 2012 in {root}: put {VOC_ARCHIVE} or VOCdevkit/VOC2012 there, name it with --voc, "
            "or add --download"
        )
    return devkit, sbd_folder


def _mask_jobs(devkit: Devkit, sbd: Path, folder: Path, there: set[str]) -> list[MaskJob]:
    sources = {name: sbd / "cls" / f"{name}.mat" for name in names_in(sbd / "cls", ".mat")}
    voc = names_in(devkit.masks, ".png")
    if not voc:
        raise UserError(f"no masks in {devkit.masks}; they are part of {VOC_ARCHIVE}: unpack it again")
    sources |= {name: devkit.masks / f"{name}.png" for name in voc}
    return [MaskJob(sources[name], folder / f"{name}.png") for name in sorted(sources.keys() - there)]


def convert(job: MaskJob) -> None:
    """Convert one mask.

    Raises:
        UserError: the source cannot be read or the target cannot be written.
    """
    read = read_sbd_mask if job.source.suffix == ".mat" else read_voc_mask
    save_mask(job.target, read(job.source))


def _image_links(devkit: Devkit, sbd: Path | None, folder: Path, names: set[str]) -> list[tuple[Path, Path]]:
    """Source and target of the images that have a mask and are not in ``folder`` yet; the devkit's before SBD's."""
    missing = names - names_in(folder, ".jpg")
    links = {}
    for source in (devkit.images, *((sbd / "img",) if sbd else ())):
        for name in missing & names_in(source, ".jpg"):
            links.setdefault(name, (source / f"{name}.jpg", folder / f"{name}.jpg"))
    return [links[name] for name in sorted(links)]


def _link(links: list[tuple[Path, Path]]) -> None:
    """Make each image appear at its target: as a hard link, or as a copy where the file system has none.

    Raises:
        UserError: the folder cannot be written to, or the disk has no room for copies.
    """
    if not links:
        return
    copied = 0
    folder = links[0][1].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in tqdm(links, desc="images", unit="image"):
            try:
                os.link(source.resolve(), target)
            except OSError:
                if not copied:
                    needed = sum(s.stat().st_size for s, t in links if not t.exists())
                    require_space(folder, needed, "copying images", MAKE_ROOM)
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
                copied += 1
    except OSError as error:
        raise UserError(f"cannot put images into {folder}: {error}; see to it and start again") from error
    print(f"{folder}: {len(links) - copied:,} images linked (hard links: no second copy), {copied:,} copied")


def _splits(devkit: Devkit, names: set[str]) -> dict[str, list[str]]:
    """Image names of the lists: val in the official order, train in the order of the names and without val."""
    val = devkit.image_set("Segmentation/val")
    train = set(devkit.image_set("Main/train")) | set(devkit.image_set("Segmentation/train"))
    return {
        "train": sorted((train & names) - set(val)),
        "val": [name for name in val if name in names],
    }


def _lines(names: list[str]) -> list[str]:
    return [f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png" for name in names]
