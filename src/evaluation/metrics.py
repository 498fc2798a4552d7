"""Intersection over union from a confusion matrix, summed over all images (docs/method.md, "Score")."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.labels import Labelling
from ..errors import UserError
from ..screen import display_width, table
from .boundary import boundary_classes, boundary_width

MAX_NAMES = 12
"""Absent classes that the screen names at most; the JSON names all."""

TABLES = defaultdict(lambda: 1, cuda=64)
"""Number of tables to count pixels in, by kind of device: on a GPU, many additions to one cell (the background's)
would wait for each other."""


class ConfusionMatrix:
    """Counts of pixels by true and predicted class, without pixels of the ignored label.

    Scores are of C classes: all ``num_classes``, or all but class 0 in a data set without background.

    Attributes:
        counts: int64 [num_classes, num_classes]: row = label, column = prediction.
        state: int64: ``counts`` and, with ``boundary``, two rows: intersection and union of the boundary regions.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int,
        device: torch.device | str = "cpu",
        background: bool = True,
        boundary: bool = False,
    ) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.boundary = boundary
        self._first = 0 if background else 1
        self._take(torch.zeros(num_classes + 2 * boundary, num_classes, dtype=torch.int64, device=device))

    def _take(self, state: Tensor) -> None:
        self.state = state
        self.counts, self._boundary = state[: self.num_classes], state[self.num_classes :]

    def update(self, prediction: Tensor, labels: Tensor, shape: tuple[int, int] | None = None) -> None:
        """Count the pixels of ``prediction`` and ``labels``, integers of equal shape.

        ``shape`` is the height and width of the image inside them, for boundary regions; None: theirs.
        """
        labels = labels.to(self.counts.device, non_blocking=True)
        prediction = prediction.to(self.counts.device)
        pairs = labels.long() * self.num_classes + prediction
        cells = self.counts.numel()
        # ignored pixels get an extra cell; nothing here reads a value, so nothing synchronises with CUDA
        pairs = pairs.masked_fill(labels == self.ignore_label, cells).flatten()
        self.counts += _count(pairs, cells + 1, TABLES[self.counts.device.type])[:cells].view_as(self.counts)
        if self.boundary:
            self._count_boundaries(prediction, labels, shape or (labels.shape[0], labels.shape[1]))

    def _count_boundaries(self, prediction: Tensor, labels: Tensor, shape: tuple[int, int]) -> None:
        none = self.num_classes
        width = boundary_width(shape)
        predicted, true = boundary_classes(prediction, labels, none, self.ignore_label, width)
        both = predicted.masked_fill(predicted != true, none)
        tables = TABLES[self.counts.device.type]
        areas = [_count(classes.flatten().long(), none + 1, tables)[:none] for classes in (both, predicted, true)]
        self._boundary += torch.stack([areas[0], areas[1] + areas[2] - areas[0]])

    @classmethod
    def of(cls, labelling: Labelling, device: torch.device | str = "cpu", boundary: bool = False) -> ConfusionMatrix:
        """An empty matrix for the classes of ``labelling``."""
        return cls(labelling.num_classes, labelling.ignore_label, device, labelling.background, boundary)

    def cpu(self) -> ConfusionMatrix:
        """A copy with the counts on the CPU."""
        matrix = copy.copy(self)
        matrix._take(self.state.cpu())
        return matrix

    @property
    def scored(self) -> Tensor:
        """[C, C] counts of the scored classes."""
        return self.counts[self._first :, self._first :]

    @property
    def intersection(self) -> Tensor:
        """[C] pixels where label and prediction agree."""
        return self.scored.diagonal()

    @property
    def union(self) -> Tensor:
        """[C] pixels where label or prediction is the class."""
        return self.scored.sum(0) + self.scored.sum(1) - self.intersection

    @property
    def iou(self) -> Tensor:
        """[C] float64 intersection over union, on the CPU; 0 for a class with an empty union, as published."""
        return _quotient(self.intersection, self.union)

    @property
    def miou(self) -> float:
        """Mean of :attr:`iou` over all C classes, background included if the data set has one."""
        return float(self.iou.mean())

    @property
    def boundary_intersection(self) -> Tensor:
        """[C] pixels in the boundary regions of both label and prediction."""
        return self._boundary[0, self._first :]

    @property
    def boundary_union(self) -> Tensor:
        """[C] pixels in the boundary region of label or prediction."""
        return self._boundary[1, self._first :]

    @property
    def boundary_iou(self) -> Tensor:
        """[C] Boundary IoU (:mod:`src.evaluation.boundary`), in the form of :attr:`iou`."""
        return _quotient(self.boundary_intersection, self.boundary_union)

    @property
    def boundary_miou(self) -> float:
        """Mean of :attr:`boundary_iou` over all C classes."""
        return float(self.boundary_iou.mean())

    @property
    def absent(self) -> list[int]:
        """Classes without a pixel in the masks: their IoU is 0, whatever is predicted."""
        return (self.scored.sum(1) == 0).nonzero().flatten().tolist()

    @property
    def miou_present(self) -> float:
        """Mean of :attr:`iou` over the classes that are not :attr:`absent`; 0 if all are absent."""
        present = (self.scored.sum(1) > 0).cpu()
        return float(self.iou[present].mean()) if present.any() else 0.0

    def require_pixels(self) -> None:
        """Raise UserError if all pixels are ignored."""
        if not self.counts.any():
            raise UserError(
                f"no pixel can be scored: every mask value is {self.ignore_label}, which is ignored; check the masks "
                "and dataset.ignore_label"
            )

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: mIoU, with and without absent classes; IoU, intersection and union per class; the counts.

        ``names`` are the C class names. With ``boundary`` the same of boundary regions.
        """
        columns = [names, self.iou.tolist(), self.intersection.tolist(), self.union.tolist()]
        keys = ["name", "iou", "intersection", "union"]
        if self.boundary:
            regions = (self.boundary_iou, self.boundary_intersection, self.boundary_union)
            columns += [values.tolist() for values in regions]
            keys += ["boundary_iou", "boundary_intersection", "boundary_union"]
        return {
            "miou": self.miou,
            **({"boundary_miou": self.boundary_miou} if self.boundary else {}),
            "absent_classes": [names[label] for label in self.absent],
            "miou_present": self.miou_present,
            "classes": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
            "confusion": self.scored.tolist(),
        }

    def columns(self, names: Sequence[str]) -> tuple[list[str], list[tuple[object, ...]]]:
        """Header and rows of the CSV: IoU, and with ``boundary`` Boundary IoU, of the C classes ``names``."""
        scores = {"IoU": self.iou, **({"Boundary IoU": self.boundary_iou} if self.boundary else {})}
        return ["Class Name", *scores], list(zip(names, *(values.tolist() for values in scores.values()), strict=True))

    def table(self, names: Sequence[str]) -> str:
        """IoU per class and mIoU in percent for the screen, with a note on absent classes."""
        lines = [score_table(names, self.iou.tolist(), f"{100 * self.miou:.2f}", self.absent)]
        if self.boundary:
            lines.append(f"  mean Boundary IoU: {100 * self.boundary_miou:.2f} %")
        if self.absent:
            lines.append(absence_note([names[label] for label in self.absent], f"{100 * self.miou_present:.2f}"))
        if len(names) == 2 and self.absent == [1]:  # two-class masks often use 0 and 255
            ignored = self.ignore_label
            lines.append(f"  mask value {ignored} is ignored; it is not class 1: to score {names[1]}, draw it with 1")
        return "\n".join(lines)


def _quotient(intersection: Tensor, union: Tensor) -> Tensor:
    """Intersection over union, float64. One copy to the CPU: MPS has no float64."""
    intersection, union = torch.stack([intersection, union]).cpu()
    return intersection.double() / union.clamp(min=1)


def absence_note(absent: Sequence[str], miou_present: str = "") -> str:
    """A line for the screen: the classes that are not in the masks, and the mIoU of the others."""
    shown = ", ".join(absent[:MAX_NAMES]) + (f" and {len(absent) - MAX_NAMES} more" if len(absent) > MAX_NAMES else "")
    note = f"  no pixel in the masks, counted as IoU 0, as published: {shown}"
    return f"{note}; mIoU of the classes present: {miou_present} %" if miou_present else note


def _count(values: Tensor, cells: int, tables: int) -> Tensor:
    """Histogram [cells] of ``values`` [n], whole numbers below ``cells``; counted in ``tables`` tables and summed."""
    if tables > 1:
        values = values + cells * (torch.arange(len(values), device=values.device) % tables)
    counted = values.new_zeros(tables * cells).scatter_add_(0, values, torch.ones_like(values))
    return counted.view(tables, cells).sum(0)


def score_table(names: Sequence[str], iou: Sequence[float], miou: str, absent: Collection[int] = ()) -> str:
    """Per-class IoU in percent for the screen, two classes per line, and ``miou`` on the last line.

    The numbers of :attr:`ConfusionMatrix.absent` classes are a dash.
    """
    shown = ["-" if number in absent else f"{100 * value:.2f}" for number, value in enumerate(iou)]
    cells, header = [*zip(names, shown, strict=True)], ("class", "IoU, %")
    half = (len(cells) + 1) // 2
    first, second = cells[:half], cells[half:]
    halves = [[header, *first, ("mIoU", miou)], [header if second else ("", ""), *second]]
    halves[1] += [("", "")] * (len(halves[0]) - len(halves[1]))
    left, right = (table(rows).split("\n") for rows in halves)
    width = max(map(display_width, left))
    return "\n".join(f"{a}{' ' * (width - display_width(a))}   {b}".rstrip() for a, b in zip(left, right, strict=True))
