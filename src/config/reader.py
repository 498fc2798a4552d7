"""Reading YAML files into the typed configuration of :mod:`src.config.schema`, and refusing what cannot be meant."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import UserError
from ..files import REPOSITORY, resolve
from .schema import COCO_EVALUATION_IMAGES, Config, refusal

MAX_CLASSES = 255  # labels are bytes, and one of them stands for ignored pixels


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file into a :class:`Config`.

    Args:
        path: the YAML file.
        overrides: ``key.sub=value`` strings that replace single keys; values are read as YAML.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key or value is refused.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist; the shipped ones are in {REPOSITORY / 'configs'}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected a mapping of keys to values, got {type(values).__name__}")
    source = str(path)
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {override}: expected key.sub=value, such as --set crf.iters=0")
        source = f"{path} with --set {key}" if source == str(path) else f"{source}, {key}"
        _set_key(values, key.strip(), text)
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
    """Keys of ``dataloader`` that are ``auto`` or left out; takes them out of ``values``."""
    section = values.get("dataloader") or {}
    if not isinstance(section, dict):
        return ()
    automatic = tuple(key for key in ("batch_size", "num_workers") if section.get(key, "auto") == "auto")
    for key in automatic:
        section.pop(key, None)
    return automatic


def _count_classes(values: dict[str, Any]) -> None:
    """Let ``dataset.num_classes``, where it is left out, be the length of the class file.

    A class file that has no length is refused when it is read.
    """
    dataset, path = values.get("dataset", {}), values.get("class_name_dir")
    if not isinstance(path, str) or (dataset and (not isinstance(dataset, dict) or "num_classes" in dataset)):
        return
    try:
        classes = json.loads(resolve(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(classes, list):
        return
    if not 2 <= len(classes) <= MAX_CLASSES:
        expected = f"2 to {MAX_CLASSES}, background included"
        raise UserError(f"class file {resolve(path)} has {len(classes)} classes; expected {expected}")
    values["dataset"] = {**(dataset or {}), "num_classes": len(classes)}


def _set_key(values: dict[str, Any], key: str, text: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise UserError(f"--set {key}={text}: {section} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}={text}: the value is not YAML: {' '.join(str(error).split())}") from error


def _build(cls: type, values: dict[str, Any], source: str, prefix: str) -> Any:
    """Make dataclass ``cls`` of ``values``, refusing unknown keys, wrong types and missing required keys."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("yaml", True)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise UserError(f"{source}: unknown key {prefix}{key}{hint} (known: {', '.join(fields)})")
        arguments[key] = _convert(hints[key], value, source, prefix + str(key))
    for name, f in fields.items():
        if name not in arguments and f.default is f.default_factory is dataclasses.MISSING:
            raise UserError(f"{source}: key {prefix}{name} is missing; expected {_describe(hints[name])}")
    return cls(**arguments)


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    """``value`` as the type ``hint`` says, or a refusal."""
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
        # YAML 1.1 reads 2e-4 (no dot) as a string; published files write it so
        return type(value) in (int, float, str) and _is_number(value)
    return type(value) is hint  # so that true is no int


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
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names[hint]


def _plural(hint: Any) -> str:
    return {int: "whole numbers", float: "numbers"}[hint]


def _check_ranges(config: Config) -> None:
    """Refuse numbers that no run could use. Layers are checked against the model when it is loaded."""

    def check(key: str, value: Any, holds: bool, expected: str) -> None:
        if not holds:
            raise config.refusal(key, list(value) if isinstance(value, tuple) else value, expected)

    model, loader, dataset, shots = config.model, config.dataloader, config.dataset, config.oneshot
    check(
        "dataset.num_classes",
        dataset.num_classes,
        2 <= dataset.num_classes <= MAX_CLASSES,
        f"2 to {MAX_CLASSES}, background included",
    )
    check("dataset.first_label", dataset.first_label, dataset.first_label >= 0, "0 or more")
    if dataset.background:
        expected = "1, because masks that show the background have 0 for it; see dataset.background"
        check("dataset.first_label", dataset.first_label, dataset.first_label == 1, expected)
    least = max(dataset.num_classes, dataset.first_label + dataset.num_classes - 1)
    check(
        "dataset.ignore_label",
        dataset.ignore_label,
        least <= dataset.ignore_label <= 255,
        f"a value that is no class: {least} to 255",
    )
    check("dataset.std", dataset.std, all(s > 0 for s in dataset.std), "numbers above 0")
    size = model.image_size
    check("model.image_size", size, size >= 16 and size % 8 == 0, "a multiple of 8 (letterbox), 16 or more")
    if model.layers != "auto":
        unique = len(set(model.layers)) == len(model.layers)
        positive = all(layer >= 0 for layer in model.layers)
        expected = "a list of different layer numbers, counted from 0, at least one"
        check("model.layers", model.layers, bool(model.layers) and unique and positive, expected)
    check("model.top_k", model.top_k, model.top_k >= 1, "1 or more")
    check("model.heads", model.heads, model.heads is None or min(model.heads) >= 1, "two numbers, each 1 or more")
    check("dataloader.batch_size", loader.batch_size, loader.batch_size >= 1, "1 or more, or auto")
    check("dataloader.num_workers", loader.num_workers, loader.num_workers >= 0, "0 or more, or auto")
    check("crf.iters", config.crf.iters, config.crf.iters >= 0, "0 (no CRF) or more")
    check(
        "max_images",
        config.max_images,
        config.max_images is None or config.max_images >= 1,
        "1 or more, or null",
    )
    check("runtime.seed", config.runtime.seed, config.runtime.seed >= 0, "0 or more")
    if shots is not None:
        for key in ("shot", "min_support_area", "num_iterations", "total_runs", "batch_gradient_accumulation"):
            check(f"oneshot.{key}", getattr(shots, key), getattr(shots, key) >= 1, "1 or more")
        check("oneshot.lr", shots.lr, shots.lr > 0, "a number above 0")
        check("oneshot.weight_decay", shots.weight_decay, shots.weight_decay >= 0, "0 or more")
