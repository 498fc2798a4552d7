"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.data.images import images_in, mask_endings
from src.errors import UserError

SUFFIXES = tuple(f"{sign}{word}" for sign in "_-." for word in ("mask", "masks", "label", "labels", "seg", "gt"))


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, and what is left: images without a mask and masks without an image."""

    matched: list[tuple[Path, Path]]
    images: list[Path]
    masks: list[Path]


def pair(images: Path, masks: Path) -> Pairs:
    """Pair the pictures of two folders, which may be the same, by their names.

    A mask has the name of its image, or that with ``_mask``, ``-label``, ``.gt`` and the like at its end; accents are
    equal in any encoding (NFC, NFD). In one folder ``cat_mask.png`` belongs to ``cat.png`` or ``cat.jpg``, and
    ``cat.png`` to ``cat.jpg``.

    Raises:
        UserError: an image has two masks.
    """
    if images.samefile(masks):
        pictures = images_in(images)
        candidates = _masks_among(pictures)
        chosen = set(candidates)
        return match_names([path for path in pictures if path not in chosen], candidates)
    return match_names(images_in(images), images_in(masks))


def match_names(images: Sequence[Path], masks: Sequence[Path]) -> Pairs:
    """Pair ``images`` with ``masks``; see :func:`pair`."""
    same_name = _by_name((stem(mask), mask) for mask in masks)
    with_suffix = _by_name((plain, mask) for mask in masks if (plain := _plain(mask)) is not None)
    matched, alone, used = [], [], set()
    for image in images:
        name = stem(image)
        found = same_name.get(name) or with_suffix.get(name, [])
        found = [mask for mask in found if mask.resolve() != image.resolve()]
        if len(found) > 1:
            raise UserError(f"image {image} has two masks: {found[0]} and {found[1].name}; remove one")
        if found:
            matched.append((image, found[0]))
            used.add(found[0])
        else:
            alone.append(image)
    return Pairs(matched, alone, [mask for mask in masks if mask not in used])


def stem(path: Path) -> str:
    """The name of a file without its ending, composed (NFC), so that equal names compare equal."""
    return unicodedata.normalize("NFC", path.stem)


def _plain(mask: Path) -> str | None:
    """The name of the image that a mask called ``cat_mask.png`` belongs to; None if it has no such suffix."""
    name = stem(mask)
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def _masks_among(pictures: Sequence[Path]) -> list[Path]:
    """The masks in a folder that also contains images."""
    names = {stem(path) for path in pictures}
    photos = {stem(path) for path in pictures if path.suffix.lower() not in mask_endings()}
    return [
        path
        for path in pictures
        if _plain(path) in names or (path.suffix.lower() in mask_endings() and stem(path) in photos)
    ]


def _by_name(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = {}
    for name, mask in named:
        masks.setdefault(name, []).append(mask)
    return masks
