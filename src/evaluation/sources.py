"""The source files that a module depends on: its imports, and theirs."""

from __future__ import annotations

import ast
from pathlib import Path

from ..files import REPOSITORY

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of this package: ``src`` in a checkout, ``segmentation_from_attention`` if installed."""

REPLACEMENTS = "replace_huggingface"
"""Another package in a checkout, and a part of the installed package; see :mod:`src.method.replacements`."""


def source_files(*modules: str) -> dict[str, Path]:
    """The files of ``modules`` and of all project modules that they import, directly or indirectly.

    Reads import statements without running anything; a module whose name is known only at run time must be given.

    Args:
        modules: names without the name of the package: ``method.crf``.

    Returns:
        Files by path without the package: ``method/crf.py``, the same in a checkout and in the installed package.
    """
    packages = [PACKAGE.name] if (PACKAGE / REPLACEMENTS).is_dir() else [PACKAGE.name, REPLACEMENTS]
    found: dict[str, Path] = {}
    waiting = [f"{PACKAGE.name}.{name}" for name in modules]
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] not in packages or (path := module_file(name)) is None:
            continue
        found[name] = path
        waiting += imported_modules(path)
        waiting.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
    return {
        path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else REPOSITORY).as_posix(): path
        for path in sorted(found.values())
    }


def module_file(name: str) -> Path | None:
    """The file of module ``name``; None if ``name`` is not a module (but, for example, a function in one)."""
    place = REPOSITORY.joinpath(*name.split("."))
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def imported_modules(path: Path) -> list[str]:
    """Modules that the import statements of a file may name; for ``from a import b`` both ``a`` and ``a.b``."""
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
