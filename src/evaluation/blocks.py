"""The loop behind every evaluation: blocks of images, each computed once, by whichever process, whenever.

The images are cut into blocks of ``dataloader.batch_size`` neighbours. A block is computed as one batch wherever that
happens, so that numbers do not depend on the number of processes or on interruptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config.schema import DataloaderConfig
from ..data.dataset import Batch, SegmentationDataset, batches
from ..screen import progress
from . import processes
from .journal import Journal, fingerprint
from .memory import within_memory
from .records import unpack

Arrays = Mapping[str, np.ndarray]
"""What a block contributed, by name."""

SKIPPED = "skipped"
HALVED = "halved"
"""Marks a block that was too large for the memory; other batches are other rounding."""


@dataclass(frozen=True)
class Outcome:
    """What all blocks contributed.

    Attributes:
        blocks: per block, in the order of the list, its arrays.
        skipped: images that could not be read, as plain values: image and reason.
        computed: how many images were computed now, by all processes together; the others were done before.
    """

    blocks: Sequence[Arrays]
    skipped: list[dict[str, str]]
    computed: int

    @property
    def halved(self) -> int:
        """How many blocks were computed in parts, because memory did not suffice."""
        return sum(HALVED in arrays for arrays in self.blocks)


def compute_blocks(
    journal: Journal,
    dataset: SegmentationDataset,
    loader: DataloaderConfig,
    device: torch.device,
    compute: Callable[[Batch], Mapping[str, Tensor]],
    description: str,
    *,
    join: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]],
    check: Callable[[list[Path]], None] = lambda _: None,
    resume: Callable[[Arrays], None] = lambda _: None,
    lacks: Callable[[int, Arrays], bool] = lambda *_: False,
    show: Callable[[tqdm], None] = lambda _: None,
    weights: str = "",
) -> Outcome | None:
    """Compute what ``compute`` makes of every block of ``dataset`` that the journal lacks, and put all together.

    Args:
        journal: an open one.
        dataset: what to go through.
        loader: how images are read.
        device: where pixels go.
        compute: makes of a batch what is kept of it, arrays by name.
        description: of the progress bar.
        join: puts together what ``compute`` makes of two parts of a batch that was too large for the memory.
        check: is called before anything is written, with the files of all images since the last time, and raises if
            what was computed of them must not be kept.
        resume: is given what was computed before, block by block.
        lacks: whether the block that was computed before has to be computed again because of the image of this index.
        show: is called after every batch, to write a score on the bar.
        weights: digest of weights that were tuned for these blocks.

    Returns:
        In the first process what all processes computed; None in the others.

    Raises:
        UserError: an image or mask could not be read (unless the journal skips these), or a process has ended.
    """
    indices, size = list(dataset.indices), loader.batch_size
    blocks = [indices[first : first + size] for first in range(0, len(indices), size)]
    prints = [fingerprint([dataset.entries[index] for index in block], dataset.masks, weights) for block in blocks]

    found: dict[int, bytes] = {}
    for number, payload in journal.records(prints).items():
        arrays = unpack(payload)
        again = SKIPPED in arrays and not journal.skip_unreadable
        if not again and not any(lacks(index, arrays) for index in blocks[number]):
            found[number] = payload
            resume(arrays)
    plan = _plan(found, len(blocks))
    mine = processes.share_of(plan.missing)
    payloads = {number: payload for number, payload in found.items() if number not in plan.held_by_first}

    before = len(indices) - sum(len(blocks[number]) for number in plan.missing)
    unchecked: list[Path] = []

    def check_all() -> None:
        check(unchecked)
        unchecked.clear()

    journal.begin(len(mine), before, len(indices), check_all)
    counter = processes.Counter()
    part = dataset.only([index for number in mine for index in blocks[number]])
    with progress(len(indices), description, initial=before) as bar:
        read = batches(part, loader, device, journal.skip_unreadable)
        for number, batch in zip(mine, read, strict=True):
            made: dict[str, Tensor] = {}
            if len(batch):
                computed, halved = within_memory(compute, batch, Batch.halves, join)
                made = {**computed, HALVED: torch.ones(1, dtype=torch.uint8)} if halved else dict(computed)
            unchecked += [dataset.entries[index].image for index in batch.indices]
            if batch.unreadable:
                made[SKIPPED] = as_array(json.dumps(batch.unreadable).encode())
            journal.done = before + counter.add(len(blocks[number]))
            payloads.update(journal.keep(number, prints[number], made))
            bar.update(journal.done - bar.n)
            show(bar)
        payloads.update(journal.flush())
        gathered = processes.gather(payloads)
        bar.update(before + counter.add(0) - bar.n)
    if gathered is None:
        return None
    merged = {**found, **{number: payload for payloads in gathered for number, payload in payloads.items()}}
    results = [unpack(merged[number]) for number in range(len(blocks))]
    skipped = [
        {"image": str(dataset.entries[int(index)].image), "reason": reason}
        for arrays in results
        if SKIPPED in arrays
        for index, reason in json.loads(arrays[SKIPPED].tobytes()).items()
    ]
    return Outcome(results, skipped, len(indices) - before)


@dataclass(frozen=True)
class _Plan:
    """Blocks that no process holds, and blocks that the first process holds itself."""

    missing: Sequence[int]
    held_by_first: frozenset[int]


def _plan(found: Mapping[int, bytes], blocks: int) -> _Plan:
    """Let the processes tell each other what is done already."""
    held = processes.gather(frozenset(found))

    def decide() -> _Plan:
        assert held is not None
        done = frozenset().union(*held)
        return _Plan([number for number in range(blocks) if number not in done], held[0])

    return processes.share(decide)


def as_array(content: bytes) -> Tensor:
    """Bytes as an array, uint8 [length]."""
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
