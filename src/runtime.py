"""Where and how a command computes."""

from __future__ import annotations

from typing import Literal

import torch

from src.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA when there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: another name, or a CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu, or auto")
    if int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device("cuda", int(number or 0))


def autocast_dtype(amp: bool | Literal["bf16"], device: torch.device) -> torch.dtype | None:
    """The number format that ``runtime.amp`` stands for on ``device``; None is float32.

    ``True`` is bfloat16 where the hardware multiplies it faster than float32: CUDA devices with tensor cores for it and
    CPUs with AMX. (AVX512-bf16 alone is slower than float32 in PyTorch 2.11.) ``"bf16"`` forces it anywhere.
    """
    if amp == "bf16":
        return torch.bfloat16
    if not amp:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None
