"""Imports run one way and in no cycle, and each name of a module, class or function has one meaning."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from src.evaluation.sources import imported_modules, module_file
from src.files import REPOSITORY

SHARED = {"main", "read", "run", "start"}  # on purpose: entry points, readers of formats, running a command or the loop

# A part of src may import from the parts on the lines above its own, and from itself. Commands are on the last line.
FLOORS = (
    "errors",
    "files",
    "runtime",
    "config screen",
    "data",
    "method",
    "cli result_files",
    "task evaluation",
    "layer_selection one_shot",
    "output loading",
    "explorer",
    "photos",
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("src", "replace_huggingface", "tools")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}


def room(module: str) -> str:
    if module.startswith(
        ("src.explorer.launch", "src.explorer.server", "src.explorer.studio", "src.explorer.__main__")
    ):
        return "explorer's server"  # a command: on top of photos, which write pages themselves
    return module.split(".")[1] if module.startswith("src.") else ""


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in FLOOR_OF])
def test_no_part_imports_from_below_its_line(module: str) -> None:
    names = [name for name in imported_modules(MODULES[module]) if name.startswith("src.") and module_file(name)]
    imported = {room(name) for name in names} - {room(module)}
    above = {other for other in imported if FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room(module)]}
    assert not above


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("tools")])
def test_the_paper_does_not_import_the_workshop(module: str) -> None:
    names = {name.split(".")[0] for name in imported_modules(MODULES[module])}
    assert not names & {"tools", "tests"}


def test_only_the_benchmark_imports_tests() -> None:
    for module, path in MODULES.items():
        if not module.startswith("tools.benchmark"):
            assert not any(name.split(".")[0] == "tests" for name in imported_modules(path)), module


def test_no_circles() -> None:
    graph = {
        name: {other for other in imported_modules(path) if other in MODULES and other != name and module_file(other)}
        for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_module_imports_entry_scripts() -> None:
    scripts = {path.stem for path in REPOSITORY.glob("*.py")} - {"hubconf"}
    assert scripts == {"training_free_blip", "compute_infoscore_blip", "one_shot_blip"}
    for path in MODULES.values():
        assert not scripts & set(imported_modules(path))


def test_each_name_has_one_meaning() -> None:
    paths = [path for path in MODULES.values() if not path.stem.startswith("__")]
    definitions = [
        node.name
        for path in paths
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
    for names in (Counter(path.stem for path in paths), Counter(definitions)):
        assert {name for name, count in names.items() if count > 1} <= SHARED
