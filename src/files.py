"""The file system: paths of the checkout, free space, reading of regular files, atomic writing."""

from __future__ import annotations

import errno
import functools
import getpass
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from .errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
"""The checkout; for the installed package, its parent folder."""

_CHECKOUT = (REPOSITORY / "training_free_blip.py").is_file()

ROOT = REPOSITORY if _CHECKOUT else Path.cwd()
"""Base of relative paths in configurations: the checkout; for the installed package, the current folder."""

CLASS_FILES = REPOSITORY / "configs" / "classes" if _CHECKOUT else Path(__file__).parent / "classes"
"""The folder of the shipped class files."""

GB = 10**9
MAX_PREFIX = 40  # characters of a temporary file's name, so that it fits if the final name has full length
TRIAL_BYTES = 1 << 18
"""Bytes that :func:`check_writable` writes: about the size of a result with its charts."""


def give_user_a_name() -> None:
    """Set a user name and cache folders if the user has no passwd entry or no home folder, as in containers.

    PyTorch and the hub client need a user name at import, and would create a cache folder called ``~``. Where the home
    folder is read-only, Matplotlib gets a folder of its own; the others only read theirs.
    """
    if sys.platform == "win32":
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["USER"] = f"uid{os.getuid()}"
    if os.path.isabs(os.path.expanduser("~")):
        if not all(_can_have_files(_base_folder(kind)) for kind in ("cache", "config")):
            os.environ.setdefault("MPLCONFIGDIR", os.path.join(_temporary_caches(), "matplotlib"))
        return
    for name, folder in (("XDG_CACHE_HOME", ""), ("XDG_CONFIG_HOME", "config"), ("TRITON_HOME", "")):
        os.environ.setdefault(name, os.path.join(_temporary_caches(), folder))


def cache_folder() -> Path:
    """The user's folder for caches; a temporary folder if that cannot be written to."""
    folder = _base_folder("cache")
    return Path(folder if _can_have_files(folder) else _temporary_caches())


def _base_folder(kind: Literal["cache", "config"]) -> str:
    """XDG_CACHE_HOME or XDG_CONFIG_HOME; a relative one is ignored, as their standard requires."""
    named = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    return named if os.path.isabs(named) else os.path.expanduser(f"~/.{kind}")


def _can_have_files(folder: str) -> bool:
    """Whether this user can create files in ``folder``, which need not exist yet."""
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def _temporary_caches() -> str:
    """A folder for this user's caches in the folder of temporary files."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = os.path.join(tempfile.gettempdir(), f"uid{user}-caches")
    with suppress(OSError):
        os.mkdir(folder, 0o700)
    if os.path.islink(folder) or not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        return tempfile.mkdtemp()
    if hasattr(os, "getuid") and os.stat(folder).st_uid != os.getuid():
        return tempfile.mkdtemp()  # the folder belongs to another user
    return folder


def resolve(path: str) -> Path:
    """Make ``path`` absolute, relative to :data:`ROOT`; ``~`` is the home folder."""
    return ROOT / user_path(path)


def real_path(path: str | Path) -> Path:
    """``path`` without links; unlike Path.resolve, this accepts circular ones."""
    return Path(os.path.realpath(path))


def user_path(text: str) -> Path:
    """A path from the command line with ``~`` expanded: shells do not expand it in ``--output-dir=~/x``.

    Raises:
        UserError: the user has no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if Path(text).parts[0] == "~":
            raise UserError(f"{text}: this user has no home folder; give an absolute path") from None
        return Path(text)  # ~name, but no such user: it may be a file name


def what_it_is(path: Path) -> str | None:
    """The kind of file at ``path`` (``a folder``, ...), None for a regular file; follows links. Raises OSError."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL character, or half of a surrogate pair
        raise OSError(errno.EINVAL, "its name has a character that is not allowed in file names") from error
    if stat.S_ISREG(mode):
        return None
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def require_regular(path: Path, limit: int) -> None:
    """Check that ``path`` is a regular file of at most ``limit`` bytes: reading a device or a pipe may never end.

    Raises:
        OSError: the file is missing, not a regular file, or larger.
    """
    if kind := what_it_is(path):
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file")
    if (length := path.stat().st_size) > limit:
        raise OSError(errno.EFBIG, f"it has {size(length)}; expected at most {size(limit)}")


def read_regular(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes. Raises OSError; see :func:`require_regular`."""
    require_regular(path, limit)
    with path.open("rb") as file:
        content = file.read(limit + 1)  # the size may be wrong: files in /proc have none, and a log may grow
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {size(limit)}")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, which replaces ``path`` when the block ends without an error.

    It has the suffix of ``path``, because image writers choose the format by it. Missing folders are created.

    Raises:
        UserError: the folder cannot be created or written to, the disk is full, or ``path`` is not a regular file.
    """
    with _beside(path) as temporary:
        yield temporary
        try:
            os.replace(_readable(temporary), path)
        except OSError as error:
            raise _not_writable(path, error) from error


def create_bytes(path: Path, content: bytes) -> bool:
    """Write ``content`` to ``path`` atomically unless it exists; returns whether it was written. See :func:`replacing`.

    (On a file system without hard links, another process may write between the check and the rename.)
    """
    with _beside(path) as temporary:
        try:
            temporary.write_bytes(content)
            return _move_to_free(_readable(temporary), path)
        except OSError as error:
            raise _not_writable(path, error) from error


def _move_to_free(temporary: Path, path: Path) -> bool:
    try:
        # neither replaces an existing file
        (os.rename if sys.platform == "win32" else os.link)(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    return True


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a new temporary file next to ``path``; if it still exists at the end, it is removed."""
    refuse_special(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:MAX_PREFIX]}.", suffix=path.suffix, dir=path.parent)
    except (OSError, ValueError) as error:
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


def refuse_special(path: Path) -> None:
    """Raise UserError if ``path`` is or links to a folder, device, named pipe or socket: a result would replace it."""
    with suppress(OSError):  # it does not exist, or writing will report the error
        if kind := what_it_is(path):
            raise UserError(f"cannot write {path}: it is {kind}; choose another name")


def require_new_or_empty(folder: Path, what: str) -> None:
    """Check that ``folder`` does not exist or is an empty folder.

    Raises:
        UserError: it is something else, or cannot be read; the message calls it ``what``.
    """
    if not os.path.lexists(folder):
        return
    try:
        with os.scandir(folder) as entries:
            taken = next(entries, None) is not None
    except NotADirectoryError:
        taken = True
    except OSError as error:
        raise UserError(f"{what} {folder} cannot be used: {error.strerror}; choose another folder") from error
    if taken:
        raise UserError(f"{what} {folder} exists and is not an empty folder; remove it or choose another one")


def _readable(temporary: Path) -> Path:
    """Give a file from mkstemp, which is private, the usual permissions of a new file."""
    with suppress(OSError):  # CIFS, NTFS and object stores do not support it
        temporary.chmod(0o666 & ~_umask())
    return temporary


def check_writable(*paths: Path) -> None:
    """Check before a long computation that its results can be written.

    Writes :data:`TRIAL_BYTES` to a temporary file next to each path and renames it, which detects read-only and full
    disks and exhausted quotas.

    Raises:
        UserError: one of ``paths`` cannot be written, or two are equal.
    """
    taken: set[Path] = set()
    for path in paths:
        refuse_special(path)
        try:
            if (place := real_path(path)) in taken:
                raise UserError(f"two results would be written to {path}; give them different names")
            taken.add(place)
            _try_to_write(path)
        except (OSError, ValueError) as error:
            raise _not_writable(path, error) from error


def _try_to_write(path: Path) -> None:
    folder = path.absolute().parent
    existing = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    with suppress(FileNotFoundError):
        path.lstat()  # fails for a name that is too long
    if not path.parent.exists() and existing.is_dir():
        # in a new folder, because another process may be creating the missing ones
        with tempfile.TemporaryDirectory(prefix=".trial.", dir=existing) as trial:
            _write_and_rename(Path(trial))
        return
    _write_and_rename(existing)
    status = path.lstat() if os.path.lexists(path) else None
    sticky = hasattr(os, "geteuid") and existing.stat().st_mode & stat.S_ISVTX
    # in a folder with the sticky bit, such as /tmp, only the owner may rename a file
    if status and sticky and os.geteuid() not in (0, existing.stat().st_uid, status.st_uid):
        raise PermissionError(errno.EPERM, "the existing file belongs to another user")


def _write_and_rename(folder: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=".trial.", dir=folder)
    trial = Path(name)
    moved = trial.with_name(f"{trial.name}.renamed")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())  # a network file system may report a full disk only here
        if _move_to_free(trial, moved):
            moved.unlink()
    finally:
        trial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically; see :func:`replacing`."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _not_writable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically; raises as :func:`write_bytes`."""
    write_bytes(path, utf8(text))


def utf8(text: str) -> bytes:
    """``text`` in UTF-8; undecodable bytes of file names (PEP 383) are escaped as in JSON: ``\\udcff``."""
    return text.encode(errors="backslashreplace")


def _not_writable(path: Path, error: OSError | ValueError) -> UserError:
    return UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_space(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet."""
    folder = real_path(folder)
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if os.path.exists(place))).free


def require_space(folder: Path, needed: int, purpose: str, remedy: str) -> None:
    """Check that the disk of ``folder`` (which need not exist yet) has ``needed`` bytes free.

    Raises:
        UserError: fewer bytes are free; the message has ``purpose``, both numbers and ``remedy``.
    """
    if needed <= 0:
        return
    free = free_space(folder)
    if free < needed:
        raise UserError(f"{purpose} needs about {size(needed)} in {folder}, but {size(free)} are free; {remedy}")


def size(count: int) -> str:
    """A number of bytes as text: ``1.5 GB``, ``30.0 MB``, ``64.0 kB``."""
    for unit, name in ((GB, "GB"), (10**6, "MB")):
        if count >= unit / 10:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
