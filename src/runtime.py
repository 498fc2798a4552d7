"""Where and how a command computes: which process of how many, on which device, in which number format.

Nothing here imports torch before a device is asked for: a command must be able to say its ``--help``, and what is wrong
with its configuration, in the time that importing torch alone would take.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from src.errors import UserError

if TYPE_CHECKING:
    import torch

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


def choose_device(name: str) -> torch.device:
    """The device that ``--device`` names.

    Args:
        name: ``auto`` (CUDA when there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. ``auto`` and
            ``cuda`` are the process's own GPU under torchrun: cuda:LOCAL_RANK.

    Raises:
        UserError: another name, or a device that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
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
        raise UserError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu, or auto")
    index = int(number) if number else local_rank()
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0, and this process "
            f"asks for number {index}"
        )
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """The device as result files name it: the GPU's own name, ``mps`` or ``cpu``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def autocast_dtype(amp: bool | Literal["bf16"], device: torch.device) -> torch.dtype | None:
    """The number format that ``runtime.amp`` stands for on ``device``; None is float32.

    ``True`` is bfloat16 where the hardware multiplies it faster than float32: CUDA devices with tensor cores for it and
    CPUs with AMX. (AVX512-bf16 alone is slower than float32 in PyTorch 2.11.) ``"bf16"`` forces it anywhere.
    """
    import torch

    if amp == "bf16":
        return torch.bfloat16
    if not amp or device.type == "mps":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None
