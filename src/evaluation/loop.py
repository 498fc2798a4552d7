"""The evaluation loop: an evaluator computes the contribution of each block of images and adds all contributions up.

A block is ``dataloader.batch_size`` consecutive images. A block is always computed as one batch, so results do not
depend on interruptions or on the number of processes.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset, batches
from ..errors import UserError
from ..runtime import rank
from ..screen import progress
from . import processes
from .identity import fingerprint
from .journal import Journal
from .memory import within_memory
from .records import unpack

Arrays = Mapping[str, Tensor]
"""The contribution of a block: arrays by name."""
R = TypeVar("R")

STATUS_IMAGES = 50
"""Images between two updates of the status on a GPU, because each update synchronises with the device."""
SKIPPED, HALVED = "skipped", "halved"
"""Additional arrays of the loop: unreadable images; a mark if the block was computed in parts."""


@dataclass(frozen=True)
class Pass:
    """One run of the loop over all images.

    Attributes:
        images: number of readable images.
        skipped: unreadable images in list order: image and reason.
        halved: number of blocks computed in parts because memory ran out, which rounds differently.
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
    size, indices = loader.batch_size, list(dataset.indices)
    blocks = [indices[first : first + size] for first in range(0, len(indices), size)]
    prints = [fingerprint([dataset.entries[index] for index in block], dataset.masks, weights) for block in blocks]
    skipped: dict[int, str] = {}
    halved: set[int] = set()

    def add(number: int, arrays: Arrays) -> None:
        own = {name: array for name, array in arrays.items() if name not in (SKIPPED, HALVED)}
        if own:
            evaluator.add(number, own)
        skipped.update(_unreadable(arrays))
        halved.update({number} if HALVED in arrays else ())

    def serves(number: int, arrays: Arrays) -> bool:
        unreadable = _unreadable(arrays)
        readable = [index for index in blocks[number] if index not in unreadable]
        return (journal.skip_unreadable or not unreadable) and (not readable or evaluator.accepts(readable, arrays))

    found: dict[int, bytes] = {}
    for number, payload in journal.records(prints):
        if number not in found and serves(number, arrays := _tensors(payload)):
            add(number, arrays)
            found[number] = payload
    missing, held_by_first = _missing(found, len(blocks))
    mine = processes.share_of(missing)
    before = len(indices) - sum(len(blocks[number]) for number in missing)
    journal.begin(prints, [len(block) for block in blocks], len(mine), before, evaluator.check)
    counter = processes.Counter()
    packed = {number: payload for number, payload in found.items() if number not in held_by_first}
    with progress(len(indices), evaluator.description, initial=before) as bar:
        part = dataset.only([index for number in mine for index in blocks[number]])
        read = batches(part, loader, evaluator.device, journal.skip_unreadable)
        for number, batch in zip(mine, read, strict=True):
            arrays = _computed(evaluator, batch)
            written = journal.keep(number, prints[number], arrays)
            add(number, arrays)
            packed.update(written if rank() else ())  # the first process has added its own blocks
            bar.update(before + counter.add(len(blocks[number])) - bar.n)
            if evaluator.device.type == "cpu" or bar.n % STATUS_IMAGES < size or bar.n == bar.total:
                bar.set_postfix(evaluator.status())
        written = journal.flush()
        packed.update(written if rank() else ())
        gathered = processes.gather(packed) or []
        bar.update(before + counter.add(0) - bar.n)
    for number, payload in {number: payload for part in gathered for number, payload in part.items()}.items():
        add(number, _tensors(payload))

    def result() -> R:
        if indices and len(skipped) == len(indices):
            journal.discard()
            raise UserError(f"none of the {len(indices):,} images can be read: {skipped[indices[0]]}")
        named = [{"image": str(dataset.entries[index].image), "reason": skipped[index]} for index in sorted(skipped)]
        seconds = time.perf_counter() - start
        return evaluator.result(Pass(len(indices) - len(skipped), named, len(halved), len(indices) - before, seconds))

    return processes.share(result)


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
