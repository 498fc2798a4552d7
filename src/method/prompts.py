"""Class files and the prompts made from them (docs/method.md, "Prompts")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError

TEMPLATE = "Image of {word}."


@dataclass(frozen=True)
class ClassEntry:
    """One class: the word that names it and the related words (synonyms, or kinds of background for class 0)."""

    name: str
    related_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """All prompts of a job, class by class in label order, the class name first.

    Attributes:
        class_names: C names; class 0 is called ``background`` whatever word stands for it in the class file.
        words: P words, one per prompt.
        prompts_per_class: C counts that add up to P.
    """

    class_names: tuple[str, ...]
    words: tuple[str, ...]
    prompts_per_class: tuple[int, ...]

    @property
    def prompts(self) -> list[str]:
        return [TEMPLATE.format(word=word) for word in self.words]

    def __len__(self) -> int:
        return len(self.words)


def build_prompts(classes: list[ClassEntry], multi_prompt: bool) -> PromptSet:
    """Prompts of ``classes`` in label order.

    The background (class 0) always contributes all its words; the other classes their name only, or with
    ``multi_prompt`` their name and their related words.
    """
    words = [
        (entry.name, *(entry.related_words if multi_prompt or label == 0 else ()))
        for label, entry in enumerate(classes)
    ]
    return PromptSet(
        class_names=("background", *(entry.name for entry in classes[1:])),
        words=tuple(word for group in words for word in group),
        prompts_per_class=tuple(len(group) for group in words),
    )


def read_class_file(path: Path, num_classes: int) -> list[ClassEntry]:
    """Read a class file: a JSON list in label order of ``{"name": ..., "related_word": [...], "id": ...}``.

    Raises:
        UserError: the file is missing, is not such a list, or does not hold ``num_classes`` classes.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"class file {path} does not exist; set class_name_dir to a JSON file such as configs/classes/pascal.json"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"class file {path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"class file {path}: expected a JSON list with one object per class")
    classes = [_class_entry(path, label, entry) for label, entry in enumerate(entries)]
    if len(classes) != num_classes:
        raise UserError(
            f"class file {path} has {len(classes)} classes, but dataset.num_classes is {num_classes}; "
            "they must agree (background included)"
        )
    return classes


def _class_entry(path: Path, label: int, entry: object) -> ClassEntry:
    def refuse(expected: str) -> UserError:
        return UserError(f"class file {path}, entry {label}: {expected}, got {json.dumps(entry)}")

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise refuse('expected an object with a "name"')
    related = entry.get("related_word") or []
    if not isinstance(related, list) or not all(isinstance(word, str) and word.strip() for word in related):
        raise refuse('"related_word" must be a list of words')
    unknown = set(entry) - {"name", "related_word", "id"}
    if unknown:
        raise refuse(f'unknown key "{sorted(unknown)[0]}" (known: name, related_word, id)')
    return ClassEntry(entry["name"], tuple(related))
