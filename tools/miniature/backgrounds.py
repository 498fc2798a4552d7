"""Scenery behind the objects: an outdoor view or a room."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from tools.miniature.canvas import Canvas, blotches
from tools.miniature.palette import choose, dark, jitter, light, vivid

OUTDOOR_GROUNDS = ("grass", "road", "sea", "sands")


def draw_background(canvas: Canvas, rng: Generator, ground: str) -> None:
    """Draw an outdoor view on ``ground`` (one of :data:`OUTDOOR_GROUNDS`), or a room if it is ``"floor"``."""
    if ground == "floor":
        draw_room(canvas, rng)
    else:
        draw_outdoors(canvas, rng, ground)


def draw_outdoors(canvas: Canvas, rng: Generator, ground: str) -> None:
    """Sky, sometimes clouds; something far away; the ground, sometimes a fence on it."""
    horizon = rng.uniform(0.38, 0.72) * canvas.height
    sky(canvas, rng)
    if rng.random() < 0.3:
        clouds(canvas, rng, horizon)
    far = rng.choice(["mountain", "hill", "building", "tree", "nothing"])
    if far == "mountain":
        mountains(canvas, rng, horizon)
    elif far == "hill":
        hills(canvas, rng, horizon)
    elif far == "building":
        buildings(canvas, rng, horizon)
    elif far == "tree":
        trees(canvas, rng, horizon)
    {"grass": grass, "road": road, "sea": sea, "sands": sands}[ground](canvas, rng, horizon)
    if ground != "sea" and rng.random() < 0.12:
        fence(canvas, rng, horizon)


def draw_room(canvas: Canvas, rng: Generator) -> None:
    """A wall and a floor, sometimes a window, a door or a curtain."""
    horizon = rng.uniform(0.52, 0.82) * canvas.height
    wall(canvas, rng)
    floor(canvas, rng, horizon)
    if rng.random() < 0.3:
        window(canvas, rng, horizon)
    if rng.random() < 0.2:
        door(canvas, rng, horizon)
    if rng.random() < 0.2:
        curtain(canvas, rng, horizon)


def sky(canvas: Canvas, rng: Generator) -> None:
    top = choose(rng, ((110, 170, 235), (150, 195, 240), (240, 170, 120), (150, 160, 175)))
    canvas.fill(rng, np.True_, "sky", top, light(top, 0.5), grain=2, cell=40)


def clouds(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """One to three heaps of four puffs each, above the horizon."""
    row, column = canvas.grid()
    region = np.zeros((canvas.height, canvas.width), bool)
    unit = canvas.width / 128
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0.05, 0.6) * horizon
        for puff in range(4):
            dx = (column - x - (9 * puff - 14) * unit) / (rng.uniform(10, 17) * unit)
            dy = (row - y - rng.uniform(-4, 4) * unit) / (rng.uniform(7, 11) * unit)
            region |= dx**2 + dy**2 < 1
    canvas.fill(rng, region, "cloud", (250, 250, 250), (225, 228, 235), grain=3, cell=20)


def mountains(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """A jagged rock range."""
    row, column = canvas.grid()
    heights = np.abs(rng.normal(0, 0.17, 7)) * canvas.height + 0.12 * canvas.height
    ridge = np.interp(column[0], np.linspace(0, canvas.width, 7), heights)
    rock = jitter(rng, (120, 115, 125))
    canvas.fill(rng, row > horizon - ridge, "mountain", light(rock, 0.5), rock, grain=14, cell=12)


def hills(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Round green waves."""
    row, column = canvas.grid()
    length, shift = rng.uniform(0.09, 0.17) * canvas.width, rng.uniform(0, 6)
    crest = horizon - 0.1 * canvas.height + 0.07 * canvas.height * np.sin(column / length + shift)
    green = jitter(rng, (130, 145, 70))
    canvas.fill(rng, row > crest, "hill", green, dark(green, 0.8), grain=4, cell=40)


def buildings(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """A row of houses with windows."""
    row, column = canvas.grid()
    unit = canvas.width / 128
    left = rng.uniform(-10, 15) * unit
    while left < canvas.width:
        width, height = rng.uniform(20, 36) * unit, rng.uniform(0.22, 0.5) * canvas.height
        house = (column >= left) & (column < left + width) & (row > horizon - height)
        plaster = choose(rng, ((170, 120, 100), (150, 150, 155), (200, 185, 150)))
        canvas.fill(rng, house, "building", plaster, dark(plaster, 0.85), grain=2, cell=20)
        across, down = (column - left) / unit % 8, (row - horizon + height) / unit % 11
        panes = house & (across > 2.5) & (across < 6.5) & (down > 4.5)
        canvas.tint(panes, (235, 225, 140) if rng.random() < 0.4 else (70, 80, 100))
        left += width + max(rng.uniform(-10, 20), 0) * unit


def trees(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Two to five trees: a trunk and a ragged crown."""
    row, column = canvas.grid()
    unit = canvas.width / 128
    for _ in range(rng.integers(2, 6)):
        x, height, radius = (
            rng.uniform(0, canvas.width),
            rng.uniform(22, 46) * unit,
            rng.uniform(13, 20) * unit,
        )
        trunk = (np.abs(column - x) < 3 * unit) & (row > horizon - height) & (row <= horizon)
        canvas.fill(rng, trunk, "tree", (95, 65, 35), (80, 55, 35))
        rag = blotches(rng, canvas.height, canvas.width, 4, 20) * unit
        crown = (column - x) ** 2 + (0.85 * (row - horizon + height)) ** 2 < (radius + rag) ** 2
        green = jitter(rng, (40, 100, 45))
        canvas.fill(rng, crown, "tree", light(green, 0.15), green, grain=16, cell=9)


def grass(canvas: Canvas, rng: Generator, horizon: float) -> None:
    green = jitter(rng, (95, 170, 65))
    canvas.fill(rng, _below(canvas, rng, horizon), "grass", green, dark(green, 0.8), grain=14, cell=5)


def road(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Asphalt with a dashed line."""
    grey = jitter(rng, (108, 106, 110), 10)
    ground = _below(canvas, rng, horizon)
    canvas.fill(rng, ground, "road", grey, dark(grey, 0.85), grain=5, cell=4)
    row, column = canvas.grid()
    unit = canvas.width / 128
    line = rng.uniform(horizon + 8 * unit, max(horizon + 9 * unit, canvas.height - 4 * unit))
    canvas.tint(ground & (np.abs(row - line) < 1.5 * unit) & (column / unit % 18 < 10), (235, 235, 220))


def sea(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Blue water with short bright waves."""
    blue = jitter(rng, (40, 105, 165))
    canvas.fill(rng, canvas.grid()[0] > horizon, "sea", light(blue, 0.15), dark(blue, 0.85), grain=5, cell=16)
    row, column = canvas.grid()
    unit = canvas.width / 128
    for _ in range(24):
        x, y = rng.uniform(-5, 128) * unit, rng.uniform(horizon + 3 * unit, canvas.height)
        wave = (np.abs(row - y) < 0.8 * unit) & (column > x) & (column < x + rng.uniform(5, 13) * unit)
        canvas.tint(wave, light(blue, 0.4))


def sands(canvas: Canvas, rng: Generator, horizon: float) -> None:
    yellow = jitter(rng, (228, 202, 145), 10)
    canvas.fill(rng, _below(canvas, rng, horizon), "sands", yellow, dark(yellow, 0.85), grain=6, cell=6)


def fence(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Boards and two rails along the horizon."""
    row, column = canvas.grid()
    unit = canvas.width / 128
    wood = choose(rng, ((190, 140, 85), (235, 235, 230), (110, 75, 45)))
    near = (row > horizon - 20 * unit) & (row < horizon + 8 * unit)
    board = column / unit % 11 < 7
    rail = np.abs(np.abs(row - horizon + 6 * unit) - 7 * unit) < 2 * unit
    canvas.fill(rng, near & (board | rail), "fence", wood, dark(wood, 0.9), grain=5, cell=8)


def wall(canvas: Canvas, rng: Generator) -> None:
    """Painted plaster, sometimes with stripes or boards."""
    row, column = canvas.grid()
    colour = light(vivid(rng), rng.uniform(0.55, 0.85)) if rng.random() < 0.7 else jitter(rng, (200, 195, 185))
    canvas.fill(rng, np.True_, "wall", colour, dark(colour, 0.9), grain=2, cell=30)
    unit = canvas.width / 128
    step, pattern = rng.uniform(9, 20), rng.random()
    if pattern < 0.3:
        canvas.tint(column / unit % step < 1, dark(colour, 0.88))
    elif pattern < 0.5:
        canvas.tint(row / unit % step < 1, dark(colour, 0.88))


def floor(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Floorboards that run towards the middle of the wall."""
    row, column = canvas.grid()
    wood = choose(rng, ((160, 110, 65), (185, 150, 110), (130, 120, 115), (205, 190, 170)))
    ground = np.broadcast_to(row > horizon, (canvas.height, canvas.width))
    canvas.fill(rng, ground, "floor", wood, dark(wood, 0.8), grain=4, cell=24)
    unit = canvas.width / 128
    spread = 1 + (row - horizon) / (60 * unit)
    across = (column - canvas.width / 2) / (unit * spread)
    canvas.tint(ground & (across % 14 < 1 / spread), dark(wood, 0.65))


def window(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """A pane with a white frame and a cross."""
    left, right, width = _span(canvas, rng, 0.24, 0.36)
    top = rng.uniform(0.05, 0.15) * canvas.height
    bottom = top + rng.uniform(0.55, 0.7) * (horizon - top)
    row, column = canvas.grid()
    pane = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    canvas.fill(rng, pane, "window", (165, 212, 245), (215, 238, 250), grain=3, cell=30)
    bar = 0.05 * width
    from_side = np.minimum(np.minimum(column - left, right - column), np.abs(column - (left + right) / 2) + bar / 2)
    from_top = np.minimum(np.minimum(row - top, bottom - row), np.abs(row - (top + bottom) / 2) + bar / 2)
    canvas.tint(pane & (np.minimum(from_side, from_top) < 1.3 * bar), (240, 240, 235))


def door(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Two panels and a knob, standing on the floor."""
    left, right, width = _span(canvas, rng, 0.2, 0.27)
    top = rng.uniform(0.08, 0.25) * horizon
    row, column = canvas.grid()
    leaf = (column >= left) & (column < right) & (row >= top) & (row <= horizon)
    wood = choose(rng, ((140, 90, 45), (95, 60, 35), (190, 140, 85)))
    canvas.fill(rng, leaf, "door", wood, wood, grain=4, cell=16)
    middle = (top + horizon) / 2
    rim = 0.13 * width
    for above, below in ((top, middle), (middle, horizon)):
        depth = np.minimum(np.minimum(column - left, right - column), np.minimum(row - above, below - row))
        canvas.tint(leaf & (np.abs(depth - rim) < 0.03 * width), dark(wood, 0.7))
    knob = (column - right + 0.09 * width) ** 2 + (row - middle) ** 2 < (0.06 * width) ** 2
    canvas.tint(knob, (235, 205, 90))


def curtain(canvas: Canvas, rng: Generator, horizon: float) -> None:
    """Cloth in folds, from the ceiling down to the floor."""
    left, right, width = _span(canvas, rng, 0.16, 0.26)
    row, column = canvas.grid()
    cloth = vivid(rng)
    region = (column >= left) & (column < right) & (row < horizon - 0.01 * canvas.height)
    canvas.fill(rng, region, "curtain", light(cloth, 0.1), cloth, grain=2, cell=30)
    canvas.tint(region & ((column - left) % (0.25 * width) < 0.1 * width), dark(cloth, 0.72))


def _below(canvas: Canvas, rng: Generator, horizon: float) -> np.ndarray:
    """Pixels below a slightly wavy horizon, bool [height, width]."""
    row, column = canvas.grid()
    waves = rng.normal(0, 0.012 * canvas.height, 6)
    return row > horizon + np.interp(column[0], np.linspace(0, canvas.width, 6), waves)


def _span(canvas: Canvas, rng: Generator, narrowest: float, widest: float) -> tuple[float, float, float]:
    """Left, right and width of something on the wall; the range of widths is given as parts of the canvas."""
    width = rng.uniform(narrowest, widest) * canvas.width
    left = rng.uniform(0, canvas.width - width)
    return left, left + width, width
