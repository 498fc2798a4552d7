"""The words of the miniature: PASCAL's class file, and which of its words the drawings show."""

from __future__ import annotations

from pathlib import Path

from src.method.prompts import read_class_file

CLASS_FILE = Path(__file__).parents[2] / "configs" / "classes" / "pascal.json"
VOID = 255

_ENTRIES = read_class_file(CLASS_FILE, num_classes=21)

#: The 20 classes; label 1 is the first.
CLASSES: tuple[str, ...] = tuple(entry.name for entry in _ENTRIES[1:])
#: The 29 words that stand for the background, in the order of the class file.
BACKGROUND_WORDS: tuple[str, ...] = (_ENTRIES[0].name, *_ENTRIES[0].related_words)
#: All 116 words of the class file, in its order.
WORDS: tuple[str, ...] = tuple(word for entry in _ENTRIES for word in (entry.name, *entry.related_words))

#: Kinds of background that are drawn, with the background words that name them.
SCENERY: dict[str, tuple[str, ...]] = {
    "sky": ("sky",),
    "cloud": ("cloud",),
    "mountain": ("mountain",),
    "hill": ("hill",),
    "tree": ("tree", "wood"),
    "grass": ("grass",),
    "road": ("road",),
    "sea": ("sea", "river"),
    "sands": ("sands",),
    "building": ("building",),
    "fence": ("fence",),
    "wall": ("wall",),
    "floor": ("floor",),
    "window": ("window",),
    "door": ("door",),
    "curtain": ("curtain",),
}

#: Everything that is drawn: the classes (numbers 1 to 20, their labels), then the scenery (21 and up).
#: Number 0 means nothing.
SUBJECTS: tuple[str, ...] = ("", *CLASSES, *SCENERY)
SUBJECT_NUMBER: dict[str, int] = {subject: number for number, subject in enumerate(SUBJECTS)}

#: The words of each subject, its name first.
WORDS_OF: dict[str, tuple[str, ...]] = {
    **{entry.name: (entry.name, *entry.related_words) for entry in _ENTRIES[1:]},
    **SCENERY,
}

#: Background words that are never drawn (desk, bed, fog, ...): pictures are matched with them as wrong words only.
UNDRAWN_WORDS: tuple[str, ...] = tuple(
    word for word in BACKGROUND_WORDS if not any(word in words for words in SCENERY.values())
)
