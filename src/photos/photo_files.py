"""Finding photos, and naming their results."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.images import check_file, format_names, images_in, passed_over
from ..errors import UserError
from ..files import check_writable, real_path, refuse_special
from ..screen import note

PICTURE = re.compile(r"_(labels|overlay|heatmap_\d+_.*)(\.\d{8}-\d{6}(-\d+)?)?\.png$")
"""Names of the pictures that an earlier run wrote, some of them renamed with their date."""

MAX_STEM_BYTES = 150  # of the 255 that file systems allow


LABELS, OVERLAY, EXPLORER = "labels.png", "overlay.png", "explorer.html"
"""Endings of the files of a photo."""


class PhotoFile(NamedTuple):
    """An image file, and how the names of its results begin."""

    path: Path
    name: str


def find_photos(paths: Sequence[Path], output: Path) -> list[Path]:
    """The image files among ``paths`` and directly in the folders among them, each once.

    Other files of a folder are noted. Pictures that an earlier run left in ``output`` are not photos.

    Raises:
        UserError: a path does not exist, or a folder has no image.
    """
    found = []
    for path in paths:
        if os.path.isdir(path):
            written_here = real_path(path) == real_path(output)
            images = [image for image in images_in(path) if not (written_here and PICTURE.search(image.name))]
            others = passed_over(path)
            if not images:
                contents = f" (it contains {others})" if others else ""
                raise UserError(f"{path} is a folder without images{contents}; expected {format_names()}")
            if others:
                note(f"note: files in {path} that are not read: {others}")
            found += images
        elif not os.path.exists(path):
            raise UserError(f"{path} does not exist; expected image files or folders")
        else:
            check_file("image", path)
            found.append(path)
    # by name and not by what links lead to: storage that keeps equal files once links several photos to the same file
    once: dict[str, Path] = {}
    for path in found:
        once.setdefault(os.path.abspath(path), path)
    return list(once.values())


def name_outputs(photos: Sequence[Path]) -> list[PhotoFile]:
    """Photos with names for their results: their stems, numbered if an earlier photo has the same stem.

    A long stem is cut to leave room for the longest ending.
    """
    stems = {_cut(path.stem).lower() for path in photos}  # some file systems ignore case
    used: set[str] = set()
    named = []
    for path in photos:
        stem, number = _cut(path.stem), 1
        name = stem
        while name.lower() in used or (number > 1 and name.lower() in stems):
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        named.append(PhotoFile(path, name))
    return named


def refuse_earlier(photos: Sequence[PhotoFile], output: Path) -> None:
    """Raise UserError if an earlier run left results of ``photos`` in the folder ``output``."""
    for photo in photos:
        for ending in (LABELS, OVERLAY, EXPLORER):
            if os.path.lexists(path := output / f"{photo.name}_{ending}"):
                raise UserError(
                    f"{path} exists; choose another --output-dir, or replace earlier results with --replace"
                )


def check_outputs(photos: Sequence[PhotoFile], output: Path) -> None:
    """Check that results can be written to ``output`` and replace no device or pipe; see :func:`check_writable`."""
    for photo in photos:
        for ending in (LABELS, OVERLAY, EXPLORER):
            refuse_special(output / f"{photo.name}_{ending}")
    check_writable(output / f"{photos[0].name}_{LABELS}")


def require_own_names(photos: Sequence[PhotoFile]) -> None:
    """Check that each photo has its own name without the ending: annotation tools find images by it.

    Raises:
        UserError: another photo has the same name, or the name is too long for result files.
    """
    for photo in photos:
        if photo.name != photo.path.stem:
            raise UserError(
                f"--export: the labels of {photo.path} would be called {photo.name}, because another photo has the "
                "same name or the name is too long, and annotation tools find images by name: rename it"
            )


def new_folder(parent: Path, name: str) -> Path:
    """Make the folder ``name`` in ``parent``, numbered if that exists. Raises UserError if it cannot be made."""
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError as error:
            if not parent.is_dir():
                raise UserError(f"{parent} is not a folder; choose one with --output-dir") from error
            number += 1
        except OSError as error:
            raise UserError(f"cannot make {folder}: {error.strerror}; choose a folder with --output-dir") from error


def _cut(stem: str) -> str:
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= MAX_STEM_BYTES else encoded[:MAX_STEM_BYTES].decode(errors="ignore")
