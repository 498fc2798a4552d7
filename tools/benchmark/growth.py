"""How this project's time grows with prompts, image size and batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from src.files import replacing
from src.screen import say
from tools.benchmark.against_published import measure_formats
from tools.benchmark.measure import measure_apart
from tools.benchmark.options import CLASSES, Options

PROMPTS = (49, 116, 179, 500, 1000)
IMAGE_SIZES = (384, 512, 768)
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Curve:
    """Images per second as one quantity grows, in one number format."""

    grows: str
    numbers: str
    label: str
    speeds: dict[int, float]


def growth(options: Options, formats: Sequence[str], plot: Path | None) -> None:
    """Measure this project in each of ``formats`` (values of ``--amp``) as prompts, image size and batch grow.

    Prints a table and draws it to ``plot``.
    """
    bare = measure_apart("ours", dataclasses.replace(options, what="nothing", amp="false")).peak_bytes
    curves: list[Curve] = []

    def measure(grows: str, values: tuple[int, ...], label: str = "", **others: Any) -> None:
        name, found = grows.replace("_", " "), {}
        for value in values:
            job = dataclasses.replace(options, what="segment", **{grows: value}, **others)
            for numbers, measured in measure_formats(job, formats).items():
                found.setdefault(numbers, {})[value] = measured
            if not curves and value == values[0]:
                header = " | ".join(f"{numbers}: images / s | GiB above the model" for numbers in found)
                say(f"| | {header} |\n|---|{'---|---|' * len(found)}")
            cells = [
                f"{1 / of_value[value].total:.3f} | {(of_value[value].peak_bytes - bare) / 2**30:.2f}"
                for of_value in found.values()
            ]
            row = f"{value} {name}, {label}" if label else f"{name} {value}"
            say(f"| {row} | {' | '.join(cells)} |")
        for numbers, of_value in found.items():
            speeds = {value: 1 / measured.total for value, measured in of_value.items()}
            curves.append(Curve(name, numbers, label, speeds))

    measure("prompts", PROMPTS, f"{CLASSES[options.vocabulary]} classes")
    measure("prompts", PROMPTS, "every prompt a class", all_classes=True)
    measure("image_size", IMAGE_SIZES)
    measure("batch_size", BATCHES)
    if plot is not None:
        draw_growth(plot, curves)


MARKERS = "os^DvP"  # of curves: they differ without colour


def draw_growth(path: Path, curves: list[Curve]) -> None:
    """Plot ``curves``, one panel for each thing that grows, a colour for each number format."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    names = list(dict.fromkeys(curve.grows for curve in curves))
    formats = list(dict.fromkeys(curve.numbers for curve in curves))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [curve for curve in curves if curve.grows == name]
        labels = list(dict.fromkeys(curve.label for curve in shown))
        for number, curve in enumerate(shown):
            axes.plot(
                list(curve.speeds),
                list(curve.speeds.values()),
                marker=MARKERS[number % len(MARKERS)],
                color=f"C{formats.index(curve.numbers)}",
                linestyle=("-", "--")[labels.index(curve.label)],
                label=", ".join(filter(None, (curve.numbers, curve.label))),
            )
        if len(shown) > 1:
            axes.legend(fontsize="small")
        ticks = [value for value in shown[0].speeds if value != 116]  # too near to its neighbours
        fastest = max(speed for curve in shown for speed in curve.speeds.values())
        axes.set(xlabel=name, xticks=ticks, ylim=(0, 1.1 * fastest))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("images / s")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
