"""Image lists: written once, compared with existing ones, counted against the known numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from src.errors import UserError
from src.files import check_writable, write_text
from src.screen import counted, say

Pair = tuple[str, ...]  # the fields of a line: image and mask


def check_list(path: Path, lines: list[str], force: bool, remedy: str) -> None:
    """Check that :func:`write_list` will work, before hours of other work.

    Raises:
        UserError: ``lines`` is empty (with ``remedy``), a name has blanks, or ``path`` must be written and cannot be.
    """
    if not lines:
        raise UserError(f"no images for the list {path}: {remedy}")
    odd = next((line for line in lines if len(line.split()) != 2), None)
    if odd is not None:
        raise UserError(
            f"list {path}: {odd!r} has blanks in its names, which lists cannot contain; rename files or folder"
        )
    if force or not path.is_file():
        check_writable(path)


def write_list(path: Path, lines: list[str], force: bool, root: Path) -> None:
    """Write an image list, a line per image; an existing list is kept unless ``force``. Prints what was done.

    For a different list that is kept it prints the difference: other images, another order, masks in another folder.
    """
    if path.is_file():
        difference = _difference(path, lines, root)
        if difference is None:
            say(f"{path}: {counted(len(lines), 'line')}, existing list is the same: kept")
            return
        if not force:
            say(
                f"{path}: kept, though it differs from the list made now: {difference}; --force replaces it, --lists "
                "FOLDER writes elsewhere"
            )
            return
        say(f"{path}: replaced (--force): {difference}")
    write_text(path, "".join(f"{line}\n" for line in lines))
    say(f"{path}: {counted(len(lines), 'line')}, written")


def say_count(what: str, count: int, expected: int, remedy: str) -> None:
    """Print how ``count`` compares with the known number of the complete data set."""
    if count == expected:
        say(f"{what}: {count:,}, as expected")
    else:
        say(f"{what}: {count:,}, but {expected:,} expected; {remedy}")


def say_published(path: Path, md5: str) -> None:
    """Print whether the list at ``path`` equals the published one byte for byte (line ends aside)."""
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise UserError(f"list {path} cannot be read ({error.strerror}); fix this and run the command again") from error
    if hashlib.md5(content).hexdigest() == md5:
        say(f"{path}: the published list, byte for byte")
    else:
        say(f"{path}: not the published list (md5 {md5}): results differ from published ones by its images and order")


def _difference(path: Path, lines: list[str], root: Path) -> str | None:
    """How the list at ``path`` differs from ``lines``, in words; None if it does not."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return "it is no UTF-8 text"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    there: list[Pair] = [tuple(line.split()) for line in text.splitlines() if line.strip()]
    new: list[Pair] = [tuple(line.split()) for line in lines]
    if there == new:
        return None
    odd = next((pair for pair in there if len(pair) != 2), None)
    if odd is not None:
        return f"it has the line {' '.join(odd)!r}, which is no image path, space, mask path"
    names, new_names = [_name(pair) for pair in there], [_name(pair) for pair in new]
    differences = []
    if extra := set(names) - set(new_names):
        differences.append(f"{counted(len(extra), 'image')} only in it, e.g. {min(extra)}")
    if lacking := set(new_names) - set(names):
        differences.append(f"{counted(len(lacking), 'image')} only in the new one, e.g. {min(lacking)}")
    if not differences and len(names) != len(new_names):
        differences.append(
            f"the same {counted(len(new_names), 'image')}, but {counted(len(names) - len(new_names), 'line')} twice"
        )
    elif not differences and names != new_names:
        first = next(i for i, (a, b) in enumerate(zip(names, new_names, strict=True)) if a != b)
        differences.append(
            f"the same {counted(len(names), 'image')} in another order (line {first + 1}: {names[first]}, in the new "
            f"one {new_names[first]}), which decides what max_images and one-shot draw"
        )
    common = set(names) & set(new_names)
    for column, what in enumerate(("images", "masks")):
        folders = _folders(there, common, column)
        if folders != _folders(new, common, column):
            named = ", ".join(sorted(folders))
            absent = [folder for folder in sorted(folders) if not (root / folder).is_dir()]
            which = f", which {root} has not" if absent else ""
            differences.append(f"{what} in {named}{which}, not in {', '.join(sorted(_folders(new, common, column)))}")
    return "; ".join(differences) or "other names of files, e.g. " + " ".join(sorted(set(there) - set(new))[0])


def _name(pair: Pair) -> str:
    return PurePosixPath(pair[0]).stem


def _folders(pairs: Sequence[Pair], names: Collection[str], column: int) -> set[str]:
    return {f"{PurePosixPath(pair[column]).parent}/" for pair in pairs if _name(pair) in names}
