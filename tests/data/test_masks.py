"""Masks in folders: found by name, lossless, also of one bit."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from src.data.images import read_mask
from src.data.labels import Labelling
from src.data.lists import read_list
from src.errors import UserError

LABELS = np.eye(8, dtype=np.uint8)


def test_a_mask_of_one_bit_has_labels_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(LABELS > 0).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", Labelling(2)), LABELS)


@pytest.mark.parametrize("ending", ["jpg", "jp2"])
def test_a_mask_in_a_lossy_format_is_refused(ending: str, tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / f"mask.{ending}")
    with pytest.raises(UserError, match=rf"mask .*mask\.{ending} is in the format JPEG.*PNG"):
        read_mask(tmp_path / f"mask.{ending}", Labelling(2))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_images_and_masks_may_be_encoded_differently(
    tmp_path: Path, forms: tuple[Literal["NFC", "NFD"], ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, form in zip(("images", "masks"), forms, strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(LABELS).save(tmp_path / folder / unicodedata.normalize(form, "café.png"))
    (entry,) = read_list(tmp_path / "images", tmp_path, mask_dir=tmp_path / "masks")
    assert entry.mask is not None
    assert entry.mask.parent == tmp_path / "masks"
    assert capsys.readouterr().err == ""  # no mask without an image


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / "cat.png")
    with pytest.raises(UserError, match="is the folder of the images"):
        read_list(tmp_path, tmp_path, mask_dir=tmp_path)
