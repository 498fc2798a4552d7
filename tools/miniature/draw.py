"""Draw the miniature PASCAL: python -m tools.miniature.draw [--output FOLDER] [--force]

Writes 200 validation and 200 train scenes in PASCAL VOC's layout, under 8 MB:

    JPEGImages/*.jpg              pictures, longer side 384 pixels
    SegmentationClassAug/*.png    palette masks in the VOC colours: 0 background, 1 to 20 classes, 255 void
    val.txt, train.txt            a line "JPEGImages/x.jpg SegmentationClassAug/x.png" per scene

All seeds are fixed, so the files are always the same. Training pictures (tools/miniature/captions.py) have other seeds.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from src import cli
from src.errors import UserError
from src.files import user_path, write_text
from src.output.colours import VOC_PALETTE
from src.screen import say, say_next
from tools.miniature.class_words import CLASSES
from tools.miniature.scenes import Scene, draw_scene

FOLDER = Path(__file__).parents[2] / "data" / "miniature"
SCENES_PER_LIST = 200
# chosen so that every class has at least three scenes without other classes, large enough for one-shot supports
FIRST_SEED = {"val": 4_000_000, "train": 2_000_000}
JPEG_QUALITY = 85


def draw_listed_scene(split: str, number: int) -> Scene:
    """Scene ``number`` of the list ``split``; the first objects run through the classes."""
    return draw_scene(FIRST_SEED[split] + number, first=CLASSES[number % len(CLASSES)])


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write uint8 RGB [height, width, 3] as the JPEG ``path``."""
    Image.fromarray(picture).save(path, quality=JPEG_QUALITY, subsampling="4:2:0", optimize=True)


def write_mask(labels: np.ndarray, path: Path) -> None:
    """Write uint8 labels [height, width] as the palette PNG ``path``, in the VOC colours."""
    mask = Image.fromarray(labels)
    mask.putpalette(VOC_PALETTE.tobytes())
    mask.save(path, optimize=True)


def draw_dataset(folder: Path, scenes_per_list: int = SCENES_PER_LIST) -> None:
    """Draw both lists into ``folder``."""
    pictures, masks = folder / "JPEGImages", folder / "SegmentationClassAug"
    for subfolder in (pictures, masks):
        subfolder.mkdir(parents=True, exist_ok=True)
    for split in FIRST_SEED:
        lines = []
        for number in range(scenes_per_list):
            name = f"{split}_{number:03d}"
            canvas = draw_listed_scene(split, number).canvas
            write_picture(canvas.picture, pictures / f"{name}.jpg")
            write_mask(canvas.labels(), masks / f"{name}.png")
            lines.append(f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png\n")
        write_text(folder / f"{split}.txt", "".join(lines))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=user_path, default=FOLDER, help="folder to draw in (default: data/miniature)")
    parser.add_argument("--force", action="store_true", help="replace existing scenes")
    args = parser.parse_args(arguments)
    old = [args.output / name for name in ("JPEGImages", "SegmentationClassAug")]
    if any(folder.exists() for folder in old):
        if not args.force:
            raise UserError(f"{args.output} has scenes already; replace them with --force, or choose another --output")
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
    draw_dataset(args.output)
    say(f"drew {SCENES_PER_LIST} scenes per list in {args.output}")
    command = ["python", "training_free_blip.py", "--config", "configs/miniature.yaml"]
    if args.output.resolve() != FOLDER:
        command += ["--set", f"data_root={args.output.resolve()}", f"val_list={args.output.resolve() / 'val.txt'}"]
    say_next(shlex.join(command))


if __name__ == "__main__":
    sys.exit(cli.run(main))
