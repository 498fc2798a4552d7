"""An iteration of the ConvCRF as two Triton kernels for CUDA: the messages between cells, and the update of q.

The first multiplies each cell's neighbours by the weights of its window alone. The second upsamples the messages, adds
the unary, takes the softmax and pools it in registers: q at full size never reaches memory. Both also run on the CPU in
Triton's interpreter (TRITON_INTERPRET=1 before the first import), where tests compare them with the formula.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _pass_on(
    q, weights, messages, height, width,
    q_image, q_class, q_row,
    m_image, m_class, m_row,
    CLASSES: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One program per block of cells (axis 0), TILE classes (axis 1) and image (axis 2); tiles are [TILE, CELLS]."""
    image = tl.program_id(2).to(tl.int64)
    c = (tl.program_id(1) * TILE + tl.arange(0, TILE))[:, None]
    real = c < CLASSES
    # Cells of the messages: the border repeats the cell beside it.
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    stored = cell < (height + 2) * (width + 2)
    border_row, border_column = cell // (width + 2), cell % (width + 2)
    row = tl.minimum(tl.maximum(border_row - 1, 0), height - 1)
    column = tl.minimum(tl.maximum(border_column - 1, 0), width - 1)

    # q has a border of WINDOW // 2 cells: the window of cell (i, j) begins at its row i and column j.
    q += image * q_image + c.to(tl.int64) * q_class + (row * q_row + column)[None, :]
    weights += image * (WINDOW * WINDOW * height * width) + row * width + column
    total = tl.zeros([TILE, CELLS], dtype=tl.float32)
    for _ in range(WINDOW):
        for b in tl.static_range(WINDOW):
            weight = tl.load(weights + b * (height * width))
            total += weight[None, :] * tl.load(q + b, mask=real, other=0.0)
        q += q_row
        weights += WINDOW * (height * width)
    messages += image * m_image + c.to(tl.int64) * m_class + (border_row * m_row + border_column)[None, :]
    tl.store(messages, total, mask=real & stored[None, :])


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
    m = messages + image * m_image + c.to(tl.int64) * m_class + (row * m_row + column)[None, :]
    u += image * u_image + c.to(tl.int64) * u_class + cell[None, :]  # 254 classes of 2,912 x 2,912 pixels exceed int32
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


def pass_on(q: Tensor, weights: Tensor, messages: Tensor) -> None:
    """Write the weighted sum of q over the window of each cell to ``messages``.

    Args:
        q: [B, C, h + 2 r, w + 2 r] for a window of 2 r + 1 cells, 0 outside the image; contiguous along the last axis.
        weights: [B, 2 r + 1, 2 r + 1, h, w], of each neighbour of each cell; contiguous.
        messages: [B, C, h + 2, w + 2], the border repeated once around; contiguous along the last axis.
    """
    batch, window, _, height, width = weights.shape
    classes = q.shape[1]
    tile_classes, cells, warps = message_tile(classes)
    with torch.cuda.device_of(q):
        _pass_on[(triton.cdiv((height + 2) * (width + 2), cells), triton.cdiv(classes, tile_classes), batch)](
            q, weights, messages, height, width,
            *q.stride()[:3],
            *messages.stride()[:3],
            CLASSES=classes, TILE=tile_classes, WINDOW=window, CELLS=cells,
            num_warps=warps,  # pyright: ignore[reportCallIssue] (an option of the launch)
        )  # fmt: skip


def message_tile(classes: int) -> tuple[int, int, int]:
    """Classes and cells that a program of the messages takes, and its warps."""
    tile_classes = min(32, int(triton.next_power_of_2(classes)))
    return tile_classes, 32, max(1, min(4, tile_classes // 8))


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
    """Compile and run both kernels on ``device`` once, on a small image with ``classes`` classes.

    Raises:
        RuntimeError: the kernel ran and gave wrong results.
        Exception: the kernel does not run; the type depends on Triton, its compilers and the driver.
    """
    side, window = 16, 3
    u = torch.zeros(1, pooling, pooling, classes, side, side, device=device)
    q = torch.ones(1, classes, side + window - 1, side + window - 1, device=device)
    weights = torch.ones(1, window, window, side, side, device=device)
    messages = torch.empty(1, classes, side + 2, side + 2, device=device)
    pooled = torch.empty(1, classes, side, side, device=device)
    pass_on(q, weights, messages)
    update(u, messages, pooled)
    shares = pooling**2 / classes  # equal messages for all classes: each has an equal share of a cell's pixels
    for got, expected in ((messages, window**2), (pooled, shares)):
        if not torch.allclose(got, torch.full_like(got, expected), rtol=1e-4):
            raise RuntimeError("the kernel gives wrong results")
