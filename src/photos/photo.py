"""One photo: what is said of it and the pictures that are drawn of it."""

from __future__ import annotations

import re

import numpy as np

from src.method.segmenter import ImageAnalysis
from src.output import pictures
from src.screen import table

MAX_MISSING = 10  # so many classes without pixels are still worth a word each


def summary(analysis: ImageAnalysis) -> str:
    """Class, share of pixels and matching score, largest share first; classes without a pixel after them."""
    rows = sorted(zip(analysis.shares, analysis.itm, analysis.class_names, strict=True), key=lambda row: -row[0])
    found = [(name, f"{100 * share:.1f}%", f"{itm:.2f}") for share, itm, name in rows if share]
    lines = [table([("class", "pixels", "itm"), *found])]
    missing = [f"{name} (itm {itm:.2f})" for share, itm, name in rows if not share]
    if 0 < len(missing) <= MAX_MISSING:
        lines.append(f"  not found: {', '.join(missing)}")
    return "\n".join(lines)


def draw_pictures(rgb: np.ndarray, analysis: ImageAnalysis, heat_maps: bool = False) -> dict[str, bytes]:
    """PNG files of a photo, by the ending of their name: ``labels``, ``overlay`` and, if asked for, a heat map a class.

    Args:
        rgb: the photo, uint8 [height, width, 3].
        analysis: of the same photo.
        heat_maps: whether to draw them.
    """
    shares = analysis.shares
    legend = [
        pictures.LegendEntry(entry.label, f"{entry.text} {_percent(shares[entry.label])}")
        for entry in pictures.legend_of([analysis.labels], analysis.class_names)
    ]
    drawn = {
        "labels": pictures.label_png(analysis.labels),
        "overlay": pictures.png_without_repeats(pictures.overlay_with_legend(rgb, analysis.labels, legend)),
    }
    for label, name in enumerate(analysis.class_names if heat_maps else ()):
        ending = f"heatmap_{label:02d}_{re.sub(r'[^0-9A-Za-z]+', '-', name).strip('-')[:40]}"
        drawn[ending] = pictures.png_without_repeats(pictures.heat_map(rgb, analysis.heat_map(label), name))
    return drawn


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"
