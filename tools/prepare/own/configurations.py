"""The class file and the configurations of your own data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from src.files import write_text
from src.screen import say
from src.task import PHOTO_MODEL

MODEL_SIZE = "1.8 GB"  # of PHOTO_MODEL; README and docs/install.md say so too
BACKGROUND_WORDS = ("wall", "floor", "ceiling", "sky", "ground", "grass", "tree", "building", "road", "water")


def write_class_file(path: Path, names: Mapping[int, str], force: bool) -> None:
    """Write a class file: the background's words, then one entry per label of ``names``, in order."""
    taken = {name.casefold() for name in names.values()}
    related = [word for word in BACKGROUND_WORDS if word not in taken]
    entries = [{"id": 0, "name": "background", "related_word": related}]
    entries += [{"id": n, "name": names[label], "related_word": []} for n, label in enumerate(sorted(names), 1)]
    text = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
    _write(path, f"[\n{text}\n]\n", force)


def write_configurations(
    root: Path,
    name: str,
    data_root: Path,
    image_list: Path,
    class_file: Path,
    background: bool,
    first_label: int,
    force: bool,
) -> None:
    """Write ``training_free.yaml`` and ``one_shot.yaml`` into ``root``."""
    for file, experiment in (("training_free.yaml", TRAINING_FREE), ("one_shot.yaml", ONE_SHOT)):
        text = (HEAD + experiment).format(
            quoted_name=json.dumps(name),
            name=name,
            data_root=_quoted(data_root),
            class_file=_quoted(class_file),
            image_list=_quoted(image_list),
            background=str(background).lower(),
            first_label=first_label,
            model=PHOTO_MODEL,
            size=MODEL_SIZE,
        )
        _write(root / file, text, force)


def _quoted(path: Path) -> str:
    """A path as YAML reads it, whatever characters it has."""
    return json.dumps(str(path.absolute()), ensure_ascii=False)


def _write(path: Path, text: str, force: bool) -> None:
    """Write a file that users edit: an existing one that differs is kept unless ``force``. Prints what was done."""
    if path.is_file() and not force:
        same = path.read_text(encoding="utf-8", errors="replace") == text
        difference = "" if same else ", though it differs from the one made now (--force replaces it)"
        say(f"{path}: existing file kept{difference}")
        return
    write_text(path, text)
    say(f"{path}: written")


HEAD = """\
# Made by `python -m tools.prepare own`; configs/reference.yaml explains every key.
data_set: {quoted_name}
data_root: {data_root}
class_name_dir: {class_file}
max_images: null      # use only the first N images; null: all

dataset:
  # 255 is ignored. The number of classes is the length of the class file
  background: {background}   # false: every pixel is one of the classes, and background words only compete
  first_label: {first_label}  # value of the first class in the masks; without a background, smaller values are ignored
"""

TRAINING_FREE = """
val_list: {image_list}

model:
  name: {model}  # the paper's model, for photos: {size}, downloaded on first use
  layers: [0, 3]      # the paper's choice for BLIP-large; auto: the best by InfoScore, which needs no masks

output:
  csv: results/{name}_training_free.csv
"""

ONE_SHOT = """
model:
  name: {model}  # the paper's model, for photos: {size}, downloaded on first use
  layers: [0, 3]      # the paper's choice for BLIP-large; auto: the best by InfoScore

oneshot:
  test_list: {image_list}
  total_runs: 5
  min_support_area: 1024  # pixels of a class that make an image a candidate; the paper's 16384 suits VOC's photos

output:
  classwise_csv: results/{name}_one_shot_classwise.csv
  summary_csv: results/{name}_one_shot_summary.csv
"""
