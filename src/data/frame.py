"""The square frame that images and labels are put into, and the way back out of it (docs/method.md, "Frame")."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8  # resized sides are floored to a multiple of this, as published


@dataclass(frozen=True)
class Letterbox:
    """Geometry of one image in the frame: scaled so that its longer side is ``size``, pasted top-left.

    Attributes:
        height, width: of the untouched image, pixels.
        size: side of the frame, pixels.
    """

    height: int
    width: int
    size: int

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the resized image inside the frame."""
        longer = max(self.height, self.width)
        ratio = self.size / longer
        # the longer side is the frame's by definition: 389 * (128 / 389) is 127.99... in floating point
        height, width = (
            (self.size if side == longer else int(side * ratio)) // CELL * CELL for side in (self.height, self.width)
        )
        # an image more than size / 8 times longer than wide would vanish; it keeps one cell instead
        return max(height, CELL), max(width, CELL)

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Resize float32 RGB ``pixels`` [height, width, 3] bilinearly and pad with black: [size, size, 3]."""
        return self._paste(pixels, cv2.INTER_LINEAR, 0)

    def label(self, labels: np.ndarray, ignore_label: int) -> np.ndarray:
        """Resize uint8 ``labels`` [height, width] to the nearest and pad with ``ignore_label``: [size, size]."""
        return self._paste(labels, cv2.INTER_NEAREST, ignore_label)

    def undo(self, maps: Tensor) -> Tensor:
        """Bring maps [K, size, size] back to the untouched image: padding cut off, bilinear, [K, height, width]."""
        height, width = self.inner
        cropped = maps[None, :, :height, :width]
        return F.interpolate(cropped, size=(self.height, self.width), mode="bilinear", align_corners=False)[0]

    def _paste(self, array: np.ndarray, interpolation: int, padding: float) -> np.ndarray:
        height, width = self.inner
        frame = np.full((self.size, self.size, *array.shape[2:]), padding, dtype=array.dtype)
        frame[:height, :width] = cv2.resize(array, (width, height), interpolation=interpolation)
        return frame


def preprocess(pixels: np.ndarray, letterbox: Letterbox, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Letterbox and normalise RGB uint8 [h, w, 3] to float32 [3, S, S]: (x / 255 - mean) / std, padding included."""
    frame = letterbox.image(pixels.astype(np.float32))
    normalised = (frame / np.float32(255) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normalised.transpose(2, 0, 1).copy())
