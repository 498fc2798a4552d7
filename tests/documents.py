"""The documents of the repository, and their commands, links and headings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from src.files import REPOSITORY

DOCUMENTS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
}


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of ``text`` in one of ``languages``."""
    return [
        body for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S) if language in languages
    ]


def commands(text: str) -> list[str]:
    """Every command line in the shell blocks of ``text``, without comments."""
    lines = "\n".join(blocks(text, "bash", "sh")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def python_commands(text: str) -> list[str]:
    """Commands of this project in ``text``: those of shell blocks, and those with arguments in running text."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    quoted = [" ".join(command.split()) for command in re.findall(r"`((?:\w+=\S+ )*python [^`]+)`", prose)]
    found = commands(text) + [command for command in quoted if "..." not in command and len(shlex.split(command)) > 3]
    found = [re.sub(r"^.*\btorchrun (?:--?[\w-]+[ =](?!-m)\S+ )*", "python ", command) for command in found]
    return [command for command in found if re.match(r"python (\w+_blip\.py|-m (?:src|tools)\.)", command)]


def module_and_arguments(command: str) -> tuple[str, list[str]]:
    """The module that ``command`` runs and its arguments."""
    _, first, *rest = shlex.split(command)
    if first != "-m":
        return first.removesuffix(".py"), rest
    package = (REPOSITORY / rest[0].replace(".", "/")).is_dir()
    return f"{rest[0]}.__main__" if package else rest[0], rest[1:]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of ``text``."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", outside, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[tuple[str, str]]:
    """Links of ``text`` into the repository: path (empty: the same document) and anchor (empty: none)."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", outside)
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in targets)]


def exists(document: str, path: str, anchor: str) -> bool:
    """Whether the target of a link of ``document`` exists."""
    target = (REPOSITORY / document).parent / path if path else REPOSITORY / document
    if not Path(target).exists():
        return False
    return not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
