"""Words in any script for pictures and charts: a font with their characters, or code points."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

from PIL import ImageFont

INVISIBLE = "\u200c\u200d\ufe0e\ufe0f"  # joiners and variation selectors
_SEQUENCE = re.compile("(?s:.)(?:[\ufe0e\ufe0f]|\u200d(?s:.))*")  # an emoji can have several characters


def drawable(text: str, has: Callable[[str], object] | None = None) -> str:
    """``text`` with code points, such as ``U+1F431``, for every character or emoji without a font.

    Args:
        text: in any script.
        has: whether there is a font for a character (default: any installed font).
    """
    return _SEQUENCE.sub(lambda match: _shown(match[0], has or _font_with), text)


def _shown(sequence: str, has: Callable[[str], object]) -> str:
    visible = [c for c in sequence if c not in INVISIBLE]
    if all(c.isascii() or has(c) for c in visible):
        return "".join(c for c in sequence if c not in INVISIBLE or has(c))
    return " ".join(f"U+{ord(c):04X}" for c in visible)


def families(text: str) -> list[str]:
    """Matplotlib's font and those of other fonts that have the rest of ``text``."""
    found = (_font_with(c) for c in text if not c.isascii())
    return ["DejaVu Sans", *dict.fromkeys(font[0] for font in found if font and font[0] != "DejaVu Sans")]


def pillow_text(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """``text`` as Pillow can draw it, with one font of ``size`` pixels: the one that has most of its characters."""
    if any(ord(c) > 0x17F for c in text):
        _, file, known = max(_installed(), key=lambda font: sum(ord(c) in font[2] for c in text))
        return drawable(text, lambda c: ord(c) in known), ImageFont.truetype(file, size)
    return text, pillow_font(size)


def pillow_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, for Latin letters."""
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
