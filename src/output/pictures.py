"""Pictures of label maps: palette PNGs, overlays with a legend, heat maps, grids for comparing.

Images are RGB uint8 [height, width, 3], label maps uint8 [height, width]. Label 0 is the background, 255 is ignored.
A palette is uint8 [256, 3], see :mod:`src.output.colours`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colours import IGNORED, VOC_PALETTE
from .fonts import pillow_font, pillow_text

BACKGROUND = 0
OPACITY = 0.6
LEAST_HEAT = 0.05
LEAST_TEXT = 16  # of a text below a narrow image, in heights of its letters
PHOTO_PNG = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
)
INK, PAPER, FRAME = (32, 32, 32), (255, 255, 255), (150, 150, 150)


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


def label_png(labels: np.ndarray, palette: np.ndarray = VOC_PALETTE) -> bytes:
    """A label map as a palette PNG: pixel values are labels."""
    picture = Image.fromarray(labels)
    picture.putpalette(palette.tobytes())
    return _saved(picture, compress_type=zlib.Z_RLE)  # labels are runs: a third smaller, twice as fast


def png(picture: Image.Image) -> bytes:
    """``picture`` as the bytes of a PNG file."""
    return _saved(picture)


def photo_png(picture: Image.Image) -> bytes:
    """:func:`png` of an RGB photo, in a quarter of the time; files are up to an eighth larger.

    Photos have few repetitions: run-length matching with one filter compresses them nearly as well.
    """
    pixels = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(".png", pixels, PHOTO_PNG)
    return content.tobytes() if done else png(picture)  # libpng allows a million pixels a side, Pillow any number


def _saved(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray = VOC_PALETTE) -> np.ndarray:
    """``image`` with its classes tinted and outlined by a light and a dark line; the background is unchanged."""
    width = max(1, round(min(labels.shape) / 300))  # outlines look the same on small and on large images
    light, edge = (_near_another_label(labels, reach) for reach in (width, 2 * width))
    # ``take`` is several times as fast as indexing, and so is OpenCV's copy under a mask
    tinted = cv2.addWeighted(image, 1 - OPACITY, palette.take(labels, 0), OPACITY, 0)
    tinted[edge] = palette.take(labels[edge], 0) // 3
    tinted[light] = palette.take(labels[light], 0) // 3 + 170
    return cv2.copyTo(image, (labels == BACKGROUND).view(np.uint8), tinted)


def _near_another_label(labels: np.ndarray, reach: int) -> np.ndarray:
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return (labels != BACKGROUND) & (cv2.dilate(labels, kernel) != cv2.erode(labels, kernel))


def overlay_with_legend(
    image: np.ndarray,
    labels: np.ndarray,
    legend: Sequence[LegendEntry],
    names: Sequence[str] = (),
    palette: np.ndarray = VOC_PALETTE,
) -> Image.Image:
    """:func:`overlay` at the image's own size, with ``names`` of classes in their areas and a legend below."""
    drawn = Image.fromarray(overlay(image, labels, palette))
    _write_names(drawn, labels, names)
    return _below(np.asarray(drawn), lambda width: legend_strip(legend, width, palette=palette))


def _write_names(picture: Image.Image, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write each class's name where its area is deepest, the deepest areas first; names do not overlap."""
    draw, size = ImageDraw.Draw(picture), max(11, round(min(picture.size) / 24))
    spots = []
    for label in np.unique(labels).tolist():
        if BACKGROUND < label < len(names):
            inside = cv2.copyMakeBorder((labels == label).view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
            _, depth, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(inside, cv2.DIST_L2, 3))
            spots.append((depth, x - 1, y - 1, names[label]))
    taken: list[tuple[float, float, float, float]] = []
    for depth, x, y, name in sorted(spots, reverse=True):
        text, font = pillow_text(name, size)
        half = font.getlength(text) / 2 + 3
        if depth < 0.7 * size or 2 * half > picture.width or 2 * size > picture.height:
            continue
        x, y = min(max(x, half), picture.width - half), min(max(y, size), picture.height - size)
        box = (x - half, y - 0.7 * size, x + half, y + 0.7 * size)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        stroke = max(2, size // 9)
        draw.text((x, y), text, PAPER, font, anchor="mm", stroke_width=stroke, stroke_fill=(20, 20, 20))


def heat_map(image: np.ndarray, strength: np.ndarray, title: str, top: float | None = None) -> Image.Image:
    """The probability of one class over the grey image, with a labelled colour bar below.

    Args:
        image: RGB uint8 [height, width, 3].
        strength: float32 [height, width], a probability.
        top: of the colour scale, so that several heat maps can share one; None: the maximum of ``strength``. It is
            at least :data:`LEAST_HEAT`, so that the map of an absent class stays dark.
    """
    top = max(float(strength.max()) if top is None else top, LEAST_HEAT)
    scaled = (strength * (255 / top)).clip(0, 255).astype(np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blended = cv2.addWeighted(grey, 0.35, heat_colours(scaled), 0.65, 0)
    return _below(blended, lambda width: _colour_bar(title, top, width))


def legend_strip(
    entries: Sequence[LegendEntry], width: int, size: int | None = None, palette: np.ndarray = VOC_PALETTE
) -> Image.Image:
    """A strip of colour swatches and texts, ``width`` pixels wide, or wider on images too narrow for a word.

    Long texts are cut. ``size`` is the height of the text in pixels; by default it follows the width.
    """
    size = _text_size(width) if size is None else size
    swatch, gap = size, round(0.45 * size)
    if not entries:
        return _text_strip("background only", pillow_font(size), width, gap)
    most = max(width, LEAST_TEXT * size) - swatch - 3 * gap
    texts = {entry.text: _without_end(*pillow_text(entry.text, size), most) for entry in entries}
    widths = [swatch + gap + round(font.getlength(text)) for text, font in (texts[entry.text] for entry in entries)]
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
            draw.rectangle(box, tuple(palette[entry.label].tolist()), FRAME)
            text, font = texts[entry.text]
            draw.text((x + swatch + gap, middle), text, INK, font, anchor="lm")
    return strip


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: Sequence[LegendEntry],
    cell: tuple[int, int] = (280, 210),
    captions: Sequence[str] = (),
) -> Image.Image:
    """Images in rows, a title above each column, a legend below.

    Args:
        rows: RGB images of any size, one per title in each row; each is fitted into a cell.
        legend: entries of :func:`legend_strip`.
        cell: width and height of a cell, pixels.
        captions: a line above each row, cut at its width; empty: none.
    """
    gap, size = 8, 20
    line = 26 if captions else 0
    font, head = pillow_font(size), 34
    width = gap + len(titles) * (cell[0] + gap)
    # a row is as high as its highest image: landscape pictures leave no stripes between them
    fitted = [[_fit(image, cell) for image in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in fitted]
    strip = legend_strip(legend, width, size - 2)
    height = head + sum(heights) + (gap + line) * len(rows) + strip.height
    canvas = Image.new("RGB", (max(width, strip.width), height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell[0] + gap) + cell[0] // 2, head // 2), title, INK, font, anchor="mm")
    y = head
    for number, (row, height) in enumerate(zip(fitted, heights, strict=True)):
        if captions:
            text, small = _without_beginning(captions[number], width - 2 * gap, size - 4)
            draw.text((gap, y + line // 2), text, INK, small, anchor="lm")
            y += line
        for column, picture in enumerate(row):
            x = gap + column * (cell[0] + gap)
            canvas.paste(picture, (x + (cell[0] - picture.width) // 2, y + (height - picture.height) // 2))
        y += height + gap
    canvas.paste(strip, (0, y))
    return canvas


def _without_beginning(text: str, width: int, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """``text``, without its beginning if it is longer than ``width`` pixels, and its font.

    The end of a path distinguishes files.
    """
    text, font = pillow_text(text, size)
    while font.getlength(text) > width and len(text) > 4:
        text = f"...{text[4:]}"
    return text, font


def _without_end(text: str, font: ImageFont.FreeTypeFont, width: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """``text``, without its end if it is longer than ``width`` pixels, and its font."""
    while font.getlength(text) > width and len(text) > 4:
        text = f"{text[:-4]}..."
    return text, font


def _fit(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    height, width = image.shape[:2]
    ratio = min(cell[0] / width, cell[1] / height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def _below(image: np.ndarray, strip_of_width: Callable[[int], Image.Image]) -> Image.Image:
    """``image`` at its size, with the strip that the function makes for its width below it."""
    height, width = image.shape[:2]
    strip = strip_of_width(width)
    canvas = Image.new("RGB", (max(width, strip.width), height + strip.height), PAPER)
    canvas.paste(Image.fromarray(image), (0, 0))
    canvas.paste(strip, (0, height))
    return canvas


def _text_size(width: int) -> int:
    return max(14, round(width / 32))


def _text_strip(text: str, font: ImageFont.FreeTypeFont, width: int, gap: int) -> Image.Image:
    strip = Image.new("RGB", (max(width, round(font.getlength(text)) + 2 * gap), round(font.size * 1.5) + gap), PAPER)
    ImageDraw.Draw(strip).text((gap, strip.height // 2), text, INK, font, anchor="lm")
    return strip


def _colour_bar(title: str, top: float, width: int) -> Image.Image:
    """``title  0 [bar] top probability``."""
    size = _text_size(width)
    gap = round(0.45 * size)
    title, font = _without_end(*pillow_text(title, size), max(width // 2, LEAST_TEXT * size))
    texts = [(f"{title}   0", font), (f"{top:.2g} probability", plain := pillow_font(size))]
    lengths = [round(font.getlength(text)) for text, font in texts]
    bar = max(6 * size, width - sum(lengths) - 4 * gap)
    strip = Image.new("RGB", (sum(lengths) + bar + 4 * gap, round(size * 1.5) + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    middle, x = strip.height // 2, 2 * gap + lengths[0]
    draw.text((gap, middle), texts[0][0], INK, font, anchor="lm")
    ramp = np.linspace(0, 255, bar).astype(np.uint8)[None].repeat(size, 0)
    strip.paste(Image.fromarray(heat_colours(ramp)), (x, middle - ramp.shape[0] // 2))
    draw.text((x + bar + gap, middle), texts[1][0], INK, plain, anchor="lm")
    return strip


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Colour a heat map: uint8 [height, width], 0 to 255, to RGB [height, width, 3]."""
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
