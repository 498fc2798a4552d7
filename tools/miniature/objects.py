"""The twenty classes, one drawing function each (two for boats and people, which have two looks).

Functions draw in the unit square of the pen: x to the right and y down, from -1 to 1. Objects with a front face right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from tools.miniature.canvas import Pen
from tools.miniature.class_words import CLASSES, WORDS_OF
from tools.miniature.palette import (
    BLACK,
    GLASS,
    HAIRS,
    LAMP,
    SKINS,
    STEEL,
    WOODS,
    Colour,
    choose,
    dark,
    jitter,
    light,
    paint_colour,
    vivid,
)


def airplane(pen: Pen, rng: Generator) -> None:
    body = light(paint_colour(rng), 0.4)
    wing = dark(body, 0.75)
    pen.polygon([(0.2, -0.05), (-0.2, -0.62), (-0.48, -0.62), (-0.25, -0.05)], wing)
    pen.ellipse(0, 0, 1, 0.23, body)
    pen.polygon([(-0.68, -0.05), (-1, -0.55), (-0.75, -0.57), (-0.4, -0.12)], vivid(rng))
    pen.polygon([(0.28, 0.05), (-0.3, 0.68), (-0.6, 0.66), (-0.28, 0.05)], wing)
    for window in range(6):
        pen.disc(-0.45 + 0.2 * window, -0.06, 0.05, BLACK)
    pen.ellipse(0.8, -0.07, 0.1, 0.07, GLASS)


def bicycle(pen: Pen, rng: Generator) -> None:
    frame = paint_colour(rng)
    for x in (-0.57, 0.57):
        pen.disc(x, 0.26, 0.43, BLACK)
        pen.disc(x, 0.26, 0.33, (205, 205, 210))
        for angle in (0.3, 1.35, 2.4):
            across, down = 0.33 * math.cos(angle), 0.33 * math.sin(angle)
            pen.line([(x - across, 0.26 - down), (x + across, 0.26 + down)], 0.035, (130, 130, 135))
    pen.line([(-0.57, 0.26), (-0.25, -0.28), (0.38, -0.28), (0, 0.3), (-0.57, 0.26)], 0.12, frame)
    pen.line([(0, 0.3), (-0.32, -0.42)], 0.12, frame)
    pen.line([(0.57, 0.26), (0.36, -0.52)], 0.12, frame)
    pen.rectangle(-0.52, -0.52, -0.12, -0.4, BLACK)
    pen.line([(0.22, -0.55), (0.55, -0.58)], 0.11, BLACK)


def bird(pen: Pen, rng: Generator) -> None:
    feathers = choose(rng, ((215, 50, 45), (50, 110, 215), (245, 205, 50), (90, 60, 45)))
    for x in (-0.07, 0.12):
        pen.line([(x, 0.3), (x, 0.8)], 0.08, (230, 150, 40))
    pen.polygon([(-0.4, -0.1), (-1, -0.2), (-0.95, 0.28), (-0.3, 0.3)], dark(feathers))
    pen.ellipse(0, 0.02, 0.66, 0.48, feathers, tilt=0.15)
    pen.ellipse(0.06, 0.22, 0.44, 0.24, light(feathers, 0.6), tilt=0.1)
    pen.disc(0.48, -0.4, 0.36, feathers)
    pen.polygon([(0.74, -0.52), (1.12, -0.33), (0.74, -0.2)], (245, 160, 20))
    pen.disc(0.57, -0.46, 0.11, (250, 250, 250))
    pen.disc(0.6, -0.46, 0.06, BLACK)
    pen.ellipse(-0.18, -0.02, 0.42, 0.25, dark(feathers), tilt=-0.3)


def sailing_boat(pen: Pen, rng: Generator) -> None:
    hull = choose(rng, WOODS) if rng.random() < 0.6 else vivid(rng)
    sail = light(vivid(rng), rng.uniform(0.4, 0.9))
    pen.rectangle(-0.05, -0.98, 0.04, 0.3, (110, 75, 45))
    pen.polygon([(0.05, -0.95), (0.05, 0.2), (0.85, 0.2)], sail)
    pen.polygon([(-0.06, -0.85), (-0.06, 0.2), (-0.7, 0.2)], light(sail, 0.3))
    pen.polygon([(-1, 0.24), (1, 0.24), (0.68, 0.78), (-0.68, 0.78)], hull)
    pen.line([(-0.88, 0.38), (0.88, 0.38)], 0.08, light(hull, 0.6))


def speedboat(pen: Pen, rng: Generator) -> None:
    hull = vivid(rng)
    pen.rectangle(-0.55, -0.5, 0.1, 0.1, light(hull, 0.7))
    pen.polygon([(0.1, -0.45), (0.35, 0.1), (0.1, 0.1)], GLASS)
    for x in (-0.42, -0.15):
        pen.rectangle(x, -0.38, x + 0.18, -0.12, GLASS)
    pen.polygon([(-1, 0.02), (1.05, -0.05), (0.6, 0.62), (-0.85, 0.62)], hull)
    pen.line([(-0.93, 0.2), (0.85, 0.16)], 0.1, (245, 245, 245))
    pen.rectangle(-1.08, 0.05, -0.92, 0.55, BLACK)


def bottle(pen: Pen, rng: Generator) -> None:
    glass = choose(rng, ((30, 120, 60), (30, 120, 60), (125, 70, 25), (45, 95, 150)))
    pen.rectangle(-0.19, -0.85, 0.19, -0.4, glass)
    pen.polygon([(-0.45, 1), (-0.45, -0.15), (-0.19, -0.5), (0.19, -0.5), (0.45, -0.15), (0.45, 1)], glass)
    pen.rectangle(-0.23, -1, 0.23, -0.8, choose(rng, ((215, 45, 40), (235, 200, 70))))
    pen.rectangle(-0.45, 0.12, 0.45, 0.62, choose(rng, ((235, 215, 160), (240, 240, 235), (240, 190, 175)), 8))
    pen.rectangle(-0.36, -0.1, -0.22, 0.95, light(glass, 0.6))


def bus(pen: Pen, rng: Generator) -> None:
    body = paint_colour(rng)
    pen.rectangle(-1, -0.62, 1, 0.5, body)
    pen.rectangle(-1, 0.12, 1, 0.24, light(body, 0.6))
    for window in range(5):
        pen.rectangle(-0.92 + 0.34 * window, -0.47, -0.64 + 0.34 * window, -0.02, GLASS)
    pen.rectangle(0.78, -0.42, 0.97, 0.44, dark(GLASS, 0.8))
    for x in (-0.58, 0.48):
        pen.wheel(x, 0.5, 0.22, STEEL)


def car(pen: Pen, rng: Generator) -> None:
    body = paint_colour(rng)
    pen.polygon([(-0.65, 0), (-0.38, -0.46), (0.32, -0.46), (0.68, 0)], body)
    pen.polygon([(-0.48, -0.04), (-0.29, -0.36), (-0.03, -0.36), (-0.03, -0.04)], GLASS)
    pen.polygon([(0.04, -0.04), (0.04, -0.36), (0.26, -0.36), (0.48, -0.04)], GLASS)
    pen.polygon([(-1, 0.36), (-1, 0.02), (-0.6, -0.06), (0.65, -0.06), (0.98, 0.08), (1, 0.36)], body)
    for x in (-0.55, 0.56):
        pen.wheel(x, 0.36, 0.26, STEEL)
    pen.disc(0.92, 0.13, 0.07, LAMP)
    pen.ellipse(-0.95, 0.11, 0.05, 0.08, (220, 40, 30))


def cat(pen: Pen, rng: Generator) -> None:
    fur = choose(rng, ((130, 130, 138), (45, 42, 45), (225, 135, 45), (225, 222, 215)))
    pen.line([(0.35, 0.78), (0.78, 0.62), (0.85, 0.12), (0.7, -0.1)], 0.17, fur)
    pen.ellipse(0, 0.42, 0.5, 0.56, fur)
    pen.ellipse(0, -0.38, 0.5, 0.42, fur)
    for side in (-1, 1):
        pen.polygon([(side * 0.48, -0.45), (side * 0.44, -1), (side * 0.08, -0.7)], fur)
        pen.polygon([(side * 0.4, -0.62), (side * 0.39, -0.85), (side * 0.2, -0.7)], (235, 160, 160))
        pen.ellipse(side * 0.18, -0.42, 0.09, 0.11, (150, 210, 70))
        pen.ellipse(side * 0.18, -0.42, 0.035, 0.1, BLACK)
        pen.ellipse(side * 0.22, 0.92, 0.18, 0.1, light(fur))
    pen.ellipse(0, -0.26, 0.07, 0.05, (230, 120, 130))
    pen.ellipse(0, 0.5, 0.24, 0.34, light(fur))


def chair(pen: Pen, rng: Generator) -> None:
    wood = choose(rng, WOODS)
    shade = dark(wood)
    for x in (-0.36, 0.2):
        pen.rectangle(x - 0.07, 0.15, x + 0.1, 0.85, shade)
    pen.rectangle(-0.64, -1, -0.46, 1, wood)
    pen.rectangle(0.44, 0.1, 0.62, 1, wood)
    pen.polygon([(-0.5, -0.98), (0.34, -0.9), (0.34, 0.05), (-0.5, 0.05)], shade)
    for x in (-0.34, -0.1, 0.14):
        pen.rectangle(x - 0.07, -0.86, x + 0.07, 0.05, light(wood, 0.25))
    pen.rectangle(-0.52, -1, 0.36, -0.82, wood)
    pen.rectangle(-0.68, 0, 0.68, 0.26, wood)


def cow(pen: Pen, rng: Generator) -> None:
    hide = jitter(rng, (240, 238, 230), 8)
    patch = choose(rng, ((45, 35, 32), (120, 70, 40)), 10)
    for x in (-0.68, -0.42, 0.16, 0.42):
        pen.rectangle(x - 0.11, 0.2, x + 0.11, 0.82, hide)
        pen.rectangle(x - 0.11, 0.7, x + 0.11, 0.82, BLACK)
    pen.ellipse(-0.28, 0.4, 0.18, 0.14, (245, 170, 175))
    pen.rectangle(-0.82, -0.4, 0.55, 0.38, hide)
    pen.ellipse(-0.5, -0.1, 0.22, 0.22, patch)
    pen.ellipse(0.05, 0.08, 0.26, 0.2, patch)
    pen.ellipse(0.28, -0.24, 0.16, 0.13, patch)
    pen.line([(-0.8, -0.3), (-0.95, 0.3)], 0.09, patch)
    pen.polygon([(0.43, -0.62), (0.93, -0.62), (0.88, 0.04), (0.5, 0.04)], hide)
    pen.rectangle(0.48, -0.14, 0.9, 0.08, (245, 175, 175))
    for x, tip in ((0.47, 0.36), (0.89, 1.0)):
        pen.line([(x, -0.6), (tip, -0.88)], 0.1, (235, 225, 190))
    for x in (0.58, 0.79):
        pen.disc(x, -0.4, 0.055, BLACK)
    pen.ellipse(0.36, -0.5, 0.13, 0.08, patch)


def dining_table(pen: Pen, rng: Generator) -> None:
    wood = choose(rng, WOODS[:3])
    for x in (-0.82, 0.66):
        pen.rectangle(x, -0.1, x + 0.17, 0.78, dark(wood, 0.75))
    for x in (-0.46, 0.34):
        pen.rectangle(x, -0.1, x + 0.12, 0.58, dark(wood, 0.55))
    pen.polygon([(-0.75, -0.42), (0.75, -0.42), (1, 0), (-1, 0)], wood)
    pen.rectangle(-1, 0, 1, 0.18, dark(wood, 0.7))
    for x in (-0.42, 0.38):
        pen.ellipse(x, -0.2, 0.24, 0.1, (245, 245, 245))
        pen.ellipse(x, -0.2, 0.13, 0.05, vivid(rng))
    pen.rectangle(-0.08, -0.5, 0.08, -0.2, light(vivid(rng)))


def dog(pen: Pen, rng: Generator) -> None:
    fur = choose(rng, ((205, 150, 80), (165, 105, 55), (235, 205, 150)))
    shade = dark(fur, 0.55)
    for x, colour in ((-0.6, fur), (-0.36, shade), (0.16, fur), (0.4, shade)):
        pen.rectangle(x - 0.1, 0.2, x + 0.1, 0.85, colour)
    pen.line([(-0.65, 0), (-0.98, -0.42)], 0.18, fur)
    pen.ellipse(-0.08, 0.1, 0.72, 0.38, fur)
    pen.disc(0.54, -0.35, 0.38, fur)
    pen.ellipse(0.86, -0.25, 0.25, 0.17, light(fur, 0.25))
    pen.disc(1.04, -0.3, 0.08, BLACK)
    pen.ellipse(0.36, -0.26, 0.15, 0.35, shade, tilt=0.15)
    pen.disc(0.66, -0.43, 0.065, BLACK)
    pen.line([(0.3, -0.06), (0.64, 0.02)], 0.1, (210, 40, 40))
    pen.polygon([(0.83, -0.13), (0.98, -0.13), (0.93, 0.1)], (235, 110, 120))


def horse(pen: Pen, rng: Generator) -> None:
    coat = choose(rng, ((120, 62, 30), (90, 52, 32), (150, 82, 40)), 10)
    mane = dark(coat, 0.35)
    for x, colour in ((-0.6, coat), (-0.4, dark(coat, 0.75)), (0.2, dark(coat, 0.75)), (0.44, coat)):
        pen.line([(x, 0.1), (x + 0.03, 0.95)], 0.17, colour)
        pen.rectangle(x - 0.07, 0.87, x + 0.14, 0.98, BLACK)
    pen.polygon([(-0.6, -0.12), (-0.85, 0), (-0.95, 0.65), (-0.74, 0.6)], mane)
    pen.ellipse(-0.08, 0.06, 0.68, 0.33, coat)
    pen.polygon([(0.14, 0.05), (0.42, -0.78), (0.7, -0.72), (0.6, 0.16)], coat)
    pen.polygon([(0.43, -0.87), (0.7, -0.87), (1.06, -0.42), (0.92, -0.26), (0.6, -0.48)], coat)
    pen.polygon([(0.06, -0.07), (0.36, -0.84), (0.52, -0.88), (0.28, 0)], mane)
    pen.polygon([(0.5, -0.82), (0.54, -1.03), (0.66, -0.84)], coat)
    pen.disc(0.72, -0.65, 0.05, BLACK)


def motorcycle(pen: Pen, rng: Generator) -> None:
    tank = vivid(rng)
    for x in (-0.6, 0.62):
        pen.wheel(x, 0.3, 0.4, STEEL)
    pen.polygon([(-0.72, -0.12), (0.32, -0.14), (0.32, 0.38), (-0.32, 0.4)], tank)
    pen.ellipse(0.12, -0.2, 0.37, 0.22, light(tank, 0.2))
    pen.polygon([(-0.92, -0.34), (-0.1, -0.25), (-0.1, -0.06), (-0.82, -0.08)], BLACK)
    pen.line([(0.62, 0.3), (0.35, -0.52)], 0.15, (150, 150, 155))
    pen.line([(0.18, -0.55), (0.44, -0.53)], 0.11, BLACK)
    pen.disc(0.52, -0.3, 0.14, LAMP)
    pen.line([(-0.1, 0.45), (-0.97, 0.45)], 0.13, (200, 200, 205))


def person_in_trousers(pen: Pen, rng: Generator) -> None:
    skin = choose(rng, SKINS, 8)
    shirt = choose(rng, ((215, 45, 45), (240, 240, 235), (245, 205, 60), (60, 150, 90)))
    jeans = choose(rng, ((40, 55, 120), (40, 55, 120), (45, 45, 50)), 10)
    _arms(pen, rng, skin, sleeve=shirt)
    for side in (-1, 1):
        pen.line([(side * 0.16, 0.12), (side * 0.24, 0.92)], 0.31, jeans)
        pen.ellipse(side * 0.26 + 0.04, 0.95, 0.18, 0.08, BLACK)
    pen.polygon([(-0.4, -0.52), (0.4, -0.52), (0.33, 0.25), (-0.33, 0.25)], shirt)
    _head(pen, skin, hair=choose(rng, HAIRS, 12))


def person_in_dress(pen: Pen, rng: Generator) -> None:
    skin = choose(rng, SKINS, 8)
    dress = choose(rng, ((215, 45, 45), (60, 150, 90), (60, 90, 190), (225, 120, 170)))
    hair = choose(rng, HAIRS, 12)
    _arms(pen, rng, skin, sleeve=skin)
    for side in (-1, 1):
        pen.line([(side * 0.16, 0.4), (side * 0.18, 0.92)], 0.2, skin)
        pen.ellipse(side * 0.2 + 0.03, 0.95, 0.16, 0.08, BLACK)
    pen.polygon([(-0.28, -0.52), (0.28, -0.52), (0.52, 0.58), (-0.52, 0.58)], dress)
    _head(pen, skin, hair)
    for side in (-1, 1):
        pen.line([(side * 0.22, -0.85), (side * 0.24, -0.42)], 0.13, hair)


def _arms(pen: Pen, rng: Generator, skin: Colour, sleeve: Colour) -> None:
    lift = rng.uniform(-0.2, 0.5)
    for side in (-1, 1):
        elbow = (side * (0.47 + 0.2 * lift), -0.5 * lift)
        hand = (side * (0.52 + 0.2 * lift), 0.25 - 0.9 * lift)
        pen.line([(side * 0.26, -0.42), elbow, hand], 0.18, sleeve)
        pen.disc(*hand, 0.11, skin)


def _head(pen: Pen, skin: Colour, hair: Colour) -> None:
    pen.rectangle(-0.09, -0.6, 0.09, -0.45, skin)
    pen.ellipse(0, -0.77, 0.27, 0.27, hair)
    pen.disc(0, -0.71, 0.22, skin)
    for side in (-1, 1):
        pen.disc(side * 0.08, -0.73, 0.04, BLACK)
    pen.line([(-0.07, -0.6), (0.07, -0.6)], 0.04, (190, 60, 60))


def potted_plant(pen: Pen, rng: Generator) -> None:
    leaf = jitter(rng, (50, 140, 55), 20)
    pot = jitter(rng, (190, 95, 55), 22) if rng.random() < 0.7 else vivid(rng)
    for number in range(9):
        angle = -math.pi * (0.08 + 0.84 * number / 8)
        colour = dark(leaf, rng.uniform(0.7, 1)) if number % 2 else light(leaf, 0.15)
        pen.ellipse(0.42 * math.cos(angle), 0.1 + 0.6 * math.sin(angle), 0.44, 0.17, colour, tilt=angle)
    if rng.random() < 0.4:
        flower = vivid(rng)
        for _ in range(3):
            pen.disc(rng.uniform(-0.5, 0.5), rng.uniform(-0.6, -0.1), 0.12, flower)
    pen.polygon([(-0.46, 0.25), (0.46, 0.25), (0.33, 0.95), (-0.33, 0.95)], pot)
    pen.rectangle(-0.52, 0.16, 0.52, 0.36, dark(pot, 0.85))


def sheep(pen: Pen, rng: Generator) -> None:
    wool = jitter(rng, (238, 236, 228), 10)
    face = jitter(rng, (60, 52, 50), 12)
    for x in (-0.48, -0.24, 0.16, 0.4):
        pen.rectangle(x - 0.08, 0.25, x + 0.08, 0.82, face)
    for number in range(11):
        angle = number / 11 * 2 * math.pi
        curl = dark(wool, 0.9 + 0.1 * (number % 2))
        pen.ellipse(0.56 * math.cos(angle) - 0.05, 0.05 + 0.34 * math.sin(angle), 0.26, 0.22, curl)
    pen.ellipse(-0.05, 0.05, 0.62, 0.38, wool)
    for number in range(5):
        pen.disc(-0.41 + 0.18 * number, 0.05 + 0.12 * (-1) ** number, 0.09, dark(wool, 0.85))
        pen.disc(-0.41 + 0.18 * number, 0.05 + 0.12 * (-1) ** number, 0.05, wool)
    pen.ellipse(0.74, -0.12, 0.22, 0.3, face, tilt=-0.3)
    pen.ellipse(0.54, -0.24, 0.15, 0.08, face, tilt=0.4)
    pen.ellipse(0.63, -0.37, 0.22, 0.14, wool)
    pen.disc(0.8, -0.18, 0.05, (250, 250, 250))


def couch(pen: Pen, rng: Generator) -> None:
    cloth = vivid(rng)
    pen.rectangle(-0.88, -0.55, 0.88, 0.3, dark(cloth, 0.8))
    pen.rectangle(-0.02, -0.55, 0.02, 0.1, dark(cloth, 0.5))
    pen.rectangle(-0.8, 0.03, 0.8, 0.35, light(cloth, 0.15))
    pen.rectangle(-0.02, 0.03, 0.02, 0.35, dark(cloth, 0.5))
    pen.rectangle(-0.9, 0.33, 0.9, 0.62, cloth)
    for side in (-1, 1):
        pen.ellipse(side * 0.88, -0.1, 0.19, 0.18, cloth)
        pen.polygon([(side * x, y) for x, y in ((0.7, -0.1), (1.07, -0.1), (1.07, 0.62), (0.7, 0.62))], cloth)
        pen.rectangle(side * 0.85 - 0.08, 0.62, side * 0.85 + 0.08, 0.75, (70, 45, 30))
    if rng.random() < 0.6:
        pen.polygon([(-0.62, -0.22), (-0.28, -0.27), (-0.26, 0.08), (-0.6, 0.08)], vivid(rng))


def train(pen: Pen, rng: Generator) -> None:
    engine = paint_colour(rng)
    pen.rectangle(-1, -0.35, 0.45, 0.35, engine)
    pen.ellipse(0.45, 0, 0.52, 0.36, engine)
    pen.rectangle(-1, -0.88, -0.42, 0.3, dark(engine, 0.7))
    pen.rectangle(-0.88, -0.74, -0.54, -0.4, GLASS)
    pen.polygon([(0.42, -0.3), (0.32, -0.84), (0.74, -0.84), (0.66, -0.25)], BLACK)
    pen.disc(0.02, -0.36, 0.17, (220, 180, 60))
    pen.disc(0.9, 0, 0.11, LAMP)
    pen.rectangle(-1, 0.26, 0.92, 0.4, BLACK)
    for x in (-0.75, -0.28, 0.19, 0.66):
        pen.disc(x, 0.5, 0.22, (150, 30, 30))
        pen.disc(x, 0.5, 0.11, BLACK)
    pen.line([(-0.75, 0.5), (0.66, 0.5)], 0.07, (200, 200, 205))


def tv(pen: Pen, rng: Generator) -> None:
    case = choose(rng, ((30, 30, 33), (120, 120, 125), (110, 70, 40)), 8)
    pen.polygon([(-0.18, 0.5), (0.18, 0.5), (0.45, 0.84), (-0.45, 0.84)], dark(case, 0.8))
    if rng.random() < 0.4:
        pen.line([(-0.4, -1), (0, -0.6), (0.4, -1)], 0.06, BLACK)
    pen.rectangle(-0.97, -0.68, 0.97, 0.6, case)
    screen = vivid(rng)
    pen.rectangle(-0.84, -0.55, 0.84, 0.47, screen)
    pen.polygon([(-0.84, 0.47), (-0.2, -0.1), (0.3, 0.47)], light(screen, 0.5))
    pen.disc(0.4, -0.15, 0.18, light(vivid(rng), 0.3))
    pen.polygon([(-0.84, -0.55), (-0.45, -0.55), (-0.84, -0.05)], light(screen, 0.7))


@dataclass(frozen=True)
class Look:
    """One way to draw a class.

    Attributes:
        draw: draws it with a pen.
        words: words of the class that fit in a caption, the class name first.
    """

    draw: Callable[[Pen, Generator], None]
    words: tuple[str, ...]


def _without(subject: str, *misfits: str) -> tuple[str, ...]:
    return tuple(word for word in WORDS_OF[subject] if word not in misfits)


_TROUSERS_ONLY = ("man", "men", "boys", "boy", "person in jeans", "person in sweater", "person in jacket")
_DRESS_ONLY = ("woman", "women", "girls", "person in dress", "person in skirt")

_DRAWINGS = {
    "airplane": airplane,
    "bicycle": bicycle,
    "bird": bird,
    "bottle": bottle,
    "bus": bus,
    "car": car,
    "cat": cat,
    "chair": chair,
    "cow": cow,
    "dining table": dining_table,
    "dog": dog,
    "horse": horse,
    "motorcycle": motorcycle,
    "potted plant": potted_plant,
    "sheep": sheep,
    "couch": couch,
    "train": train,
    "tv": tv,
}

_SEVERAL_LOOKS = {
    "boat": (
        Look(sailing_boat, _without("boat", "speedboat", "speedboats")),
        Look(speedboat, _without("boat", "yacht", "yachts")),
    ),
    "person": (
        Look(person_in_trousers, _without("person", *_DRESS_ONLY)),
        Look(person_in_dress, _without("person", "person in shirt", *_TROUSERS_ONLY)),
    ),
}

#: The looks of every class, in label order.
LOOKS: dict[str, tuple[Look, ...]] = {
    name: _SEVERAL_LOOKS.get(name) or (Look(_DRAWINGS[name], WORDS_OF[name]),) for name in CLASSES
}

#: Classes that are clearly wider than high.
WIDE = frozenset({"airplane", "bicycle", "boat", "bus", "car", "dining table", "motorcycle", "couch", "train"})

#: Usual scenery of a class (the ground it stands on); other classes occur everywhere.
HOMES: dict[str, tuple[str, ...]] = {
    "boat": ("sea",),
    "bus": ("road",),
    "car": ("road",),
    "motorcycle": ("road",),
    "bicycle": ("road", "sands"),
    "train": ("grass", "sands"),
    "cow": ("grass",),
    "horse": ("grass", "sands"),
    "sheep": ("grass",),
    "bottle": ("floor",),
    "cat": ("floor",),
    "chair": ("floor",),
    "dining table": ("floor",),
    "potted plant": ("floor",),
    "couch": ("floor",),
    "tv": ("floor",),
}
