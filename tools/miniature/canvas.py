"""Draw shapes on a picture and, at the same time, on the map of what every pixel shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from tools.miniature.class_words import CLASSES, SUBJECT_NUMBER, VOID
from tools.miniature.palette import BLACK, Colour

Point = tuple[float, float]

SUBPIXEL_BITS = 4  # polygons are placed on a grid of 1/16 pixel
NUM_CLASSES = len(CLASSES)


class Canvas:
    """A picture and the subject of each pixel.

    Attributes:
        picture: uint8 [height, width, 3], RGB.
        subjects: uint8 [height, width], numbers of subjects (:data:`tools.miniature.class_words.SUBJECTS`).
        objects: uint8 [height, width], 0 for scenery, k for the k-th object.
    """

    def __init__(self, height: int, width: int) -> None:
        self.picture = np.zeros((height, width, 3), np.uint8)
        self.subjects = np.zeros((height, width), np.uint8)
        self.objects = np.zeros((height, width), np.uint8)

    @property
    def height(self) -> int:
        return self.picture.shape[0]

    @property
    def width(self) -> int:
        return self.picture.shape[1]

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every pixel, as open grids [height, 1] and [1, width]."""
        return np.arange(self.height)[:, None], np.arange(self.width)[None]

    def fill(
        self,
        rng: Generator,
        region: np.ndarray | np.bool,
        subject: str,
        top: Colour,
        bottom: Colour,
        grain: int = 4,
        cell: int = 6,
    ) -> None:
        """Fill ``region`` (bool, broadcast to [height, width]) with scenery.

        The colour runs from ``top`` at the upper edge of the picture to ``bottom`` at the lower edge, with blotches of
        about ``cell`` pixels that are up to ``grain`` grey levels lighter or darker.
        """
        region = np.broadcast_to(region, self.subjects.shape)
        depth = np.linspace(0, 1, self.height)[:, None]
        gradient = np.array(top) * (1 - depth) + np.array(bottom) * depth  # [height, 3]
        noise = blotches(rng, self.height, self.width, grain, cell)
        colours = gradient.astype(np.int16)[np.nonzero(region)[0]] + noise[region][:, None]
        self.picture[region] = np.clip(colours, 0, 255).astype(np.uint8)
        self.subjects[region] = SUBJECT_NUMBER[subject]

    def tint(self, region: np.ndarray, colour: Colour) -> None:
        """Draw a detail of the scenery: ``region`` takes ``colour``; what it shows stays the same."""
        self.picture[np.broadcast_to(region, self.subjects.shape)] = np.array(colour, np.uint8)

    def labels(self) -> np.ndarray:
        """The segmentation mask, uint8 [height, width]: 0 background, 1 to 20 classes, void around every object.

        As in PASCAL VOC, the two pixels at either side of an object's outline are void.
        """
        labels = np.where(self.subjects <= NUM_CLASSES, self.subjects, 0).astype(np.uint8)
        window = np.ones((5, 5), np.uint8)
        outline = cv2.dilate(self.objects, window) != cv2.erode(self.objects, window)
        labels[outline] = VOID
        return labels


@dataclass(frozen=True)
class Placement:
    """Position of an object: the unit square [-1, 1] x [-1, 1] (y down) is moved to ``x``, ``y``.

    Attributes:
        x, y: centre in pixels.
        size: half the side of the unit square, in pixels.
        tilt: in radians.
        mirrored: left and right exchanged.
        stretch: width and height are multiplied by these.
    """

    x: float
    y: float
    size: float
    tilt: float = 0.0
    mirrored: bool = False
    stretch: Point = (1.0, 1.0)

    def matrix(self) -> np.ndarray:
        """[2, 2], from frame coordinates to pixels (without the shift by the centre)."""
        cos, sin = math.cos(self.tilt) * self.size, math.sin(self.tilt) * self.size
        width = -self.stretch[0] if self.mirrored else self.stretch[0]
        height = self.stretch[1]
        return np.array([[cos * width, -sin * height], [sin * width, cos * height]])


class Pen:
    """Draws one object on a canvas, in the coordinates of its frame."""

    def __init__(self, canvas: Canvas, frame: Placement, subject: str) -> None:
        self.canvas = canvas
        self.matrix = frame.matrix()
        self.centre = np.array([frame.x, frame.y])
        self.subject = SUBJECT_NUMBER[subject]
        self.number = int(canvas.objects.max()) + 1

    def polygon(self, points: Sequence[Point] | np.ndarray, colour: Colour) -> None:
        """Fill the polygon through ``points``."""
        pixels = np.asarray(points, float) @ self.matrix.T + self.centre
        corners = np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(self.canvas.picture, [corners], colour, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.fillPoly(self.canvas.subjects, [corners], self.subject, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.fillPoly(self.canvas.objects, [corners], self.number, cv2.LINE_8, SUBPIXEL_BITS)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour, tilt: float = 0.0) -> None:
        """Fill the ellipse around (x, y) with half axes ``width`` and ``height``, turned by ``tilt`` radians."""
        angles = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        across, down = width * np.cos(angles), height * np.sin(angles)
        cos, sin = math.cos(tilt), math.sin(tilt)
        self.polygon(np.stack([x + cos * across - sin * down, y + sin * across + cos * down], 1), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.ellipse(x, y, radius, radius, colour)

    def line(self, points: Sequence[Point], thickness: float, colour: Colour) -> None:
        """Draw straight strokes from point to point, with round joints."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = math.hypot(x1 - x0, y1 - y0)
            dx, dy = -(y1 - y0) / length * thickness / 2, (x1 - x0) / length * thickness / 2
            stroke = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
            self.polygon(stroke, colour)
        for x, y in points[1:-1]:
            self.disc(x, y, thickness / 2, colour)

    def wheel(self, x: float, y: float, radius: float, hub: Colour) -> None:
        """A black tyre around a ``hub`` of half its radius."""
        self.disc(x, y, radius, BLACK)
        self.disc(x, y, radius / 2, hub)


def blotches(rng: Generator, height: int, width: int, grain: int, cell: int) -> np.ndarray:
    """Smooth noise in -grain..grain, int16 [height, width], with blotches of about ``cell`` pixels.

    Integer noise, enlarged by OpenCV's bit-exact interpolation, so that every machine draws the same.
    """
    coarse = rng.integers(0, 2 * grain + 1, (height // cell + 2, width // cell + 2)).astype(np.uint8)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return fine.astype(np.int16) - grain
