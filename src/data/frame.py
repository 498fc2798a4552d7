"""The square (letterbox) frame of the model's input and of the evaluation (docs/method.md, "Frame")."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.schema import Config, DatasetConfig, ModelConfig

CELL = 8  # resized sides are floored to a multiple of this, as published
CHUNK_PIXELS = 2**24  # of class maps that are resized to the image at a time; at least one map


@dataclass(frozen=True)
class Frame:
    """A square of ``size`` pixels: images are resized to fill its longer side, padded and normalised.

    ``shape`` is always (height, width) of the original image, in pixels.

    Attributes:
        size: S, side of the frame, pixels.
        mean, std: of each channel, for colours from 0 to 1.
    """

    size: int = ModelConfig.image_size
    mean: tuple[float, float, float] = DatasetConfig.mean
    std: tuple[float, float, float] = DatasetConfig.std

    @classmethod
    def from_config(cls, config: Config) -> Frame:
        """The frame of a configuration: ``model.image_size``, ``dataset.mean`` and ``dataset.std``."""
        return cls(config.model.image_size, config.dataset.mean, config.dataset.std)

    def inner(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image of ``shape`` inside the frame, at the top left."""
        height, width = shape
        # The longer side is set to S without computing it: 389 * (128 / 389) is 127.99... in floating point. For a
        # square image that is the height, and its width may lose a cell to rounding, as published.
        if height >= width:
            height, width = self.size, int(width * (self.size / height))
        else:
            height, width = int(height * (self.size / width)), self.size
        height, width = height // CELL * CELL, width // CELL * CELL
        # at least one cell: an image more than size / 8 times longer than wide would vanish
        return max(height, CELL), max(width, CELL)

    def image(self, rgb: np.ndarray) -> Tensor:
        """Resize ``rgb`` (uint8 [height, width, 3]) bilinearly, pad with black, normalise.

        Returns:
            float32 [3, S, S]: (x / 255 - mean) / std, padding included.
        """
        height, width = self.inner((rgb.shape[0], rgb.shape[1]))
        planes = np.zeros((3, self.size, self.size), np.float32)
        resized = cv2.resize(rgb.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        planes[:, :height, :width] = resized.transpose(2, 0, 1)
        # in place, on separate channels: ten times as fast as on interleaved ones, with the same rounding
        planes /= np.float32(255)
        planes -= np.asarray(self.mean, np.float32)[:, None, None]
        planes /= np.asarray(self.std, np.float32)[:, None, None]
        return torch.from_numpy(planes)

    def mask(self, labels: np.ndarray, ignore_label: int) -> np.ndarray:
        """Put labels into the frame, [height, width] to [S, S]: resize to the nearest, pad with ``ignore_label``."""
        height, width = self.inner((labels.shape[0], labels.shape[1]))
        framed = np.full((self.size, self.size), ignore_label, labels.dtype)
        framed[:height, :width] = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        return framed

    def undo(self, maps: Tensor, shape: tuple[int, int]) -> Tensor:
        """Map [K, S, S] back to the image: crop the padding and resize bilinearly to [K, height, width]."""
        height, width = self.inner(shape)
        cropped = maps[None, :, :height, :width]
        return F.interpolate(cropped, size=shape, mode="bilinear", align_corners=False)[0]

    def labels(self, scores: Tensor, shape: tuple[int, int]) -> Tensor:
        """Argmax over classes at each pixel of the image, from :meth:`undo` of a few classes at a time to save memory.

        Args:
            scores: [C, S, S] class scores.

        Returns:
            uint8 [height, width], on the device of ``scores``; the first of classes with equal scores.
        """
        step = max(1, CHUNK_PIXELS // (shape[0] * shape[1]))
        labels = torch.zeros(shape, dtype=torch.uint8, device=scores.device)
        best = torch.full(shape, -torch.inf, dtype=scores.dtype, device=scores.device)
        for first in range(0, len(scores), step):
            maps = self.undo(scores[first : first + step], shape)
            if maps.device.type == "cpu":  # where one class after the other is up to three times as fast
                for label, score in enumerate(maps, first):
                    labels.masked_fill_(score > best, label)
                    torch.maximum(best, score, out=best)
            else:  # where launches count
                highest, label = maps.max(0)
                labels = torch.where(highest > best, (label + first).to(torch.uint8), labels)
                torch.maximum(best, highest, out=best)
        return labels
