"""Words in any script for pictures and charts: a font with their characters, or code points."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from PIL import ImageFont


def drawable(text: str) -> str:
    """``text`` with every character that no installed font has as its number, such as ``U+1F431``."""
    return "".join(c if c.isascii() or _font_with(c) else f"U+{ord(c):04X}" for c in text)


def families(text: str) -> list[str]:
    """Matplotlib's font and those of other fonts that have the rest of ``text``."""
    found = (_font_with(c) for c in text if not c.isascii())
    return ["DejaVu Sans", *dict.fromkeys(font[0] for font in found if font and font[0] != "DejaVu Sans")]


def pillow_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of ``size`` pixels for ``text``: Pillow's own for Latin letters, else the one that has most of it."""
    others = [font for c in text if ord(c) > 0x17F and (font := _font_with(c))]
    if others:
        return ImageFont.truetype(max(others, key=others.count)[1], size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # part of Pillow's wheels; a bitmap font has no sizes
    return font


@cache
def _font_with(character: str) -> tuple[str, str] | None:
    """Family and file of the first font that has ``character``."""
    return next(((family, file) for family, file, known in _installed() if ord(character) in known), None)


@cache
def _installed() -> list[tuple[str, str, frozenset[int]]]:
    return list(_read_fonts())


def _read_fonts() -> Iterator[tuple[str, str, frozenset[int]]]:
    """Family, file and characters of every upright regular font, Matplotlib's own first."""
    # Matplotlib is imported here: few words need it
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    entries = [entry for entry in font_manager.fontManager.ttflist if entry.style == "normal" and entry.weight == 400]
    entries = [entry for entry in entries if not entry.name.startswith("Last Resort")]  # boxes for every character
    for entry in sorted(entries, key=lambda entry: entry.name != "DejaVu Sans"):
        try:
            yield entry.name, entry.fname, frozenset(FT2Font(entry.fname).get_charmap())
        except (OSError, RuntimeError):  # fonts that Matplotlib cannot draw, such as those of coloured bitmaps
            continue
