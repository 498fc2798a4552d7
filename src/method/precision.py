"""The number format of the matrix products; on a CPU the one that was faster when timed once, which is kept.

A processor's flags do not tell: of two processors without AMX, bfloat16 was four times as fast on one and half as
fast on another.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from ..config.schema import Amp
from ..errors import UserError
from ..files import create_bytes, write_bytes

ROWS = 256
ROUNDS = 5
SECONDS = 0.3
CLEAR_GAIN = 1.25

Product = tuple[int, int]
"""Of how many inputs and outputs a linear layer is."""


@dataclass(frozen=True)
class NumberFormat:
    """What the matrix products of a job are computed in; sums that need it, the CRF and the scores stay in float32.

    Attributes:
        name: of the format, as torch calls it.
        why: what decided so.
    """

    name: Literal["float32", "bfloat16", "float16"]
    why: str

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What torch.autocast is to use; None where it is to be off."""
        return None if self.name == "float32" else getattr(torch, self.name)

    @property
    def remedy(self) -> str:
        """What to do where a result is not a number."""
        return {
            "float16": "it ends at 65,504: set runtime.amp to bf16, which has the range of float32, or to false",
            "bfloat16": "set runtime.amp to false",
            "float32": "check the model's weights",
        }[self.name]


def number_format(amp: Amp, device: torch.device, products: Sequence[tuple[int, int]]) -> NumberFormat:
    """The number format that ``runtime.amp`` stands for on ``device``.

    ``False`` is float32, ``"bf16"`` and ``"fp16"`` are what they say, anywhere. ``True`` is the fast format of the
    hardware. On CUDA that is float16, as published: it rounds eight times finer than bfloat16, and is fast from Volta
    on. Tuning goes through it too, without loss scaling, as published: next to none of the gradients are so small as to
    vanish in it (docs/parity.md). What is too large is told: :meth:`src.method.segmenter.Segmenter.check_numbers`.
    On a CPU it is what the model's ``products`` (inputs and outputs of its linear layers) were timed to be faster in.
    """
    if amp is False:
        return NumberFormat("float32", "runtime.amp is false")
    if amp is not True:
        return NumberFormat("bfloat16" if amp == "bf16" else "float16", f"runtime.amp is {amp}")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 7:
            return NumberFormat("float16", "runtime.amp is true: CUDA")
        return NumberFormat("float32", f"float16 is slow below compute capability 7.0, and this is {major}.{minor}")
    if device.type == "cpu":
        return _fast_cpu_format(products)
    return NumberFormat("float32", f"runtime.amp is true: nothing is gained on {device.type}")


def _fast_cpu_format(products: Sequence[tuple[int, int]]) -> NumberFormat:
    """The format that was clearly faster when it was timed, float32 if neither was."""
    trial = trial_of(tuple(products))
    timed = f"{trial.gain:.2f} times as fast as float32 when timed on this CPU"
    return NumberFormat("bfloat16" if trial.bfloat16_wins else "float32", f"runtime.amp is true: bfloat16 was {timed}")


@dataclass(frozen=True)
class Trial:
    """What a trial found; the other fields say of what, so that the file of a trial speaks for itself.

    Attributes:
        gain: by how much products were faster in bfloat16 than in float32.
        processor: where.
        torch: version.
        products: inputs and outputs of each.
    """

    gain: float
    processor: str
    torch: str
    products: tuple[Product, ...]

    @property
    def bfloat16_wins(self) -> bool:
        """Whether the gain is clear: a little one is within the noise, and goes into casts."""
        return self.gain >= CLEAR_GAIN


@functools.cache
def trial_of(products: tuple[Product, ...]) -> Trial:
    """The trial of ``products`` on this machine: the one that is kept, or else a new one, which is then kept.

    A kept one is what makes a repeated run come out the same. Where it can neither be read nor written, every process
    makes its own.
    """
    asked = Trial(0.0, _processor(), torch.__version__, products)
    path = _folder() / f"number_format_{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.json"
    kept = _read(path, asked)
    if kept is None:
        found = Trial(round(_gain(products), 2), asked.processor, asked.torch, products)
        kept = _keep(path, found) or found
    return kept


def _gain(products: Sequence[Product]) -> float:
    """Time of ``products`` in float32 over that in bfloat16, in which inputs arrive in float32 as under autocast.

    One thread, and the time that it computed: what else the machine does must not decide.
    """
    # on some systems a thread's own clock is too coarse
    clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-5 else time.perf_counter
    threads, start = torch.get_num_threads(), time.perf_counter()
    least = [[math.inf, math.inf] for _ in products]
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for done, (product, times) in itertools.product(range(ROUNDS), list(zip(products, least, strict=True))):
                full, short = _sums(least)
                # the first round warms up; where bfloat16 loses, no more than that need be known
                if time.perf_counter() - start > SECONDS and (done > 1 or short > full):
                    break
                for which, multiply in enumerate(_pair(*product)):
                    before = clock()
                    multiply()
                    times[which] = min(times[which], clock() - before)
    finally:
        torch.set_num_threads(threads)
    full, short = _sums(least)
    return full / max(short, 1e-9)


def _sums(least: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds in float32 and in bfloat16 of the products that were timed."""
    timed = [times for times in least if math.isfinite(times[1])]
    return sum(times[0] for times in timed), sum(times[1] for times in timed)


def _pair(inputs: int, outputs: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same product in float32 and in bfloat16."""
    states, weights = torch.ones(ROWS, inputs), torch.ones(outputs, inputs)
    cast = weights.bfloat16()
    return lambda: F.linear(states, weights), lambda: F.linear(states.bfloat16(), cast)


def _folder() -> Path:
    """The user's folder for what programs keep; a relative XDG_CACHE_HOME counts as none, as its standard says."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # expanduser leaves ~ where nobody has a home
    base = named if os.path.isabs(named) else os.path.expanduser("~/.cache")
    return Path(base, "segmentation-from-attention")


def _read(path: Path, asked: Trial) -> Trial | None:
    """The trial kept in ``path`` if it is of what is ``asked``; None if there is none, or it is damaged."""
    try:
        kept = json.loads(path.read_text())
        gain = float(kept["gain"])
        whole = kept == json.loads(json.dumps({**asdict(asked), "gain": kept["gain"]}))
        return Trial(gain, asked.processor, asked.torch, asked.products) if whole and gain > 0 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(path: Path, found: Trial) -> Trial | None:
    """Keep ``found`` unless another process was first; returns what is kept, None if nothing can be."""
    content = json.dumps(asdict(found), indent=1).encode()
    try:
        if create_bytes(path, content):
            return found
        kept = _read(path, found)
        if kept is None:  # damaged
            write_bytes(path, content)
        return kept
    except (UserError, OSError):
        return None


def _processor() -> str:
    """What is known of this machine's processor that can decide: its name, and what PyTorch has kernels for."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    except OSError:
        pass
    able = [
        kind for kind in ("avx512_bf16", "amx_tile") if getattr(torch.cpu, f"_is_{kind}_supported", lambda: False)()
    ]
    return " ".join([name, torch.backends.cpu.get_cpu_capability(), *able])
