"""Read YAML files into the typed configuration of :mod:`src.config.schema`, and refuse invalid keys and values."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import types
import typing
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import UserError
from ..files import REPOSITORY, read_regular, resolve
from .schema import COCO_EVALUATION_IMAGES, SHOWN, Config, refusal, shown

MAX_CLASSES = 255  # labels are bytes, and one value is for ignored pixels
MAX_BYTES = 1 << 18  # of a configuration
MAX_TEXT = 4096  # characters of a string, such as a path
MAX_CLASS_FILE = 1 << 20  # bytes of a class file
MAX_REASON = 300  # characters of an error of the YAML parser
MAX_NAME = 200  # bytes of a result's name, to which an experiment, a date and a suffix are added

RANGES: dict[str, tuple[float, float]] = {
    "max_images": (1, 10**9),
    "dataset.num_classes": (2, MAX_CLASSES),
    "dataset.first_label": (0, 255),
    "dataset.ignore_label": (0, 255),
    "model.image_size": (16, 4096),
    "model.top_k": (1, 1000),
    "model.heads": (1, 1000),
    "dataloader.batch_size": (1, 4096),
    "dataloader.num_workers": (0, 1024),
    "crf.iters": (0, 10_000),
    "runtime.seed": (0, 2**63 - 1),
    "oneshot.shot": (1, 10**6),
    "oneshot.split": (-(2**63), 2**63 - 1),
    "oneshot.min_support_area": (1, 10**9),
    "oneshot.num_iterations": (1, 10**6),
    "oneshot.total_runs": (1, 10_000),
    "oneshot.batch_gradient_accumulation": (1, 10**6),
    "oneshot.lr": (1e-12, 100),
    "oneshot.weight_decay": (0, 1000),
    "dataset.mean": (0, 1),
    "dataset.std": (0.001, 10),
    "model.layers": (0, 999),
}
"""The smallest and the largest value of each number, or of each number in a list."""

NOTES = {
    "dataset.num_classes": ", background included",
    "max_images": ", or null",
    "dataloader.batch_size": ", or auto",
    "dataloader.num_workers": ", or auto",
    "crf.iters": "; 0 turns the CRF off",
    "dataset.mean": ": pixel values are scaled from 0 to 1 (123.7 of 255 is 0.485)",
    "dataset.std": ": pixel values are scaled from 0 to 1 (58.4 of 255 is 0.229)",
    "model.layers": ", counted from 0",
}
"""Text that errors append to the range of a number."""


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file into a :class:`Config`.

    Args:
        overrides: ``key.sub=value`` strings that replace single keys; values are read as YAML.

    Raises:
        UserError: the file is missing or not a YAML mapping, or a key or value is invalid.
    """
    try:
        values = _parse(read_regular(path, MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist; the shipped ones are in {REPOSITORY / 'configs'}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"config {path} cannot be read as YAML: {_one_line(reason)}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected a mapping of keys to values, got {type(values).__name__}")
    source = str(path)
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {_short(override)}: expected key.sub=value, such as --set crf.iters=0")
        source = f"{path} with --set {key}" if source == str(path) else f"{source}, {key}"
        _set_key(values, key.strip(), text)
    return config_of(values, source)


def config_of(values: dict[str, Any], source: str) -> Config:
    """Make a :class:`Config` from plain ``values``, which may be modified; ``source`` names them in errors.

    Raises:
        UserError: a key or value is invalid.
    """
    if values.get("data_set") == "coco":
        values.setdefault("max_images", COCO_EVALUATION_IMAGES)
    _count_classes(values)
    automatic = _take_automatic(values)
    config = _build(Config, values, source, "")
    loader = dataclasses.replace(config.dataloader, automatic=automatic)
    config = dataclasses.replace(config, source=source, dataloader=loader)
    _check_ranges(config)
    return config


def _take_automatic(values: dict[str, Any]) -> tuple[str, ...]:
    """Remove keys of ``dataloader`` with value ``auto`` from ``values``; returns these and the missing keys."""
    section = values.get("dataloader") or {}
    if not isinstance(section, dict):
        return ()
    automatic = tuple(key for key in ("batch_size", "num_workers") if section.get(key, "auto") == "auto")
    for key in automatic:
        section.pop(key, None)
    return automatic


def _count_classes(values: dict[str, Any]) -> None:
    """Set a missing ``dataset.num_classes`` to the length of the class file.

    Faults of the class file are reported when it is read later.
    """
    dataset, path = values.get("dataset", {}), values.get("class_name_dir")
    if not isinstance(path, str) or (dataset and (not isinstance(dataset, dict) or "num_classes" in dataset)):
        return
    try:
        classes = json.loads(read_regular(resolve(path), MAX_CLASS_FILE).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(classes, list):
        return
    if not 2 <= len(classes) <= MAX_CLASSES:
        expected = f"2 to {MAX_CLASSES} classes, background included"
        raise UserError(f"class file {resolve(path)}: expected {expected}, got {len(classes)}")
    values["dataset"] = {**(dataset or {}), "num_classes": len(classes)}


def _set_key(values: dict[str, Any], key: str, text: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise UserError(f"--set {key}={_short(text)}: {section} is a value, not a section")
    try:
        values[last] = _parse(text)
    except ValueError as error:
        raise UserError(f"--set {key}={_short(text)}: the value is not YAML: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its pitfalls: dates, numbers to base 60 and 8, merged mappings, duplicate keys, tags."""

    yaml_implicit_resolvers: typing.ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise yaml.YAMLError(f"the key {shown(key)} is not text")
            if key in seen:
                raise yaml.YAMLError(
                    f"the key {shown(key)} is given twice, the second time in line {key_node.start_mark.line + 1}"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def plain_number(self, node: Any) -> int | float:
        text = node.value
        if ":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text):
            base = "60" if ":" in text else "8"
            raise yaml.YAMLError(f"YAML reads {_short(text)} as a number to base {base}; put it in quotes")
        construct = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        return construct(node)

    def refuse_tag(self, node: Any) -> None:
        raise yaml.YAMLError(f"the tag {_short(node.tag)} is not supported")


_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
    for kind in ("null", "bool", "str", "seq", "map")
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.plain_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.plain_number)
_Loader.add_constructor(None, _Loader.refuse_tag)  # pyright: ignore[reportArgumentType] (None: every other tag)


def _parse(text: str) -> Any:
    """The values of a YAML text. Raises ValueError if ``text`` is not YAML, or uses an unsupported part of it."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _one_line(reason: object) -> str:
    text = " ".join(str(reason).split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _build(cls: type, values: dict[str, Any], source: str, prefix: str) -> Any:
    """Make dataclass ``cls`` from ``values``; unknown keys, wrong types and missing required keys are errors."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("yaml", True)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            name = _short(str(key))
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise UserError(f"{source}: unknown key {prefix}{name}{hint} (known: {', '.join(fields)})")
        arguments[key] = _convert(hints[key], value, source, prefix + str(key))
    for name, f in fields.items():
        if name not in arguments and f.default is f.default_factory is dataclasses.MISSING:
            raise UserError(f"{source}: key {prefix}{name} is missing; expected {_describe(hints[name])}")
    return cls(**arguments)


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    """``value`` converted to the type ``hint``; an error if it does not fit."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for member in members:
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            if isinstance(value, dict):
                return _build(member, value, source, f"{key}.")
            if value is None and len(members) == 1:
                return member()
        elif _fits(member, value):
            if member is float and value is not None:
                return float(value)
            if isinstance(value, list):
                return tuple(float(item) if typing.get_args(member)[0] is float else item for item in value)
            return value
    raise refusal(source, key, value, _describe(hint))


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return type(value) is str and value in arguments
    if origin is tuple:
        if not isinstance(value, list):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_fits, arguments, value))
    if hint is float:
        # YAML 1.1 reads 2e-4 (no dot) as a string; published files have it
        return type(value) in (int, float, str) and _is_number(value)
    return type(value) is hint  # not isinstance: true is not an int here


def _is_number(value: int | float | str) -> bool:
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(member) for member in arguments)
    if origin is Literal:
        return " or ".join(arguments)
    if origin is tuple:
        return f"a list of {'' if arguments[-1] is Ellipsis else f'{len(arguments)} '}{_plural(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return "a section with keys " + ", ".join(f.name for f in dataclasses.fields(hint))
    names = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        type(None): "null",
    }
    return names[hint]


def _plural(hint: Any) -> str:
    return {int: "whole numbers", float: "numbers"}[hint]


def _check_ranges(config: Config) -> None:
    """Refuse values out of range. Layers are checked against the model when it is loaded."""

    def check(key: str, value: Any, holds: bool, expected: str) -> None:
        if not holds:
            raise config.refusal(key, list(value) if isinstance(value, tuple) else value, expected)

    for key, value in _flat(config):
        texts = [value] if isinstance(value, str) else []
        if any(unicodedata.category(sign) in ("Cc", "Cs") for text in texts for sign in text):
            raise config.refusal(key, value, "a string without control characters")
        if any(len(text) > MAX_TEXT for text in texts):
            raise config.refusal(key, value, f"at most {MAX_TEXT:,} characters")
        given = value if isinstance(value, tuple) else (value,)
        numbers = [number for number in given if isinstance(number, int | float)]
        if key in RANGES and len(numbers) == len(given):
            low, high = RANGES[key]
            what = "numbers from " if isinstance(value, tuple) else ""
            expected = f"{what}{_number(low)} to {_number(high)}{NOTES.get(key, '')}"
            check(key, value, all(low <= number <= high for number in numbers), expected)
    model, dataset = config.model, config.dataset
    if dataset.background:
        expected = "1, because value 0 in the masks is the background; see dataset.background"
        check("dataset.first_label", dataset.first_label, dataset.first_label == 1, expected)
    least = max(dataset.num_classes, dataset.first_label + dataset.num_classes - 1)
    check(
        "dataset.ignore_label",
        dataset.ignore_label,
        least <= dataset.ignore_label <= 255,
        f"a value that is not a class: {least} to 255",
    )
    check("model.image_size", model.image_size, model.image_size % 8 == 0, "a multiple of 8 (letterbox)")
    if model.layers != "auto":
        unique = len(set(model.layers)) == len(model.layers)
        expected = "a list of at least one layer number, counted from 0, each once"
        check("model.layers", model.layers, bool(model.layers) and unique, expected)
    for field in dataclasses.fields(config.output):
        path = getattr(config.output, field.name)
        if path is None:
            continue
        name = Path(path).name
        taken = Path(name).suffix in (".json", ".png", ".html")
        fits = 0 < len(os.fsencode(name)) <= MAX_NAME
        expected = f"a file name of 1 to {MAX_NAME} bytes without * and ? that does not end in .json, .png or .html"
        check(
            f"output.{field.name}",
            path,
            fits and not taken and not set(name) & set("*?"),
            expected,
        )


def _flat(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a configuration with their values: ``crf.iters``, 20."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if not field.metadata.get("yaml", True):
            continue
        if dataclasses.is_dataclass(value):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
