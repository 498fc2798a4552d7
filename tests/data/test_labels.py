"""The meaning of mask values, with and without a background."""

from __future__ import annotations

import numpy as np
import pytest

from src.data.labels import Labelling

VALUES = np.uint8([[0, 1, 2], [3, 255, 0]])


def test_pascal_labels_are_class_numbers() -> None:
    assert Labelling(4).class_numbers(VALUES).tolist() == VALUES.tolist()


def test_without_a_background_values_below_the_first_class_are_ignored() -> None:
    voc20 = Labelling(4, background=False, first_label=1)
    assert voc20.class_numbers(VALUES).tolist() == [[255, 1, 2], [3, 255, 255]]
    higher = Labelling(3, background=False, first_label=2)
    assert higher.class_numbers(VALUES).tolist() == [[255, 255, 1], [2, 255, 255]]


def test_a_set_whose_first_class_is_0() -> None:
    train_ids = Labelling(5, background=False, first_label=0)
    assert train_ids.last_label == 3
    assert train_ids.class_numbers(VALUES).tolist() == [[1, 2, 3], [4, 255, 1]]


@pytest.mark.parametrize(
    ("labelling", "wrong"),
    [(Labelling(3), 3), (Labelling(3, background=False, first_label=0), 2), (Labelling(4, ignore_label=200), 255)],
)
def test_other_values_are_refused(labelling: Labelling, wrong: int) -> None:
    with pytest.raises(ValueError, match=str(wrong)):
        labelling.class_numbers(VALUES)


@pytest.mark.parametrize("value", [-1, 256, 257, 65535])
def test_values_beyond_a_byte_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        Labelling(21).class_numbers(np.array([[0, value]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_every_dtype_of_a_mask_gives_the_same_bytes(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for classes, ignored in ((2, 255), (21, 255), (21, 200), (255, 255)):
        values = rng.choice([*range(classes), ignored], (37, 53))
        numbers = Labelling(classes, ignored).class_numbers(values.astype(dtype))
        assert numbers.dtype == np.uint8
        assert np.array_equal(numbers, values)


def test_booleans_are_0_and_1() -> None:
    assert Labelling(2).class_numbers(np.array([[True, False]])).tolist() == [[1, 0]]
