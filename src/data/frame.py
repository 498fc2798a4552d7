"""The square frame in which the model sees images and labels are compared, and the way back out of it.

docs/method.md, "Frame", tells its rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.schema import Config, DatasetConfig, ModelConfig

CELL = 8  # resized sides are floored to a multiple of this, as published
CHUNK_PIXELS = 2**24  # of class maps brought back to an image's size at once; a map of more pixels comes alone


@dataclass(frozen=True)
class Frame:
    """A square of ``size`` pixels: an image's longer side fills it, the rest is padded; colours are normalised.

    The shape of an image is always (height, width) of the untouched image, in pixels.

    Attributes:
        size: S, side of the frame, pixels.
        mean: per channel, of colours from 0 to 1.
        std: likewise.
    """

    size: int = ModelConfig.image_size
    mean: tuple[float, float, float] = DatasetConfig.mean
    std: tuple[float, float, float] = DatasetConfig.std

    @classmethod
    def from_config(cls, config: Config) -> Frame:
        """The frame of a configuration: ``model.image_size``, ``dataset.mean`` and ``dataset.std``."""
        return cls(config.model.image_size, config.dataset.mean, config.dataset.std)

    def inner(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of ``shape`` has inside the frame, where it lies at the top left."""
        height, width = shape
        # the longer side is the frame's by definition: 389 * (128 / 389) is 127.99... in floating point; of a square
        # that is the height, and its width may lose a cell to floating point, as published
        if height >= width:
            height, width = self.size, int(width * (self.size / height))
        else:
            height, width = int(height * (self.size / width)), self.size
        height, width = height // CELL * CELL, width // CELL * CELL
        # an image more than size / 8 times longer than wide would vanish; it keeps one cell instead
        return max(height, CELL), max(width, CELL)

    def image(self, rgb: np.ndarray) -> Tensor:
        """Put an image in: resized bilinearly, padded with black, normalised.

        Args:
            rgb: uint8 [height, width, 3].

        Returns:
            float32 [3, S, S]: (x / 255 - mean) / std, padding included.
        """
        height, width = self.inner((rgb.shape[0], rgb.shape[1]))
        planes = np.zeros((3, self.size, self.size), np.float32)
        resized = cv2.resize(rgb.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        planes[:, :height, :width] = resized.transpose(2, 0, 1)
        # in place, a plane a channel: ten times as fast as on interleaved channels, with the same roundings
        planes /= np.float32(255)
        planes -= np.asarray(self.mean, np.float32)[:, None, None]
        planes /= np.asarray(self.std, np.float32)[:, None, None]
        return torch.from_numpy(planes)

    def mask(self, labels: np.ndarray, ignore_label: int) -> np.ndarray:
        """Put labels in, uint8 [height, width] to [S, S]: resized to the nearest, padded with ``ignore_label``."""
        height, width = self.inner((labels.shape[0], labels.shape[1]))
        framed = np.full((self.size, self.size), ignore_label, labels.dtype)
        framed[:height, :width] = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        return framed

    def undo(self, maps: Tensor, shape: tuple[int, int]) -> Tensor:
        """Bring maps [K, S, S] back to the image: padding cut off, resized bilinearly, [K, height, width]."""
        height, width = self.inner(shape)
        cropped = maps[None, :, :height, :width]
        return F.interpolate(cropped, size=shape, mode="bilinear", align_corners=False)[0]

    def labels(self, scores: Tensor, shape: tuple[int, int]) -> Tensor:
        """The class of the highest score at each pixel of the image: argmax of :meth:`undo`, a few classes at a time.

        All classes of an image of 100 megapixels would not fit into memory.

        Args:
            scores: [C, S, S] class scores.
            shape: of the image.

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
