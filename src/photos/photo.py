"""One photo: its summary for the screen, and its pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..method.segmenter import ImageAnalysis
from ..output import pictures
from ..output.colours import safe_palette
from ..screen import table

MAX_MISSING = 10  # more classes without pixels than these are not named


def summary(analysis: ImageAnalysis) -> str:
    """Class, share of pixels and matching score, largest share first; classes without a pixel after them.

    A background that no pixel may be labelled is left out.
    """
    rows = list(zip(analysis.shares, analysis.itm, analysis.class_names, strict=True))
    rows = sorted(rows if analysis.background else rows[1:], key=lambda row: -row[0])
    found = [(name, f"{100 * share:.1f}%", f"{itm:.2f}") for share, itm, name in rows if share]
    lines = [table([("class", "pixels", "match"), *found])]
    missing = [f"{name} (match {itm:.2f})" for share, itm, name in rows if not share]
    if 0 < len(missing) <= MAX_MISSING:
        lines.append(f"  not found: {', '.join(missing)}")
    return "\n".join(lines)


def pictures_of(rgb: np.ndarray, analysis: ImageAnalysis, heat_maps: bool = False) -> dict[str, Callable[[], bytes]]:
    """Functions that draw the PNG files of a photo, by the ending of their names: ``labels``, ``overlay``, heat maps.

    Args:
        rgb: the photo, uint8 [height, width, 3].
        analysis: of the same photo. Without heat maps only its labels are kept.
        heat_maps: whether to draw one per class.
    """
    shares, names, labels = analysis.shares, analysis.class_names, analysis.labels
    legend = [
        pictures.LegendEntry(label, f"{names[label]} {_percent(share)}")
        for label, share in enumerate(shares)
        if share and label != pictures.BACKGROUND
    ]
    drawn = {
        "labels": partial(pictures.label_png, labels, safe_palette()),
        "overlay": partial(_overlay, rgb, labels, legend, names),
    }
    for label, name in enumerate(names if heat_maps else ()):
        ending = f"heatmap_{label:02d}_{re.sub(r'[^0-9A-Za-z]+', '-', name).strip('-')[:40]}"
        drawn[ending] = partial(_heat_map, rgb, analysis, label)
    return drawn


def _overlay(
    rgb: np.ndarray, labels: np.ndarray, legend: Sequence[pictures.LegendEntry], names: Sequence[str]
) -> bytes:
    return pictures.photo_png(pictures.overlay_with_legend(rgb, labels, legend, names, safe_palette()))


def _heat_map(rgb: np.ndarray, analysis: ImageAnalysis, label: int) -> bytes:
    height, width = analysis.frame.inner((rgb.shape[0], rgb.shape[1]))
    top = float(analysis.unary[:, :height, :width].max())  # one scale for all classes, to compare heat maps
    drawn = pictures.heat_map(rgb, analysis.heat_map(label), analysis.class_names[label], top)
    return pictures.photo_png(drawn)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"
