"""Doing the same small job for many images, in several processes, with a progress bar."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from src.errors import UserError

Job = TypeVar("Job")

JOBS_AT_ONCE = 16  # jobs handed to a process in one go; they take milliseconds each


def for_each(function: Callable[[Job], None], jobs: Iterable[Job], total: int, workers: int, label: str) -> None:
    """Call ``function`` once per job, in ``workers`` processes (up to 1: in this one).

    The first error ends the work, after the jobs under way.

    Raises:
        UserError: a process was ended from outside; and whatever ``function`` raises.
    """
    if not total:
        return
    if workers <= 1:
        for job in tqdm(jobs, total=total, desc=label, unit="image"):
            function(job)
        return
    # Ctrl-C reaches every process of the terminal; only this one may act on it, so that files under way are finished
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for _ in tqdm(pool.map(function, jobs, chunksize=JOBS_AT_ONCE), total=total, desc=label, unit="image"):
                pass
        except BrokenProcessPool:
            raise UserError(
                f"{label}: a worker process was ended from outside, most often for want of memory; "
                "start again with fewer --workers, it goes on where it stopped"
            ) from None
