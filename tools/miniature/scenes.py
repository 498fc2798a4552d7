"""Scenes: one to three objects in front of scenery, determined by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tools.miniature.backgrounds import OUTDOOR_GROUNDS, draw_background
from tools.miniature.canvas import Canvas, Pen, Placement
from tools.miniature.class_words import CLASSES
from tools.miniature.objects import HOMES, LOOKS, WIDE, Look

SHAPES = ((384, 384), (288, 384), (384, 288))  # height and width, pixels
SHAPE_CHANCES = (0.6, 0.25, 0.15)
OBJECT_COUNT_CHANCES = (0.55, 0.35, 0.10)  # one, two, three objects


@dataclass(frozen=True)
class Scene:
    """A drawn scene: ``canvas``, and the looks of its objects: ``looks[k - 1]`` is where ``canvas.objects == k``."""

    canvas: Canvas
    looks: tuple[Look, ...]


def draw_scene(seed: int, first: str | None = None) -> Scene:
    """Draw the scene of ``seed``; the class of its first object is ``first``, or any."""
    rng = np.random.default_rng(seed)
    count = 1 + rng.choice(len(OBJECT_COUNT_CHANCES), p=OBJECT_COUNT_CHANCES)
    names = [str(name) for name in rng.choice(CLASSES, count)]
    if first is not None:
        names[0] = first
    canvas = Canvas(*SHAPES[rng.choice(len(SHAPES), p=SHAPE_CHANCES)])
    draw_background(canvas, rng, choose_ground(rng, names[0]))
    looks = []
    for name, frame in zip(names, arrange(canvas, rng, names), strict=True):
        look = LOOKS[name][rng.integers(len(LOOKS[name]))]
        look.draw(Pen(canvas, frame, name), rng)
        looks.append(look)
    return Scene(canvas, tuple(looks))


def choose_ground(rng: Generator, name: str) -> str:
    """The ground of class ``name``: its usual one in half of the scenes, else any."""
    homes = HOMES.get(name)
    if homes and rng.random() < 0.5:
        return str(rng.choice(homes))
    return str(rng.choice(OUTDOOR_GROUNDS)) if rng.random() < 0.62 else "floor"


def arrange(canvas: Canvas, rng: Generator, names: list[str]) -> list[Placement]:
    """Placements of the objects: a single one is large, several share the canvas without hiding one another."""
    height, width = canvas.height, canvas.width
    short = min(height, width)
    if len(names) == 1:
        size = rng.uniform(0.37, 0.47) * short
        # wide objects may use the whole width of a wide scene
        if names[0] in WIDE:
            size = rng.uniform(0.38, 0.47) * min(width, 1.2 * height)
        centres, sizes = [(0.5, 0.5)], [size]
    elif len(names) == 2 and width <= height and all(name in WIDE for name in names):
        centres, sizes = [(0.5, 0.26), (0.5, 0.74)], [min(0.36 * width, 0.32 * height)] * 2
    elif len(names) == 2:
        slope = rng.uniform(-0.1, 0.1)
        centres, sizes = [(0.26, 0.5 - slope), (0.74, 0.5 + slope)], [min(0.25 * width, 0.42 * height)] * 2
        if height > width:
            centres, sizes = [(0.5, 0.26), (0.5, 0.74)], [min(0.36 * width, 0.26 * height)] * 2
    else:
        top = [(0.25, 0.28), (0.75, 0.28), (0.5, 0.75)]
        centres = top if rng.random() < 0.5 else [(x, 1 - y) for x, y in top]
        sizes = [min(0.23 * width, 0.24 * height)] * 3
    if len(names) > 1:
        sizes = [size * rng.uniform(0.9, 1.1) for size in sizes]
    return [
        Placement(
            x=(x + rng.uniform(-0.03, 0.03)) * width,
            y=(y + rng.uniform(-0.03, 0.03)) * height,
            size=size,
            tilt=rng.normal(0, 0.07),
            mirrored=bool(rng.random() < 0.5),
            stretch=(rng.uniform(0.92, 1.06), rng.uniform(0.92, 1.06)),
        )
        for (x, y), size in zip(centres, sizes, strict=True)
    ]
