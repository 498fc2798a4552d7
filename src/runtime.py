"""Where a command computes: which process of how many, on which device, with how much memory.

Nothing here imports torch before a device is asked for: a command must be able to say its ``--help``, and what is wrong
with its configuration, in the time that importing torch alone would take.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch

MAX_WORKING_BYTES = 6 << 30
"""Bytes beyond which a step on CUDA gains nothing by doing more at once."""

MAX_HALVINGS = 10  # after them a step of BLIP-large takes one prompt at a time

DEVICES = "auto, cpu, cuda, cuda:N or mps"


def rank() -> int:
    """Number of this process among all that torchrun started, 0 if it stands alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun started, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """CPU cores that this machine lends to all processes of a job together."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Give this process its share of the machine's cores; torchrun would leave it one."""
    import torch

    if world_size() > 1:
        torch.set_num_threads(max(1, cores() // local_world_size()))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads on the CPU, for what rounds otherwise with another number of them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names.

    Args:
        name: ``auto`` (CUDA where it works, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. ``auto`` and
            ``cuda`` are the process's own GPU under torchrun: cuda:LOCAL_RANK.

    Raises:
        UserError: another name, or a device that is not there or cannot be used; says why.
    """
    import torch

    if name == "auto":
        fault = _why_no_cuda()
        if fault and torch.cuda.is_available() and rank() == 0:
            print(f"computing on the CPU: {fault}", file=sys.stderr, flush=True)
        name = "cpu" if fault else "cuda"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: PyTorch sees no Apple GPU here; use --device cpu, or auto")
        return torch.device("mps")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise UserError(f"--device {name}: expected {DEVICES}")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: {_why_no_cuda()}; use --device cpu, or auto")
    index = int(number) if number else local_rank()
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0, and this process "
            f"asks for number {index}"
        )
    fault = _why_no_cuda(index)
    if fault:
        raise UserError(f"--device {name}: {fault}; use --device cpu, or auto")
    return torch.device("cuda", index)


def _why_no_cuda(index: int | None = None) -> str:
    """Why CUDA device ``index`` (default: the process's own) cannot be used; empty if it can."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"PyTorch {torch.__version__} here is built without CUDA (README, Install, has the command for one with it)"
        )
    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
        try:
            torch.cuda.init()
        except Exception as error:  # which kind depends on what is wrong with the driver
            reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            return f"{built} and finds none: {reason} (README, Install, has the commands for older drivers)"
        return f"{built} and finds none"
    index = min(local_rank(), torch.cuda.device_count() - 1) if index is None else index
    architectures = torch.cuda.get_arch_list()
    if torch.version.hip is not None or _runs_on(architectures, torch.cuda.get_device_capability(index)):
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    return (
        f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, for which PyTorch "
        f"{torch.__version__} has no code, only for {', '.join(architectures)} (README, Install, has the commands for "
        "other GPUs)"
    )


def _runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for one of ``architectures`` runs on a GPU: ``sm_86`` on 8.6 to 8.9, ``compute_90`` from 9.0 on."""
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("af").partition("_")
        built_for = int(digits[:-1]), int(digits[-1])
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return True
    return False


def device_name(device: torch.device) -> str:
    """The device as result files name it: the GPU's own name, ``mps`` or ``cpu``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


_halvings = 0  # of what a step may take at once; a process that was short of memory stays so


def working_memory(device: torch.device, most: int, least: int) -> int:
    """Bytes that a step of the work on ``device`` may take at once.

    On CUDA ``most``, halved until it fits into what is free, down to ``least``. In halves, so that the same job is cut
    into the same pieces from run to run: other pieces round differently. Elsewhere ``least``, which stays in the cache.
    """
    import torch

    if device.type != "cuda":
        return least >> _halvings
    # what PyTorch holds and does not use is free too
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    while most > max(free, least):
        most //= 2
    return max(most, least) >> _halvings


def halve_working_memory() -> bool:
    """Let a step of the work take half as much at once from now on: what it took did not suffice.

    Returns:
        False where that was done so often that it cannot help any more.
    """
    global _halvings
    if _halvings == MAX_HALVINGS:
        return False
    _halvings += 1
    return True
