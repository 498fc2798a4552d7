"""Configuration files: what is accepted, and what is refused with which message."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.config.reader import load_config
from src.config.schema import Config
from src.errors import UserError
from src.files import REPOSITORY, resolve
from src.method.prompts import read_class_file

SHIPPED = ("pascal_blip", "coco_blip", "pascal_blip_one_shot", "coco_blip_one_shot", "voc20_blip", "voc21_blip")
HINTS = typing.get_type_hints(Config)
SECTIONS = {name: hint for name, hint in HINTS.items() if dataclasses.is_dataclass(hint)}
ONE_SHOT = typing.get_args(HINTS["oneshot"])[0]
MINIMAL = {"data_set": "pascal", "data_root": "data", "class_name_dir": "classes.json", "val_list": "val.txt"}

# A file in the format of the published code: absolute paths of another machine, numbers that YAML 1.1 reads as strings.
PUBLISHED = """
data_set: pascal
data_root: /cluster/projects/somebody/VOCdevkit/VOC2012
val_list: /home/somebody/lists/val.txt
class_name_dir: /home/somebody/classes/pascal.json
dataset:
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
  num_classes: 21
  ignore_label: 255
model:
  name: Salesforce/blip-itm-large-coco
  image_size: 512
  layers: [0, 3]
dataloader:
  batch_size: 1
  num_workers: 4
crf:
  iters: 20
runtime:
  seed: 0
  amp: true
output:
  csv: /scratch/somebody/results.csv
"""
PUBLISHED_ONE_SHOT = (
    PUBLISHED.replace("val_list: /home/somebody/lists/val.txt\n", "")
    .replace("  num_classes: 21\n", "")
    .replace("  batch_size: 1\n", "")
    .replace("seed: 0", "seed: 124511")
    .replace("csv: /scratch/somebody/results.csv", "classwise_csv: /scratch/c.csv\n  summary_csv: /scratch/s.csv")
    + """
oneshot:
  train_list: /home/somebody/lists/train.txt
  test_list: /home/somebody/lists/val.txt
  shot: 1
  split: 0
  support_only_one_novel: true
  use_training_images_for_supports: false
  num_iterations: 5
  lr: 2e-4
  weight_decay: 5e-2
  total_runs: 5
  batch_gradient_accumulation: 2
"""
)

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a configuration from YAML text or from values, with overrides."""

    def load(content: str | dict[str, Any], *overrides: str) -> Config:
        path = tmp_path / "some.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return load_config(path, list(overrides))

    return load


def test_published_file_loads_unchanged(load: Load) -> None:
    config = load(PUBLISHED)
    assert config.data_root == "/cluster/projects/somebody/VOCdevkit/VOC2012"
    assert resolve(config.val_list) == Path("/home/somebody/lists/val.txt")
    assert config.model.layers == (0, 3)
    assert config.runtime.amp is True
    assert config.max_images is None
    assert config.oneshot is None


def test_a_published_one_shot_file_loads_unchanged(load: Load) -> None:
    shots = load(PUBLISHED_ONE_SHOT).oneshot
    assert (shots.lr, shots.weight_decay) == (2e-4, 0.05)  # YAML 1.1 reads 2e-4 as a string
    assert (shots.split, shots.shot, shots.support_only_one_novel) == (0, 1, True)


def test_published_values_are_the_shipped_ones(load: Load) -> None:
    for published, name in ((PUBLISHED, "pascal_blip"), (PUBLISHED_ONE_SHOT, "pascal_blip_one_shot")):
        own, theirs = load_config(REPOSITORY / "configs" / f"{name}.yaml"), load(published)
        for section in ("dataset", "model", "crf", "runtime"):
            assert getattr(own, section) == getattr(theirs, section)
        if own.oneshot:
            paths = {"train_list": None, "test_list": None, "split": None}
            assert dataclasses.replace(own.oneshot, **paths) == dataclasses.replace(theirs.oneshot, **paths)


@pytest.mark.parametrize(("data_set", "classes"), [("pascal", 21), ("coco", 81)])
@pytest.mark.parametrize("published", [PUBLISHED, PUBLISHED_ONE_SHOT], ids=["training_free", "one_shot"])
def test_the_published_key_sets_give_the_classes_of_their_class_file(
    published: str, data_set: str, classes: int, load: Load
) -> None:
    """The one-shot files name neither dataset.num_classes nor dataloader.batch_size."""
    text = published.replace("data_set: pascal", f"data_set: {data_set}").replace(
        "num_classes: 21", f"num_classes: {classes}"
    )
    config = load(
        text.replace("/home/somebody/classes/", "configs/classes/").replace("pascal.json", f"{data_set}.json")
    )
    assert config.dataset.num_classes == classes
    assert len(read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)) == classes
    assert config.dataloader.batch_size == 1
    assert config.max_images == (10_000 if data_set == "coco" else None)


@pytest.mark.parametrize("dataset", [None, {}, {"ignore_label": 99}])
def test_num_classes_defaults_to_the_length_of_the_class_file(
    dataset: dict[str, int] | None, load: Load, tmp_path: Path
) -> None:
    names = tmp_path / "classes.json"
    names.write_text(json.dumps([{"name": f"kind {n}"} for n in range(5)]))
    values = {**MINIMAL, "class_name_dir": str(names), "dataset": dataset}
    assert load(values).dataset.num_classes == 5
    assert load(values, "dataset.num_classes=7").dataset.num_classes == 7  # the class file is refused then
    names.write_text("[{}]")
    with pytest.raises(UserError, match=r"class file .*classes\.json: expected 2 to 255 classes, .* got 1"):
        load(values)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_load_and_name_what_defines_their_experiment(name: str) -> None:
    path = REPOSITORY / "configs" / f"{name}.yaml"
    config = load_config(path)
    assert config.dataset.num_classes == (81 if name.startswith("coco") else 21)
    assert config.max_images == (10_000 if name.startswith("coco") else None)
    assert not Path(config.data_root).is_absolute()
    assert resolve(config.class_name_dir).is_file()
    written = yaml.safe_load(path.read_text())
    one_shot = "one_shot" in name
    assert {"mean", "std", "num_classes"} <= written["dataset"].keys()
    assert {"name", "image_size", "layers"} <= written["model"].keys()
    assert written["output"].keys() == ({"classwise_csv", "summary_csv"} if one_shot else {"csv"})
    assert ("oneshot" in written) is one_shot
    assert {"iters"} == written["crf"].keys()
    assert "amp" in written["runtime"]
    assert "configs/reference.yaml" in path.read_text()  # the reference that explains its keys


def test_the_reference_has_every_key_with_its_default_and_a_comment() -> None:
    path = REPOSITORY / "configs" / "reference.yaml"
    written = yaml.safe_load(path.read_text())
    config = load_config(path)
    assert written.keys() == {name for name in HINTS if name != "source"}
    for section, cls in [*SECTIONS.items(), ("oneshot", ONE_SHOT)]:
        keys = {field.name for field in dataclasses.fields(cls) if field.metadata.get("yaml", True)}
        assert written[section].keys() == keys, section
        assert getattr(config, section) == cls(), section
        for key in ("batch_size", "num_workers") if section == "dataloader" else ():
            assert written[section][key] == "auto"
    assert (config.mask_dir, config.max_images) == (None, None)
    commented = False
    for line in path.read_text().splitlines():  # beside the key or above it
        text = line.strip()
        if text and not text.startswith("#") and not text.endswith(":"):
            assert commented or " # " in line, line
        commented = text.startswith("#") or (commented and " # " not in line and text != "")


def test_no_two_shipped_files_write_the_same_results() -> None:
    outputs = [
        yaml.safe_load(path.read_text())["output"].get(key)
        for path in sorted((REPOSITORY / "configs").glob("*.yaml"))
        for key in ("csv", "infoscore_csv", "classwise_csv", "summary_csv")
    ]
    named = [path for path in outputs if path]
    assert len(named) == len(set(named))


def test_coco_is_limited_to_the_papers_10000_images_by_default(load: Load) -> None:
    coco = {**MINIMAL, "data_set": "coco"}
    assert load(coco).max_images == 10_000
    assert load({**coco, "max_images": None}).max_images is None
    assert load(coco, "max_images=5").max_images == 5


def test_paths_are_relative_to_the_repository(load: Load) -> None:
    assert resolve(load(MINIMAL).data_root) == REPOSITORY / "data"
    assert resolve("/elsewhere/x") == Path("/elsewhere/x")
    assert resolve("~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("crf.iter", 3, r"unknown key crf\.iter; did you mean crf\.iters\?"),
        ("modle", {}, r"unknown key modle; did you mean model\?"),
        ("something", 1, r"unknown key something \(known: data_set, data_root"),
        ("source", "x", "unknown key source"),
        ("crf.iters", "20", r"crf\.iters: '20' is not valid; expected a whole number"),
        ("crf.iters", 2.5, r"crf\.iters: 2\.5 is not valid; expected a whole number"),
        ("crf.iters", True, r"crf\.iters: True is not valid; expected a whole number"),
        ("crf.iters", None, r"crf\.iters: None is not valid"),
        ("crf.iters", -1, r"crf\.iters: -1 is not valid; expected 0 to 10,000; 0 turns the CRF off"),
        ("crf", 5, r"crf: 5 is not valid; expected a section with keys iters"),
        ("data_set", 7, r"data_set: 7 is not valid; expected a string"),
        ("dataset.first_label", 0, r"dataset\.first_label: 0 is not valid; expected 1, because value 0 in the masks"),
        ("data_root", 5, r"data_root: 5 is not valid; expected a string"),
        ("max_images", 0, r"max_images: 0 is not valid; expected 1 to 1,000,000,000, or null"),
        ("dataset.mean", [0.5, 0.5], r"dataset\.mean: \[0\.5, 0\.5\] is not valid; expected a list of 3 numbers"),
        (
            "dataset.std",
            [0.2, 0.0, 0.2],
            r"dataset\.std: .*expected numbers from 0.001 to 10: pixel values are scaled",
        ),
        ("dataset.std", [0.2, float("nan"), 0.2], r"dataset\.std: .*expected a list of 3 numbers"),
        ("dataset.num_classes", 1, r"dataset\.num_classes: 1 .*expected 2 to 255"),
        ("dataset.num_classes", 256, r"dataset\.num_classes: 256 .*expected 2 to 255"),
        ("dataset.ignore_label", 20, r"dataset\.ignore_label: 20 .*a value that is not a class: 21 to 255"),
        ("dataset.ignore_label", -1, r"dataset\.ignore_label: -1"),
        ("model.image_size", 500, r"model\.image_size: 500 .*a multiple of 8"),
        ("model.image_size", 8, r"model\.image_size: 8 .*16 to 4,096"),
        ("model.layers", [], r"model\.layers: \[\] .*at least one"),
        ("model.layers", [0, 0], r"model\.layers: \[0, 0\] .*at least one layer number"),
        ("model.layers", [-1], r"model\.layers: \[-1\] .*counted from 0"),
        ("model.layers", [0.5], r"model\.layers: \[0\.5\] .*a list of whole numbers or auto"),
        ("model.layers", "all", r"model\.layers: 'all' .*a list of whole numbers or auto"),
        ("model.top_k", 0, r"model\.top_k: 0"),
        ("dataloader.batch_size", 0, r"dataloader\.batch_size: 0 .*1 to 4,096, or auto"),
        ("dataloader.num_workers", -1, r"dataloader\.num_workers: -1 .*0 to 1,024, or auto"),
        ("eval.resolution", "native", r"eval\.resolution: 'native' .*letterbox or original"),
        ("runtime.amp", "fp8", r"runtime\.amp: 'fp8' .*true or false or bf16 or fp16"),
        ("runtime.amp", 1, r"runtime\.amp: 1 "),
        ("runtime.attention", "flash", r"runtime\.attention: 'flash' .*fused or exact"),
        ("runtime.seed", -1, r"runtime\.seed: -1"),
        ("oneshot.shot", 0, r"oneshot\.shot: 0 .*1 to 1,000,000"),
        ("oneshot.lr", 0, r"oneshot\.lr: 0\.0 .*expected 1e-12 to 100"),
        ("oneshot.lr", "fast", r"oneshot\.lr: 'fast' .*expected a number"),
        ("oneshot.lr", "nan", r"oneshot\.lr: 'nan' .*expected a number"),
        ("oneshot.lr", float("inf"), r"oneshot\.lr: inf .*expected a number"),
        ("oneshot.weight_decay", -0.1, r"oneshot\.weight_decay: -0\.1 .*0 to 1,000"),
        ("output.csv", None, r"output\.csv: None is not valid; expected a string"),
        ("output.csv", "a/x.json", r"output\.csv: 'a/x\.json' .*does not end in \.json, \.png or \.html"),
        ("output.infoscore_csv", "x.png", r"output\.infoscore_csv: 'x\.png' .*does not end in \.json"),
        ("output.csv", "a/**", r"output\.csv: 'a/\*\*' .*without \* and \?"),
        ("output.summary_csv", "/", r"output\.summary_csv: '/' .*a file name of 1 to 200 bytes"),
        ("output.classwise_csv", "a" * 201, r"output\.classwise_csv: 'aa.*aa.* a file name of 1 to 200 bytes"),
        (
            "dataset.mean",
            [123.7, 116.3, 103.5],
            r"dataset\.mean: .* 0 to 1: pixel values are scaled from 0 to 1 \(123\.7 of 255",
        ),
        ("model.image_size", 100_000, r"model\.image_size: 100000 .*16 to 4,096"),
        ("data_root", "a\0b", r"data_root: 'a\\x00b' .*a string without control characters"),
        ("mask_dir", "a" * 5000, r"mask_dir: 'aaa.* at most 4,096 characters"),
    ],
)
def test_invalid_values_are_refused_with_file_key_value_and_expectation(
    load: Load, key: str, value: object, reason: str
) -> None:
    values: dict[str, Any] = dict(MINIMAL)
    section, _, name = key.rpartition(".")
    if section:
        values[section] = {name: value}
    else:
        values[name] = value
    with pytest.raises(UserError, match=reason) as refusal:
        load(values)
    assert "some.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["data_set", "data_root", "class_name_dir"])
def test_a_missing_required_key_is_named(load: Load, key: str) -> None:
    with pytest.raises(UserError, match=rf"some\.yaml: key {key} is missing; expected "):
        load({name: value for name, value in MINIMAL.items() if name != key})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "expected a mapping of keys to values, got NoneType"),
        ("- a\n- b", "got list"),
        ("a: [", "cannot be read as YAML"),
        ("a: b: c", "cannot be read as YAML"),
        ("data_set: !!python/object:os.system x", "cannot be read as YAML"),
        ("1: 2", "unknown key 1"),
    ],
)
def test_files_that_are_not_configurations_are_refused(load: Load, content: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        load(content)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_says_where_the_shipped_ones_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml does not exist; the shipped ones are in .*configs"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        load_config(tmp_path)


def test_an_empty_section_means_its_defaults(load: Load) -> None:
    assert load({**MINIMAL, "crf": None}).crf.iters == 20


def test_numbers_may_be_whole_or_have_an_exponent_without_a_dot(load: Load) -> None:
    dataset = load(
        "{data_set: pascal, data_root: a, class_name_dir: b, dataset: {mean: [0, 5e-1, 1], std: [1, 1e0, 2]}}"
    ).dataset
    assert dataset.mean == (0.0, 0.5, 1.0)
    assert dataset.std == (1.0, 1.0, 2.0)
    assert {type(number) for number in dataset.mean + dataset.std} == {float}


def test_set_replaces_single_keys(load: Load) -> None:
    config = load(
        MINIMAL,
        "crf.iters=0",
        "model.layers=[2, 1]",
        "runtime.amp=bf16",
        "data_root=/somewhere else",
        "oneshot.lr=1e-3",
        "val_list=a=b.txt",
    )
    assert config.crf.iters == 0
    assert config.model.layers == (2, 1)
    assert config.runtime.amp == "bf16"
    assert config.data_root == "/somewhere else"
    assert config.oneshot.lr == 1e-3
    assert config.val_list == "a=b.txt"
    assert load(MINIMAL, "crf.iters=1", "crf.iters=2").crf.iters == 2


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("crf.iters", r"--set crf\.iters: expected key\.sub=value"),
        ("=5", r"--set =5: expected key\.sub=value"),
        ("crf.iters=many", r"some\.yaml with --set crf\.iters: crf\.iters: 'many' is not valid"),
        ("crf.itres=1", r"unknown key crf\.itres; did you mean crf\.iters"),
        ("data_set.name=1", r"data_set is a value, not a section"),
        ("crf.iters=[", r"--set crf\.iters=\[: the value is not YAML"),
    ],
)
def test_invalid_overrides_are_refused(load: Load, override: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        load(MINIMAL, override)
    assert "\n" not in str(refusal.value)


def test_to_dict_loads_again_as_the_same_configuration(load: Load) -> None:
    config = load(PUBLISHED_ONE_SHOT)
    again = load(yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    assert again == config


def test_a_byte_order_mark_is_skipped(load: Load) -> None:
    assert load("\ufeff" + PUBLISHED) == load(PUBLISHED)


NUMBERS = {
    f"{section}{field.name}": field
    for section, cls in (("", Config), *((f"{name}.", hint) for name, hint in SECTIONS.items()), ("oneshot.", ONE_SHOT))
    for field in dataclasses.fields(cls)
    if {"int", "float"} & set(re.findall(r"\w+", str(field.type))) and field.metadata.get("yaml", True)
}


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_every_number_has_a_range(key: str, value: int, load: Load) -> None:
    default = NUMBERS[key].default
    text = f"[{value}, {value}, {value}]" if isinstance(default, tuple) else str(value)
    text = f"[{value}]" if key == "model.layers" else text
    with pytest.raises(UserError, match=rf"{key}: .* is not valid; expected") as refusal:
        load(MINIMAL, f"{key}={text}")
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("crf: {iters: 1}\ndata_set: a\ncrf: {iters: 2}", "the key 'crf' is given twice, the second time in line 3"),
        ("crf: {iters: 1, iters: 2}", "the key 'iters' is given twice, the second time in line 1"),
        ("crf: {iters: 1:30}", "YAML reads 1:30 as a number to base 60; put it in quotes"),
        ("oneshot: {lr: 1:30.5}", r"YAML reads 1:30\.5 as a number to base 60"),
        ("crf: {iters: 010}", "YAML reads 010 as a number to base 8"),
        ("crf: {iters: 0b_}", "cannot be read as YAML"),
        ("crf: {iters: " + "9" * 5000 + "}", "cannot be read as YAML"),
        ("crf: {iters: [0x" + "f" * 5000 + "]}", r"crf.iters: \[a number of more than 80 digits\] is not valid"),
        ("crf: " + "[" * 20_000, "it is nested too deeply"),
        ("crf: " + "{a: " * 20_000, "it is nested too deeply"),
        ("crf: {iters: !!int x}", "cannot be read as YAML"),
        ("crf: {iters: !!bool x}", "cannot be read as YAML"),
        ("crf: {iters: !!timestamp x}", "the tag tag:yaml.org,2002:timestamp is not supported"),
        ("crf: {iters: !!binary x}", "the tag tag:yaml.org,2002:binary is not supported"),
        ("data_set: a\ndata_root: b\nclass_name_dir: c\ncrf: {iters: 2024-13-45}", "crf.iters: '2024-13-45' is not"),
        ("? [a, b]\n: c", "is not text"),
        ("crf: {<<: {iters: 1}}", "unknown key crf.<<"),
        ("a: &a [*a]\ncrf: *a", "unknown key a"),
        ("crf: &a [*a]", r"crf: \[+\.\.\.\]+ is not valid"),
        ("x" * (1 << 18), r"it has 0\.3 MB; expected at most 0\.3 MB"),
    ],
    ids=lambda text: text[:24],
)
def test_ambiguous_yaml_is_refused_in_one_short_line(content: str, reason: str, load: Load) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        load(content + "\n")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_an_anchor_bomb_is_refused_in_one_short_line(load: Load) -> None:
    """The value has 9^30 elements; the message shows a few."""
    nested = "&x0 [1, 2]"
    for n in range(1, 30):
        nested = f"&x{n} [{nested}, {', '.join([f'*x{n - 1}'] * 8)}]"
    with pytest.raises(UserError, match=r"model\.layers: \[\[.* \.\.\. is not valid") as refusal:
        load(MINIMAL, f"model.layers={nested}")
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("value", [r'"a\ud800b"', r'"a\0b"', r'"a\eb"'])
def test_strings_that_cannot_be_paths_are_refused(value: str, load: Load) -> None:
    with pytest.raises(
        UserError, match=r"val_list: 'a\\.*b' is not valid; expected a string without control characters"
    ):
        load(MINIMAL, f"val_list={value}")


def test_a_date_is_a_string(load: Load) -> None:
    assert load(MINIMAL, "data_root=2024-01-31").data_root == "2024-01-31"


def test_shared_values_are_read(load: Load) -> None:
    """YAML writers use anchors for equal lists."""
    dataset = load(yaml.safe_dump(MINIMAL) + "dataset: {mean: &a [0.5, 0.5, 0.5], std: *a}\n").dataset
    assert dataset.mean == dataset.std == (0.5, 0.5, 0.5)


def test_a_configuration_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe cannot be read as YAML: it is a named pipe; expected a regular file"):
        load_config(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match=r"circle cannot be read as YAML: Too many levels of symbolic links"):
        load_config(tmp_path / "circle")
