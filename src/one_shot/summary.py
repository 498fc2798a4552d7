"""The result of one-shot tuning: mean and standard deviation over several runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.evaluate import Evaluation
from ..evaluation.metrics import absence_note, score_table


def run_record(
    run: int, evaluation: Evaluation, names: Sequence[str], losses: Sequence[float], supports: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The result of one run as plain values: scores, losses of all steps, supports (see ``Support.describe``)."""
    return {"run": run, **evaluation.to_dict(names), "losses": list(losses), "supports": list(supports)}


@dataclass(frozen=True)
class OneShotSummary:
    """Scores over the runs of one-shot tuning, from 0 to 1, with population standard deviations.

    ``names`` are C class names, ``runs`` one :func:`run_record` per run.
    """

    names: Sequence[str]
    runs: Sequence[dict[str, Any]]

    @property
    def mious(self) -> list[float]:
        return [record["miou"] for record in self.runs]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Unreadable images of all runs, each once."""
        skipped = {entry["image"]: entry for record in self.runs for entry in record["skipped"]}
        return list(skipped.values())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.mious)

    @property
    def std(self) -> float:
        return statistics.pstdev(self.mious)

    @property
    def ious(self) -> list[list[float]]:
        """IoU, [runs, C]."""
        return [[entry["iou"] for entry in record["classes"]] for record in self.runs]

    @property
    def class_means(self) -> list[float]:
        """Mean IoU over the runs, [C]."""
        return [statistics.fmean(values) for values in zip(*self.ious, strict=True)]

    @property
    def class_stds(self) -> list[float]:
        """Population standard deviation of IoU over the runs, [C]."""
        return [statistics.pstdev(values) for values in zip(*self.ious, strict=True)]

    @property
    def boundary_mious(self) -> list[float]:
        """Each run's mean Boundary IoU; empty without ``eval.boundary``."""
        return [record["boundary_miou"] for record in self.runs if "boundary_miou" in record]

    @property
    def boundary_ious(self) -> list[list[float]]:
        """Boundary IoU, [runs, C]; empty without ``eval.boundary``."""
        return [[entry["boundary_iou"] for entry in record["classes"]] for record in self.runs if self.boundary_mious]

    @property
    def classwise_header(self) -> list[str]:
        runs = range(len(self.runs))
        boundary = [f"Boundary IOU Run_{run}" for run in runs if self.boundary_mious]
        return ["Classname", *(f"IOU Run_{run}" for run in runs), *boundary]

    def classwise_rows(self) -> list[tuple[object, ...]]:
        """One row per class: its name, its IoU in every run, and Boundary IoU if computed."""
        return list(zip(self.names, *self.ious, *self.boundary_ious, strict=True))

    @property
    def summary_header(self) -> list[str]:
        return ["Run", "mIoU", *(["Boundary mIoU"] if self.boundary_mious else [])]

    def summary_rows(self) -> list[tuple[object, ...]]:
        """One row per run with its mIoU (and mean Boundary IoU), then mean and standard deviation."""
        columns = [values for values in (self.mious, self.boundary_mious) if values]
        rows = [(run, *values) for run, values in enumerate(zip(*columns, strict=True))]
        means, stds = (tuple(map(of, columns)) for of in (statistics.fmean, statistics.pstdev))
        return [*rows, ("mean", *means), ("std", *stds)]

    @property
    def absent(self) -> list[str]:
        """Classes without a pixel in the masks of some run's queries, in label order."""
        return [name for name in self.names if any(name in record["absent_classes"] for record in self.runs)]

    @property
    def mious_present(self) -> list[float]:
        """mIoU of each run over the classes that are in its masks."""
        return [record["miou_present"] for record in self.runs]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: mean and std of mIoU, with and without absent classes; mean IoU per class; all runs."""
        classes = [{"name": name, "iou": iou} for name, iou in zip(self.names, self.class_means, strict=True)]
        boundary = {}
        if self.boundary_mious:
            mious = self.boundary_mious
            boundary = {"boundary_miou_mean": statistics.fmean(mious), "boundary_miou_std": statistics.pstdev(mious)}
            for entry, values in zip(classes, zip(*self.boundary_ious, strict=True), strict=True):
                entry["boundary_iou"] = statistics.fmean(values)
        return {
            "miou_mean": self.mean,
            "miou_std": self.std,
            **boundary,
            "absent_classes": self.absent,
            "miou_present_mean": statistics.fmean(self.mious_present),
            "miou_present_std": statistics.pstdev(self.mious_present),
            "classes": classes,
            "runs": list(self.runs),
        }

    def table(self) -> str:
        """Mean IoU per class and mIoU with its standard deviation, for the screen."""
        absent = [self.names.index(name) for name in self.absent]
        scores = score_table(self.names, self.class_means, f"{100 * self.mean:.2f} ± {100 * self.std:.2f}", absent)
        if not self.absent:
            return scores
        mean, std = statistics.fmean(self.mious_present), statistics.pstdev(self.mious_present)
        return f"{scores}\n{absence_note(self.absent, f'{100 * mean:.2f} ± {100 * std:.2f}')}"
