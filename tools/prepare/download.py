"""Download the official archives, through torchvision."""

from __future__ import annotations

import errno
import http.client
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src.errors import UserError
from src.files import refuse_special
from tools.prepare.archive_addresses import COCO_MD5, COCO_URLS, ELSEWHERE, SBD_ARCHIVE, VOC_ARCHIVE

# no network or a broken connection (OSError, HTTPException), and a file with another checksum (RuntimeError, as
# torchvision raises it)
_FAILURES = (OSError, http.client.HTTPException, RuntimeError)

_OF_THE_DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)


def download_voc(root: Path) -> None:
    """Download VOC 2012 trainval to ``root``, unpacked as VOCdevkit/VOC2012. Raises UserError if that fails."""
    # here and below: torchvision takes seconds to import, and only downloads need it
    from torchvision.datasets import VOCSegmentation

    remedy = f"download {VOC_ARCHIVE} from {ELSEWHERE[VOC_ARCHIVE]} and put it in {root} or name it with --voc"
    with _downloading(f"VOC 2012 to {root}", remedy):
        root.mkdir(parents=True, exist_ok=True)
        VOCSegmentation(str(root), year="2012", image_set="train", download=True)


def download_sbd(folder: Path) -> None:
    """Download SBD to ``folder``: cls/, img/ and inst/. Raises UserError if that fails."""
    from torchvision.datasets import SBDataset

    remedy = f"download {SBD_ARCHIVE} from {ELSEWHERE[SBD_ARCHIVE]} and put it in {folder.parent} or name it with --sbd"
    with _downloading(f"SBD to {folder}", remedy):
        folder.mkdir(parents=True, exist_ok=True)
        SBDataset(str(folder), image_set="train", mode="segmentation", download=True)


def download_coco(name: str, root: Path) -> None:
    """Download one of the archives of :data:`tools.prepare.archive_addresses.COCO_URLS` to ``root``.

    The archive gets its name only when it is complete and has the known checksum.

    Raises:
        UserError: the download failed.
    """
    from torchvision.datasets.utils import calculate_md5, download_url

    refuse_special(root / name)
    unfinished = root / ".download" / name
    with _downloading(COCO_URLS[name], f"download it from {ELSEWHERE[name]} and put it in {root}"):
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        download_url(COCO_URLS[name], str(unfinished.parent), name)
        if not zipfile.is_zipfile(unfinished):
            raise RuntimeError("the connection ended early")
        if (md5 := calculate_md5(str(unfinished))) != COCO_MD5[name]:
            raise RuntimeError(f"its md5 is {md5}; expected {COCO_MD5[name]}")
        os.replace(unfinished, root / name)
        with suppress(OSError):  # the partial file of another download may exist
            unfinished.parent.rmdir()


@contextmanager
def _downloading(what: str, remedy: str) -> Iterator[None]:
    """Turn errors of a download into a :class:`UserError` with a remedy."""
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise UserError(
                f"cannot write {error.filename or what} while downloading: {error.strerror}; "
                "make room, or choose another --root"
            ) from error
        reason = " ".join(str(error).split())
        raise UserError(f"downloading {what} failed ({reason}); run the command again, or {remedy}") from error
