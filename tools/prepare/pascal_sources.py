"""Find and read the official files of PASCAL VOC 2012 and SBD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from src.data.images import open_image
from src.errors import UserError
from tools.prepare.archive_addresses import SBD_ARCHIVE, VOC_ARCHIVE
from tools.prepare.archives import extract

LABELS = frozenset({*range(21), 255})

# the devkit's folders that are needed; boxes and object masks stay in the archive
_FOLDERS = ("ImageSets", "JPEGImages", "SegmentationClass")
_CLS = ("benchmark_RELEASE", "dataset", "cls")


@dataclass(frozen=True)
class Devkit:
    """The folder VOC2012 of the devkit."""

    folder: Path

    @property
    def images(self) -> Path:
        """The folder of the JPEG images."""
        return self.folder / "JPEGImages"

    @property
    def masks(self) -> Path:
        """The folder of the official masks, palette PNGs with 255 void."""
        return self.folder / "SegmentationClass"

    def image_set(self, name: str) -> list[str]:
        """The image names of ImageSets/``name``.txt, in file order. Raises UserError if it is missing or empty."""
        path = self.folder / "ImageSets" / f"{name}.txt"
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
            raise UserError(
                f"image set {path} cannot be read ({reason}); it is part of {VOC_ARCHIVE}: unpack it again"
            ) from error
        # the lists of Main may have further columns, the first is the name
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
        if not names:
            raise UserError(f"image set {path} names no images; it is part of {VOC_ARCHIVE}: unpack it again")
        return names


def find_devkit(root: Path, given: Path | None) -> Devkit | None:
    """Find the devkit in ``given`` (a folder or an archive, which is unpacked to ``root``) or below ``root``, or None.

    Raises:
        UserError: ``given`` is neither; or the archive cannot be unpacked.
    """
    if given is not None and given.is_dir():
        devkit = _devkit_in(given)
        if devkit is None:
            raise UserError(
                f"--voc {given} has no VOCdevkit/VOC2012/ImageSets; name the unpacked devkit or {VOC_ARCHIVE}"
            )
        return devkit
    if given is not None and not given.is_file():
        raise UserError(f"--voc {given} does not exist; name the unpacked VOCdevkit/VOC2012 or {VOC_ARCHIVE}")
    archive = given or root / VOC_ARCHIVE
    if archive.is_file():
        # also with a devkit beside it, which may be left from an interrupted unpacking
        extract(archive, root, _wanted, "VOCdevkit/VOC2012/")
    devkit = _devkit_in(root)
    if devkit is None and archive.is_file():
        raise UserError(f"archive {archive} contains no VOCdevkit/VOC2012/ImageSets; expected {VOC_ARCHIVE}")
    return devkit


def _wanted(path: PurePosixPath) -> bool:
    return len(path.parts) > 3 and path.parts[:2] == ("VOCdevkit", "VOC2012") and path.parts[2] in _FOLDERS


def _devkit_in(folder: Path) -> Devkit | None:
    for candidate in (folder / "VOCdevkit" / "VOC2012", folder / "VOC2012", folder):
        if (candidate / "ImageSets").is_dir():
            return Devkit(candidate)
    return None


def find_sbd(root: Path, given: Path | None) -> Path | None:
    """Find the SBD folder that contains ``cls``, in ``given`` (a folder or an archive) or below ``root``, or None.

    Only the folder cls of an archive is unpacked to ``root``: all images are VOC's.

    Raises:
        UserError: ``given`` is neither; or the archive cannot be unpacked.
    """
    archive = root / SBD_ARCHIVE if given is None else given
    if archive.is_file():
        # also with a folder beside it, which may be left from an interrupted unpacking
        extract(archive, root, lambda path: path.parts[:-1] == _CLS, "/".join(_CLS))
        return root / "benchmark_RELEASE" / "dataset"
    # not root/SBD/benchmark_RELEASE, which torchvision leaves after an interrupted unpacking
    places = (root / "SBD", root / "benchmark_RELEASE" / "dataset") if given is None else _sbd_places(given)
    for place in places:
        if (place / "cls").is_dir():
            return place
    if given is not None:
        raise UserError(f"--sbd {given} has no folder dataset/cls; name {SBD_ARCHIVE} or its folder benchmark_RELEASE")
    return None


def _sbd_places(given: Path) -> tuple[Path, ...]:
    return given / "benchmark_RELEASE" / "dataset", given / "dataset", given


def read_voc_mask(path: Path) -> np.ndarray:
    """Read a mask of VOC's SegmentationClass: labels, uint8 [height, width], 255 void.

    Raises:
        UserError: it is unreadable, not a palette or grey image, or has an invalid label.
    """
    try:
        with open_image(path) as mask:
            mode, labels = mask.mode, np.asarray(mask)
    except Exception as error:  # Pillow raises anything at a damaged file
        raise UserError(f"mask {path} cannot be read ({error}); unpack {VOC_ARCHIVE} again") from error
    if mode not in ("P", "L"):
        raise UserError(f"mask {path} is a {mode} image; expected the palette PNG of {VOC_ARCHIVE}")
    return _checked(path, labels)


def read_sbd_mask(path: Path) -> np.ndarray:
    """Read the labels of an SBD file, field Segmentation of the struct GTcls: uint8 [height, width], no void.

    Raises:
        UserError: it is unreadable, without that field, or has an invalid label.
    """
    from scipy.io import loadmat  # only this function needs it

    try:
        labels = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # a damaged file lets scipy raise nearly anything
        raise UserError(
            f"SBD mask {path} cannot be read ({type(error).__name__}: {error}); "
            "expected a struct GTcls with the field Segmentation: unpack benchmark.tgz again"
        ) from error
    return _checked(path, labels)


def _checked(path: Path, labels: np.ndarray) -> np.ndarray:
    wrong = sorted(set(np.unique(labels).tolist()) - LABELS)
    if wrong or labels.ndim != 2:
        what = f"label {wrong[0]}" if wrong else f"shape {labels.shape}"
        raise UserError(f"mask {path} has {what}; expected height x width labels, 0 to 20 or 255: unpack it again")
    return labels.astype(np.uint8)
