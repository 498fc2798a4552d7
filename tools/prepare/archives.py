"""Unpack tar and zip archives file by file, so that an interrupted unpacking resumes."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from src.errors import UserError
from src.files import replacing, require_space
from src.screen import counted, progress, say
from tools.prepare.archive_addresses import DIAM, ELSEWHERE

MAKE_ROOM = "make room or choose another --root"

# what archive readers raise for damaged, truncated or encrypted files
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path, its size in bytes, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def extract(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool], expected: str) -> int:
    """Unpack the ``wanted`` files of a .tar, .tgz or .zip archive below ``folder``; return how many were written.

    An existing file of the archive's size is kept, one of another size is replaced, with a note. Writes are atomic.

    Args:
        wanted: whether to unpack a path of the archive.
        expected: description of the wanted files, for messages.

    Raises:
        UserError: the archive is damaged, is a web page, has no wanted file or a path outside ``folder``, or the disk
            is full.
    """
    elsewhere = ELSEWHERE.get(archive.name, f"its official source, or take {DIAM}")
    try:
        _refuse_web_page(archive, elsewhere)
        with _members(archive) as members:
            found, missing, first = 0, [], None
            for member in members:
                path = PurePosixPath(member.name)
                first = first or member.name
                if not wanted(path):
                    continue
                if path.is_absolute() or ".." in path.parts:
                    raise UserError(
                        f"{archive} contains the path {member.name!r}, which leads out of {folder}; "
                        f"delete the archive and download it from {elsewhere}"
                    )
                found += 1
                target = folder / path
                if not (target.is_file() and target.stat().st_size == member.size):
                    missing.append((member, target))
            if not found:
                raise UserError(
                    f"archive {archive} contains no {expected} (its first file is {first!r}); unpack them manually "
                    f"to {folder}, or download it from {elsewhere}"
                )
            cut_short = sum(target.is_file() for _, target in missing)
            needed = sum(member.size for member, _ in missing)
            require_space(folder, needed, f"unpacking {archive.name}", MAKE_ROOM)
            if missing:
                with progress(len(missing), f"unpacking {archive.name}", unit="file") as bar:
                    for member, target in missing:
                        with replacing(target) as temporary, member.open() as source, temporary.open("wb") as sink:
                            shutil.copyfileobj(source, sink, 1 << 20)
                        bar.update()
            if cut_short:
                again = counted(cut_short, "file")
                say(f"{folder}: {again} of another size than in {archive.name} unpacked again")
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"archive {archive} is damaged or incomplete ({reason}); delete it and download it again from {elsewhere}"
        ) from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive}: {error}; fix this and run the command again") from error
    return len(missing)


def _refuse_web_page(archive: Path, elsewhere: str) -> None:
    with archive.open("rb") as file:
        start = file.read(512)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise UserError(
            f"{archive} is a web page, not an archive: the server answered with a log-in, a notice or an error; delete "
            f"it and download it again from {elsewhere}"
        )


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    if zipfile.is_zipfile(archive) or archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            yield _zip_members(zipped)
    else:
        with tarfile.open(archive) as tar:
            yield _tar_members(tar)


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[Member]:
    for info in zipped.infolist():
        if not info.is_dir():
            yield Member(info.filename, info.file_size, lambda info=info: zipped.open(info))


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    def reader(info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
        def read() -> IO[bytes]:
            file = tar.extractfile(info)
            assert file is not None  # of a regular file it never is
            return file

        return read

    for info in tar:
        if info.isfile():
            yield Member(info.name, info.size, reader(info))
    # for tarfile, a file that is truncated or damaged between two members ends there
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise tarfile.ReadError(f"it ends after {tar.offset:,} bytes")
