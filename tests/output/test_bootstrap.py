"""Comparing two results: the bootstrap against plain loops and against all resamples, and what cannot be compared."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.evaluation.per_image import PerImageCounts
from src.output import bootstrap
from src.output.bootstrap import PairedComparison, compare_results, resampled
from src.output.per_image_table import PerImageTable

RESULTS = (Path("a.json"), Path("b.json"))


def counts(*images: tuple[list[int], list[int]]) -> PerImageCounts:
    """A table from intersections and unions of each image."""
    intersections, unions = (np.array(part) for part in zip(*images, strict=True))
    return PerImageCounts(range(len(images)), intersections, unions)


# the third image lacks class 1; without the first image nothing has class 2
FIRST = counts(([5, 2, 1], [10, 8, 4]), ([7, 0, 0], [9, 3, 0]), ([1, 0, 0], [2, 0, 0]))
SECOND = counts(([6, 4, 0], [10, 8, 4]), ([3, 3, 0], [9, 5, 0]), ([2, 0, 0], [2, 0, 0]))


def table(
    counted: PerImageCounts, names: tuple[str, ...] = ("sky", "cat", "dog"), images: str = "123"
) -> PerImageTable:
    return PerImageTable(Path("x.csv"), list(names), [f"{n}.jpg" for n in images], [], counted)


def compared(first: PerImageTable, second: PerImageTable, resamples: int = 200, seed: int = 3) -> PairedComparison:
    return compare_results(RESULTS, (first, second), resamples, seed)


def plain_differences(images: tuple[int, ...] | list[int]) -> list[float]:
    """mIoU and IoU per class of a list of images, which may repeat: second minus first. NaN for a class they lack."""
    differences = []
    for label in range(3):
        ious = []
        for counted in (FIRST, SECOND):
            intersection = union = 0
            for image in images:
                intersection += int(counted.intersections[image][label])
                union += int(counted.unions[image][label])
            ious.append(intersection / union if union else 0.0)
        lacking = all(FIRST.unions[image][label] == SECOND.unions[image][label] == 0 for image in images)
        differences.append(math.nan if lacking else ious[1] - ious[0])
    known = [value for value in differences if not math.isnan(value)]
    return [sum(known) / len(known), *differences]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_each_resample_is_the_plain_score_of_its_images(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK", 3 * chunk)
    got = resampled(FIRST, SECOND, 50, seed=7)
    draws = np.random.default_rng(7)
    size = min(chunk, 50)
    drawn = np.concatenate([draws.integers(3, size=(min(size, 50 - n), 3)) for n in range(0, 50, size)])
    expected = [plain_differences(images) for images in drawn.tolist()]
    assert np.allclose(got, expected, rtol=0, atol=1e-15, equal_nan=True)
    assert len({str(row) for row in expected}) > 5
    assert np.isnan(expected).any()


def test_the_interval_is_that_of_all_possible_resamples() -> None:
    every = np.array([plain_differences(images) for images in itertools.product(range(3), repeat=3)])
    found = compared(table(FIRST), table(SECOND), resamples=20_000)
    for row, values in enumerate(every.T):  # each of the 27 resamples is as likely as any other
        known = values[~np.isnan(values)]
        assert abs(found.mean[row] - known.mean()) < 4 * known.std() / np.sqrt(10_000) + 1e-12
        assert found.low[row] == pytest.approx(np.quantile(known, 0.025, method="inverted_cdf"))
        assert found.high[row] == pytest.approx(np.quantile(known, 0.975, method="inverted_cdf"))


def test_a_class_absent_from_all_images_counts_as_in_miou() -> None:
    def with_another(counted: PerImageCounts) -> PerImageCounts:
        more = (np.pad(part, ((0, 0), (0, 1))) for part in (counted.intersections, counted.unions))
        return PerImageCounts(range(3), *more)

    names = ("sky", "cat", "dog", "cow")
    found = compared(table(with_another(FIRST), names), table(with_another(SECOND), names))
    assert found.difference[0] == pytest.approx(sum(plain_differences([0, 1, 2])[1:]) / 4)
    assert (found.mean[4], found.low[4], found.high[4]) == (0, 0, 0)


def test_a_class_absent_from_all_resamples_has_no_interval() -> None:
    seed = next(seed for seed in range(100) if 0 not in np.random.default_rng(seed).integers(3, size=(1, 3)))
    found = compared(table(FIRST), table(SECOND), resamples=1, seed=seed)
    assert np.isnan(found.mean).tolist() == [False, False, False, True]
    assert found.table([]).groups[2][2][3:] == ["-25.00", "–", "–"]
    assert found.csv().splitlines()[4].split(",")[3:7] == ["-0.25", "", "", ""]


def test_scores_are_computed_from_sums_and_not_means_over_images() -> None:
    found = compared(table(FIRST), table(SECOND))
    assert found.first.tolist() == pytest.approx([(13 / 21 + 2 / 11 + 1 / 4) / 3, 13 / 21, 2 / 11, 1 / 4])
    assert found.second.tolist() == pytest.approx([(11 / 21 + 7 / 13 + 0) / 3, 11 / 21, 7 / 13, 0])
    assert found.difference.tolist() == pytest.approx(plain_differences([0, 1, 2]))


def test_results_depend_on_the_seed_alone() -> None:
    one, again, other = (compared(table(FIRST), table(SECOND), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.mean, again.mean)
    assert not np.array_equal(one.mean, other.mean)
    assert "200 resamples, seed 1" in other.how()


def test_a_result_does_not_differ_from_itself() -> None:
    found = compared(table(FIRST), table(FIRST))
    assert not found.mean.any()
    assert not found.low.any()
    assert not found.high.any()


def test_images_and_classes_are_matched_by_name() -> None:
    order, classes = [2, 0, 1], [1, 2, 0]
    moved = PerImageCounts(range(3), SECOND.intersections[order][:, classes], SECOND.unions[order][:, classes])
    found = compared(table(FIRST), table(moved, ("cat", "dog", "sky"), "312"))
    assert np.array_equal(found.mean, compared(table(FIRST), table(SECOND)).mean)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (table(SECOND, images="124"), r"different images: only a\.json has 3\.jpg; compare results over the same"),
        (table(SECOND, ("sky", "cat", "cow")), r"different classes: only a\.json has dog; compare"),
        (
            PerImageTable(Path("x.csv"), ["sky"], [f"{n}.jpg" for n in range(1, 9)], [], SECOND),
            r"different images: only b\.json has 4\.jpg, 5\.jpg, 6\.jpg and 2 more;",
        ),
    ],
)
def test_other_images_or_classes_are_refused_by_name(second: PerImageTable, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compared(table(FIRST), second)
