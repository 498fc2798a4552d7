"""Differences of IoU between two results over the same images, and their intervals by a paired bootstrap.

Images are drawn with replacement, the same ones for both results. IoU of a resample is computed from the summed counts
of its images. A class without a pixel in a resample is left out of it: 0 for both would bias intervals towards 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation.per_image import PerImageCounts
from ..result_files import csv_text
from ..screen import counted
from .per_image_table import PerImageTable
from .reading import Result
from .report_tables import MEAN, NOTHING, Table, column_titles, facts_of

LEVEL = 95  # percent of the resamples inside the interval
CHUNK = 1 << 22  # images drawn at once
SHOWN = 3  # images or classes that a refusal names


@dataclass(frozen=True)
class PairedComparison:
    """Differences, second minus first, of mIoU and of the IoU of C classes, as fractions.

    Attributes:
        rows: what is compared: mIoU, then C class names.
        first, second: float64 [1 + C], IoU over all images.
        mean: float64 [1 + C], mean difference over the resamples; NaN if no resample has the class.
        low, high: float64 [1 + C], ends of the interval that contains :data:`LEVEL` % of the differences.
        images: number of compared images.
        resamples: number of resamples, of as many images each.
        seed: of NumPy's default generator.
    """

    titles: tuple[str, str]
    rows: list[str]
    first: np.ndarray
    second: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int
    resamples: int
    seed: int

    @property
    def difference(self) -> np.ndarray:
        """float64 [1 + C] over all images."""
        return self.second - self.first

    def how(self) -> str:
        """One line on how the interval was made."""
        return (
            f"Paired bootstrap over {counted(self.images, 'image')}: {counted(self.resamples, 'resample')}, "
            f"seed {self.seed}. Differences are in percentage points, second minus first."
        )

    def table(self, results: Sequence[Result]) -> Table:
        """Facts, mIoU and classes as rows."""
        rows = [
            [
                name,
                f"{100 * first:.2f}",
                f"{100 * second:.2f}",
                f"{100 * (second - first):+.2f}",
                NOTHING if np.isnan(mean) else f"{100 * mean:+.2f}",
                NOTHING if np.isnan(mean) else f"{100 * low:+.2f} to {100 * high:+.2f}",
            ]
            for name, first, second, mean, low, high in zip(
                self.rows, self.first, self.second, self.mean, self.low, self.high, strict=True
            )
        ]
        header = ["IoU in percent", *self.titles, "difference", "mean of resamples", f"{LEVEL} % interval"]
        return Table(header, [[[*row, "", "", ""] for row in facts_of(results)], rows[:1], rows[1:]], 1)

    def csv(self) -> str:
        """A row for mIoU and for each class, as fractions."""
        header = ("name", *self.titles, "difference", "mean", "low", "high", "images", "resamples", "seed")
        columns = (self.first, self.second, self.difference, self.mean, self.low, self.high)
        made = (self.images, self.resamples, self.seed)
        rows = np.stack(columns, 1).tolist()
        cells = [["" if math.isnan(value) else value for value in row] for row in rows]
        return csv_text(header, [(name, *row, *made) for name, row in zip(self.rows, cells, strict=True)])


def compare_results(
    results: tuple[Path, Path], tables: tuple[PerImageTable, PerImageTable], resamples: int, seed: int
) -> PairedComparison:
    """Compare two results by their tables of single images; the order of images and classes does not matter.

    Raises:
        UserError: they have other images or other classes.
    """
    first, second = tables
    _require_same("images", [table.images for table in tables], results)
    _require_same("classes", [table.names for table in tables], results)
    place = {name: number for number, name in enumerate(second.images)}
    images = np.array([place[name] for name in first.images])
    place = {name: number for number, name in enumerate(second.names)}
    classes = np.array([place[name] for name in first.names])
    aligned = PerImageCounts(
        images.tolist(),
        second.counts.intersections[images][:, classes],
        second.counts.unions[images][:, classes],
    )
    mean, low, high = np.transpose([_summary(row) for row in resampled(first.counts, aligned, resamples, seed).T])
    one, other = (_with_mean(_iou(c.intersections.sum(0), c.unions.sum(0))) for c in (first.counts, aligned))
    titles = column_titles(results)
    return PairedComparison(
        (titles[0], titles[1]),
        [MEAN, *first.names],
        one,
        other,
        mean,
        low,
        high,
        len(images),
        resamples,
        seed,
    )


def resampled(first: PerImageCounts, second: PerImageCounts, resamples: int, seed: int) -> np.ndarray:
    """Differences of mIoU and of the IoU of C classes, second minus first, in each resample: [resamples, 1 + C].

    Both have the same N images in the same order; resamples are the rows of
    ``numpy.random.default_rng(seed).integers(N, size=(resamples, N))``. A class without a pixel in a resample has NaN,
    and mIoU is over the others; a class absent from all images counts as 0, as in mIoU.
    """
    counts = np.concatenate([first.intersections, first.unions, second.intersections, second.unions], 1).astype(float)
    images, rng = len(counts), np.random.default_rng(seed)
    nowhere = ~(first.unions.any(0) | second.unions.any(0))
    step = max(1, CHUNK // images)
    parts = []
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        drawn = rng.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        # sums of whole numbers below 2^53: exact
        one, one_union, other, other_union = np.split(times.astype(float) @ counts, 4, axis=1)
        occurs = nowhere | (one_union + other_union > 0)
        differences = np.where(occurs, _iou(other, other_union) - _iou(one, one_union), np.nan)
        mean = np.nansum(differences, 1) / np.maximum(occurs.sum(1), 1)
        parts.append(np.concatenate([mean[:, None], differences], 1))
    return np.concatenate(parts)


def _summary(drawn: np.ndarray) -> tuple[float, float, float]:
    """Mean and interval of the differences in all resamples, where they are numbers."""
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        return np.nan, np.nan, np.nan
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(known.mean()), float(low), float(high)


def _iou(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """A class with an empty union has 0, as in :class:`src.evaluation.metrics.ConfusionMatrix`."""
    return intersections / np.maximum(unions, 1)


def _with_mean(iou: np.ndarray) -> np.ndarray:
    """[..., C] to [..., 1 + C], the mean first."""
    return np.concatenate([iou.mean(-1, keepdims=True), iou], -1)


def _require_same(what: str, names: Sequence[Sequence[str]], results: Sequence[Path]) -> None:
    for here, there, result in ((*names, results[0]), (*reversed(names), results[1])):
        others = set(there)
        only = [name for name in here if name not in others]
        if only:
            more = f" and {len(only) - SHOWN} more" if len(only) > SHOWN else ""
            raise UserError(
                f"{results[0]} and {results[1]} have different {what}: only {result} has "
                f"{', '.join(only[:SHOWN])}{more}; compare results over the same {what}"
            )
