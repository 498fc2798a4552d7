"""The result of several runs, some of which lack a class."""

from __future__ import annotations

import pytest
import torch

from src.evaluation.evaluate import Evaluation
from src.evaluation.metrics import ConfusionMatrix
from src.one_shot.summary import OneShotSummary, run_record

NAMES = ("background", "cat", "dog")


def summary(*labels: list[int]) -> OneShotSummary:
    """A run for each of ``labels``; class 2 is never predicted."""
    runs = []
    for run, target in enumerate(labels):
        confusion = ConfusionMatrix(3, 255)
        confusion.update(torch.tensor(target).clamp(max=1), torch.tensor(target))
        runs.append(run_record(run, Evaluation(confusion, 1, 1.0), NAMES, [], []))
    return OneShotSummary(NAMES, runs)


def test_classes_that_a_run_lacks_are_named() -> None:
    result = summary([0, 1, 1], [0, 1, 2])  # IoU 1, 1, (0) and 1, 1/2, 0
    values = result.to_dict()
    assert values["absent_classes"] == ["dog"]
    assert values["miou_mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["miou_present_mean"] == pytest.approx((1 + 1 / 2) / 2)
    assert values["miou_present_std"] == pytest.approx(1 / 4)
    assert [run["absent_classes"] for run in values["runs"]] == [["dog"], []]
    assert result.table().splitlines()[-1] == (
        "  no pixel in the masks, counted as IoU 0, as published: dog; mIoU of the classes present: 75.00 ± 25.00 %"
    )


def test_runs_with_all_classes_need_no_note() -> None:
    assert "no pixel" not in summary([0, 1, 2], [0, 1, 2]).table()
