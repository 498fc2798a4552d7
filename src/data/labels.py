"""What the values of a mask stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..config.schema import DatasetConfig


@dataclass(frozen=True)
class Labelling:
    """How values of masks become class numbers, the positions in the class file; 0 is the background.

    Value ``first_label`` is class 1, the next one class 2. Smaller values are background or, in a data set without one,
    ignored. PASCAL and COCO have 0 for the background and their classes from 1; VOC20 is PASCAL without a background
    (0 is ignored); in Cityscapes' train ids the first class is 0. Where values have gaps, ``labels`` lists them.

    Attributes:
        num_classes: C, the length of the class file, the background's words included.
        ignore_label: the value that stands for no class, in masks and among class numbers.
        background: whether pixels may be background. If not, its words only compete with the others.
        first_label: value of class 1.
        labels: values of classes 1 to C - 1, ascending; None: ``first_label`` and those after it.
    """

    num_classes: int = DatasetConfig.num_classes
    ignore_label: int = DatasetConfig.ignore_label
    background: bool = DatasetConfig.background
    first_label: int = DatasetConfig.first_label
    labels: tuple[int, ...] | None = DatasetConfig.labels

    @classmethod
    def from_config(cls, dataset: DatasetConfig) -> Labelling:
        """The labelling of a configuration's section ``dataset``."""
        return cls(dataset.num_classes, dataset.ignore_label, dataset.background, dataset.first_label, dataset.labels)

    @property
    def values(self) -> tuple[int, ...]:
        """Values of classes 1 to C - 1."""
        first = self.first_label
        return self.labels or tuple(range(first, first + self.num_classes - 1))

    @property
    def described(self) -> str:
        """The values that a mask may have, for messages."""
        if self.labels is None:
            return f"0 to {self.values[-1]} or {self.ignore_label} (ignored)"
        smaller = "background" if self.background else "ignored"
        named = ", ".join(map(str, self.values))
        return f"{named} (dataset.labels), less than {self.values[0]} ({smaller}) or {self.ignore_label} (ignored)"

    def class_numbers(self, values: np.ndarray) -> np.ndarray:
        """Class numbers, uint8, of a mask's ``values``, whole numbers or booleans of the same shape.

        Raises:
            ValueError: a value is no class and not ignored; its argument is that value.
        """
        if values.dtype == bool:
            values = values.astype(np.uint8)
        table, known = self._tables
        wrong: list[int] = []
        if values.dtype != np.uint8:
            wrong = np.unique(values[(values < 0) | (values > 255)]).tolist()
            values = values.astype(np.uint8)
        # a table of bytes: np.unique sorts all pixels, which takes as long as decoding the mask
        if wrong or not known.take(values).all():
            raise ValueError(min([*wrong, *np.unique(values[~known.take(values)]).tolist()]))
        return table.take(values)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """For each byte: its class number, uint8, and whether it is a class or ignored."""
        table, known = np.zeros(256, np.uint8), np.zeros(256, bool)
        values = list(self.values)
        smaller = values[0]
        table[:smaller] = 0 if self.background else self.ignore_label
        table[values] = np.arange(1, self.num_classes)
        table[self.ignore_label] = self.ignore_label
        known[:smaller] = known[values] = known[self.ignore_label] = True
        return table, known
