"""One side of the benchmark, measured in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass

from src.errors import UserError
from src.files import REPOSITORY
from src.runtime import choose_device
from tools.benchmark.options import Options, Side
from tools.benchmark.stopwatch import Stopwatch, peak_memory
from tools.benchmark.workload import photo


@dataclass(frozen=True)
class Measurement:
    """What one side took.

    Attributes:
        seconds: per stage and image; of ``tuning`` per step.
        peak_bytes: most memory that the process held, the model's included.
        numbers: the format of the encoders' products, as torch calls it.
    """

    seconds: dict[str, float]
    peak_bytes: int
    numbers: str = "float32"

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def measure(side: Side, options: Options) -> Measurement:
    """Time one side in this process."""
    device, numbers = choose_device(options.device), "float32"
    if side == "ours":
        from tools.benchmark.ours import Ours

        ours = Ours(options, device)
        work, numbers = ours.jobs[options.what], ours.segmenter.number_format.name
    else:
        from tools.benchmark.plain import Plain

        work = Plain(options, device).jobs[options.what]
    jpegs = [photo(seed) for seed in range(options.images)]
    # plain takes from half a minute to several: only where that is bearable is it warmed up, and never repeated
    for _ in range(options.warm_up if side == "ours" or options.what == "segment" else 0):
        work(Stopwatch(device), jpegs)
    watches = []
    for _ in range(options.repeats if side == "ours" else 1):
        watch = Stopwatch(device)
        work(watch, jpegs)
        watches.append(watch)
    fastest = min((watch.seconds for watch in watches), key=lambda seconds: sum(seconds.values()))
    parts = 1 if options.what == "tuning" else options.images
    return Measurement({stage: value / parts for stage, value in fastest.items()}, peak_memory(device), numbers)


def measure_apart(side: Side, options: Options) -> Measurement:
    """:func:`measure` in a process of its own.

    Raises:
        UserError: that process failed; with the end of what it said.
    """
    asked = json.dumps(dataclasses.asdict(options))
    command = [sys.executable, "-m", "tools.benchmark", "--side", side, "--options", asked]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the {side} side failed: {done.stderr[-2000:].strip() or f'exit code {done.returncode}'}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))
