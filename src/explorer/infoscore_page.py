"""InfoScore of the layers as a page: bars for each part, with a comparison mIoU and the two against each other."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.provenance import command_line
from ..files import write_bytes
from ..layer_selection.comparison import LayerComparison
from ..layer_selection.infoscore import LayerScores
from ..runtime import rank
from .page import fill

WIDTH, HEIGHT, MARGIN = 520, 360, 60  # of the scatter plot
PARTS = {
    "entropy ratio": "entropy_ratio",
    "CoV": "cov",
    "image entropy": "mean_image_entropy",
    "dataset entropy": "dataset_entropy",
}


def write_infoscore_page(
    path: Path, scores: LayerScores, top: Sequence[int], comparison: LayerComparison | None, title: str, about: str
) -> None:
    """Write the page of ``scores``; it replaces an existing one.

    Args:
        top: the layers to highlight.
        comparison: adds mIoU.
        about: a line below the title: model, images.

    Raises:
        UserError: the file cannot be written.
    """
    columns = {"InfoScore": scores.infoscore.tolist()}
    if comparison:
        columns["mIoU alone, %"] = [100 * miou for miou in comparison.single_layer_miou]
    columns |= {name: getattr(scores, part).tolist() for name, part in PARTS.items()}
    rows = [
        _row(layer, [values[layer] for values in columns.values()], [max(v) for v in columns.values()], layer in top)
        for layer in range(len(scores.infoscore))
    ]
    content = fill(
        "infoscore",
        title=title,
        command=command_line(),
        about=html.escape(about),
        columns="".join(f"<th>{name}</th>" for name in ("layer", *columns)),
        rows="\n".join(rows),
        comparison=_comparison(comparison, top) if comparison else "",
    )
    if rank() == 0:  # one process writes
        write_bytes(path, content)


def _row(layer: int, values: Sequence[float], highest: Sequence[float], chosen: bool) -> str:
    cells = [
        f'<td><div class="cell"><span class="number">{value:.4g}</span>'
        f'<span class="bar"><span style="width: {100 * max(value, 0) / (most or 1):.1f}%"></span></span></div></td>'
        for value, most in zip(values, highest, strict=True)
    ]
    mark = ' <span class="mark">●</span>' if chosen else ""
    return f"<tr{' class=chosen' if chosen else ''}><td>{layer}{mark}</td>{''.join(cells)}</tr>"


def _comparison(comparison: LayerComparison, top: Sequence[int]) -> str:
    """mIoU of the choices of several layers, and the scatter plot."""
    rows = [
        f"<tr><td>{html.escape(choice.name)}</td><td>{', '.join(map(str, choice.layers))}</td>"
        f"<td>{100 * choice.confusion.miou:.2f}</td></tr>"
        for choice in comparison.choices[len(comparison.scores.infoscore) :]
    ]
    return (
        '<section class="card"><table><thead><tr><th>choice</th><th>layers</th><th>mIoU, %</th></tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></section>"
        f'<section class="card">{_scatter(comparison, top)}</section>'
    )


def _scatter(comparison: LayerComparison, top: Sequence[int]) -> str:
    """mIoU of every layer alone over its InfoScore, as SVG."""
    infoscore = comparison.scores.infoscore.tolist()
    miou = [100 * value for value in comparison.single_layer_miou]
    points = []
    for layer, (x, y) in enumerate(zip(infoscore, miou, strict=True)):
        left = MARGIN + (WIDTH - 2 * MARGIN) * _share(x, infoscore)
        bottom = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * _share(y, miou)
        points.append(
            f"<g{' class=chosen' if layer in top else ''}>"
            f"<title>layer {layer}: InfoScore {x:.4g}, mIoU {y:.2f} %</title>"
            f'<circle cx="{left:.1f}" cy="{bottom:.1f}" r="6"/>'
            f'<text x="{left - 9:.1f}" y="{bottom - 7:.1f}" text-anchor="end">{layer}</text></g>'
        )
    rho = f"Spearman’s ρ = {comparison.rho:.2f}" if math.isfinite(comparison.rho) else ""
    base, right = HEIGHT - MARGIN + 16, WIDTH - MARGIN + 16
    ticks = []
    for text in _ticks(infoscore):
        left = MARGIN + (WIDTH - 2 * MARGIN) * _share(float(text), infoscore)
        ticks.append(f'<path class="axis" d="M{left:.1f} {base}v5"/>')
        ticks.append(f'<text x="{left:.1f}" y="{base + 18}" text-anchor="middle">{text}</text>')
    for text in _ticks(miou):
        bottom = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * _share(float(text), miou)
        ticks.append(f'<path class="axis" d="M{MARGIN - 16} {bottom:.1f}h-5"/>')
        ticks.append(f'<text x="{MARGIN - 24}" y="{bottom + 4:.1f}" text-anchor="end">{text}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="mIoU of every layer over its InfoScore. {rho}">'
        f'<path class="axis" fill="none" d="M{MARGIN - 16} {MARGIN - 16}V{base}H{right}"/>'
        f'<text x="{MARGIN - 16}" y="18">mIoU of the layer alone, %</text>'
        f'<text x="{right}" y="18" text-anchor="end">{rho}</text>'
        f'<text x="{right}" y="{base + 36}" text-anchor="end">InfoScore (no unit)</text>'
        f"{''.join(ticks)}{''.join(points)}</svg>"
    )


def _ticks(values: Sequence[float]) -> list[str]:
    """Three to seven round numbers within ``values``, as short texts."""
    low, high = min(values), max(values)
    if low == high:
        return [f"{low:.4g}"]
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= (high - low) / 3)
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    decimals = max(0, -math.floor(math.log10(step)))
    return [f"{number * step:.{decimals}f}" for number in numbers]


def _share(value: float, values: Sequence[float]) -> float:
    """Position of ``value`` between the smallest and the largest of ``values``, 0 to 1."""
    span = max(values) - min(values)
    return (value - min(values)) / span if span else 0.5
