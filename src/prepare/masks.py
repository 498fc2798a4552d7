"""Masks as files: grey PNGs whose values are labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from src.errors import UserError
from src.files import replacing

MASK_BYTES = 10_000  # room a mask of these data sets takes on a disk, rounded up


def save_mask(path: Path, labels: np.ndarray) -> None:
    """Write labels, uint8 [height, width], as a grey PNG, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            Image.fromarray(labels).save(temporary)
        except OSError as error:
            raise UserError(f"cannot write mask {path}: {error}; see to it and start again") from error


def names_in(folder: Path, ending: str) -> set[str]:
    """Names, without ``ending``, of the files in ``folder`` that have it; none if there is no such folder.

    Names with a leading dot are files that were being written when a run was killed.
    """
    if not folder.is_dir():
        return set()
    return {
        path.name.removesuffix(ending)
        for path in folder.iterdir()
        if path.name.endswith(ending) and not path.name.startswith(".")
    }
