"""Supports and queries of one-shot tuning, drawn as published (docs/method.md, "Supports and queries")."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.schema import Config, OneShotConfig
from ..data.images import read_mask
from ..data.labels import Labelling
from ..data.lists import ListEntry, evaluation_entries, list_of
from ..errors import UserError
from ..screen import counted, note, progress

SEED = 1  # as published: Python's random, seeded once before the first run; runtime.seed has no effect
NAMED = 5  # classes in a note


@dataclass(frozen=True)
class Support:
    """A support image.

    Attributes:
        index: its index in the support list.
        label: the class that it represents.
        isolated: whether its other classes are set to background, because too few candidates have only this class.
    """

    index: int
    label: int
    isolated: bool = False

    def describe(self, entries: Sequence[ListEntry], class_names: Sequence[str]) -> dict[str, str | bool]:
        """Plain values for result files."""
        return {
            "image": str(entries[self.index].image),
            "class": class_names[self.label],
            "other_classes_removed": self.isolated,
        }


def class_areas(entries: Sequence[ListEntry], config: Config, description: str) -> np.ndarray:
    """Number of pixels of every class in every mask at its original size: int64 [images, C].

    Reads all masks, in one thread per core, with a progress bar.

    Raises:
        UserError: a mask is missing, unreadable or has an invalid label.
    """
    labelling, num_classes = Labelling.from_config(config.dataset), config.dataset.num_classes

    def areas(entry: ListEntry) -> np.ndarray:
        assert entry.mask is not None
        counts = np.bincount(read_mask(entry.mask, labelling).ravel(), minlength=num_classes)
        return counts[:num_classes].copy()  # a view would keep all counts in memory

    found = np.empty((len(entries), num_classes), np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(entries), description, "mask") as bar:
        for row, counts in zip(found, pool.map(areas, entries), strict=True):
            row[:] = counts
            bar.update()
    return found


def find_candidates(areas: np.ndarray, oneshot: OneShotConfig, class_names: Sequence[str]) -> list[list[int]]:
    """The images that can be supports of each foreground class: it covers at least ``min_support_area`` pixels.

    Args:
        areas: [images, C], from :func:`class_areas`.
        oneshot: a class with fewer candidates than ``shot`` gets a note.

    Returns:
        C - 1 lists of indices in list order; the first is for class 1.

    Raises:
        UserError: a class is not in any mask, or has no candidate.
    """
    candidates = [np.flatnonzero(column >= oneshot.min_support_area).tolist() for column in areas.T[1:]]
    for label, indices in enumerate(candidates, 1):
        if not areas[:, label].any():
            raise UserError(
                f"class {label} ({class_names[label]}) has no pixel in the masks of the support list; use a list with "
                "all classes, or a class file without this class (mask value 255 is ignored, it is not a class)"
            )
        if not indices:
            raise UserError(
                f"class {label} ({class_names[label]}) covers oneshot.min_support_area = {oneshot.min_support_area} "
                "pixels in no image of the support list; use a longer list, or lower oneshot.min_support_area"
            )
    few = [
        f"{class_names[label]} has {len(indices)}"
        for label, indices in enumerate(candidates, 1)
        if len(indices) < oneshot.shot
    ]
    if few:
        note(
            f"note: fewer candidates than oneshot.shot = {oneshot.shot}: {', '.join(few[:NAMED])}"
            f"{f' and {len(few) - NAMED} more classes' if len(few) > NAMED else ''}; as published, the rest are drawn "
            "from the same images again, with their other classes set to background"
        )
    return candidates


def find_queries(areas: np.ndarray, taken: Collection[int] = (), limit: int | None = None) -> list[int]:
    """Images with at least one foreground class, of any area, in list order; the first ``limit``.

    Args:
        areas: [images, C], from :func:`class_areas`.
        taken: indices of images to exclude, because they are supports.

    Raises:
        UserError: no image is left.
    """
    queries = [index for index in np.flatnonzero((areas[:, 1:] > 0).any(1)).tolist() if index not in taken][:limit]
    if not queries:
        raise UserError(
            f"none of {counted(len(areas), 'image')} of the evaluation list is left to score: "
            "each is a support or has no class; use a longer list, or set oneshot.use_training_images_for_supports"
        )
    return queries


def choose_supports(
    candidates: Sequence[Sequence[int]],
    shot: int,
    qualifies: Callable[[int, int], bool],
    rng: random.Random,
) -> list[Support]:
    """Draw the supports of one run, class by class.

    The candidates of a class are shuffled and the first ``shot`` that qualify are taken. If too few qualify, the others
    are drawn at random from all candidates (an image may repeat), and their other classes are set to background.

    Args:
        qualifies: called with (index, label), in the order in which the published code reads the images.
        rng: the same generator for all runs.
    """
    supports = []
    for label, indices in enumerate(candidates, 1):
        order = list(range(len(indices)))
        rng.shuffle(order)
        taken: list[Support] = []
        for position in order:
            if qualifies(indices[position], label):
                taken.append(Support(indices[position], label))
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


@dataclass(frozen=True)
class Episode:
    """One run: ``supports`` (of the support list) in class order, ``queries`` (of the other list) in list order."""

    supports: list[Support]
    queries: list[int]


@dataclass(frozen=True)
class Episodes:
    """All runs of one-shot tuning, drawn before the first run, with the lists that they index."""

    support_list: list[ListEntry]
    evaluation_list: list[ListEntry]
    runs: list[Episode]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.runs)

    @property
    def queries(self) -> list[int]:
        """The images that are queries of at least one run, in list order."""
        return sorted({index for episode in self.runs for index in episode.queries})

    @property
    def supports(self) -> list[Path]:
        """The support images of all runs; an image drawn twice occurs twice."""
        return [self.support_list[support.index].image for episode in self.runs for support in episode.supports]


def training_list(config: Config) -> list[ListEntry]:
    """The list ``oneshot.train_list``, from which supports are drawn if ``use_training_images_for_supports`` is true.

    Raises:
        UserError: the configuration has no such list, or it cannot be read.
    """
    assert config.oneshot is not None
    if config.oneshot.train_list is None:
        raise config.refusal("oneshot.train_list", None, "an image list, from which supports are drawn")
    return list_of(config.oneshot.train_list, config)


def read_episodes(config: Config, class_names: Sequence[str]) -> Episodes:
    """Read the masks of the lists and draw the episodes of a configuration.

    Supports come from ``oneshot.train_list`` or from the evaluation list. The image of a run's support is not a query
    of the same run, in whichever list and however often it occurs. Both lists are used in full: ``max_images`` limits
    the remaining queries, as published for COCO.

    Raises:
        UserError: a list or mask cannot be read, a class has too few candidates, or a run has no query.
    """
    oneshot = config.oneshot
    assert oneshot is not None
    evaluation_list = support_list = evaluation_entries(config, whole=True)
    from_train_list = oneshot.use_training_images_for_supports
    if from_train_list:
        support_list = training_list(config)
    areas = support_areas = class_areas(evaluation_list, config, "reading masks")
    if from_train_list:
        support_areas = class_areas(support_list, config, "reading train masks")
    candidates = find_candidates(support_areas, oneshot, class_names)

    def qualifies(index: int, label: int) -> bool:
        return not oneshot.support_only_one_novel or only_class(support_areas, index, label)

    lines_of: dict[Path, list[int]] = {}
    for index, entry in enumerate(evaluation_list):
        lines_of.setdefault(entry.image, []).append(index)
    runs, rng = [], random.Random(SEED)
    for _ in range(oneshot.total_runs):
        supports = choose_supports(candidates, oneshot.shot, qualifies, rng)
        taken = {line for support in supports for line in lines_of.get(support_list[support.index].image, ())}
        queries = find_queries(areas, taken, config.max_images)
        runs.append(Episode(supports, queries))
    return Episodes(support_list, evaluation_list, runs)
