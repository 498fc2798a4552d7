"""The file system: where this checkout is, free space, reading regular files, files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
"""The checkout; of the installed package, the folder that holds it."""

_CHECKOUT = (REPOSITORY / "training_free_blip.py").is_file()

ROOT = REPOSITORY if _CHECKOUT else Path.cwd()
"""What relative paths of configurations start from: the checkout, or the current folder for the installed package."""

CLASS_FILES = REPOSITORY / "configs" / "classes" if _CHECKOUT else Path(__file__).parent / "classes"
"""The folder of the shipped class files."""

GB = 10**9
MAX_PREFIX = 40  # characters of a temporary file's name, which must fit beside a name of full length
TRIAL_BYTES = 1 << 18
"""What :func:`check_writable` writes: about a result with its charts."""


def give_user_a_name() -> None:
    """Set what PyTorch and the hub client need of a user without a passwd entry or a home folder, as in containers.

    They ask for a user name when they are imported, and would keep their caches in a folder called ``~``.
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
        return
    caches = os.path.join(tempfile.gettempdir(), f"uid{os.getuid()}-caches")
    with suppress(OSError):
        os.mkdir(caches, 0o700)
    if os.path.islink(caches) or not os.path.isdir(caches) or os.stat(caches).st_uid != os.getuid():
        caches = tempfile.mkdtemp()  # somebody else has made the folder
    for name, folder in (("XDG_CACHE_HOME", ""), ("XDG_CONFIG_HOME", "config"), ("TRITON_HOME", "")):
        os.environ.setdefault(name, os.path.join(caches, folder))


def resolve(path: str) -> Path:
    """An absolute path unchanged, any other relative to :data:`ROOT`; ``~`` is the home folder."""
    return ROOT / user_path(path)


def user_path(text: str) -> Path:
    """A path as a person types it, with ``~`` for the home folder; the type of every path on a command line.

    The shell expands ``--output-dir ~/x``, but not ``--output-dir=~/x``.

    Raises:
        UserError: ``~`` where the user has no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if Path(text).parts[0] == "~":
            raise UserError(f"{text}: this user has no home folder; give the whole path") from None
        return Path(text)  # ~name without such a user: a file may have this name


def what_it_is(path: Path) -> str | None:
    """What exists at ``path`` if it is no regular file (``a folder``, ``a device``, ...); links are followed.

    None for a regular file.

    Raises:
        OSError: nothing exists at ``path``, or it cannot be looked up.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL character, or half of a surrogate pair
        raise OSError(errno.EINVAL, "its name has a character that no file name can have") from error
    if stat.S_ISREG(mode):
        return None
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def require_regular(path: Path, limit: int) -> None:
    """Check that ``path`` is a regular file of at most ``limit`` bytes: a device or a pipe may never end.

    Raises:
        OSError: it is missing, something else, or larger.
    """
    if kind := what_it_is(path):
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file")
    if (length := path.stat().st_size) > limit:
        raise OSError(errno.EFBIG, f"it has {size(length)}; expected at most {size(limit)}")


def read_regular(path: Path, limit: int) -> bytes:
    """The contents of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: see :func:`require_regular`; or the file cannot be read.
    """
    require_regular(path, limit)
    with path.open("rb") as file:
        content = file.read(limit + 1)  # files in /proc have no size, and a log may grow
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {size(limit)}")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` when the block ends without an error.

    The temporary file has the suffix of ``path``, because image writers choose their format by it. Missing parent
    folders are made.

    Raises:
        UserError: the folder cannot be made or written to, the disk is full, or ``path`` exists and is no regular file.
    """
    with _beside(path) as temporary:
        yield temporary
        try:
            os.replace(_readable(temporary), path)
        except OSError as error:
            raise _not_writable(path, error) from error


def create_bytes(path: Path, content: bytes) -> bool:
    """Write ``content`` to ``path`` in one step unless ``path`` exists; of several processes only the first writes.

    (Without hard links another process may come between the check and the writing.)

    Returns:
        Whether it was written.

    Raises:
        UserError: see :func:`replacing`.
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
    """Yield a new temporary file beside ``path``; if it still exists at the end, it is removed."""
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
    """Refuse to write to ``path`` if it exists and is no regular file: a result would take the place of a device.

    Raises:
        UserError: it is a folder, a device, a named pipe or a socket, or a link to one.
    """
    with suppress(OSError):  # nothing exists there, or writing will say why it fails
        if kind := what_it_is(path):
            raise UserError(f"cannot write {path}: it is {kind}; choose another name")


def _readable(temporary: Path) -> Path:
    """Give a file of mkstemp, which is private, the permissions of any other new file, where the file system can."""
    with suppress(OSError):  # CIFS, NTFS and object stores refuse it; the file is written all the same
        temporary.chmod(0o666 & ~_umask())
    return temporary


def check_writable(*paths: Path) -> None:
    """Check before a long computation that its results can be written: does what the writers do, and leaves no trace.

    A file of :data:`TRIAL_BYTES` is written beside each of ``paths`` and renamed, which finds read-only and full disks
    and exhausted quotas.

    Raises:
        UserError: one of them cannot be written, or two are the same file.
    """
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"two results would be written to {path}; give them different names")
        refuse_special(path)
        try:
            _try_to_write(path)
        except (OSError, ValueError) as error:
            raise _not_writable(path, error) from error


def _try_to_write(path: Path) -> None:
    folder = path.absolute().parent
    existing = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    with suppress(FileNotFoundError):
        path.lstat()  # fails for a name that is too long
    if not path.parent.exists() and existing.is_dir():
        # a folder of its own, because another process may be about to make the missing ones
        with tempfile.TemporaryDirectory(prefix=".trial.", dir=existing) as trial:
            _write_and_rename(Path(trial))
        return
    _write_and_rename(existing)
    status = path.lstat() if os.path.lexists(path) else None
    sticky = hasattr(os, "geteuid") and existing.stat().st_mode & stat.S_ISVTX
    # in a folder such as /tmp only the owner may rename a file
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
            os.fsync(file.fileno())  # a network's file system may report a full disk only now
        if _move_to_free(trial, moved):
            moved.unlink()
    finally:
        trial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step.

    Raises:
        UserError: see :func:`replacing`.
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
    """``text`` in UTF-8; bytes of a file name that are no text (PEP 383) become escapes, as in JSON: ``\\udcff``."""
    return text.encode(errors="backslashreplace")


def _not_writable(path: Path, error: OSError | ValueError) -> UserError:
    return UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; choose another folder")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_space(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet."""
    folder = Path(os.path.realpath(folder))  # unlike Path.resolve, it takes links in a circle
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if os.path.exists(place))).free


def require_space(folder: Path, needed: int, purpose: str, remedy: str) -> None:
    """Check that the disk of ``folder`` (which need not exist yet) has ``needed`` bytes free.

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
