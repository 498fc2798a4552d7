"""Which photos are meant, and what their pictures are called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.images import IMAGE_ENDINGS, check_file, images_in
from ..errors import UserError

PICTURE = re.compile(r"_(labels|overlay|heatmap_\d+_.*)(\.\d{8}-\d{6}(-\d+)?)?\.png$")
"""Names of the pictures that an earlier run wrote, dated ones too."""


MAX_STEM_BYTES = 150  # of the 255 that file systems allow


class Photo(NamedTuple):
    """An image file, and what the names of its pictures begin with."""

    path: Path
    name: str


def find_photos(paths: Sequence[Path], output: Path) -> list[Path]:
    """The image files among ``paths`` and directly in the folders among them, each once.

    Pictures that an earlier run left in ``output`` are passed over where a folder is given.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found = []
    for path in paths:
        if os.path.isdir(path):
            written_here = path.resolve() == output.resolve()
            images = [image for image in images_in(path) if not (written_here and PICTURE.search(image.name))]
            if not images:
                raise UserError(f"--images {path}: the folder holds no images ({', '.join(IMAGE_ENDINGS)})")
            found += images
        elif not os.path.exists(path):
            raise UserError(f"--images {path} does not exist; expected image files or folders")
        else:
            check_file("--images", path)
            found.append(path)
    return list({path.resolve(): path for path in found}.values())


def name_outputs(photos: Sequence[Path]) -> list[Photo]:
    """Photos with the names that their pictures begin with: their stems, numbered where an earlier photo has the same.

    A long stem is cut, so that the longest ending and a date find room.
    """
    stems = {_cut(path.stem).lower() for path in photos}  # file systems that ignore case must not mix photos up either
    used: set[str] = set()
    named = []
    for path in photos:
        stem, number = _cut(path.stem), 1
        name = stem
        while name.lower() in used or (number > 1 and name.lower() in stems):
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        named.append(Photo(path, name))
    return named


def _cut(stem: str) -> str:
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= MAX_STEM_BYTES else encoded[:MAX_STEM_BYTES].decode(errors="ignore")
