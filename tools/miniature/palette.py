"""Colours of the drawings: RGB triples 0 to 255, mixed by a generator."""

from __future__ import annotations

import colorsys

from numpy.random import Generator

Colour = tuple[float, float, float]

BLACK: Colour = (25, 25, 28)
STEEL: Colour = (175, 175, 180)
GLASS: Colour = (150, 200, 225)
LAMP: Colour = (255, 243, 155)

WOODS: tuple[Colour, ...] = ((140, 90, 45), (95, 60, 35), (190, 140, 85), (205, 60, 50), (225, 190, 130))
SKINS: tuple[Colour, ...] = ((240, 200, 165), (200, 150, 110), (130, 85, 55), (255, 215, 185))
HAIRS: tuple[Colour, ...] = ((40, 25, 15), (120, 80, 40), (220, 180, 90), (20, 20, 20))


def jitter(rng: Generator, colour: Colour, spread: float = 14) -> Colour:
    """``colour`` with each channel moved by normal noise of standard deviation ``spread``."""
    red, green, blue = (min(max(value + rng.normal(0, spread), 0), 255) for value in colour)
    return red, green, blue


def choose(rng: Generator, colours: tuple[Colour, ...], spread: float = 14) -> Colour:
    """One of ``colours``, jittered."""
    return jitter(rng, colours[rng.integers(len(colours))], spread)


def vivid(rng: Generator) -> Colour:
    """A strong colour of any hue."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.45, 1), rng.uniform(0.45, 1))
    return 255 * red, 255 * green, 255 * blue


def paint_colour(rng: Generator) -> Colour:
    """A colour of vehicles: mostly strong, sometimes white, black or grey."""
    if rng.random() < 0.75:
        return vivid(rng)
    return choose(rng, ((235, 235, 235), (60, 60, 65), (150, 150, 155)), 10)


def dark(colour: Colour, factor: float = 0.65) -> Colour:
    """``colour`` mixed with black."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def light(colour: Colour, amount: float = 0.45) -> Colour:
    """``colour`` mixed with ``amount`` (0 to 1) of white."""
    red, green, blue = (value + (255 - value) * amount for value in colour)
    return red, green, blue
