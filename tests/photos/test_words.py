"""Classes and background in the user's own words."""

from __future__ import annotations

import pytest

from src.config.reader import load_config
from src.errors import UserError
from src.files import REPOSITORY
from src.method.prompts import ClassEntry, PromptSet
from src.photos.words import parse_classes, prompts_of_words

CONFIG = REPOSITORY / "tests/golden_training_free.yaml"


def words(entries: list[ClassEntry]) -> list[tuple[str, ...]]:
    return [(entry.name, *entry.related_words) for entry in entries]


def prompts_of(classes: str | None, background: str | None = None, multi_prompt: bool = False) -> PromptSet:
    return prompts_of_words(load_config(CONFIG), classes, background, multi_prompt)


def test_classes_and_their_related_words_are_read_from_one_line() -> None:
    parsed = parse_classes(" cat; dog = puppy , hound ;my red mug;")
    assert words(parsed) == [("cat",), ("dog", "puppy", "hound"), ("my red mug",)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected 1 to 254 classes, got 0"),
        (" ; ", "got 0"),
        ("cat, dog; mug", 'separate classes with ";"'),
        ("= puppy", "expected a name"),
        ("dog =", "expected a name"),
        ("dog = puppy = hound", "expected a name"),
        ("cat; Cat", "is given twice, or is the background"),
        ("cat; background", "--background"),
        ("cat\x1b[2J", r'--classes: "cat\\u001b.2J" has the character U\+001B'),
        ("cat = a\udcff", r"has the character U\+DCFF"),
        ("-1", 'begins with "-"'),
        (";".join(f"thing {number}" for number in range(255)), "got 255"),
        (";".join(f"thing {number}" for number in range(500)), "expected 1 to 254 classes, got 500"),
    ],
)
def test_invalid_classes_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_classes(text)


def test_related_words_are_always_used_and_the_background_is_that_of_the_class_file() -> None:
    prompts = prompts_of("bus = coach; cat")
    assert prompts.class_names == ("background", "bus", "cat")
    assert prompts.prompts_per_class == (7, 2, 1)
    assert prompts.words[:2] == ("sky", "wall")


def test_without_classes_the_class_file_counts() -> None:
    single, multi = prompts_of(None), prompts_of(None, multi_prompt=True)
    assert single.class_names[:2] == ("background", "airplane")
    assert len(single) == 13
    assert len(multi) > len(single)
    assert prompts_of(None, background="floor").words[:2] == ("floor", "airplane")


def test_a_class_is_no_background_word(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = prompts_of("Wall = fence, sea")
    assert prompts.words == ("sky", "tree", "wood", "grass", "road", "Wall", "fence", "sea")
    assert "wall, sea" in capsys.readouterr().out
    with pytest.raises(UserError, match='"wall" is one of the classes'):
        prompts_of("cat; Wall", background="floor, wall")
    with pytest.raises(UserError, match="no background words are left"):
        prompts_of("sky; wall; tree; wood; grass; road; sea")


def test_background_replaces_the_class_files_words() -> None:
    assert prompts_of("cat", background=" table, wall ;table").words == ("table", "wall", "cat")
    with pytest.raises(UserError, match="at least one word"):
        prompts_of("cat", background=" , ")


@pytest.mark.parametrize(
    ("classes", "background", "reason"),
    [
        ("traffic light; lamp", "floor, Traffic  light", '"Traffic  light" is one of the classes'),
        ("cat = background", None, '"background" is a word of the background and "cat"'),
        ("dog; cat = background", "floor", '"background" is a word of the background and "cat"'),
        ("bus; boat = Bus", "floor", '"Bus" is a word of "bus" and "boat"'),
    ],
)
def test_one_word_has_one_class(classes: str, background: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        prompts_of(classes, background)


def test_a_background_word_given_twice_counts_once() -> None:
    """Probabilities of background words are added up."""
    assert prompts_of("cat", background="red wall, Red  wall; table").words == ("red wall", "table", "cat")
