"""Scores: intersection and union over all images, ignored pixels left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.evaluation import metrics
from src.evaluation.metrics import ConfusionMatrix, absence_note, score_table
from tests.fake_cuda import LiveBytes, fake_cuda
from tests.oracles.method import plain_iou


def test_intersection_union_and_iou_computed_by_hand() -> None:
    confusion = ConfusionMatrix(3, 255)
    labels = torch.tensor([[0, 0, 1, 1], [1, 2, 255, 255]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 0]])
    confusion.update(prediction, labels)
    assert confusion.counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 1]]  # row: label, column: prediction
    assert confusion.intersection.tolist() == [1, 2, 1]
    assert confusion.union.tolist() == [3, 4, 1]
    assert confusion.iou.tolist() == pytest.approx([1 / 3, 1 / 2, 1])
    assert confusion.miou == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)


@pytest.mark.parametrize("tables", [1, 3, 64])
def test_counts_do_not_depend_on_the_number_of_tables(tables: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.TABLES, "cpu", tables)
    generator = torch.Generator().manual_seed(0)
    labels, prediction = torch.randint(0, 6, (2, 30, 50), generator=generator)
    labels[labels == 5] = 255
    prediction %= 5
    confusion = ConfusionMatrix(5, 255)
    for _ in range(2):
        confusion.update(prediction.byte(), labels.byte())
    counted = labels != 255
    expected = np.histogram2d(labels[counted], prediction[counted], bins=np.arange(6))[0]
    assert confusion.counts.tolist() == (2 * expected).tolist()


def test_a_class_with_an_empty_union_counts_as_zero_in_the_mean() -> None:
    confusion = ConfusionMatrix(4, 255)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert confusion.iou.tolist() == [1, 1, 0, 0]
    assert confusion.miou == 0.5


def test_images_are_summed_before_dividing() -> None:
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.zeros(10, dtype=torch.uint8), torch.zeros(10, dtype=torch.uint8))
    confusion.update(torch.zeros(2, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8))
    assert confusion.iou.tolist() == [10 / 12, 0]


def test_an_empty_score_is_an_error_only_when_finished() -> None:
    confusion = ConfusionMatrix(3, 255)
    assert confusion.miou == confusion.miou_present == 0
    confusion.update(torch.tensor([1, 2]), torch.tensor([255, 255]))
    with pytest.raises(UserError, match="no pixel can be scored: every mask value is 255"):
        confusion.require_pixels()
    confusion.update(torch.tensor([1, 2]), torch.tensor([255, 0]))
    confusion.require_pixels()


def test_absent_classes_count_as_zero_and_are_named() -> None:
    """A class is absent if no mask has it, predicted or not; the mean over the others is reported beside mIoU."""
    confusion = ConfusionMatrix(4, 255)
    confusion.update(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]))
    names = ("background", "cat", "dog", "cow")
    assert confusion.absent == [2, 3]
    assert confusion.miou == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert confusion.miou_present == pytest.approx((1 + 0.5) / 2)
    values = confusion.to_dict(names)
    assert values["absent_classes"] == ["dog", "cow"]
    assert values["miou_present"] == confusion.miou_present
    assert confusion.table(names).splitlines()[-1] == (
        "  no pixel in the masks, counted as IoU 0, as published: dog, cow; mIoU of the classes present: 75.00 %"
    )


def test_masks_with_all_classes_need_no_note() -> None:
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert confusion.table(("background", "cat")) == score_table(("background", "cat"), (1, 1), "100.00")


def test_a_long_list_of_absent_classes_is_shortened() -> None:
    note = absence_note([f"class {n}" for n in range(79)])
    assert note.endswith("class 10, class 11 and 67 more")


def test_masks_of_0_and_255_have_no_class_1() -> None:
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([0, 1, 1]), torch.tensor([0, 255, 255]))
    said = confusion.table(("background", "polyp")).splitlines()
    assert "no pixel in the masks, counted as IoU 0, as published: polyp" in said[-2]
    assert said[-1] == "  mask value 255 is ignored; it is not class 1: to score polyp, draw it with 1"


@pytest.mark.parametrize("ignore_label", [255, 200])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_equals_the_plain_count_on_images_of_different_sizes(ignore_label: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    confusion, predictions, targets = ConfusionMatrix(21, ignore_label), [], []
    for shape in ((7, 9), (16, 16), (1, 1)):
        prediction, target = rng.integers(0, 21, shape), rng.integers(0, 21, shape)
        target[rng.random(shape) < 0.2] = 255
        predictions.append(prediction)
        targets.append(target)
        own = np.where(target == 255, ignore_label, target)
        confusion.update(torch.from_numpy(prediction).to(dtype), torch.from_numpy(own).to(dtype))
    expected = plain_iou(predictions, targets, 21)
    assert list(zip(confusion.intersection.tolist(), confusion.union.tolist(), strict=True)) == expected


def test_counts_beyond_float32_are_exact() -> None:
    """COCO has 2.6e9 pixels at 512 px: counts are exact integers."""
    confusion = ConfusionMatrix(2, 255)
    confusion.counts[0, 0] = 2**40
    confusion.update(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    assert confusion.intersection.tolist() == [2**40 + 1, 0]


def test_scores_as_plain_values_are_complete() -> None:
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    values = confusion.to_dict(("background", "cat"))
    assert values == {
        "miou": 0.5,
        "absent_classes": [],
        "miou_present": 0.5,
        "classes": [
            {"name": "background", "iou": 0.5, "intersection": 1, "union": 2},
            {"name": "cat", "iou": 0.5, "intersection": 1, "union": 2},
        ],
        "confusion": [[1, 1], [0, 1]],
    }
    assert json.loads(json.dumps(values)) == values


LEFT_COLUMN = ("50.00", "25.00", "29.17")


def test_the_table_on_the_screen_has_every_class_and_the_mean() -> None:
    table = score_table(["background", "a class of a long name", "dog"], [0.5, 0.25, 0.125], "29.17")
    assert [line.split() for line in table.splitlines()] == [
        ["class", "IoU,", "%", "class", "IoU,", "%"],
        ["background", "50.00", "dog", "12.50"],
        ["a", "class", "of", "a", "long", "name", "25.00"],
        ["mIoU", "29.17"],
    ]
    assert len({line.index(number) for line, number in zip(table.splitlines()[1:], LEFT_COLUMN, strict=True)}) == 1


def test_absent_classes_have_a_dash_on_the_screen() -> None:
    table = score_table(["background", "cat", "dog"], [0.5, 0.0, 0.0], "16.67", absent=[2])
    assert [line.split()[-1] for line in table.splitlines()] == ["%", "-", "0.00", "16.67"]
    (header, row, mean) = score_table(["background"], [0.5], "50.00").splitlines()
    assert (header.split(), row.split(), mean.split()) == (
        ["class", "IoU,", "%"],
        ["background", "50.00"],
        ["mIoU", "50.00"],
    )


def test_scores_are_computed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS refuses float64, and so does this fake device."""
    with fake_cuda(monkeypatch), LiveBytes() as calls:
        matrix = ConfusionMatrix(3, 255, "cuda", boundary=True)
        matrix.update(torch.zeros(2, 2, dtype=torch.uint8, device="cuda"), torch.zeros(2, 2, dtype=torch.uint8))
        assert matrix.counts.device.type == "cuda"
        assert matrix.iou.device.type == "cpu"
        assert len(calls.waits) == 1
        assert matrix.boundary_iou.device.type == "cpu"
