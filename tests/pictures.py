"""Pictures that tests write to disk, as a camera would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    """Write a picture, in the format of the path's ending, to a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def left_red_right_blue(mode: str = "RGB") -> Image.Image:
    """40 pixels wide, 20 high."""
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(BLUE, (20, 0, 40, 20))
    return picture.convert(mode)
