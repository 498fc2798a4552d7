"""The evaluation loop: an evaluator computes what each block of images contributes, and adds all contributions up.

The images are cut into blocks of ``dataloader.batch_size`` neighbours. Whichever process computes a block, and
whenever, it computes it as one batch, so results do not depend on interruptions or on the number of processes.
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
from ..runtime import rank
from ..screen import progress
from . import processes
from .identity import fingerprint
from .journal import Journal
from .memory import within_memory
from .records import unpack

Arrays = Mapping[str, Tensor]
"""What a block contributes, by name."""
R = TypeVar("R")

STATUS_IMAGES = 50
"""On a GPU the bar shows a new status after so many images, because reading it waits for the device."""
SKIPPED, HALVED = "skipped", "halved"
"""Arrays that the loop keeps beside the evaluator's: unreadable images; that memory did not suffice for the block."""


@dataclass(frozen=True)
class Pass:
    """One run of the loop over all images.

    Attributes:
        images: how many could be read.
        skipped: images that could not be read, in the order of the list: image and reason.
        halved: how many blocks were computed in smaller parts for lack of memory, which rounds differently.
        computed: how many images this command computed; an interrupted one had computed the others.
        seconds: that this command took.
    """

    images: int
    skipped: list[dict[str, str]]
    halved: int
    computed: int
    seconds: float


class Evaluator(ABC, Generic[R]):
    """A metric: what to compute of a batch, and how to add it up.

    The loop calls :meth:`add` once for each block with a readable image, in any order: with what :meth:`process` has
    just returned, or what an interrupted command or another process had computed.

    Args:
        device: where batches go.
        description: of the progress bar.
    """

    def __init__(self, device: torch.device, description: str) -> None:
        self.device = device
        self.description = description

    @abstractmethod
    def process(self, batch: Batch) -> Arrays:
        """Compute what ``batch`` contributes; the evaluator's own state stays as it is."""

    @abstractmethod
    def merge(self, one: Arrays, other: Arrays) -> Arrays:
        """Merge what :meth:`process` returned for two halves of a batch."""

    @abstractmethod
    def add(self, block: int, arrays: Arrays) -> None:
        """Add what the block of number ``block`` contributes."""

    @abstractmethod
    def result(self, done: Pass) -> R:
        """The metric over all blocks; called in the first process."""

    def check(self) -> None:
        """Raise a UserError if what was computed since the last call must not be kept."""

    def status(self) -> dict[str, Any]:
        """What the progress bar shows."""
        return {}

    def accepts(self, indices: Sequence[int], arrays: Arrays) -> bool:
        """Whether what an interrupted command kept of the images ``indices`` still serves."""
        return True


def run(
    evaluator: Evaluator[R],
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    journal: Journal | None = None,
    weights: str = "",
) -> R:
    """Evaluate ``dataset``: compute the blocks that the journal lacks, and return the result in every process.

    Args:
        evaluator: a fresh one.
        dataset: the images.
        loader: the batch size, and how images are read.
        journal: an open one, which resumes an interrupted run; None: nothing is kept.
        weights: tells this pass from others over the same images in the same journal.

    Raises:
        UserError: an image or mask cannot be read (unless the journal skips them), the evaluator refuses what it
            computed, or another process has ended.
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
            packed.update(written if rank() else ())  # the first process has added its own
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
        named = [{"image": str(dataset.entries[index].image), "reason": skipped[index]} for index in sorted(skipped)]
        seconds = time.perf_counter() - start
        return evaluator.result(Pass(len(indices) - len(skipped), named, len(halved), len(indices) - before, seconds))

    return processes.share(result)


def _computed(evaluator: Evaluator, batch: Batch) -> dict[str, Tensor]:
    """What a block contributes, with the loop's own arrays."""
    arrays: dict[str, Tensor] = {}
    if len(batch):
        computed, in_parts = within_memory(evaluator.process, batch, Batch.halves, evaluator.merge)
        arrays = {**computed, HALVED: torch.ones(1, dtype=torch.uint8)} if in_parts else dict(computed)
    if batch.unreadable:
        arrays[SKIPPED] = as_array(json.dumps(batch.unreadable).encode())
    return arrays


def _unreadable(arrays: Arrays) -> dict[int, str]:
    """Images of a block that cannot be read, with the reason."""
    reasons = json.loads(arrays[SKIPPED].numpy().tobytes()) if SKIPPED in arrays else {}
    return {int(index): reason for index, reason in reasons.items()}


def _missing(found: Iterable[int], blocks: int) -> tuple[list[int], frozenset[int]]:
    """Blocks that no process has found in its journal, and blocks that the first process has found itself."""
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
