"""PASCAL VOC 2012 with the masks of SBD: JPEGImages, SegmentationClassAug and their lists."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.files import GB, replacing, require_space
from src.screen import counted, progress, say
from tools.prepare.archive_addresses import DIAM, SBD_ARCHIVE, VOC_ARCHIVE
from tools.prepare.archives import MAKE_ROOM
from tools.prepare.download import download_sbd, download_voc
from tools.prepare.list_writing import check_list, say_count, say_published, write_list
from tools.prepare.masks import MASK_BYTES, names_in, require_folder, save_mask
from tools.prepare.pairs import check_pairs
from tools.prepare.parallel import for_each
from tools.prepare.pascal_sources import (
    Devkit,
    find_devkit,
    find_sbd,
    read_sbd_mask,
    read_voc_mask,
)

EXPECTED_MASKS = 12_031  # 10,582 images outside the official val and its 1,449
EXPECTED_LINES = {"train": 5_953, "val": 1_449}
PUBLISHED_MD5 = {"train": "b5c2b03701d0b38ae85bdead426970f9", "val": "6a4677fa6be45f515b2cf6807eec4e15"}

# images of VOC's train set without a mask in SBD: without SBD itself, the published order follows from them
# fmt: off
NOT_IN_SBD = frozenset((
    "2008_001056", "2008_001203", "2008_002425", "2008_002834", "2008_005367", "2008_006490",
    "2008_006920", "2009_000420", "2009_000774", "2009_001964", "2009_002543", "2009_002599",
    "2009_005194", "2011_000216", "2011_001855", "2011_002717", "2011_003151",
))
# fmt: on

# archive and what is unpacked from it, rounded up
VOC_BYTES = 4 * GB
SBD_BYTES = 4 * GB


@dataclass(frozen=True)
class ConversionJob:
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
    """Build ``root``/JPEGImages, ``root``/SegmentationClassAug and ``lists``/{train,val}.txt; print what was done.

    Masks come from SBD, or from VOC where both have one. Existing files are kept. If SegmentationClassAug exists and
    SBD does not, only the lists are written.

    Args:
        voc: the unpacked devkit or its archive; None: below ``root``.
        sbd: the folder benchmark_RELEASE; None: below ``root``.
        download: download what is missing.
        force: replace lists that differ; without it they are kept, and the difference is printed.

    Raises:
        UserError: a source is missing or damaged, or the disk is too full.
    """
    require_folder(root)
    devkit, sbd_folder = _sources(root, voc, sbd, download)
    images, masks = root / "JPEGImages", root / "SegmentationClassAug"
    there = names_in(masks, ".png")
    jobs = _mask_jobs(devkit, sbd_folder, masks, there) if sbd_folder else []
    names = there | {job.target.stem for job in jobs}
    links = _image_links(devkit, sbd_folder, images, names)
    with_image = names & (names_in(images, ".jpg") | {target.stem for _, target in links})
    lines = {split: _lines(chosen) for split, chosen in _splits(devkit, sbd_folder, with_image).items()}
    for split in lines:
        check_list(lists / f"{split}.txt", lines[split], force, _why_empty(names, masks, images, devkit))

    _link(links)
    require_space(root, len(jobs) * MASK_BYTES, "writing masks", MAKE_ROOM)
    for_each(convert, jobs, len(jobs), workers, "masks")
    say(f"{masks}: {counted(len(jobs), 'mask')} written, {len(there):,} existing kept")
    if len(with_image) < len(names):
        lost = min(names - with_image)
        without = len(names - with_image)
        say(f"{counted(without, 'mask')} without an image in {images}, e.g. {lost}: left out of the lists")
    say_count("masks", len(names), EXPECTED_MASKS, "is SBD complete? its benchmark.tgz has 11,355 files in dataset/cls")
    for split in lines:
        check_pairs(root, lines[split], workers, split)
        write_list(lists / f"{split}.txt", lines[split], force, root)
        say_count(f"{split} images", len(lines[split]), EXPECTED_LINES[split], "are VOC and SBD complete?")
        if len(lines[split]) == EXPECTED_LINES[split]:
            say_published(lists / f"{split}.txt", PUBLISHED_MD5[split])


def _sources(root: Path, voc: Path | None, sbd: Path | None, download: bool) -> tuple[Devkit, Path | None]:
    sbd_folder = find_sbd(root, sbd)
    ready = root / "SegmentationClassAug"
    masks = names_in(ready, ".png")
    if sbd_folder is None and not masks and not download:
        raise UserError(
            f"no SBD in {root}: put {SBD_ARCHIVE} or its folder benchmark_RELEASE there, name it with --sbd, or add "
            f"--download; it is not needed if {ready} contains the masks already, as in {DIAM}"
        )
    fetch_sbd = sbd_folder is None and len(masks) < EXPECTED_MASKS
    # an archive alone may be left from an interrupted download: torchvision compares its checksum
    unsure = download and voc is None and not any((root / f).is_dir() for f in ("VOCdevkit", "VOC2012", "ImageSets"))
    devkit = None if unsure else find_devkit(root, voc)
    if download:
        needed = (devkit is None) * VOC_BYTES + fetch_sbd * SBD_BYTES
        require_space(root, needed, "downloading and unpacking", MAKE_ROOM)
        if devkit is None:
            download_voc(root)
            devkit = find_devkit(root, None)
        if fetch_sbd:
            download_sbd(root / "SBD")
            sbd_folder = find_sbd(root, None)
    if devkit is None:
        raise UserError(
            f"no VOC 2012 in {root}: put {VOC_ARCHIVE} or VOCdevkit/VOC2012 there, name it with --voc, "
            "or add --download"
        )
    return devkit, sbd_folder


def _mask_jobs(devkit: Devkit, sbd: Path, folder: Path, there: set[str]) -> list[ConversionJob]:
    sources = {name: sbd / "cls" / f"{name}.mat" for name in names_in(sbd / "cls", ".mat")}
    voc = names_in(devkit.masks, ".png")
    # if VOC's own mask is missing, SBD's must not silently replace it: it has no void
    lost = {*devkit.image_set("Segmentation/train"), *devkit.image_set("Segmentation/val")} - voc - there
    if lost:
        raise UserError(
            f"{devkit.masks} has no masks for {counted(len(lost), 'image')} of VOC's own image sets, e.g. "
            f"{min(lost)}.png; they are part of {VOC_ARCHIVE}: unpack it again"
        )
    sources |= {name: devkit.masks / f"{name}.png" for name in voc}
    return [ConversionJob(sources[name], folder / f"{name}.png") for name in sorted(sources.keys() - there)]


def convert(job: ConversionJob) -> None:
    """Convert one mask. Raises UserError if the source cannot be read or the target cannot be written."""
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
    """Link each image to its target, or copy it if the file system has no hard links.

    Raises:
        UserError: the folder cannot be written to, or the disk is too full for copies.
    """
    if not links:
        return
    copied = 0
    folder = links[0][1].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with progress(len(links), "images") as bar:
            for source, target in links:
                try:
                    os.link(source.resolve(), target)
                except OSError:
                    if not copied:
                        needed = sum(s.stat().st_size for s, t in links if not t.exists())
                        require_space(folder, needed, "copying images", MAKE_ROOM)
                    with replacing(target) as temporary:
                        shutil.copyfile(source, temporary)
                    copied += 1
                bar.update()
    except OSError as error:
        raise UserError(f"cannot put images into {folder}: {error}; fix this and run the command again") from error
    say(f"{folder}: {counted(len(links) - copied, 'image')} linked (hard links: no second copy), {copied:,} copied")


def _why_empty(names: set[str], masks: Path, images: Path, devkit: Devkit) -> str:
    """What to do if no image can be listed."""
    if not names:
        return f"{masks} contains no masks (.png); put them directly into it"
    return (
        f"no image of its set in {devkit.folder / 'ImageSets'} has its photo in {images} and its mask in {masks} "
        f"(which contains {min(names)}.png, for example); put both directly into these folders"
    )


def _splits(devkit: Devkit, sbd: Path | None, names: set[str]) -> dict[str, list[str]]:
    """Image names of the lists, of those in ``names``, in the published order.

    val: VOC's Segmentation/val. train: the images of Main/train that SBD has a mask of, then those of
    Segmentation/train that are not listed yet; none of val.
    """
    main, segmentation = devkit.image_set("Main/train"), devkit.image_set("Segmentation/train")
    val = dict.fromkeys(devkit.image_set("Segmentation/val"))
    # a mask of an image outside VOC's own sets comes from SBD, whether SBD exists here or not
    only_vocs = NOT_IN_SBD if sbd is None else set(segmentation) - names_in(sbd / "cls", ".mat")
    train = dict.fromkeys([*(name for name in main if name not in only_vocs), *segmentation])
    return {
        "train": [name for name in train if name in names and name not in val],
        "val": [name for name in val if name in names],
    }


def _lines(names: list[str]) -> list[str]:
    return [f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png" for name in names]
