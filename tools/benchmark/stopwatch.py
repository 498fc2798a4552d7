"""Time and memory of a process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch

T = TypeVar("T")


class Stopwatch:
    """Times named stages; synchronises with CUDA before and after each.

    Attributes:
        seconds: by stage, in the order in which they first ran.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, function: Callable[..., T], *arguments: Any) -> T:
        """``function(*arguments)``, and add its seconds to ``stage``."""
        self._wait()
        start = time.perf_counter()
        result = function(*arguments)
        self._wait()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def best_of(function: Callable[[], Any], device: torch.device, tries: int = 8) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(tries):
        watch = Stopwatch(device)
        watch("call", function)
        times.append(watch.seconds["call"])
    return min(times)


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: GPU memory on CUDA, otherwise main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
