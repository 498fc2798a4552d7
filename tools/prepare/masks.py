"""Masks as files: grey PNGs whose values are labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from src.errors import UserError
from src.files import replacing

MASK_BYTES = 10_000  # size of a mask of these data sets on a disk, rounded up


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Write labels, uint8 [height, width], atomically as a grey PNG. Raises UserError if that fails."""
    with replacing(path) as temporary:
        try:
            Image.fromarray(labels).save(temporary)
        except OSError as error:
            raise UserError(f"cannot write mask {path}: {error}; fix this and run the command again") from error


def names_in(folder: Path, ending: str) -> set[str]:
    """Names, without ``ending``, of the files in ``folder`` that have it; none if the folder does not exist.

    Temporary files of a killed run (leading dot), folders, pipes and broken links do not count.

    Raises:
        UserError: the folder cannot be read.
    """
    if not folder.is_dir():
        return set()
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name.removesuffix(ending)
                for entry in entries
                if entry.name.endswith(ending) and not entry.name.startswith(".") and entry.is_file()
            }
    except OSError as error:
        raise UserError(
            f"folder {folder} cannot be read ({error.strerror}); fix this and run the command again"
        ) from error


def require_folder(root: Path) -> None:
    """Raise UserError if the data root is a file."""
    if root.exists() and not root.is_dir():
        raise UserError(f"--root {root} is a file; name the folder of the data set, with the archives in it")
