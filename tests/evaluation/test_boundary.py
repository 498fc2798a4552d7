"""Boundary IoU against its definition, pixel by pixel; in results only on demand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import one_shot_blip
import training_free_blip
from src import cli
from src.evaluation import metrics
from src.evaluation.boundary import boundary_width
from src.evaluation.metrics import ConfusionMatrix
from tests import tiny


def plain_region(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of ``mask`` from which a pixel outside it, or the outside of the image, is at most ``width`` away."""
    height, breadth = mask.shape
    region = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for dy in range(-width, width + 1):
            for dx in range(-width, width + 1):
                inside = 0 <= y + dy < height and 0 <= x + dx < breadth
                region[y, x] |= not inside or not mask[y + dy, x + dx]
    return region


def plain_counts(predicted: np.ndarray, target: np.ndarray, classes: int, width: int) -> list[tuple[int, int]]:
    """Intersection and union of the boundary regions of each class; pixels of 255 are in no mask."""
    pairs = []
    for label in range(classes):
        here, there = (plain_region((labels == label) & (target != 255), width) for labels in (predicted, target))
        pairs.append((int((here & there).sum()), int((here | there).sum())))
    return pairs


def blobs(rng: np.random.Generator, shape: tuple[int, int], classes: int) -> np.ndarray:
    """Labels in pieces of several pixels, so that some pixels are far from a contour."""
    coarse = rng.integers(0, classes, (shape[0] // 9 + 1, shape[1] // 9 + 1))
    return np.kron(coarse, np.ones((9, 9), int))[: shape[0], : shape[1]].astype(np.uint8)


@pytest.mark.parametrize("tables", [1, 64])
@pytest.mark.parametrize(("size", "width"), [((30, 47), 1), ((30, 47), 2), ((12, 9), 4), ((5, 3), 8)])
def test_equals_the_definition(size: tuple[int, int], width: int, tables: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.TABLES, "cpu", tables)
    monkeypatch.setattr(metrics, "boundary_width", lambda shape: width)
    rng = np.random.default_rng(width)
    confusion, expected = ConfusionMatrix(4, 255, boundary=True), np.zeros((4, 2), int)
    for _ in range(3):
        predicted, target = blobs(rng, size, 4), blobs(rng, size, 4)
        target[rng.random(size) < 0.02] = 255
        confusion.update(torch.from_numpy(predicted), torch.from_numpy(target))
        expected += plain_counts(predicted, target, 4, width)
    got = zip(confusion.boundary_intersection.tolist(), confusion.boundary_union.tolist(), strict=True)
    assert list(got) == [tuple(pair) for pair in expected.tolist()]
    if width < 4:  # elsewhere all pixels are near a contour
        assert (confusion.boundary_union < confusion.union).all()


def test_the_width_is_two_percent_of_the_diagonal() -> None:
    assert boundary_width((300, 400)) == 10
    assert boundary_width((512, 512)) == round(0.02 * math.sqrt(2) * 512) == 14
    assert boundary_width((8, 8)) == 1


def test_a_square_computed_by_hand() -> None:
    """20 x 20 pixels of 300 x 400, moved by 5: the regions are 10 wide, so they cover the squares."""
    confusion = ConfusionMatrix(2, 255, boundary=True)
    target, predicted = (torch.zeros(300, 400, dtype=torch.uint8) for _ in range(2))
    target[100:120, 100:120] = predicted[100:120, 105:125] = 1
    confusion.update(predicted, target)
    assert (confusion.boundary_intersection[1], confusion.boundary_union[1]) == (20 * 15, 20 * 25)
    assert float(confusion.boundary_iou[1]) == 0.6
    wide = ConfusionMatrix(2, 255, boundary=True)
    target[100:200, 100:200] = 1
    wide.update(target, target)
    assert int(wide.boundary_union[1]) == 100**2 - 80**2


def test_a_perfect_prediction_scores_1_whatever_is_ignored() -> None:
    """Predictions in ignored pixels do not matter."""
    rng = np.random.default_rng(0)
    target = blobs(rng, (40, 50), 3)
    predicted = target.copy()
    target[:, 40:] = target[10:13] = 255  # padding, and a border around objects
    confusion = ConfusionMatrix(3, 255, boundary=True)
    confusion.update(torch.from_numpy(predicted), torch.from_numpy(target), (40, 40))
    assert confusion.boundary_iou.tolist() == [1, 1, 1]
    assert confusion.boundary_miou == 1


def test_a_different_ignored_label_without_background() -> None:
    rng = np.random.default_rng(1)
    predicted, target = blobs(rng, (30, 30), 3) + 1, blobs(rng, (30, 30), 3) + 1
    target[rng.random((30, 30)) < 0.05] = 255
    other = np.where(target == 255, 200, target)
    matrices = [ConfusionMatrix(4, 255, boundary=True), ConfusionMatrix(4, 200, background=False, boundary=True)]
    for matrix, labels in zip(matrices, (target, other), strict=True):
        matrix.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    assert torch.equal(matrices[0].boundary_iou[1:], matrices[1].boundary_iou)
    assert len(matrices[1].to_dict(("a", "b", "c"))["classes"]) == 3


def test_boundary_iou_does_not_change_iou() -> None:
    rng = np.random.default_rng(2)
    plain, both = ConfusionMatrix(4, 255), ConfusionMatrix(4, 255, boundary=True)
    labels = [torch.from_numpy(blobs(rng, (30, 30), 4)) for _ in range(2)]
    for matrix in (plain, both):
        matrix.update(*labels)
    assert torch.equal(plain.counts, both.counts)
    names = ("a", "b", "c", "d")
    values = both.to_dict(names)
    del values["boundary_miou"]
    for entry in values["classes"]:
        assert entry.pop("boundary_iou") == entry.pop("boundary_intersection") / entry.pop("boundary_union")
    assert values == plain.to_dict(names)
    assert "Boundary" not in plain.table(names)
    assert both.table(names).endswith(f"mean Boundary IoU: {100 * both.boundary_miou:.2f} %")


@pytest.mark.parametrize("resolution", ["letterbox", "original"])
def test_results_contain_boundary_iou(resolution: str, config_file: Callable[..., Path], data_root: Path) -> None:
    config = config_file(eval={"resolution": resolution, "boundary": True}, dataloader={"batch_size": 2})
    assert cli.run(training_free_blip.main, ["--config", str(config), "--device", "cpu", "--save-predictions"]) == 0
    folder = data_root / "results"
    values = json.loads((folder / "iou.json").read_text())
    rows = list(csv.DictReader((folder / "iou.csv").read_text().splitlines()))
    assert [float(row["Boundary IoU"]) for row in rows] == [entry["boundary_iou"] for entry in values["classes"]]
    assert values["boundary_miou"] == pytest.approx(np.mean([entry["boundary_iou"] for entry in values["classes"]]))
    if resolution == "original":  # where saved predictions equal scored ones
        expected = np.zeros((4, 2), int)
        for number in range(3):
            predicted, target = (
                np.asarray(Image.open(path / f"{number}.png"))
                for path in (folder / "iou_predictions", data_root / "masks")
            )
            expected += plain_counts(predicted, target, 4, boundary_width(predicted.shape))
        assert [(e["boundary_intersection"], e["boundary_union"]) for e in values["classes"]] == [*map(tuple, expected)]


def test_in_the_frame_the_width_is_that_of_the_image_without_its_padding(
    config_file: Callable[..., Path], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    monkeypatch.setattr(metrics, "boundary_width", lambda shape: shapes.append(shape) or boundary_width(shape))
    config = config_file(eval={"boundary": True})
    assert cli.run(training_free_blip.main, ["--config", str(config), "--device", "cpu"]) == 0
    assert shapes == [(48, 64), (64, 40), (64, 64)]  # of images of 90 x 120, 120 x 77 and 80 x 80 in a frame of 64
    assert tiny.SIZE == 64


def test_one_shot_results_contain_boundary_iou(
    config_file: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    tiny.make_data(data_root, [(60 + 3 * number, 70) for number in range(8)])
    oneshot = {"test_list": str(data_root / "val.txt"), "total_runs": 2, "num_iterations": 1, "min_support_area": 50}
    config = config_file(
        oneshot={**oneshot, "support_only_one_novel": False}, eval={"boundary": True}, crf={"iters": 0}
    )
    options = ["--config", str(config), "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    assert cli.run(one_shot_blip.main, options) == 0
    values = json.loads((tmp_path / "out" / "one_shot_summary.json").read_text())
    mious = [run["boundary_miou"] for run in values["runs"]]
    assert values["boundary_miou_mean"] == pytest.approx(np.mean(mious))
    assert values["boundary_miou_std"] == pytest.approx(np.std(mious))
    summary = list(csv.DictReader((tmp_path / "out" / "one_shot_summary.csv").read_text().splitlines()))
    assert [float(row["Boundary mIoU"]) for row in summary] == pytest.approx([*mious, np.mean(mious), np.std(mious)])
    rows = list(csv.DictReader((tmp_path / "out" / "one_shot_classwise.csv").read_text().splitlines()))
    for row, entry in zip(rows, values["classes"], strict=True):
        runs = [float(row["Boundary IOU Run_0"]), float(row["Boundary IOU Run_1"])]
        assert entry["boundary_iou"] == pytest.approx(np.mean(runs))
