"""What each image contributes to intersection and union: scores of single images, and resampling over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PerImageCounts:
    """Pixels by image and class. Summed over images they are the counts of the whole evaluation.

    Attributes:
        indices: numbers of the N images in the image list.
        intersections: int [N, C], pixels on which label and prediction agree.
        unions: int [N, C], pixels on which label or prediction is the class.
    """

    indices: Sequence[int]
    intersections: np.ndarray
    unions: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """float64 [N, C]; NaN where neither the mask nor the prediction has a pixel of the class."""
        return np.where(self.unions > 0, self.intersections / np.maximum(self.unions, 1), np.nan)

    @property
    def miou(self) -> np.ndarray:
        """float64 [N], mean over the classes that occur in an image; NaN for an image that has none."""
        occur = self.unions > 0
        return np.where(occur.any(1), np.nansum(self.iou, 1) / np.maximum(occur.sum(1), 1), np.nan)
