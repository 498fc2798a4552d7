"""The meaning of mask values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..config.schema import DatasetConfig


@dataclass(frozen=True)
class Labelling:
    """Converts mask values to class numbers, which are the positions in the class file; 0 is the background.

    Value ``first_label`` is class 1, the next value class 2. Smaller values are background or, in a data set without
    background, ignored. PASCAL and COCO start at 1, VOC20 too, without a background; Cityscapes' train ids start at 0.

    Attributes:
        num_classes: C, the length of the class file, background included.
        ignore_label: the value of ignored pixels, in masks and among class numbers.
        background: whether pixels may be background. If not, its words only compete with the other prompts.
        first_label: mask value of class 1.
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
        """Class numbers (uint8, same shape) of a mask's ``values`` (whole numbers or booleans).

        Raises:
            ValueError: a value is neither a class nor ignored; the argument is that value.
        """
        if values.dtype == bool:
            values = values.astype(np.uint8)
        table, known = self._tables
        if values.dtype != np.uint8 and values.size:
            beyond = values[(values < 0) | (values > 255)]
            if beyond.size:
                raise ValueError(int(beyond.min()))
            values = values.astype(np.uint8)
        # lookup tables: np.unique sorts, which takes as long as decoding the mask
        if not known.take(values).all():
            raise ValueError(int(values[~known.take(values)].min()))
        return table.take(values)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """For each byte value: its class number (uint8), and whether it is a class or ignored."""
        table, known = np.zeros(256, np.uint8), np.zeros(256, bool)
        table[: self.first_label] = 0 if self.background else self.ignore_label
        table[self.first_label : self.last_label + 1] = np.arange(1, self.num_classes)
        table[self.ignore_label] = self.ignore_label
        known[: self.last_label + 1] = known[self.ignore_label] = True
        return table, known
