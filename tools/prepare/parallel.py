"""Doing the same small job for many images, in several processes, with a progress bar."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from src.errors import UserError
from src.screen import progress

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_AT_ONCE = 16  # most jobs that are handed to a process in one go; they take milliseconds each


def for_each(
    function: Callable[[Job], Result], jobs: Iterable[Job], total: int, workers: int, label: str
) -> list[Result]:
    """Call ``function`` once per job, in ``workers`` processes (up to 1: in this one); return what it returned.

    The first error ends the work, after the jobs under way.

    Raises:
        UserError: a process was ended from outside; and whatever ``function`` raises.
    """
    if not total:
        return []
    workers = min(workers, total)  # all of them are started, needed or not
    at_once = max(1, min(JOBS_AT_ONCE, total // (4 * workers)))
    results = []
    with progress(total, label) as bar:
        if workers <= 1:
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        # Ctrl-C reaches every process of the terminal; only this one may act on it: files under way are finished
        pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
        with _one_interrupt(), pool:
            try:
                for result in pool.map(function, jobs, chunksize=at_once):
                    results.append(result)
                    bar.update()
            except BrokenProcessPool:
                raise UserError(
                    f"{label}: a worker process was ended from outside, most often for want of memory; "
                    "start again with fewer --workers, it goes on where it stopped"
                ) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)  # and wait: nothing may be under way once this function is left
                raise
    return results


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """While it lasts, the first Ctrl-C interrupts and the next are ignored: a second one in the middle of the pool's
    shutdown would leave it waiting for ever, and the files under way take milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
