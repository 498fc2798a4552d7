"""The number format of the matrix products and the library that computes them; on a CPU the faster ones, timed once.

A processor's flags do not predict them: without AMX, bfloat16 was four times as fast as float32 on one processor and
half as fast on another; in float32, oneDNN was twice as fast as PyTorch's default on one and equal on another.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from ..config.schema import Amp
from ..errors import UserError
from ..files import cache_folder, create_bytes, write_bytes
from .replacements import onednn_linear

ROWS = 256
ROUNDS = 5
SECONDS = 0.3
CLEAR_GAIN = 1.25
LARGE = 512
"""Features from which a product is large enough for the choice of a library to matter."""

Alternative = Literal["bfloat16", "oneDNN"]
"""What is timed against PyTorch's default products in float32."""

Product = tuple[int, int]
"""(in_features, out_features) of a linear layer."""


@dataclass(frozen=True)
class NumberFormat:
    """Number format of a job's matrix products; sensitive sums, the CRF and the scores stay in float32.

    Attributes:
        name: the format's name in torch.
        why: reason for the choice, for messages.
        onednn: use oneDNN instead of PyTorch's default where a float32 product needs no gradient.
    """

    name: Literal["float32", "bfloat16", "float16"]
    why: str
    onednn: bool = False

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype for torch.autocast; None for no autocast."""
        return None if self.name == "float32" else getattr(torch, self.name)

    @property
    def remedy(self) -> str:
        """What to do if a result is not a number."""
        return {
            "float16": "its largest number is 65,504: set runtime.amp to bf16, which has float32's range, or to false",
            "bfloat16": "set runtime.amp to false",
            "float32": "check the model's weights",
        }[self.name]


def number_format(
    amp: Amp, device: torch.device, products: Sequence[tuple[int, int]], exact: bool = False
) -> NumberFormat:
    """The number format that ``runtime.amp`` selects on ``device``.

    ``False`` is float32; ``"bf16"`` and ``"fp16"`` are bfloat16 and float16 on any device; ``True`` is the fast format
    of the hardware:

    - On CUDA it is float16, as published: its rounding is eight times finer than bfloat16's, and it is fast since
      Volta. Tuning uses it too, without loss scaling, as published: almost no gradient underflows (docs/parity.md).
      :meth:`src.method.segmenter.Segmenter.check_numbers` reports overflow.
    - On a CPU it is the format in which the model's ``products`` were timed to be faster.

    In float32 on a CPU, the library is the one in which they were timed to be faster, unless ``exact``.
    """
    numbers = _format(amp, device, products)
    if numbers.name != "float32" or exact or device.type != "cpu":
        return numbers
    large = tuple(product for product in products if min(product) >= LARGE)
    if not (large and onednn_exists()):
        return numbers
    trial = trial_of(large, "oneDNN")
    if not trial.wins:
        return numbers
    faster = f"oneDNN was {trial.gain:.2f} times as fast as PyTorch's default"
    return replace(numbers, why=f"{numbers.why}; {faster}", onednn=True)


@functools.cache
def onednn_exists() -> bool:
    """Whether this PyTorch can use oneDNN for a linear layer on this machine."""
    try:
        with torch.inference_mode():
            onednn_linear(torch.ones(1, 2), torch.ones(3, 2), torch.ones(3))
    except (AttributeError, RuntimeError, TypeError):  # built without it, switched off, or another signature
        return False
    return True


def _format(amp: Amp, device: torch.device, products: Sequence[tuple[int, int]]) -> NumberFormat:
    if amp is False:
        return NumberFormat("float32", "runtime.amp is false")
    if amp is not True:
        return NumberFormat("bfloat16" if amp == "bf16" else "float16", f"runtime.amp is {amp}")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 7:
            return NumberFormat("float16", "runtime.amp is true: CUDA")
        return NumberFormat("float32", f"float16 is slow below compute capability 7.0; this GPU has {major}.{minor}")
    if device.type == "cpu":
        return _fast_cpu_format(products)
    return NumberFormat("float32", f"runtime.amp is true, but no other format is faster on {device.type}")


def _fast_cpu_format(products: Sequence[tuple[int, int]]) -> NumberFormat:
    """bfloat16 if it was clearly faster when timed, otherwise float32."""
    trial = trial_of(tuple(products), "bfloat16")
    timed = f"{trial.gain:.2f} times as fast as float32 when timed on this CPU"
    return NumberFormat("bfloat16" if trial.wins else "float32", f"runtime.amp is true: bfloat16 was {timed}")


@dataclass(frozen=True)
class Trial:
    """The result of timing matrix products against PyTorch's default, with everything that it depends on.

    Attributes:
        gain: time of the default in float32 / time of ``alternative``.
        processor: name and capabilities of the processor.
        torch: version.
        products: (in_features, out_features) of each.
    """

    gain: float
    processor: str
    torch: str
    products: tuple[Product, ...]
    alternative: Alternative = "bfloat16"

    @property
    def wins(self) -> bool:
        """Whether the gain is clear: a small one may be noise, and casts use it up."""
        return self.gain >= CLEAR_GAIN


@functools.cache
def trial_of(products: tuple[Product, ...], alternative: Alternative) -> Trial:
    """The trial of ``products`` on this machine, from the cache if possible.

    The cache makes repeated runs choose the same. If it cannot be used, every process does its own trial.
    """
    asked = Trial(0.0, _processor(), torch.__version__, products, alternative)
    path = _folder() / f"products_{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.json"
    kept = _read(path, asked)
    if kept is None:
        found = replace(asked, gain=round(_gain(products, alternative), 2))
        kept = _keep(path, found) or found
    return kept


def _gain(products: Sequence[Product], alternative: Alternative) -> float:
    """Time of ``products`` in float32 / time of ``alternative``, casts of the inputs included, as under autocast.

    Measures the CPU time of one thread, so that other processes do not influence it.
    """
    # on some systems the thread's own clock is too coarse
    clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-5 else time.perf_counter
    threads, start = torch.get_num_threads(), time.perf_counter()
    least = [[math.inf, math.inf] for _ in products]
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for done, (product, times) in itertools.product(range(ROUNDS), list(zip(products, least, strict=True))):
                full, short = _sums(least)
                # the first round is a warm-up; where the alternative is slower, more rounds are unnecessary
                if time.perf_counter() - start > SECONDS and (done > 1 or short > full):
                    break
                for which, multiply in enumerate(_pair(*product, alternative)):
                    before = clock()
                    multiply()
                    times[which] = min(times[which], clock() - before)
    finally:
        torch.set_num_threads(threads)
    full, short = _sums(least)
    return full / max(short, 1e-9)


def _sums(least: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Total seconds of the default and of the alternative for the products timed so far."""
    timed = [times for times in least if math.isfinite(times[1])]
    return sum(times[0] for times in timed), sum(times[1] for times in timed)


def _pair(inputs: int, outputs: int, alternative: Alternative) -> tuple[Callable[[], object], Callable[[], object]]:
    """Functions that compute the same product with PyTorch's default in float32 and with ``alternative``."""
    states, weights = torch.ones(ROWS, inputs), torch.ones(outputs, inputs)

    def default() -> object:
        return F.linear(states, weights)

    if alternative == "oneDNN":
        return default, lambda: onednn_linear(states, weights)
    cast = weights.bfloat16()
    return default, lambda: F.linear(states.bfloat16(), cast)


def _folder() -> Path:
    """The cache folder of this project."""
    return cache_folder() / "segmentation-from-attention"


def _read(path: Path, asked: Trial) -> Trial | None:
    """The trial in ``path``; None if the file is missing, damaged or not of what is ``asked``."""
    try:
        kept = json.loads(path.read_text())
        gain = float(kept["gain"])
        whole = kept == json.loads(json.dumps({**asdict(asked), "gain": kept["gain"]}))
        return replace(asked, gain=gain) if whole and gain > 0 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(path: Path, found: Trial) -> Trial | None:
    """Store ``found`` unless another process stored a trial first; returns the stored one, None if none can be."""
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
    """This machine's processor: its name, and the instruction sets that PyTorch has kernels for."""
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
