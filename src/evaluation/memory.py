"""Batches that are too large for the memory are computed in parts."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

import torch

from ..errors import UserError
from ..runtime import halve_working_memory
from ..screen import note_once

B = TypeVar("B", bound=Sized)
R = TypeVar("R")


def within_memory(
    compute: Callable[[B], R], batch: B, halves: Callable[[B], tuple[B, B]], join: Callable[[R, R], R]
) -> tuple[R, bool]:
    """``compute(batch)``; where memory does not suffice, of halves of the batch, and where it does not for one image,
    with half as many prompts at once from then on.

    Args:
        compute: what is made of a batch.
        batch: of one image or more.
        halves: cuts a batch of two images or more.
        join: puts together what ``compute`` makes of two halves.

    Returns:
        What was computed, and whether it took more than one step: other batches are other rounding.

    Raises:
        UserError: memory does not suffice for one image, whatever it is cut into.
    """
    try:
        return compute(batch), False
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1 and not halve_working_memory():
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
            raise UserError(
                "memory does not suffice for one image: lower model.image_size, ask with fewer prompts, set "
                f"runtime.amp to bf16, or use another device ({reason})"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        note_once(
            "note: memory does not suffice for one image with these prompts at once: going on with fewer at a time"
        )
        return within_memory(compute, batch, halves, join)[0], True
    note_once(f"note: memory does not suffice for {len(batch)} images at once: going on with halves of batches")
    first, rest = (within_memory(compute, half, halves, join)[0] for half in halves(batch))
    return join(first, rest), True


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that memory does not suffice, on a GPU or on the CPU."""
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)
