"""Batches that do not fit into memory are computed in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..errors import UserError
from ..runtime import halve_working_memory, working_memory_was_halved
from ..screen import note_once

B = TypeVar("B", bound=Sized)
R = TypeVar("R")


def within_memory(
    compute: Callable[[B], R], batch: B, halves: Callable[[B], tuple[B, B]], merge: Callable[[R, R], R]
) -> tuple[R, bool]:
    """Compute ``compute(batch)``; if memory does not suffice, in halves, and single images with fewer prompts at once.

    Args:
        compute: may run out of memory; is then called again.
        batch: of one image or more.
        halves: splits a batch of two images or more.
        merge: merges the results of two halves.

    Returns:
        The result, and whether it was computed in smaller parts than usual, which rounds differently. That holds for
        every batch after working memory was halved.

    Raises:
        UserError: memory does not suffice for one image.
    """
    try:
        return compute(batch), working_memory_was_halved()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1 and not halve_working_memory():
            raise UserError(
                "memory does not suffice for one image: lower model.image_size, ask with fewer prompts, set "
                f"runtime.amp to bf16, or use another device ({first_line(error)})"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        note_once("note: memory does not suffice for one image with all prompts at once: using fewer prompts at a time")
        return within_memory(compute, batch, halves, merge)
    note_once(f"note: memory does not suffice for {len(batch)} images at once: using half batches")
    first, rest = (within_memory(compute, half, halves, merge)[0] for half in halves(batch))
    return merge(first, rest), True


@contextmanager
def explaining_lack_of_memory(work: str, remedy: str) -> Iterator[None]:
    """Raise a UserError with ``remedy`` if the memory does not suffice for ``work``, such as ``run 1/5: tuning``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{work}: memory does not suffice; {remedy} ({first_line(error)})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` reports a lack of memory, of a GPU or of the CPU."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def first_line(error: Exception) -> str:
    """The first line of an error about memory."""
    return str(error).splitlines()[0] if str(error) else "out of memory"
