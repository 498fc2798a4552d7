"""Doing the same small job for many images, in several processes, with a progress bar."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from src.errors import UserError
from src.screen import progress

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_AT_ONCE = 16  # jobs handed to a process in one go; they take milliseconds each


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
    results = []
    with progress(total, label) as bar:
        if workers <= 1:
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        # Ctrl-C reaches every process of the terminal; only this one may act on it: files under way are finished
        with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
            try:
                for result in pool.map(function, jobs, chunksize=JOBS_AT_ONCE):
                    results.append(result)
                    bar.update()
            except BrokenProcessPool:
                raise UserError(
                    f"{label}: a worker process was ended from outside, most often for want of memory; "
                    "start again with fewer --workers, it goes on where it stopped"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results
