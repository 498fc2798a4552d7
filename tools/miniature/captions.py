"""Pictures and their captions, the model's only training data.

A caption names every subject (class or scenery) that covers at least 2 % of the picture, in random order and each with
one word: half of the time the subject's name, else any word of the class file that fits the drawing (a figure in a
dress is a person or a woman; plural forms fit one as well as many). For example "wall, person in dress, floor".

A scene gives four pictures: the whole scene, letterboxed, and three square close-ups of two thirds. The model is
trained on 128 pixels and runs on 192, so objects in close-ups have the size that they have in whole scenes later.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from src.files import replacing, write_text
from tools.miniature.class_words import CLASSES, SUBJECT_NUMBER, SUBJECTS, WORDS_OF
from tools.miniature.scenes import Scene, draw_scene

PICTURE_SIDE = 128
CLOSE_UPS = 3
CLOSE_UP_SIDES = (180, 288)  # pixels of the scene; 256 is the scale at which the model runs
SMALLEST_SHARE = 0.02
FIRST_SEED = 100_000_000  # far from the seeds of the lists

Pair = tuple[np.ndarray, str]


def draw_pairs(seed: int) -> list[Pair]:
    """The pictures of one scene, uint8 RGB [128, 128, 3], each with its caption."""
    scene = draw_scene(seed)
    # a separate generator, so that the scene depends only on its seed
    rng = np.random.default_rng([seed, 1])
    whole = (slice(None), slice(None))
    return [
        (_picture(scene, window), describe(scene, window, rng))
        for window in (whole, *(_close_up(scene, rng) for _ in range(CLOSE_UPS)))
    ]


def describe(scene: Scene, window: tuple[slice, slice], rng: Generator) -> str:
    """The caption of the part of ``scene`` in ``window``, by the rule above: words separated by commas."""
    subjects = scene.canvas.subjects[window]
    shares = np.bincount(subjects.ravel(), minlength=len(SUBJECTS)) / subjects.size
    visible = [SUBJECTS[number] for number in np.flatnonzero(shares >= SMALLEST_SHARE)]
    words = []
    for subject in rng.permutation(visible):
        fitting = fitting_words(scene, window, str(subject))
        words.append(str(fitting[0] if rng.random() < 0.5 else rng.choice(fitting)))
    return ", ".join(words)


def fitting_words(scene: Scene, window: tuple[slice, slice], subject: str) -> list[str]:
    """Words that a caption of ``window`` may use for ``subject``, its name first."""
    if subject not in CLASSES:
        return list(WORDS_OF[subject])
    shows = scene.canvas.subjects[window] == SUBJECT_NUMBER[subject]
    objects = np.unique(scene.canvas.objects[window][shows])
    fitting = {word for number in objects for word in scene.looks[number - 1].words}
    return [word for word in WORDS_OF[subject] if word in fitting]


def write_pairs(folder: Path, scenes: int, processes: int = 2) -> None:
    """Draw ``scenes`` scenes: ``pictures.npy``, uint8 [4 * scenes, 128, 128, 3], and ``captions.txt``, a line each."""
    shape = (scenes * (1 + CLOSE_UPS), PICTURE_SIDE, PICTURE_SIDE, 3)
    captions: list[str] = []
    with replacing(folder / "pictures.npy") as path:
        pictures = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for picture, caption in _draw_all(range(FIRST_SEED, FIRST_SEED + scenes), processes):
            pictures[len(captions)] = picture
            captions.append(caption)
        pictures.flush()
    write_text(folder / "captions.txt", "\n".join(captions) + "\n")


def _draw_all(seeds: range, processes: int) -> Iterator[Pair]:
    if processes == 1:
        yield from chain.from_iterable(map(draw_pairs, seeds))
        return
    with multiprocessing.get_context("spawn").Pool(processes, cv2.setNumThreads, (1,)) as pool:
        yield from chain.from_iterable(pool.imap(draw_pairs, seeds, chunksize=50))


def read_pairs(folder: Path) -> tuple[np.ndarray, list[list[str]]]:
    """What :func:`write_pairs` wrote: pictures (memory-mapped) and the words of their captions."""
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    captions = (folder / "captions.txt").read_text(encoding="utf-8").splitlines()
    return pictures, [caption.split(", ") for caption in captions]


def _close_up(scene: Scene, rng: Generator) -> tuple[slice, slice]:
    side = int(rng.integers(*CLOSE_UP_SIDES, endpoint=True))
    top = int(rng.integers(0, scene.canvas.height - side, endpoint=True))
    left = int(rng.integers(0, scene.canvas.width - side, endpoint=True))
    return slice(top, top + side), slice(left, left + side)


def _picture(scene: Scene, window: tuple[slice, slice]) -> np.ndarray:
    """The window shrunk to fit the picture, pasted top-left on black."""
    part = scene.canvas.picture[window]
    scale = PICTURE_SIDE / max(part.shape[:2])
    height, width = round(part.shape[0] * scale), round(part.shape[1] * scale)
    picture = np.zeros((PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    picture[:height, :width] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return picture
