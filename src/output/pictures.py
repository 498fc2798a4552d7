"""Pictures of label maps: palette PNGs, overlays with a legend, heat maps, grids for comparing.

Images are RGB uint8 [height, width, 3], label maps uint8 [height, width]. Label 0 is the background, 255 is ignored.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, IGNORED = 0, 255
OPACITY = 0.6
LEAST_HEAT = 0.05
PHOTO_PNG = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
)
INK, PAPER, FRAME = (32, 32, 32), (255, 255, 255), (150, 150, 150)


def voc_palette() -> np.ndarray:
    """The colours of PASCAL VOC's label maps, uint8 [256, 3].

    Bit 3 k + c of a label is bit 7 - k of channel c (the colour map of the VOC devkit).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (labels >> (3 * bit + channel) & 1) << (7 - bit)
    return palette.astype(np.uint8)


PALETTE = voc_palette()
OUTLINES = PALETTE // 2 + 127  # VOC's colours are dark: an outline is theirs, half way to white


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: the colour of ``label`` and what it stands for."""

    label: int
    text: str


def legend_of(label_maps: Sequence[np.ndarray], names: Sequence[str]) -> list[LegendEntry]:
    """Legend entries of the labels that occur in ``label_maps``, background left out, ignored pixels last."""
    present = np.unique(np.concatenate([np.unique(labels) for labels in label_maps]))
    labels: list[int] = present.tolist()
    classes = [LegendEntry(label, names[label]) for label in labels if BACKGROUND < label < len(names)]
    return [*classes, LegendEntry(IGNORED, "ignored")] if IGNORED in present else classes


def label_png(labels: np.ndarray) -> bytes:
    """A label map as a palette PNG: pixel values are labels, colours are VOC's."""
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE.tobytes())
    return _saved(picture, compress_type=zlib.Z_RLE)  # runs are all there is in labels: a third smaller, twice as fast


def png(picture: Image.Image) -> bytes:
    """``picture`` as the bytes of a PNG file."""
    return _saved(picture)


def photo_png(picture: Image.Image) -> bytes:
    """:func:`png` of an RGB photo, in a quarter of the time; files are up to an eighth larger.

    No piece of a photo comes again elsewhere in it: runs of a value are all that is looked for, and one filter will do.
    """
    pixels = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(".png", pixels, PHOTO_PNG)
    return content.tobytes() if done else png(picture)  # libpng takes a million pixels a side, Pillow any number


def _saved(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``image`` with its classes tinted in their colours and outlined; the background stays as it is."""
    side = 2 * max(1, round(min(labels.shape) / 300)) + 1  # outlines of the same look on small and on large images
    kernel = np.ones((side, side), np.uint8)
    outline = (labels != BACKGROUND) & (cv2.dilate(labels, kernel) != cv2.erode(labels, kernel))
    # ``take`` is several times as fast as indexing, and so is OpenCV's copy under a mask
    tinted = cv2.addWeighted(image, 1 - OPACITY, PALETTE.take(labels, 0), OPACITY, 0)
    tinted[outline] = OUTLINES.take(labels[outline], 0)
    return cv2.copyTo(image, (labels == BACKGROUND).view(np.uint8), tinted)


def overlay_with_legend(image: np.ndarray, labels: np.ndarray, legend: Sequence[LegendEntry]) -> Image.Image:
    """:func:`overlay` at the image's own size, a legend below it."""
    return _below(overlay(image, labels), lambda width: legend_strip(legend, width))


def heat_map(image: np.ndarray, strength: np.ndarray, title: str) -> Image.Image:
    """How strongly one class was seen, over the greyed image, with a colour bar below.

    Args:
        image: RGB uint8 [height, width, 3].
        strength: float32 [height, width], a probability. The colours span 0 to its maximum, which the bar names, but
            never less than :data:`LEAST_HEAT`: what is nowhere must not look as if it were somewhere.
        title: stands before the colour bar.
    """
    top = max(float(strength.max()), LEAST_HEAT)
    scaled = (strength * (255 / top)).astype(np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blended = cv2.addWeighted(grey, 0.35, heat_colours(scaled), 0.65, 0)
    return _below(blended, lambda width: _colour_bar(title, top, width))


def legend_strip(entries: Sequence[LegendEntry], width: int, size: int | None = None) -> Image.Image:
    """A strip of colour swatches and texts, ``width`` pixels wide or as wide as its longest entry.

    ``size`` is the height of the text in pixels; by default it follows the width.
    """
    size = _text_size(width) if size is None else size
    font, swatch, gap = _font(size), size, round(0.45 * size)
    if not entries:
        return _text_strip("background only", font, width, gap)
    widths = [swatch + gap + round(font.getlength(entry.text)) for entry in entries]
    width = max(width, max(widths) + 2 * gap)
    rows, x = [[]], gap
    for entry, entry_width in zip(entries, widths, strict=True):
        if x > gap and x + entry_width + gap > width:
            rows.append([])
            x = gap
        rows[-1].append((x, entry))
        x += entry_width + 2 * gap
    line = round(1.5 * size)
    strip = Image.new("RGB", (width, gap + len(rows) * line), PAPER)
    draw = ImageDraw.Draw(strip)
    for row, row_entries in enumerate(rows):
        middle = gap // 2 + row * line + line // 2
        for x, entry in row_entries:
            box = (x, middle - swatch // 2, x + swatch - 1, middle - swatch // 2 + swatch - 1)
            draw.rectangle(box, tuple(PALETTE[entry.label].tolist()), FRAME)
            draw.text((x + swatch + gap, middle), entry.text, INK, font, anchor="lm")
    return strip


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: Sequence[LegendEntry],
    cell: tuple[int, int] = (280, 210),
) -> Image.Image:
    """Images in rows, a title above each column, a legend below.

    Args:
        rows: RGB images of any size, as many in each row as there are titles; each is fitted into a cell.
        titles: one per column.
        legend: entries of :func:`legend_strip`.
        cell: width and height of a cell, pixels.
    """
    gap, size = 8, 20
    font, head = _font(size), 34
    width = gap + len(titles) * (cell[0] + gap)
    # a row is as high as its highest image: landscape pictures leave no stripes between them
    fitted = [[_fit(image, cell) for image in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in fitted]
    strip = legend_strip(legend, width, size - 2)
    canvas = Image.new("RGB", (max(width, strip.width), head + sum(heights) + gap * len(rows) + strip.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell[0] + gap) + cell[0] // 2, head // 2), title, INK, font, anchor="mm")
    y = head
    for row, height in zip(fitted, heights, strict=True):
        for column, picture in enumerate(row):
            x = gap + column * (cell[0] + gap)
            canvas.paste(picture, (x + (cell[0] - picture.width) // 2, y + (height - picture.height) // 2))
        y += height + gap
    canvas.paste(strip, (0, y))
    return canvas


def _fit(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    height, width = image.shape[:2]
    ratio = min(cell[0] / width, cell[1] / height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def _below(image: np.ndarray, strip_of_width: Callable[[int], Image.Image]) -> Image.Image:
    """``image`` untouched in size, the strip that the function makes for its width below it."""
    height, width = image.shape[:2]
    strip = strip_of_width(width)
    canvas = Image.new("RGB", (max(width, strip.width), height + strip.height), PAPER)
    canvas.paste(Image.fromarray(image), (0, 0))
    canvas.paste(strip, (0, height))
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # what Pillow's wheels bring; a bitmap font has no sizes
    return font


def _text_size(width: int) -> int:
    return max(14, round(width / 32))


def _text_strip(text: str, font: ImageFont.FreeTypeFont, width: int, gap: int) -> Image.Image:
    strip = Image.new("RGB", (max(width, round(font.getlength(text)) + 2 * gap), round(font.size * 1.5) + gap), PAPER)
    ImageDraw.Draw(strip).text((gap, strip.height // 2), text, INK, font, anchor="lm")
    return strip


def _colour_bar(title: str, top: float, width: int) -> Image.Image:
    """``title  0 [bar] top``."""
    font = _font(_text_size(width))
    gap = round(0.45 * font.size)
    texts = [f"{title}   0", f"{top:.2g}"]
    lengths = [round(font.getlength(text)) for text in texts]
    bar = max(6 * round(font.size), width - sum(lengths) - 4 * gap)
    strip = Image.new("RGB", (sum(lengths) + bar + 4 * gap, round(font.size * 1.5) + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    middle, x = strip.height // 2, 2 * gap + lengths[0]
    draw.text((gap, middle), texts[0], INK, font, anchor="lm")
    ramp = np.linspace(0, 255, bar).astype(np.uint8)[None].repeat(round(font.size), 0)
    strip.paste(Image.fromarray(heat_colours(ramp)), (x, middle - ramp.shape[0] // 2))
    draw.text((x + bar + gap, middle), texts[1], INK, font, anchor="lm")
    return strip


def heat_colours(values: np.ndarray) -> np.ndarray:
    """The colours of heat maps: uint8 [...] of two dimensions, 0 to the top of the scale, to RGB."""
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
