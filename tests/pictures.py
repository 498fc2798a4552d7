"""Photos that tests write to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    """Write an image in the format of the path's suffix; makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def left_red_right_blue(mode: str = "RGB") -> Image.Image:
    """An image 40 pixels wide and 20 high."""
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(BLUE, (20, 0, 40, 20))
    return picture.convert(mode)
