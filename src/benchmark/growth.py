"""How ours grows with prompts, image size and batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from src.benchmark.measure import measure_apart
from src.benchmark.options import CLASSES, Options
from src.files import replacing
from src.screen import say

PROMPTS = (49, 116, 179, 500, 1000)
IMAGE_SIZES = (384, 512, 768)
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Curve:
    """Images per second over the values of what grows."""

    grows: str
    label: str
    speeds: dict[int, float]


def growth(options: Options, plot: Path | None) -> None:
    """Measure ours as one thing grows after the other; prints a table and draws it to ``plot``."""
    bare = measure_apart("ours", dataclasses.replace(options, what="nothing")).peak_bytes
    say("| | images / s | GiB above the model |\n|---|---|---|")

    def curve(grows: str, values: tuple[int, ...], label: str = "", **others: Any) -> Curve:
        name, speeds = grows.replace("_", " "), {}
        for value in values:
            found = measure_apart("ours", dataclasses.replace(options, what="segment", **{grows: value}, **others))
            speeds[value] = 1 / found.total
            row = f"{value} {name}, {label}" if label else f"{name} {value}"
            say(f"| {row} | {speeds[value]:.3f} | {(found.peak_bytes - bare) / 2**30:.2f} |")
        return Curve(name, label, speeds)

    curves = [
        curve("prompts", PROMPTS, f"{CLASSES[options.vocabulary]} classes"),
        curve("prompts", PROMPTS, "every prompt a class", all_classes=True),
        curve("image_size", IMAGE_SIZES),
        curve("batch_size", BATCHES),
    ]
    if plot is not None:
        draw(plot, curves)


def draw(path: Path, curves: list[Curve]) -> None:
    """Plot ``curves``, one panel for each thing that grows."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    names = list(dict.fromkeys(curve.grows for curve in curves))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [curve for curve in curves if curve.grows == name]
        for curve in shown:
            axes.plot(list(curve.speeds), list(curve.speeds.values()), marker="o", label=curve.label)
        if len(shown) > 1:
            axes.legend()
        ticks = [value for value in shown[0].speeds if value != 116]  # too near to its neighbours
        fastest = max(speed for curve in shown for speed in curve.speeds.values())
        axes.set(xlabel=name, xticks=ticks, ylim=(0, 1.1 * fastest))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("images / s")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
