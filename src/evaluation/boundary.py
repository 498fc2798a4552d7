"""Boundary IoU: IoU of the boundary regions of label and prediction (Cheng et al., CVPR 2021).

The boundary region of a class is the part of its mask within ``d`` pixels of the mask's contour, by the larger of the
horizontal and the vertical distance. ``d`` is 2 % of the image's diagonal. The border of the image is a contour.
Ignored pixels are removed from label and prediction first, so their border is a contour of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 0.02
"""Of a boundary region, as a part of the image's diagonal."""


def boundary_width(shape: tuple[int, int]) -> int:
    """``d`` in pixels for an image of ``shape`` (height, width): 1 at least."""
    return max(1, round(WIDTH * math.hypot(*shape)))


def boundary_classes(prediction: Tensor, labels: Tensor, num_classes: int, ignore_label: int, width: int) -> Tensor:
    """The class of each pixel of ``prediction`` and ``labels`` that is in the boundary region of its class.

    Args:
        prediction, labels: integers [H, W].
        width: of the regions, pixels.

    Returns:
        int16 [2, H, W], of prediction and labels; C where a pixel is in no region, or ignored.
    """
    maps = torch.stack([prediction.short(), labels.short()]).masked_fill(labels == ignore_label, num_classes)
    padded = F.pad(maps, (width, width, width, width), value=num_classes + 1)
    # a pixel is inside a mask, away from its contour, if all pixels around it have its class
    highest, lowest = (_over_windows(padded, pick, 2 * width + 1) for pick in (torch.maximum, torch.minimum))
    return maps.masked_fill(highest == lowest, num_classes)


def _over_windows(maps: Tensor, pick: Callable[[Tensor, Tensor], Tensor], size: int) -> Tensor:
    """Maximum or minimum over every window of ``size`` x ``size`` pixels, in steps that double."""
    for dim in (1, 2):
        reached = 1
        while reached < size:
            step = min(reached, size - reached)
            length = maps.shape[dim] - step
            maps = pick(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
            reached += step
    return maps
