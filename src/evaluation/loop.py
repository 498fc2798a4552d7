"""The evaluation loop: an evaluator computes the contribution of each block of images and adds all contributions up.

A block is ``dataloader.batch_size`` consecutive images. A block is always computed as one batch, so results do not
depend on interruptions or on the number of processes.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset, batches
from ..errors import UserError
from ..runtime import rank
from ..screen import counted, progress
from . import processes
from .identity import fingerprint
from .journal import Block, Journal, count_images
from .memory import within_memory
from .records import unpack

Arrays = Mapping[str, Tensor]
"""The contribution of a block: arrays by name."""
R = TypeVar("R")

STATUS_IMAGES = 50
"""Images between two updates of the status on a GPU, because each update synchronises with the device."""
SKIPPED, HALVED = "skipped", "halved"
"""Additional arrays of the loop: unreadable images; a mark if the block was computed in smaller parts."""


@dataclass(frozen=True)
class Pass:
    """One run of the loop over all images.

    Attributes:
        images: number of readable images.
        skipped: unreadable images in list order: image and reason.
        halved: number of blocks computed in smaller parts for lack of memory, which rounds differently.
        computed: number of images that this command computed; an interrupted command computed the others.
        seconds: duration of this command.
    """

    images: int
    skipped: list[dict[str, str]]
    halved: int
    computed: int
    seconds: float


class Evaluator(ABC, Generic[R]):
    """A metric: what to compute for a batch, and how to add it up.

    The loop calls :meth:`add` once for each block with a readable image, in any order. The arrays come from
    :meth:`process`, from the journal of an interrupted command, or from another process.

    Args:
        device: device of the batches.
        description: of the progress bar.
    """

    def __init__(self, device: torch.device, description: str) -> None:
        self.device = device
        self.description = description

    @abstractmethod
    def process(self, batch: Batch) -> Arrays:
        """Compute the contribution of ``batch``; must not change the evaluator's state."""

    @abstractmethod
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Merge the results of :meth:`process` for two halves of a batch."""

    @abstractmethod
    def add(self, block: int, arrays: Arrays) -> None:
        """Add the contribution of block number ``block``."""

    @abstractmethod
    def result(self, done: Pass) -> R:
        """The metric over all blocks; called in the first process only."""

    def check(self) -> None:
        """Raise a UserError if a result of :meth:`process` since the last call is invalid."""

    def status(self) -> dict[str, Any]:
        """Values for the progress bar."""
        return {}

    def accepts(self, indices: Sequence[int], arrays: Arrays) -> bool:
        """Whether a contribution from the journal, computed from the images ``indices``, can be used."""
        return True


def run(
    evaluator: Evaluator[R],
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    journal: Journal | None = None,
    weights: str = "",
) -> R:
    """Evaluate ``dataset``: compute the blocks that are not in the journal, and return the result in every process.

    Args:
        evaluator: a new evaluator.
        dataset: the images.
        loader: batch size and workers.
        journal: an open journal, to resume an interrupted run; None: the run cannot be resumed.
        weights: distinguishes this pass from others over the same images in the same journal.

    Raises:
        UserError: an image or mask cannot be read (if the journal skips them: none can), :meth:`Evaluator.check`
            fails, or another process has ended.
    """
    start = time.perf_counter()
    journal = journal or Journal.nowhere()
    blocks = _blocks(dataset, loader.batch_size, weights)
    sums = _Sums(evaluator, blocks)
    found: dict[int, bytes] = {}
    for number, payload in journal.records(blocks):
        arrays = _tensors(payload)
        if number not in found and sums.accepts(number, arrays, journal.skip_unreadable):
            sums.add(number, arrays)
            found[number] = payload
    missing, in_first = _missing(found, len(blocks))
    for_first = {number: payload for number, payload in found.items() if number not in in_first}
    journal.begin(blocks, missing, evaluator.check)
    to_compute = count_images(blocks[number] for number in missing)
    with _Bar(evaluator, count_images(blocks), to_compute) as bar:
        mine = processes.share_of(missing)
        images = dataset.only([image for number in mine for image in blocks[number].images])
        read = batches(images, loader, evaluator.device, journal.skip_unreadable)
        for number, batch in zip(mine, read, strict=True):
            arrays = _computed(evaluator, batch)
            for_first.update(journal.keep(number, arrays))
            sums.add(number, arrays)
            bar.update(len(blocks[number].images))
        for_first.update(journal.flush())
        # the first process has added its own blocks
        gathered = processes.gather(for_first if rank() else {}) or []
        bar.update(0)
    of_others = {number: payload for payloads in gathered for number, payload in payloads.items()}
    for number, payload in of_others.items():
        sums.add(number, _tensors(payload))

    def result() -> R:
        if not sums.images and sums.skipped:
            journal.discard()
            many = counted(len(sums.skipped), "image")
            raise UserError(f"none of {many} can be read: {sums.skipped[min(sums.skipped)]}")
        return evaluator.result(sums.outcome(dataset, to_compute, time.perf_counter() - start))

    return processes.share(result)


def _blocks(dataset: SegmentationDataset, size: int, weights: str) -> list[Block]:
    """The images of ``dataset`` in blocks of ``size``."""
    indices = list(dataset.indices)
    parts = [indices[first : first + size] for first in range(0, len(indices), size)]
    return [
        Block(part, fingerprint([dataset.entries[index] for index in part], dataset.masks, weights)) for part in parts
    ]


class _Sums:
    """Adds the contributions of blocks to an evaluator, and counts unreadable images and blocks computed in parts."""

    def __init__(self, evaluator: Evaluator, blocks: Sequence[Block]) -> None:
        self.evaluator = evaluator
        self.blocks = blocks
        self.skipped: dict[int, str] = {}
        self.halved: set[int] = set()

    def add(self, number: int, arrays: Arrays) -> None:
        """Add the contribution of block ``number``."""
        own = {name: array for name, array in arrays.items() if name not in (SKIPPED, HALVED)}
        if own:
            self.evaluator.add(number, own)
        self.skipped.update(_unreadable(arrays))
        self.halved.update({number} if HALVED in arrays else ())

    def accepts(self, number: int, arrays: Arrays, skip_unreadable: bool) -> bool:
        """Whether a contribution from the journal can be used."""
        unreadable = _unreadable(arrays)
        readable = [index for index in self.blocks[number].images if index not in unreadable]
        return (skip_unreadable or not unreadable) and (not readable or self.evaluator.accepts(readable, arrays))

    @property
    def images(self) -> int:
        """Number of readable images."""
        return count_images(self.blocks) - len(self.skipped)

    def outcome(self, dataset: SegmentationDataset, computed: int, seconds: float) -> Pass:
        """The finished pass."""
        images = ((str(dataset.entries[index].image), self.skipped[index]) for index in sorted(self.skipped))
        skipped = [{"image": image, "reason": reason} for image, reason in images]
        return Pass(self.images, skipped, len(self.halved), computed, seconds)


class _Bar(AbstractContextManager["_Bar"]):
    """The progress bar: images of all processes, and the evaluator's status."""

    def __init__(self, evaluator: Evaluator, total: int, to_compute: int) -> None:
        self._evaluator = evaluator
        self._before = total - to_compute
        self._counter = processes.Counter()
        self._bar = progress(total, evaluator.description, initial=self._before)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, images: int) -> None:
        """Count ``images`` that this process has computed; shows the status at every update, on a GPU less often."""
        bar = self._bar
        bar.update(self._before + self._counter.add(images) - bar.n)
        if images and (self._evaluator.device.type == "cpu" or bar.n % STATUS_IMAGES < images or bar.n == bar.total):
            bar.set_postfix(self._evaluator.status())


def _computed(evaluator: Evaluator, batch: Batch) -> dict[str, Tensor]:
    """The contribution of a block, with the loop's own arrays."""
    arrays: dict[str, Tensor] = {}
    if len(batch):
        computed, in_parts = within_memory(evaluator.process, batch, Batch.halves, evaluator.merge)
        arrays = {**computed, HALVED: torch.ones(1, dtype=torch.uint8)} if in_parts else dict(computed)
    if batch.unreadable:
        arrays[SKIPPED] = as_array(json.dumps(batch.unreadable).encode())
    return arrays


def _unreadable(arrays: Arrays) -> dict[int, str]:
    """The unreadable images of a block, with the reason."""
    reasons = json.loads(arrays[SKIPPED].numpy().tobytes()) if SKIPPED in arrays else {}
    return {int(index): reason for index, reason in reasons.items()}


def _missing(found: Iterable[int], blocks: int) -> tuple[list[int], frozenset[int]]:
    """Blocks that no process found in its journal, and blocks that the first process found."""
    held = processes.gather(frozenset(found))

    def decide() -> tuple[list[int], frozenset[int]]:
        assert held is not None
        done = frozenset().union(*held)
        return [number for number in range(blocks) if number not in done], held[0]

    return processes.share(decide)


def _tensors(payload: bytes) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in unpack(payload).items()}


def as_array(content: bytes) -> Tensor:
    """Bytes as an array, uint8 [length]."""
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
