"""Measure one side of the benchmark in a separate process, to get its peak memory."""

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
    """Time and memory of one side.

    Attributes:
        seconds: per stage and image; of ``tuning`` per step.
        peak_bytes: peak memory of the process, including the model.
        numbers: the format of the encoders' products, as torch calls it.
    """

    seconds: dict[str, float]
    peak_bytes: int
    numbers: str

    @property
    def total(self) -> float:
        """Sum of the seconds of all stages."""
        return sum(self.seconds.values())


def measure(side: Side, options: Options) -> Measurement:
    """Time one side in this process."""
    device = choose_device(options.device)
    if side == "ours":
        from tools.benchmark.ours import Ours

        worker = Ours(options, device)
    elif side == "plain":
        from tools.benchmark.plain import Plain

        worker = Plain(options, device)
    else:
        from tools.benchmark.published import Published

        worker = Published(options, device)
    work = worker.jobs[options.what]
    jpegs = [photo(seed) for seed in range(options.images)]
    for _ in range(options.warm_up):
        work(Stopwatch(device), jpegs)
    watches = []
    for _ in range(options.repeats):
        watch = Stopwatch(device)
        work(watch, jpegs)
        watches.append(watch)
    fastest = min((watch.seconds for watch in watches), key=lambda seconds: sum(seconds.values()))
    parts = 1 if options.what == "tuning" else options.images
    seconds = {stage: value / parts for stage, value in fastest.items()}
    return Measurement(seconds, peak_memory(device), worker.number_format.name)


def measure_apart(side: Side, options: Options) -> Measurement:
    """Run :func:`measure` in a new process.

    Raises:
        UserError: the process failed; the message has the end of its error output.
    """
    as_json = json.dumps(dataclasses.asdict(options))
    command = [sys.executable, "-m", "tools.benchmark", "--side", side, "--options", as_json]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the {side} side failed: {done.stderr[-2000:].strip() or f'exit code {done.returncode}'}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))
