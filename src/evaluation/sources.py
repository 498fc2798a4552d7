"""Which source files a module's work depends on: those it imports, and those that these import."""

from __future__ import annotations

import ast
from pathlib import Path

from ..files import REPOSITORY

PACKAGES = ("src", "replace_huggingface", "tools")


def source_files(*modules: str) -> list[Path]:
    """Files of this project that ``modules`` import, directly or not, wherever in a file; their own among them.

    Found in the text of the import statements, so that nothing is run and no file can be forgotten when code moves.
    A module that is imported by a name made at run time must be given.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] not in PACKAGES or (path := module_file(name)) is None:
            continue
        found[name] = path
        waiting += imported_modules(path)
        waiting.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
    return sorted(found.values())


def module_file(name: str) -> Path | None:
    """The file of module ``name``; None if there is none: the name is then of something inside a module."""
    place = REPOSITORY.joinpath(*name.split("."))
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def imported_modules(path: Path) -> list[str]:
    """Names that the import statements of a file may mean; of ``from a import b`` both ``a`` and ``a.b``."""
    package = path.parent.relative_to(REPOSITORY).parts
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names
