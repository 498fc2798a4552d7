"""Communication between the processes of a job: at its beginning and at its end, never in between.

``torchrun`` starts and numbers the processes. They use gloo, which needs no GPU, and wait for each other without limit.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from ..errors import UserError
from ..runtime import ENDED_EARLY, LONGEST_WAIT, Patience, job_store, local_rank, rank, world_size

T = TypeVar("T")


def share_of(items: Sequence[T]) -> Sequence[T]:
    """The contiguous part of ``items`` for this process; the parts of two processes differ by at most one item."""
    first, end = (len(items) * place // world_size() for place in (rank(), rank() + 1))
    return items[first:end]


def gather(value: T) -> list[T] | None:
    """The values of all processes by rank, in the first process; None in the others.

    Raises:
        UserError: a process has ended.
    """
    if world_size() == 1:
        return [value]
    _join()
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    _meet(lambda: dist.gather_object(value, values))
    return values


def share(make: Callable[[], T]) -> T:
    """Call ``make()`` in the first process only and return its value in all processes.

    Raises:
        UserError: raised by ``make``, in all processes; or the first process has ended.
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
    """Wait until every process has called this."""
    gather(None)
    share(lambda: None)


class Counter:
    """A number that every process can add to and read at any time, without waiting.

    Every process must create the same counters in the same order.
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
        try:
            return self._store.add(self._name, count)
        except RuntimeError as error:  # the store has ended, with torchrun or process 0
            raise _lost_contact() from error


@functools.cache
def _join() -> Store:
    """Wait for the other processes of the job and form a group; returns the store for counters."""
    store = job_store()
    assert store is not None
    try:
        _wait_for_arrivals(store, "start")
    except RuntimeError as error:
        raise _lost_contact() from error
    group = PrefixStore("group", store)
    dist.init_process_group("gloo", store=group, rank=rank(), world_size=world_size(), timeout=LONGEST_WAIT)
    atexit.register(_leave)
    return PrefixStore("counters", store)


def _wait_for_arrivals(store: Store, meeting: str) -> None:
    """Register at ``meeting`` and wait for all processes; unlike gloo, this reacts to signals.

    Raises:
        UserError: another process has ended early.
        RuntimeError: the store is gone.
    """
    store.set(f"{meeting} {rank()}", "")
    everyone = [f"{meeting} {number}" for number in range(world_size())]
    patience = Patience(lambda: _missing(store, meeting))
    while not store.check(everyone):
        if store.check([ENDED_EARLY]):
            raise _lost_contact()
        patience.check()
        time.sleep(0.1)


def _missing(store: Store, meeting: str) -> str:
    """The processes that have not arrived at ``meeting``, as text; empty if all have."""
    numbers = [str(number) for number in range(world_size()) if not store.check([f"{meeting} {number}"])]
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else ""


def _leave() -> None:
    if dist.is_initialized() and not _pending:
        dist.destroy_process_group()


_meetings = itertools.count()
_pending: list[threading.Thread] = []


def _meet(collective: Callable[[], None]) -> None:
    """Run ``collective`` in a thread: it may wait for hours, and the main thread must react to signals.

    Raises:
        UserError: another process has ended.
    """
    store, meeting = job_store(), f"meeting {next(_meetings)}"
    assert store is not None
    failures: list[BaseException] = []

    def run() -> None:
        try:
            collective()
        except BaseException as error:  # raised again below
            failures.append(error)

    patience = Patience(lambda: _missing(store, meeting) if rank() == 0 else "")
    thread = threading.Thread(target=run, daemon=True)
    try:
        store.set(f"{meeting} {rank()}", "")
        _pending.append(thread)
        thread.start()
        while thread.is_alive():
            thread.join(0.5)
            patience.check()
        _pending.remove(thread)
        for failure in failures:
            raise failure
    except RuntimeError as error:
        raise _lost_contact() from error


def _lost_contact() -> UserError:
    return UserError(
        f"process {rank()} (number {local_rank()} on its machine) lost contact with the other processes: one of them "
        "or torchrun has ended; the error is above or in the output of its machine"
    )
