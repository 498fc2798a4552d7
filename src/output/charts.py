"""Charts of results: IoU per class, confusion matrix, InfoScore, several results side by side.

Every chart is a separate ``Figure``, independent of pyplot; the suffix of its path is its format, one of
:data:`src.cli.CHART_FORMATS`. IoU is given as a fraction and shown in percent. Charts replace earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import replacing
from ..runtime import rank
from .fonts import drawable, families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR, CHOSEN, LINE = "#7a9cc6", "#d1603d", "#444444"
# blue, vermilion, green, purple, sky, orange, grey: distinguishable with any colour vision (after Okabe and Ito 2008)
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#777777")
MAX_CLASSES_WITH_NUMBERS = 25
MAX_NAME, MAX_LINE = 40, 60  # characters of a class's name and of a line of a title
ABSENT = "\N{EN DASH}"
METADATA: dict[str, dict[str, None]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def iou_bars(
    path: Path,
    names: Sequence[str],
    iou: Sequence[float],
    std: Sequence[float] | None = None,
    title: str = "",
    absent: Collection[int] = (),
) -> None:
    """IoU of each of C classes as a bar, in label order, with its value, and the mean as a line.

    Args:
        names: C class names.
        iou: C values.
        std: C standard deviations, drawn as error bars.
        absent: numbers of classes absent from the masks. A dash replaces their value, which counts as 0 in mIoU.
    """
    figure, axes = _figure(7.5, 1.1 + 0.24 * len(names))
    positions, labels = np.arange(len(names)), _labels(names)
    percent = 100 * np.asarray(iou)
    errors = None if std is None else 100 * np.asarray(std)
    axes.barh(positions, percent, color=BAR, xerr=errors, ecolor=LINE, capsize=2)
    values = axes.get_yaxis_transform()  # a column right of the axes, where no bar and no line can reach
    for position, value in enumerate(percent):
        text = ABSENT if position in absent else f"{value:.1f}"
        if errors is not None and position not in absent:
            text += f" ± {errors[position]:.1f}"
        axes.text(1.01, position, text, transform=values, va="center", fontsize=8)
    axes.axvline(percent.mean(), color=CHOSEN, linewidth=1.2, label=f"mIoU {percent.mean():.2f} %")
    axes.set(yticks=positions, yticklabels=labels, xlabel="IoU in percent", ylim=(len(names) - 0.4, -0.6))
    axes.set_xlim(0, min(100, max(1, 1.05 * float((percent + (0 if errors is None else errors)).max()))))
    axes.legend(loc="lower right", frameon=False, bbox_to_anchor=(1, 1), borderaxespad=0.1)
    if title:
        axes.set_title(_verbatim(title), loc="left", fontsize=11)
    _save(figure, path)


def difference_bars(
    path: Path,
    names: Sequence[str],
    first: Sequence[float | None],
    second: Sequence[float | None],
    titles: tuple[str, str],
    interval: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Difference of the IoU of each class, or mIoU, of a second result from the first, in percentage points.

    Args:
        names: what is measured, one bar each.
        first, second: values; None where a result has none.
        interval: lower and upper ends of an interval around each difference, as fractions, drawn as a line.
    """
    figure, axes = _figure(7.5, 1.3 + 0.24 * len(names))
    pairs = zip(first, second, strict=True)
    points = 100 * np.array([np.nan if a is None or b is None else b - a for a, b in pairs], dtype=float)
    positions = np.arange(len(names))
    axes.barh(positions, points, color=[SERIES[0] if value >= 0 else SERIES[1] for value in points])
    values = axes.get_yaxis_transform()
    for position, value in enumerate(points):
        text = ABSENT if np.isnan(value) else f"{value:+.1f}"
        axes.text(1.01, position, text, transform=values, va="center", fontsize=8)
    axes.axvline(0, color=LINE, linewidth=0.8)
    axes.set(yticks=positions, yticklabels=_labels(names), ylim=(len(names) - 0.4, -0.6))
    ends = np.empty((2, 0)) if interval is None else 100 * np.asarray(interval)
    if interval is not None:
        axes.hlines(positions, ends[0], ends[1], color=LINE, linewidth=1.2)
        axes.plot(ends, np.stack([positions, positions]), "|", color=LINE, markersize=5)
    reach = 1.05 * max(1.0, float(np.nanmax(np.abs([*points, *ends.ravel()]), initial=0)))
    axes.set(xlim=(-reach, reach), xlabel="difference in percentage points of IoU")
    axes.set_title(_verbatim(f"{titles[1]}\nminus {titles[0]}"), loc="left", fontsize=10)
    _save(figure, path)


def confusion_matrix(path: Path, names: Sequence[str], counts: Sequence[Sequence[int]], title: str = "") -> None:
    """Predicted classes of the pixels of each true class, in percent of that class.

    Args:
        names: C class names.
        counts: [C, C] pixels, row = label, column = prediction. The row of a class without pixels stays empty.
    """
    matrix = np.asarray(counts, dtype=float)
    totals = matrix.sum(1, keepdims=True)
    percent = np.divide(100 * matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    side = 2.2 + (0.36 if len(names) <= MAX_CLASSES_WITH_NUMBERS else 0.2) * len(names)
    figure, axes = _figure(side + 0.8, side)
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    ticks, labels = np.arange(len(names)), _labels(names)
    axes.set(xticks=ticks, yticks=ticks, yticklabels=labels, xlabel="predicted class", ylabel="true class")
    axes.set_xticklabels(labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=8, length=0)
    if len(names) <= MAX_CLASSES_WITH_NUMBERS:
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            colour = "white" if value > 55 else LINE
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axes, label="percent of the true class's pixels", fraction=0.03, pad=0.02)
    if title:
        axes.set_title(_verbatim(title), loc="left", fontsize=11)
    _save(figure, path)


def infoscore_bars(path: Path, infoscore: Sequence[float], chosen: Sequence[int]) -> None:
    """InfoScore of each of L layers as a bar; the ``chosen`` layers stand out."""
    figure, axes = _figure(max(4.5, 1.5 + 0.5 * len(infoscore)), 3.4)
    layers = range(len(infoscore))
    bars = axes.bar(layers, infoscore, color=[CHOSEN if layer in chosen else BAR for layer in layers])
    axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    axes.set(xlabel="text layer", ylabel="InfoScore (no unit)", xticks=layers)
    axes.margins(y=0.12)
    _two_colours(axes, len(chosen))
    _save(figure, path)


def infoscore_scatter(
    path: Path, infoscore: Sequence[float], miou: Sequence[float], chosen: Sequence[int], rho: float
) -> None:
    """mIoU of each of L layers alone over its InfoScore; ``rho``: their rank correlation."""
    figure, axes = _figure(5.2, 4.0)
    for layer, (score, value) in enumerate(zip(infoscore, miou, strict=True)):
        axes.scatter(score, 100 * value, color=CHOSEN if layer in chosen else BAR, s=42, zorder=3)
        axes.annotate(str(layer), (score, 100 * value), (5, 4), textcoords="offset points", fontsize=9)
    axes.set(xlabel="InfoScore (no unit)", ylabel="mIoU of the layer alone in percent")
    axes.margins(0.12)
    axes.set_title(f"Spearman's ρ = {rho:.2f}", loc="left", fontsize=11)
    _two_colours(axes, len(chosen))
    _save(figure, path)


def grouped_bars(
    path: Path,
    rows: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None], Sequence[float | None]]],
) -> None:
    """Several results side by side.

    Args:
        rows: what is measured, for example mIoU and class names; one group of bars each.
        series: per result its title, its values, and their standard deviations; None where there is none.
    """
    thickness = 0.8 / len(series)
    figure, axes = _figure(8, 1.2 + len(rows) * (0.12 + 0.13 * len(series)))
    handles = []
    for number, (_, values, stds) in enumerate(series):
        positions = np.arange(len(rows)) - 0.4 + (number + 0.5) * thickness
        percent = 100 * np.array([np.nan if value is None else value for value in values], dtype=float)
        errors = 100 * np.array([np.nan if std is None else std for std in stds], dtype=float)
        bars = axes.barh(
            positions,
            percent,
            thickness,
            color=SERIES[number % len(SERIES)],
            xerr=None if np.isnan(errors).all() else errors,
            error_kw={"ecolor": LINE, "elinewidth": 0.8},
        )
        handles.append(bars)
    axes.set(yticks=range(len(rows)), yticklabels=_labels(rows), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlabel("IoU in percent")
    axes.set_xlim(left=0)
    titles = [_verbatim(title) for title, _, _ in series]
    figure.legend(handles, titles, loc="outside upper left", frameon=False, ncols=2 if len(series) > 1 else 1)
    _save(figure, path)


def _labels(names: Sequence[str]) -> list[str]:
    return [_verbatim(name, MAX_NAME) for name in names]


def _verbatim(text: str, most: int = MAX_LINE) -> str:
    """``text`` as a literal label: text between two dollar signs would be read as a formula. Long lines are cut."""
    lines = (line if len(line) <= most else f"{line[: most - 1]}…" for line in drawable(text).split("\n"))
    return "\n".join(lines).replace("$", r"\$")


def _two_colours(axes: Axes, chosen: int) -> None:
    """A legend for chosen and other layers, above the axes where no point can lie."""
    handles = [axes.scatter([], [], color=CHOSEN, marker="s"), axes.scatter([], [], color=BAR, marker="s")]
    labels = [f"chosen (best {chosen})", "other layers"]
    axes.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, borderaxespad=0.2
    )


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    # Matplotlib is imported late, so that it does not delay the first image.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    """Write a chart; of a job's processes one writes."""
    from matplotlib.text import Text

    if rank() > 0:
        return
    for text in figure.findobj(Text):
        if isinstance(text, Text) and not text.get_text().isascii():
            text.set_fontfamily(families(text.get_text()))
    with replacing(path) as temporary:
        # without a date
        figure.savefig(temporary, format=path.suffix[1:], bbox_inches="tight", metadata=METADATA[path.suffix])
