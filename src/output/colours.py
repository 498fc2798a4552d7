"""Colours of labels: PASCAL VOC's for data sets, and a set that is safe for colour-blind readers for photos."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

IGNORED = 255
SAFE_DISTANCE = 12.0
"""Least distance (CIE 1976 delta E) of two classes' colours in the safe set, under every kind of vision."""

# Okabe and Ito (2008), without black, which is the background's
OKABE_ITO = ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")

VISIONS = {
    "normal": np.eye(3),
    # on linear RGB, severity 1.0: Machado, Oliveira and Fernandes (2009)
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def voc_palette() -> np.ndarray:
    """The colours of PASCAL VOC's label maps, uint8 [256, 3].

    Bit 3 k + c of a label is bit 7 - k of channel c (the colour map of the VOC devkit).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (labels >> (3 * bit + channel) & 1) << (7 - bit)
    return palette.astype(np.uint8)


VOC_PALETTE = voc_palette()


@cache
def safe_palette() -> np.ndarray:
    """Colours for the classes of photos, uint8 [256, 3]: Okabe and Ito's, then generated ones.

    Each generated colour is the candidate farthest from all before it under the worst kind of vision. When no candidate
    is farther than :data:`SAFE_DISTANCE`, the colours repeat.
    """
    steps = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3).astype(np.uint8)
    seen = as_seen(candidates)
    light = seen[0, :, 0]
    usable = (light > 25) & (light < 92)  # neither the background's black nor the paper's white
    candidates, seen = candidates[usable], seen[:, usable]
    colours = [bytes.fromhex(colour) for colour in OKABE_ITO]
    taken = [(0, 0, 0), *colours, tuple(VOC_PALETTE[IGNORED])]
    nearest = np.min([_distances(seen, colour) for colour in taken], 0)
    while nearest.max() >= SAFE_DISTANCE:
        best = candidates[nearest.argmax()]
        colours.append(bytes(best))
        nearest = np.minimum(nearest, _distances(seen, best))
    palette = VOC_PALETTE.copy()  # background and ignored pixels look as they do in data sets
    for label in range(1, IGNORED):
        palette[label] = list(colours[(label - 1) % len(colours)])
    return palette


def as_seen(colours: np.ndarray) -> np.ndarray:
    """CIE Lab of ``colours``, uint8 [N, 3] in sRGB, under each of :data:`VISIONS`: float32 [4, N, 3]."""
    srgb = colours.astype(np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.stack([linear @ matrix.T for matrix in VISIONS.values()]).clip(0, 1)
    shown = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(shown.astype(np.float32), cv2.COLOR_RGB2LAB)


def _distances(seen: np.ndarray, colour: object) -> np.ndarray:
    """[N] distance of each candidate in Lab [4, N, 3] from ``colour``, under the vision that confuses them most."""
    other = as_seen(np.array([list(colour)], np.uint8))  # type: ignore[call-overload]
    return np.linalg.norm(seen - other, axis=2).min(0)
