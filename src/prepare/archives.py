"""Unpacking tar and zip archives file by file, so that an interrupted unpacking goes on where it stopped."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from src.disk import require_space
from src.errors import UserError
from src.files import replacing

MAKE_ROOM = "make room or choose another --root"


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path there, its size in bytes, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def extract(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> int:
    """Unpack the ``wanted`` files of a .tar, .tgz or .zip archive below ``folder``; return how many were written.

    A file that is there with the size it has in the archive is kept; one of another size is replaced, and that is
    said. Every file appears whole or not at all.

    Raises:
        UserError: the archive is damaged, holds a path that leads out of ``folder``, or the disk has no room.
    """
    try:
        with _members(archive) as members:
            missing = []
            for member in members:
                path = PurePosixPath(member.name)
                if not wanted(path):
                    continue
                if path.is_absolute() or ".." in path.parts:
                    raise UserError(
                        f"{archive} holds the path {member.name}, which leads out of {folder}; "
                        "fetch the archive from its official source"
                    )
                target = folder / path
                if not (target.is_file() and target.stat().st_size == member.size):
                    missing.append((member, target))
            cut_short = sum(target.is_file() for _, target in missing)
            needed = sum(member.size for member, _ in missing)
            require_space(folder, needed, f"unpacking {archive.name}", MAKE_ROOM)
            for member, target in tqdm(missing, desc=f"unpacking {archive.name}", unit="file", disable=not missing):
                with replacing(target) as temporary, member.open() as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            if cut_short:
                print(f"{folder}: {cut_short:,} files had another size than in {archive.name} and were unpacked again")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"archive {archive} is damaged or not whole ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive}: {error}; see to it and start again") from error
    return len(missing)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            yield (
                Member(info.filename, info.file_size, lambda info=info: opened.open(info))
                for info in opened.infolist()
                if not info.is_dir()
            )
    else:
        with tarfile.open(archive) as opened:
            yield (
                Member(info.name, info.size, lambda info=info: opened.extractfile(info))
                for info in opened
                if info.isfile()
            )
