"""Supports and queries of one-shot tuning, drawn as published (docs/method.md, "Supports and queries")."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from src.config.schema import Config, OneShotConfig
from src.data.images import read_mask
from src.data.lists import ListEntry, read_list
from src.errors import UserError
from src.paths import resolve

SEED = 1  # published: Python's random, seeded once before the first run, whatever runtime.seed says


@dataclass(frozen=True)
class Support:
    """A support image.

    Attributes:
        index: its place in the support list.
        label: the class it stands for.
        isolated: whether its other classes are to be set to background, because no candidate holds this class alone.
    """

    index: int
    label: int
    isolated: bool = False

    def describe(self, entries: Sequence[ListEntry], class_names: Sequence[str]) -> dict[str, str | bool]:
        """What result files say of it."""
        return {
            "image": str(entries[self.index].image),
            "class": class_names[self.label],
            "other_classes_removed": self.isolated,
        }


def class_areas(entries: Sequence[ListEntry], config: Config, description: str) -> np.ndarray:
    """Pixels of every class in every mask at native size, int64 [images, C]; reads all masks, with a progress bar.

    Raises:
        UserError: a mask is missing, unreadable or holds a wrong label.
    """
    num_classes, ignore = config.dataset.num_classes, config.dataset.ignore_label

    def areas(entry: ListEntry) -> np.ndarray:
        assert entry.mask is not None
        return np.bincount(read_mask(entry.mask, num_classes, ignore).ravel(), minlength=256)[:num_classes]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(areas, entries)
        return np.stack(list(tqdm(found, total=len(entries), desc=description, unit="mask", dynamic_ncols=True)))


def find_candidates(areas: np.ndarray, oneshot: OneShotConfig, class_names: Sequence[str]) -> list[list[int]]:
    """For each foreground class the images, in list order, that it covers enough of to be a support.

    Args:
        areas: [images, C], from :func:`class_areas`.
        oneshot: gives ``min_support_area`` and ``shot``.
        class_names: for messages.

    Returns:
        C - 1 lists of indices; the first is for class 1.

    Raises:
        UserError: a class has fewer candidates than shots.
    """
    candidates = [np.flatnonzero(column >= oneshot.min_support_area).tolist() for column in areas.T[1:]]
    for label, indices in enumerate(candidates, 1):
        if len(indices) < oneshot.shot:
            raise UserError(
                f"class {label} ({class_names[label]}) covers oneshot.min_support_area = {oneshot.min_support_area} "
                f"pixels in {len(indices)} images of the support list, fewer than oneshot.shot = {oneshot.shot}; use a "
                "longer list, or lower one of the two"
            )
    return candidates


def find_queries(areas: np.ndarray, supports: Sequence[Support] = ()) -> list[int]:
    """Images that hold at least one foreground class, of any area, in list order; ``supports`` are left out.

    Raises:
        UserError: no image is left.
    """
    taken = {support.index for support in supports}
    queries = [index for index in np.flatnonzero((areas[:, 1:] > 0).any(1)).tolist() if index not in taken]
    if not queries:
        raise UserError(
            f"none of the {len(areas)} images of the evaluation list is left to score: each is a support or holds no "
            "class; use a longer list, or oneshot.use_training_images_for_supports"
        )
    return queries


def choose_supports(
    candidates: Sequence[Sequence[int]],
    shot: int,
    qualifies: Callable[[int, int], bool],
    rng: random.Random,
) -> list[Support]:
    """Draw the supports of one run, class by class.

    The candidates of a class are shuffled and the first ``shot`` that qualify are taken. Where too few qualify, the
    rest are drawn at random from all candidates, with their other classes set to background.

    Args:
        candidates: from :func:`find_candidates`.
        shot: supports per class.
        qualifies: called with (index, label); asked in the order in which the published code reads the images.
        rng: carries on from run to run.
    """
    supports = []
    for label, indices in enumerate(candidates, 1):
        order = list(range(len(indices)))
        rng.shuffle(order)
        taken: list[Support] = []
        for place in order:
            if qualifies(indices[place], label):
                taken.append(Support(indices[place], label))
                if len(taken) == shot:
                    break
        while len(taken) < shot:
            index = indices[math.floor(rng.random() * len(indices))]
            taken.append(Support(index, label, isolated=True))
        supports += taken
    return supports


def only_class(areas: np.ndarray, index: int, label: int) -> bool:
    """Whether ``label`` is the only foreground class in image ``index``."""
    return bool(areas[index, label] > 0) and not (np.delete(areas[index, 1:], label - 1) > 0).any()


class Draws:
    """Supports and queries of one run after the other, as a configuration asks for them.

    Args:
        config: with a section ``oneshot``.
        evaluation: the images to score.
        class_names: for messages.

    Attributes:
        entries: the list that supports index.
        from_evaluation: whether that is the evaluation list; a run's supports are then taken out of its queries.

    Raises:
        UserError: a list or mask cannot be read, or a class has too few candidates.
    """

    def __init__(self, config: Config, evaluation: list[ListEntry], class_names: Sequence[str]) -> None:
        assert config.oneshot is not None
        self._oneshot = config.oneshot
        self._rng = random.Random(SEED)
        self.entries = evaluation
        self.from_evaluation = not self._oneshot.use_training_images_for_supports
        if not self.from_evaluation:
            if self._oneshot.train_list is None:
                raise config.refusal("oneshot.train_list", None, "an image list, because supports are to come from it")
            self.entries = read_list(resolve(self._oneshot.train_list), resolve(config.data_root))
        self._query_areas = self._support_areas = class_areas(evaluation, config, "reading masks")
        if not self.from_evaluation:
            self._support_areas = class_areas(self.entries, config, "reading train masks")
        self._candidates = find_candidates(self._support_areas, self._oneshot, class_names)

    def next(self) -> tuple[list[Support], list[int]]:
        """Supports of the next run in class order, and its queries in list order.

        Raises:
            UserError: every image with a class is a support.
        """
        supports = choose_supports(self._candidates, self._oneshot.shot, self._qualifies, self._rng)
        return supports, find_queries(self._query_areas, supports if self.from_evaluation else ())

    def _qualifies(self, index: int, label: int) -> bool:
        return not self._oneshot.support_only_one_novel or only_class(self._support_areas, index, label)
