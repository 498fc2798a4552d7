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
    (0 is ignored); in Cityscapes' train ids the first class is 0.

    Attributes:
        num_classes: C, the length of the class file, the background's words included.
        ignore_label: the value that stands for no class, in masks and among class numbers.
        background: whether pixels may be background. If not, its words only compete with the others.
        first_label: value of class 1.
    """

    num_classes: int = DatasetConfig.num_classes
    ignore_label: int = DatasetConfig.ignore_label
    background: bool = DatasetConfig.background
    first_label: int = DatasetConfig.first_label

    @classmethod
    def from_config(cls, dataset: DatasetConfig) -> Labelling:
        """The labelling of a configuration's section ``dataset``."""
        return cls(dataset.num_classes, dataset.ignore_label, dataset.background, dataset.first_label)

    @property
    def last_label(self) -> int:
        """Value of the last class."""
        return self.first_label + self.num_classes - 2

    def class_numbers(self, values: np.ndarray) -> np.ndarray:
        """Class numbers, uint8, of a mask's ``values``, whole numbers or booleans of the same shape.

        Raises:
            ValueError: a value is no class and not ignored; its argument is that value.
        """
        if values.dtype == bool:
            values = values.astype(np.uint8)
        table, known = self._tables
        if values.dtype != np.uint8 and values.size:
            beyond = values[(values < 0) | (values > 255)]
            if beyond.size:
                raise ValueError(int(beyond.min()))
            values = values.astype(np.uint8)
        # tables of bytes: sorting the values, as np.unique does, takes as long as decoding the mask
        if not known.take(values).all():
            raise ValueError(int(values[~known.take(values)].min()))
        return table.take(values)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """For each byte: its class number, uint8, and whether it is a class or ignored."""
        table, known = np.zeros(256, np.uint8), np.zeros(256, bool)
        table[: self.first_label] = 0 if self.background else self.ignore_label
        table[self.first_label : self.last_label + 1] = np.arange(1, self.num_classes)
        table[self.ignore_label] = self.ignore_label
        known[: self.last_label + 1] = known[self.ignore_label] = True
        return table, known
