"""Run the same small job for many images, in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
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

JOBS_AT_ONCE = 16  # most jobs handed to a process at once; each takes milliseconds


def for_each(
    function: Callable[[Job], Result], jobs: Iterable[Job], total: int, workers: int, label: str
) -> list[Result]:
    """Call ``function`` once per job, in ``workers`` processes (1: in this one); return the results in order.

    The first error ends the work, after the jobs in progress. If this process is killed, the others end too.

    Raises:
        UserError: a process was killed; and whatever ``function`` raises.
    """
    if not total:
        return []
    workers = min(workers, total)  # the pool starts all of them, needed or not
    at_once = max(1, min(JOBS_AT_ONCE, total // (4 * workers)))
    results = []
    with progress(total, label) as bar:
        if workers <= 1:
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        pool = ProcessPoolExecutor(workers, initializer=_start_worker)
        with _one_interrupt(), pool:
            try:
                for result in pool.map(function, jobs, chunksize=at_once):
                    results.append(result)
                    bar.update()
            except BrokenProcessPool:
                raise UserError(
                    f"{label}: a worker process was killed, most often because memory ran out; "
                    "run the command again with fewer --workers: it resumes"
                ) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)  # and wait: no job may run once this function returns
                raise
    return results


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; only the parent may act on it, so that files in work are finished
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent to end in any way, then end this process, which would get no more jobs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C interrupt and ignore the next: a second one during the pool's shutdown would hang it, and
    the jobs in progress take milliseconds."""
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
