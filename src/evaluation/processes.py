"""Several processes that share one job: they meet at its beginning and at its end, and never in between.

``torchrun`` starts the processes, on one machine or on several, and names each by its rank. They talk over gloo, which
needs no GPU, and wait for each other as long as a job may take; no watchdog ends a process that computes.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError
from ..runtime import local_rank, rank, world_size

T = TypeVar("T")

LONGEST_WAIT = datetime.timedelta(days=7)
"""How long a process that is done waits for the others."""


def share_of(items: Sequence[T]) -> Sequence[T]:
    """The part of ``items`` that is this process's: neighbours stay together, sizes differ by one at most."""
    first, end = (len(items) * place // world_size() for place in (rank(), rank() + 1))
    return items[first:end]


def gather(value: T) -> list[T] | None:
    """The values of all processes by rank, for the first process; None for the others.

    Raises:
        UserError: a process has ended meanwhile.
    """
    if world_size() == 1:
        return [value]
    _join()
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    _meet(lambda: dist.gather_object(value, values))
    return values


def share(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, for all of them; the others do not call it.

    Raises:
        UserError: ``make`` raises one, which all processes then raise; or the first process has ended meanwhile.
    """
    if world_size() == 1:
        return make()
    _join()
    values: list[Any] = [None]
    if rank() == 0:
        try:
            values = [make()]
        except UserError as error:
            values = [error]
    _meet(lambda: dist.broadcast_object_list(values))
    if isinstance(values[0], UserError):
        raise values[0]
    return values[0]


def wait_for_all() -> None:
    """Wait until every process has come here."""
    gather(None)
    share(lambda: None)


class Counter:
    """A number that all processes add to and any may read at any time; nobody waits.

    Every process makes the same counters in the same order.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._name = str(next(self._numbers))
        self._alone = 0
        self._store = _join() if world_size() > 1 else None

    def add(self, count: int) -> int:
        """Add ``count``; returns the sum over all processes."""
        if self._store is None:
            self._alone += count
            return self._alone
        return self._store.add(self._name, count)


@functools.cache
def _join() -> Store:
    """Join the processes that torchrun started; returns the store that they share."""
    store, _, _ = next(iter(rendezvous("env://", timeout=LONGEST_WAIT)))
    # torchrun may keep the store when it starts processes again: the dead ones' addresses and counts must not be found
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    group = PrefixStore("group", store)
    dist.init_process_group("gloo", store=group, rank=rank(), world_size=world_size(), timeout=LONGEST_WAIT)
    atexit.register(_leave)
    return PrefixStore("counters", store)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _meet(collective: Callable[[], None]) -> None:
    try:
        collective()
    except RuntimeError as error:
        raise UserError(
            f"process {rank()} (number {local_rank()} on its machine) lost the others: one of them has ended, and says "
            "why above or on its own machine"
        ) from error
