"""Compare the sizes of images and masks: a mask of another size is useless."""

from __future__ import annotations

from pathlib import Path

from src.data.images import open_image
from src.screen import counted, say
from tools.prepare.parallel import for_each


def check_pairs(root: Path, lines: list[str], workers: int, label: str) -> None:
    """Read the sizes of all images and masks of a list (its lines, relative to ``root``); print which differ."""
    pairs = [(root / image, root / mask) for image, mask in (line.split() for line in lines)]
    faults = [fault for fault in for_each(_fault, pairs, len(pairs), workers, f"sizes of {label}") if fault]
    for readable, what, remedy in (
        (True, "image and mask differ in size", "one of the two belongs to another data set: download it again"),
        (False, "a file cannot be read", "delete it and run the command again, or download its source again"),
    ):
        texts = [text for was_read, text in faults if was_read == readable]
        if texts:
            many = f"{len(texts):,} of {counted(len(pairs), 'pair')}"
            say(f"{label}: {what} in {many}, e.g. {texts[0]}; {remedy}")


def _fault(pair: tuple[Path, Path]) -> tuple[bool, str] | None:
    """What is wrong with an image and its mask, and whether both could be read; None if they agree."""
    sizes = []
    for path in pair:
        try:
            with open_image(path) as picture:  # the header alone
                sizes.append(f"{picture.width} x {picture.height}")
        except Exception as error:  # a damaged file lets Pillow's plugins raise nearly anything
            return False, f"{path} ({' '.join(str(error).split())})"
    if sizes[0] == sizes[1]:
        return None
    image, mask = pair
    return True, f"{mask} is {sizes[1]} pixels, {image} is {sizes[0]}"
