"""Class files and prompts: the word lists of the paper, in order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from src.errors import UserError
from src.files import REPOSITORY
from src.method.prompts import ClassEntry, build_prompts, read_class_file

CLASSES = [
    ClassEntry("sky", ("wall", "tree")),
    ClassEntry("cat", ("cats",)),
    ClassEntry("dog"),
    ClassEntry("tv", ("TV", "tv monitor")),
]


def shipped(data_set: str, num_classes: int) -> list[ClassEntry]:
    return read_class_file(REPOSITORY / "configs" / "classes" / f"{data_set}.json", num_classes)


@pytest.mark.parametrize(("data_set", "classes", "single", "multi"), [("pascal", 21, 49, 116), ("coco", 81, 105, 179)])
def test_prompt_counts_match_the_paper(data_set: str, classes: int, single: int, multi: int) -> None:
    entries = shipped(data_set, classes)
    assert len(build_prompts(entries, multi_prompt=False)) == single
    assert len(build_prompts(entries, multi_prompt=True)) == multi


def test_shipped_class_files_are_in_label_order() -> None:
    pascal, coco = shipped("pascal", 21), shipped("coco", 81)
    assert [pascal[label].name for label in (0, 1, 15, 20)] == ["sky", "airplane", "person", "tv"]
    assert [coco[label].name for label in (0, 1, 5, 24, 80)] == ["sky", "person", "airplane", "giraffe", "toothbrush"]
    for data_set in ("pascal", "coco"):
        entries = json.loads((REPOSITORY / "configs" / "classes" / f"{data_set}.json").read_text())
        assert [entry["id"] for entry in entries if "id" in entry] in ([], list(range(len(entries))))


def test_published_quirks_of_the_word_lists_are_kept() -> None:
    coco = shipped("coco", 81)
    assert coco[5].related_words == ("aeroplane", "airplanes", "aircraft, plane")  # one prompt, with a comma
    assert coco[24].related_words == ("girrafes",)


def test_single_prompts_are_background_words_and_class_names() -> None:
    prompts = build_prompts(CLASSES, multi_prompt=False)
    assert prompts.prompts == [
        "Image of sky.",
        "Image of wall.",
        "Image of tree.",
        "Image of cat.",
        "Image of dog.",
        "Image of tv.",
    ]
    assert prompts.prompts_per_class == (3, 1, 1, 1)


def test_multi_prompts_are_ordered_by_class_with_the_name_first() -> None:
    prompts = build_prompts(CLASSES, multi_prompt=True)
    assert prompts.words == ("sky", "wall", "tree", "cat", "cats", "dog", "tv", "TV", "tv monitor")
    assert prompts.prompts_per_class == (3, 2, 1, 3)


def test_class_0_is_reported_as_background() -> None:
    assert build_prompts(CLASSES, multi_prompt=False).class_names == ("background", "cat", "dog", "tv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "cannot be read as JSON"),
        ("{}", "expected a JSON list"),
        ("[]", "expected a JSON list"),
        ('[{"name": "sky"}, {"nam": "cat"}]', 'entry 1: expected an object with a "name"'),
        ('[{"name": "sky"}, "cat"]', 'entry 1: expected an object with a "name", got "cat"'),
        ('[{"name": "sky"}, {"name": " "}]', "entry 1"),
        ('[{"name": "sky", "related_word": "wall"}, {"name": "cat"}]', 'entry 0: "related_word" must be a list'),
        ('[{"name": "sky", "related_words": []}, {"name": "cat"}]', 'unknown key "related_words"'),
        ('[{"name": "sky", "id": false}, {"name": "cat"}]', 'entry 0: "id" must be a whole number'),
        ('[{"name": "sky"}, {"name": "cat", "id": "1"}]', 'entry 1: "id" must be a whole number'),
        ('[{"name": "cat"}, {"name": "Cat "}]', '"Cat " is a word of entry 0 and of entry 1; remove one'),
        ('[{"name": "sky"}, {"name": "background"}]', '"background" is a word of entry 0 and of entry 1'),
        (
            '[{"name": "bus"}, {"name": "boat", "related_word": ["a", "Bus"]}]',
            '"Bus" is a word of entry 0 and of entry 1',
        ),
        ('[{"name": "sky"}, {"name": "class 1"}]', 'entry 1: "class 1" is a placeholder; replace it with a word'),
        ('[{"name": "sky"}, {"name": "Class_12 "}]', 'entry 1: "Class_12 " is a placeholder'),
        (
            '[{"name": "sky"}, {"name": "a [SEP] b"}]',
            r"entry 1: the word .* has \[SEP\], which is a special token",
        ),
        ('[{"name": "sky"}, {"name": "cat", "related_word": ["[PAD]"]}]', r"has \[PAD\]"),
        ('[{"name": "sky"}, {"name": "cat", "name": "dog"}]', 'an entry has the key "name" more than once'),
        (r'[{"name": "sky"}, {"name": "\u001b[2Jcat"}]', r"entry 1: the word .* has the character U\+001B"),
        (r'[{"name": "sky"}, {"name": "cat", "related_word": ["a\nb"]}]', r"has the character U\+000A"),
        (r'[{"name": "sky"}, {"name": "\ud83d"}]', r'the word "\\ud83d" has the character U\+D83D'),
        (r'[{"name": "sky"}, {"name": "a\u202eb"}]', r"has the character U\+202E"),
        ('[{"name": "sky"}, {"name": "=cmd()"}]', 'begins with "=", which spreadsheets read as a formula'),
        (f'[{{"name": "sky"}}, {{"name": "{"a" * 201}"}}]', "has 201 characters; expected at most 200"),
        ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
        ("[" + 900 * "[" + 900 * "]" + "]", "entry 0: expected an object"),
        ('[{"name": "sky", "id": ' + 5000 * "1" + "}]", "cannot be read as JSON"),
        ('[{"name": "sky"}]', "has 1 class, but dataset.num_classes is 2"),
    ],
)
def test_invalid_class_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as refusal:
        read_class_file(path, 2)
    assert str(path) in str(refusal.value)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('[{"name": "sky", "id": 0}, {"name": "猫", "id": 1}]', encoding="utf-8-sig")
    assert [entry.name for entry in read_class_file(path, 2)] == ["sky", "猫"]


def test_published_keys_and_other_ids_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are positions, whatever the ids: published files start some ids at 1, and contain colours."""
    path = tmp_path / "classes.json"
    entries = [
        {"name": "sky", "id": 0, "color": [0, 0, 0], "isthing": 0},
        {"name": "cat", "id": 17, "color": [220, 20, 60], "isthing": 1},
        {"name": "dog", "id": 1, "color": None},
    ]
    path.write_text(json.dumps(entries))
    assert [entry.name for entry in read_class_file(path, 3)] == ["sky", "cat", "dog"]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.endswith("classes.json, entry 1: the id 17 is ignored; the label is the position, 1")


def test_a_word_may_occur_twice_in_one_class(tmp_path: Path) -> None:
    """As "tv" and "TV" in the list of the paper."""
    path = tmp_path / "classes.json"
    path.write_text('[{"name": "sky"}, {"name": "tv", "related_word": ["TV"]}]')
    assert read_class_file(path, 2)[1].related_words == ("TV",)


def test_a_missing_class_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json does not exist; set class_name_dir"):
        read_class_file(tmp_path / "nothing.json", 2)


def test_a_class_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.json")
    with pytest.raises(UserError, match="cannot be read as JSON: it is a named pipe; expected a regular file"):
        read_class_file(tmp_path / "classes.json", 2)
