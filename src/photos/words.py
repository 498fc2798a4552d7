"""What to look for in photos, in the user's own words: ``--classes`` and ``--background``."""

from __future__ import annotations

import json
import re

from ..config.schema import Config
from ..errors import UserError
from ..files import resolve
from ..method.prompts import (
    ClassEntry,
    PromptSet,
    build_prompts,
    fault_of_word,
    read_class_file,
    same_word,
    shared_word,
)
from ..screen import say

MAX_CLASSES = 254  # labels are bytes; 0 is the background, 255 stands for ignored pixels


def prompts_of_words(
    config: Config, classes: str | None, background: str | None = None, multi_prompt: bool = False
) -> PromptSet:
    """The prompts from ``--classes``, ``--background`` and the configuration's class file.

    Args:
        config: names the class file, the default for both.
        classes: such as ``cat; dog = puppy, hound``; words after "=" always count.
        background: such as ``table, wall``. None: the class file's, without words of ``classes``.
        multi_prompt: whether related words of the class file count.

    Raises:
        UserError: see :func:`parse_classes`, :func:`parse_background` and :func:`src.method.prompts.read_class_file`.
    """
    default: list[ClassEntry] = []
    if classes is None or background is None:
        default = read_class_file(resolve(config.class_name_dir), config.dataset.num_classes)
    foreground = default[1:] if classes is None else parse_classes(classes)
    asked = {same_word(word) for entry in foreground for word in (entry.name, *entry.related_words)}
    if background is not None:
        words = parse_background(background)
        both = [word for word in words if same_word(word) in asked]
        if both:
            raise UserError(f'--background: "{both[0]}" is one of the classes too; it cannot be both')
    else:
        usual = [default[0].name, *default[0].related_words]
        words = [word for word in usual if same_word(word) not in asked]
        if len(words) < len(usual):
            taken = [word for word in usual if same_word(word) in asked]
            say(f"no background words here, since they are classes: {', '.join(taken)}")
        if not words:
            raise UserError("no background words are left; name some with --background")
    entries = [ClassEntry(words[0], tuple(words[1:])), *foreground]
    if shared := shared_word(entries):
        word, *labels = shared
        names = " and ".join(f'"{entries[label].name}"' if label else "the background" for label in labels)
        raise UserError(f'--classes: "{word}" is a word of {names}; remove one')
    return build_prompts(entries, classes is not None or multi_prompt, config.dataset.background)


def parse_classes(text: str) -> list[ClassEntry]:
    """Read ``--classes``: classes separated by ";", each a name, or a name, "=" and related words separated by ",".

    Raises:
        UserError: no class, too many, a duplicate, a part without a name, or commas in place of semicolons.
    """
    entries: list[ClassEntry] = []
    # without ";" and "=", commas can only separate classes
    separator = ";" if ";" in text or "=" in text else ","
    for part in filter(None, map(str.strip, text.split(separator))):
        name, equals, related = (piece.strip() for piece in part.partition("="))
        words = tuple(filter(None, map(str.strip, related.split(","))))
        if not name or (equals and not words) or "=" in related:
            raise UserError(f'--classes: "{part}": expected a name, or name = word, word, such as "dog = puppy, hound"')
        if "," in name:
            raise UserError(f'--classes: "{name}": separate classes with ";", such as "cat; dog"')
        for word in (name, *words):
            if fault := fault_of_word(word, name=word is name):
                raise UserError(f"--classes: {json.dumps(word)} {fault}")
        if name.lower() in ("background", *(entry.name.lower() for entry in entries)):
            raise UserError(f'--classes: "{name}" is given twice, or is the background; its words go to --background')
        entries.append(ClassEntry(name, words))
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise UserError(f"--classes: expected 1 to {MAX_CLASSES} classes, got {len(entries)}")
    return entries


def parse_background(text: str) -> list[str]:
    """Read ``--background``: words separated by "," or ";". Raises UserError without words."""
    words: dict[str, str] = {}
    for word in filter(None, map(str.strip, re.split("[,;]", text))):
        if fault := fault_of_word(word):
            raise UserError(f"--background: {json.dumps(word)} {fault}")
        words.setdefault(same_word(word), word)  # a word given twice would count twice: background words are summed
    if not words:
        raise UserError('--background: expected at least one word, such as "table, wall"')
    return [*words.values()]
