"""The file system: where this checkout lies, room on a disk, files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
"""The checkout; of the installed package, the folder that holds it."""

ROOT = REPOSITORY if (REPOSITORY / "training_free_blip.py").is_file() else Path.cwd()
"""What relative paths of configurations start from: the checkout, or the current folder for the installed package."""

GB = 10**9
MAX_PREFIX = 40  # characters of a temporary file's name: beside a name of full length it must fit, too


def resolve(path: str) -> Path:
    """An absolute path as it is, any other relative to :data:`ROOT`; ``~`` is the home folder."""
    return ROOT / user_path(path)


def user_path(text: str) -> Path:
    """A path as a person types it, ``~`` being the home folder; the type of every path on a command line.

    The shell expands ``--output-dir ~/x``, but not ``--output-dir=~/x``.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name without such a user: a file may be called so
        return Path(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes ``path``'s place when the block ends without an error.

    The temporary keeps the ending of ``path``, because image writers choose their format by it. Missing parent
    folders are made.

    Raises:
        UserError: the folder cannot be made or written to, the disk is full, or ``path`` is a folder.
    """
    with _beside(path) as temporary:
        yield temporary
        try:
            os.replace(_readable(temporary), path)
        except OSError as error:
            raise _not_writable(path, error) from error


def create_bytes(path: Path, content: bytes) -> bool:
    """Write ``content`` to ``path`` in one step if nothing is there; whichever of many processes is first does it.

    (A file system without hard links leaves a moment between looking and writing.)

    Returns:
        Whether it was written.

    Raises:
        UserError: see :func:`replacing`.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, it takes names that are too long
        raise UserError(f"cannot write {path}: it is a folder; choose another name")
    with _beside(path) as temporary:
        try:
            temporary.write_bytes(content)
            return _move_to_free(_readable(temporary), path)
        except OSError as error:
            raise _not_writable(path, error) from error


def _move_to_free(temporary: Path, path: Path) -> bool:
    try:
        # neither goes over a file that is there
        (os.rename if sys.platform == "win32" else os.link)(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # no hard links here
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    return True


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; if it is still there at the end, it is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:MAX_PREFIX]}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _not_writable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _not_writable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _readable(temporary: Path) -> Path:
    """mkstemp makes files private; results are meant to be read like any other file the user creates."""
    temporary.chmod(0o666 & ~_umask())
    return temporary


def check_writable(path: Path) -> None:
    """See that a file can be written at ``path``, so that hours of work do not end in its absence; leaves no trace.

    Raises:
        UserError: it cannot.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, it takes names that are too long
        raise UserError(f"cannot write {path}: it is a folder; choose another name")
    existing = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    try:
        with suppress(FileNotFoundError):
            path.lstat()  # a name that is too long cannot even be looked for
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise _not_writable(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _not_writable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` in one step; raises as :func:`write_bytes`."""
    write_bytes(path, utf8(text))


def utf8(text: str) -> bytes:
    """``text`` in UTF-8; what was no text in a file's name (PEP 383) becomes an escape, as in JSON: ``\\udcff``."""
    return text.encode(errors="backslashreplace")


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}; choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of ``folder``, which need not exist yet."""
    folder = folder.resolve()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def require_space(folder: Path, needed: int, purpose: str, remedy: str) -> None:
    """Make sure that the disk of ``folder`` (which need not exist yet) has ``needed`` bytes free.

    Raises:
        UserError: it has not; the message gives ``purpose``, both numbers and ``remedy``.
    """
    if needed <= 0:
        return
    free = free_space(folder)
    if free < needed:
        raise UserError(f"{purpose} needs about {size(needed)} in {folder}, but {size(free)} are free; {remedy}")


def size(count: int) -> str:
    """A number of bytes for people: ``1.5 GB``, ``30.0 MB``, ``64.0 kB``."""
    for unit, name in ((GB, "GB"), (10**6, "MB")):
        if count >= unit / 10:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
