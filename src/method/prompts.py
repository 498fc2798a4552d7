"""Class files, and the prompts made from them (docs/method.md, "Prompts")."""

from __future__ import annotations

import json
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, reason_of
from ..files import read_regular
from ..screen import counted, note_once

TEMPLATE = "Image of {word}."
MAX_BYTES = 1 << 20  # of a class file
MAX_WORD_LENGTH = 200  # longer words do not fit into tables and legends
TEXT_DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of the text after them
FORMULA = ("=", "+", "-", "@")
TOKENS = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|ENC|DEC)\]")  # BLIP's tokenizer reads these as its special tokens
PLACEHOLDER = re.compile(r"class[ _-]?\d+", re.IGNORECASE)
KEYS = ("name", "related_word", "id", "color", "isthing")
"""Possible keys of an entry of a class file. ``color`` and ``isthing`` occur in published files and have no effect."""


@dataclass(frozen=True)
class ClassEntry:
    """One class: its name and its related words (synonyms; for class 0, kinds of background)."""

    name: str
    related_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """All prompts of a job, class by class in label order, the class name first.

    Attributes:
        class_names: C names; class 0 is always called ``background``.
        words: P words, one per prompt.
        prompts_per_class: C counts that add up to P.
        background: whether a pixel may be labelled background; if not, its words only compete with the other prompts.
    """

    class_names: tuple[str, ...]
    words: tuple[str, ...]
    prompts_per_class: tuple[int, ...]
    background: bool = True

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of the classes that a pixel may get; only these are scored."""
        return self.class_names if self.background else self.class_names[1:]

    @property
    def prompts(self) -> list[str]:
        return [TEMPLATE.format(word=word) for word in self.words]

    def __len__(self) -> int:
        return len(self.words)


def build_prompts(classes: list[ClassEntry], multi_prompt: bool, background: bool = True) -> PromptSet:
    """Build the prompts of ``classes`` in label order; ``background`` as in :class:`PromptSet`.

    The background (class 0) always has all its words; every other class has its name and, with ``multi_prompt``, its
    related words.
    """
    words = [
        (entry.name, *(entry.related_words if multi_prompt or label == 0 else ()))
        for label, entry in enumerate(classes)
    ]
    return PromptSet(
        class_names=("background", *(entry.name for entry in classes[1:])),
        words=tuple(word for group in words for word in group),
        prompts_per_class=tuple(len(group) for group in words),
        background=background,
    )


def read_class_file(path: Path, num_classes: int) -> list[ClassEntry]:
    """Read a class file: a JSON list in label order of ``{"name": ..., "related_word": [...], "id": ...}``.

    ``related_word`` and ``id`` are optional. A label is the position in the list; a different ``id`` is ignored with a
    note.

    Raises:
        UserError: the file is missing or not such a list; :func:`fault_of_word` refuses a word; a name is a placeholder
            such as "class 7"; two classes share a word; or the number of classes is not ``num_classes``.
    """
    try:
        # utf-8-sig: editors on Windows put a byte order mark first
        entries = json.loads(read_regular(path, MAX_BYTES).decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise UserError(
            f"class file {path} does not exist; set class_name_dir to a JSON file such as configs/classes/pascal.json"
        ) from None
    except RecursionError:
        raise UserError(f"class file {path} cannot be read as JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise UserError(f"class file {path} cannot be read as JSON: {reason_of(error)}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"class file {path}: expected a JSON list with one object per class")
    classes = [_class_entry(path, label, entry) for label, entry in enumerate(entries)]
    if shared := shared_word(classes):
        word, first, second = shared
        raise UserError(
            f"class file {path}: {_shown(word)} is a word of entry {first} and of entry {second}; remove one"
        )
    if len(classes) != num_classes:
        raise UserError(
            f"class file {path} has {counted(len(classes), 'class', 'classes')}, "
            f"but dataset.num_classes is {num_classes}; they must agree (background included)"
        )
    other = next((label for label, entry in enumerate(entries) if entry.get("id", label) != label), None)
    if other is not None:
        note_once(
            f"note: class file {path}, entry {other}: the id {_shown(entries[other]['id'])} is ignored; the label is "
            f"the position, {other}"
        )
    return classes


def shared_word(classes: Sequence[ClassEntry]) -> tuple[str, int, int] | None:
    """The first word (name or related word) that two of ``classes`` share, and their labels; None if there is none.

    The same prompt in two classes lowers the probabilities of both. "background" always belongs to class 0.
    """
    owners = {"background": 0}
    for label, entry in enumerate(classes):
        for word in (entry.name, *entry.related_words):
            first = owners.setdefault(same_word(word), label)
            if first != label:
                return word, first, label
    return None


def same_word(word: str) -> str:
    """``word`` as the model's tokenizer reads it: lower case, single spaces."""
    return " ".join(word.casefold().split())


def fault_of_word(word: str, name: bool = False) -> str | None:
    """Why ``word`` cannot be a prompt and be printed in pictures and (a class ``name``) in CSVs; None if it can."""
    if len(word) > MAX_WORD_LENGTH:
        return f"has {len(word)} characters; expected at most {MAX_WORD_LENGTH}"
    strange = [c for c in word if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in TEXT_DIRECTION]
    if strange:
        return f"has the character U+{ord(strange[0]):04X}, which cannot be printed"
    if token := TOKENS.search(word):
        return f"has {token[0]}, which is a special token of the model, not a word"
    if name and word.lstrip().startswith(FORMULA):
        return f'begins with "{word.lstrip()[0]}", which spreadsheets read as a formula'
    return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an entry has the key {_shown(twice)} more than once")
    return values


def _class_entry(path: Path, label: int, entry: object) -> ClassEntry:
    def refusal(expected: str) -> UserError:
        return UserError(f"class file {path}, entry {label}: {expected}, got {_shown(entry)}")

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise refusal('expected an object with a "name"')
    related = entry.get("related_word") or []
    if not isinstance(related, list) or not all(isinstance(word, str) and word.strip() for word in related):
        raise refusal('"related_word" must be a list of words')
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise refusal(f"unknown key {_shown(sorted(unknown)[0])} (known: {', '.join(KEYS)})")
    if type(entry.get("id", label)) is not int:
        raise refusal('"id" must be a whole number')
    if PLACEHOLDER.fullmatch(entry["name"].strip()):
        raise UserError(
            f"class file {path}, entry {label}: {_shown(entry['name'])} is a placeholder; replace it with a word that "
            "names the class"
        )
    for word in (entry["name"], *related):
        if fault := fault_of_word(word, name=word is entry["name"]):
            raise UserError(f"class file {path}, entry {label}: the word {_shown(word)} {fault}")
    return ClassEntry(entry["name"], tuple(related))


def _shown(value: object) -> str:
    """``value`` as JSON in ASCII, shortened to 200 characters."""
    try:
        return textwrap.shorten(json.dumps(value), 200, placeholder=" ...")
    except RecursionError:
        return "deeply nested lists"
