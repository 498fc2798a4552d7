"""The update of the ConvCRF between two rounds of message passing, as one Triton kernel for CUDA.

Upsampling, unary, softmax and pooling happen in registers: q at full size never reaches memory. The kernel also runs
on the CPU in Triton's interpreter (TRITON_INTERPRET=1 before the first import), where tests compare it with the
formula.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _update(
    u, messages, pooled, height, width,
    u_image, u_phase, u_class,
    m_image, m_class, m_row,
    p_image, p_class, p_row,
    CLASSES: tl.constexpr, PADDED_CLASSES: tl.constexpr, POOLING: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One program per block of cells (axis 0) and image (axis 1); tiles are [PADDED_CLASSES, CELLS]."""
    image = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    stored = cell < height * width
    cell = tl.minimum(cell, height * width - 1)  # the last block's surplus repeats a cell and is not stored
    row, column = cell // width, cell % width
    c = tl.arange(0, PADDED_CLASSES)[:, None]
    real = c < CLASSES

    # Messages have their border repeated: cell (i, j) and its neighbours are rows i .. i + 2, columns j .. j + 2.
    # class offsets in int64: 254 classes of 2,912 x 2,912 pixels exceed int32
    m = messages + image * m_image + c.to(tl.int64) * m_class + (row * m_row + column)[None, :]
    u += image * u_image + c.to(tl.int64) * u_class + cell[None, :]
    total = tl.zeros([PADDED_CLASSES, CELLS], dtype=tl.float32)
    for a in tl.static_range(POOLING):
        # Position of pixel a of a cell on the axis with repeated border: (2 a + 1 + POOLING) / (2 POOLING).
        above = m + ((2 * a + 1 + POOLING) // (2 * POOLING)) * m_row
        below_weight = ((2 * a + 1 + POOLING) % (2 * POOLING)) / (2 * POOLING)
        left = _between_rows(above, m_row, below_weight, real)
        centre = _between_rows(above + 1, m_row, below_weight, real)
        right = _between_rows(above + 2, m_row, below_weight, real)
        for b in tl.static_range(POOLING):
            right_weight = ((2 * b + 1 + POOLING) % (2 * POOLING)) / (2 * POOLING)
            if 2 * b + 1 < POOLING:
                message = left + right_weight * (centre - left)
            else:
                message = centre + right_weight * (right - centre)
            q = message + tl.load(u + (a * POOLING + b) * u_phase, mask=real, other=float("-inf"))
            q = tl.exp(q - tl.max(q, axis=0)[None, :])
            total += q / tl.sum(q, axis=0)[None, :]
    p = pooled + image * p_image + c.to(tl.int64) * p_class + (row * p_row + column)[None, :]
    tl.store(p, total, mask=real & stored[None, :])


@triton.jit
def _between_rows(above, row_stride, below_weight, real):
    upper = tl.load(above, mask=real, other=0.0)
    lower = tl.load(above + row_stride, mask=real, other=0.0)
    return upper + below_weight * (lower - upper)


def update(u: Tensor, messages: Tensor, pooled: Tensor) -> None:
    """Write the sum of softmax(u + upsampled messages) over the pixels of each cell to ``pooled``.

    Args:
        u: [B, f, f, C, h, w], the weighted unary split into phases; contiguous along the last two axes, and with equal
            strides between phases.
        messages: [B, C, h + 2, w + 2], the border repeated once; contiguous along the last axis.
        pooled: [B, C, h, w], contiguous along the last axis.
    """
    batch, pooling, _, classes, height, width = u.shape
    padded_classes, cells, warps = tile(classes)
    # Triton launches on the current device, wherever its arguments are.
    with torch.cuda.device_of(u):
        _update[(triton.cdiv(height * width, cells), batch)](
            u, messages, pooled, height, width,
            u.stride(0), u.stride(2), u.stride(3),
            *messages.stride()[:3],
            *pooled.stride()[:3],
            CLASSES=classes, PADDED_CLASSES=padded_classes, POOLING=pooling, CELLS=cells,
            num_warps=warps,  # pyright: ignore[reportCallIssue] (an option of the launch)
        )  # fmt: skip


def tile(classes: int) -> tuple[int, int, int]:
    """Size of a program: (classes padded to a power of two, cells, warps)."""
    padded_classes = int(triton.next_power_of_2(classes))
    # Eight values of a tile per thread: with sixteen, registers spill (as ptxas reports for sm_90).
    warps = 4 if padded_classes <= 128 else 8 if padded_classes <= 256 else 16
    return padded_classes, min(64, max(4, 8 * 32 * warps // padded_classes)), warps


def probe(device: torch.device, classes: int, pooling: int) -> None:
    """Compile the kernel and run it once on ``device``, on a small image with this number of classes.

    Raises:
        RuntimeError: the kernel ran and gave wrong results.
        Exception: the kernel does not run; the type depends on Triton, its compilers and the driver.
    """
    side = 16
    u = torch.zeros(1, pooling, pooling, classes, side, side, device=device)
    messages = torch.zeros(1, classes, side + 2, side + 2, device=device)
    pooled = torch.zeros(1, classes, side, side, device=device)
    update(u, messages, pooled)
    expected = pooling**2 / classes  # equal scores: each class gets an equal share of a cell's pixels
    if not torch.allclose(pooled, torch.full_like(pooled, expected), rtol=1e-4):
        raise RuntimeError("the kernel gives wrong results")
