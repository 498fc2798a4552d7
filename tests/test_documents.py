"""README and docs/: every command can be parsed, every link has a target, every block of Python runs."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from typing import Any

import pytest

from src import cli
from src.files import REPOSITORY
from tests import documents
from tests.documents import DOCUMENTS

COMMANDS = sorted(
    (name, command)
    for name, text in DOCUMENTS.items()
    if name != "CHANGELOG.md"  # names parts of commands, and commands of earlier versions
    for command in set(documents.python_commands(text))
)
LINKS = sorted({(name, *link) for name, text in DOCUMENTS.items() for link in documents.links(text)})
PYTHON = sorted({block for text in DOCUMENTS.values() for block in documents.blocks(text, "python")})
SOURCES = [
    path
    for place in ("*.py", "src/**/*.py", "tools/**/*.py", "replace_huggingface/*.py", "tests/**/*.py", "configs/*.yaml")
    for path in REPOSITORY.glob(place)
]


class Parsed(Exception):
    """The command line was parsed; the command does not run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.namespace = args


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The parsed options of ``command``."""
    understand = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: Any) -> None:
        raise Parsed(understand(parser, *args))

    module, arguments = documents.module_and_arguments(command)
    main = importlib.import_module(module).main
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        main(arguments)
    return parsed.value.namespace


def test_the_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/install.md", "docs/method.md"} <= DOCUMENTS.keys()
    assert len(COMMANDS) > 50
    assert len(LINKS) > 60
    assert PYTHON


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_are_parsed(document: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = parse(command, monkeypatch)
    config = getattr(args, "config", None)
    if config is not None and "configs/" in config.as_posix():
        args.config = REPOSITORY / config
        cli.configuration(args)  # the file exists, its keys and those of --set are known


def test_an_unknown_option_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse("python training_free_blip.py --config configs/miniature.yaml --no-such-option", monkeypatch)


@pytest.mark.parametrize(("document", "path", "anchor"), LINKS)
def test_links_have_targets(document: str, path: str, anchor: str) -> None:
    assert documents.exists(document, path, anchor)


def test_a_dead_link_is_detected() -> None:
    assert documents.exists("docs/install.md", "../README.md", "install")
    assert documents.exists("docs/install.md", "", "models")
    assert not documents.exists("docs/install.md", "README.md", "")
    assert not documents.exists("docs/install.md", "../README.md", "instal")


def test_documents_and_sections_that_the_code_names_exist() -> None:
    named = [
        (path.name, document, heading)
        for path in SOURCES
        if path.name not in ("test_documents.py", "documents.py")
        for document, heading in re.findall(
            r'\b(docs/[\w-]+\.md|CONTRIBUTING\.md)(?:, "([^"\n]+)")?', path.read_text(encoding="utf-8")
        )
    ]
    assert len(named) > 10
    for source, document, heading in named:
        text = DOCUMENTS.get(document)
        assert text is not None, (source, document)
        assert not heading or heading in re.findall(r"^#+ (.+)$", text, flags=re.M), (source, heading)


def test_modules_and_functions_that_docstrings_name_exist() -> None:
    role = re.compile(r":(?:func|class|meth|data|attr|mod):`((?:src|tools|replace_huggingface)\.[\w.]+)`")
    named = {name for path in SOURCES for name in role.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 20
    for name in sorted(named):
        pkgutil.resolve_name(name)  # raises ImportError or AttributeError


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    exec(block, {})


def test_pinned_packages_are_the_same_everywhere() -> None:
    """Install instructions, requirements.txt and the command that runs all checks name the same versions."""
    pinned: dict[str, set[str]] = {}
    texts = [
        *DOCUMENTS.values(),
        *((REPOSITORY / name).read_text() for name in ("requirements.txt", "pyproject.toml", ".ci/run")),
    ]
    for text in texts:
        for package, version in re.findall(r"\b([\w.-]+)==([\w.]+)", text):
            pinned.setdefault(package, set()).add(version)
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    pinned["ruff"] |= set(re.findall(r"ruff-pre-commit\n +rev: v([\w.]+)", hooks)) or {"none"}
    assert {"torch", "pytest", "ruff"} <= pinned.keys()
    assert not {package: versions for package, versions in pinned.items() if len(versions) > 1}


def test_readme_fits_on_a_page() -> None:
    assert len((REPOSITORY / "README.md").read_bytes()) <= 9000
