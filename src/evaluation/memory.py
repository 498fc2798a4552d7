"""Compute batches that do not fit into memory in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..errors import UserError
from ..runtime import halve_working_memory, working_memory_was_reduced
from ..screen import counted, note_once

B = TypeVar("B", bound=Sized)
R = TypeVar("R")


def within_memory(
    compute: Callable[[B], R], batch: B, halves: Callable[[B], tuple[B, B]], merge: Callable[[R, R], R]
) -> tuple[R, bool]:
    """``compute(batch)``; when memory runs out, in halves, and a single image with fewer prompts at a time.

    ``halves`` splits a batch of two images or more, ``merge`` merges the results of two halves.

    Returns:
        The result, and whether it was computed in smaller parts than usual, which rounds differently. Once working
        memory was reduced, this is true for every batch.

    Raises:
        UserError: one image does not fit into memory.
    """
    try:
        return compute(batch), working_memory_was_reduced()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1 and not halve_working_memory():
            raise UserError(
                "out of memory with one image: lower model.image_size, use fewer prompts, set runtime.amp to bf16, or "
                f"use another device ({first_line(error)})"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        note_once("note: out of memory with one image and all prompts: using fewer prompts at a time")
        return within_memory(compute, batch, halves, merge)
    note_once(f"note: out of memory with {counted(len(batch), 'image')}: using half batches")
    first, rest = (within_memory(compute, half, halves, merge)[0] for half in halves(batch))
    return merge(first, rest), True


@contextmanager
def explaining_lack_of_memory(work: str, remedy: str) -> Iterator[None]:
    """Context that raises a UserError with ``remedy`` if memory runs out during ``work`` (``run 0 (of 5): tuning``)."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{work}: memory does not suffice; {remedy} ({first_line(error)})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means that a GPU or the CPU is out of memory."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def first_line(error: Exception) -> str:
    """The first line of an out-of-memory error."""
    return str(error).splitlines()[0] if str(error) else "out of memory"
