"""The ConvCRF (Teichmann and Cipolla 2018): class probabilities drawn towards the edges of the image.

The formula unfolds the 15 x 15 neighbourhood of every cell of every class map and keeps q at full size. The
same numbers come cheaper from two observations:

- The kernel does not change over the iterations. It is laid out once as one matrix for each block of cells
  (rows: the cells around the block; columns: the cells of the block; zeros outside the window), and the messages
  of an iteration are one batched matrix product.
- Bilinear upsampling and average pooling by the same factor f are polyphase: the pixels (f i + a, f j + b) of one
  phase (a, b) see the messages of cells i - 1, i and i + 1 with weights that depend on (a, b) alone. The pixels are
  kept split into their phases, an update works in strips of rows that stay in the cache, and q at full size is
  written by the last iteration only.

B images, C classes, H x W pixels, f pooling, h x w = H/f x W/f cells, n blocks of cells in an image.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from src.errors import UserError

# Cells of a block, rows x columns. Larger blocks multiply more zeros, smaller ones gather more neighbours.
BLOCK = 4, 16
# Bytes of q that an update works on at a time on the CPU: about the second-level cache of a core.
STRIP_BYTES = 2_000_000
# Bytes of the unaries that go through together on CUDA; the work needs about four times as much.
GROUP_BYTES = 1 << 30
# q below this counts as 0, and a Gaussian falls no lower than exp(-FARTHEST): far below the rounding of the sums
# they enter. Both keep subnormal numbers away, on which processors are many times slower.
NEGLIGIBLE = 1e-15
FARTHEST = 40.0


@dataclass(frozen=True)
class ConvCRF:
    """Mean-field inference with a spatial and a colour kernel in a window; settings of the paper by default.

    The kernel between two cells is the sum of two Gaussians, of their distance in the image and of that of their
    colours: weight * exp(-|difference / bandwidth|^2 / 2).

    Everything is computed in float32, under autocast too (on CUDA the matrix products are in TF32 if the process
    allows it, which torch does not by default). No gradient is kept.
    """

    iterations: int = 20
    window: int = 15  # cells, odd
    pooling: int = 4
    spatial_weight: float = 3.0
    spatial_bandwidth: float = 3.0  # pixels
    colour_weight: float = 10.0
    colour_bandwidth: float = 0.1  # units of the normalised image
    unary_weight: float = 0.8
    message_weight: float = 0.2
    # auto: the Triton kernel on CUDA, torch on the CPU. triton on the CPU needs Triton's interpreter, and is slow.
    backend: Literal["auto", "torch", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}, expected an odd number of cells")

    @torch.no_grad()
    def __call__(self, unary: Tensor, image: Tensor) -> Tensor:
        """Run the mean-field iterations.

        Args:
            unary: [B, C, H, W] class probabilities.
            image: [B, 3, H, W] normalised image.

        Returns:
            [B, C, H, W] float32; the last iteration is not softmaxed. With no iterations: log_softmax of the unary.

        Raises:
            ValueError: the shapes do not fit each other, or H or W is not a multiple of the pooling.
            UserError: the Triton backend is asked for and Triton is not installed.
        """
        batch, classes, height, width = unary.shape
        if image.shape != (batch, 3, height, width):
            raise ValueError(f"image is {tuple(image.shape)}, expected {(batch, 3, height, width)}")
        if height % self.pooling or width % self.pooling:
            raise ValueError(f"unary is {height} x {width}, expected multiples of {self.pooling}")
        triton = self._triton(unary.device)
        output = torch.empty(unary.shape, dtype=torch.float32, device=unary.device)
        # On the CPU one image fills the cache; on CUDA a group of images shares the cost of the launches.
        group = 1 if unary.device.type == "cpu" else max(1, GROUP_BYTES // (4 * classes * height * width))
        with torch.autocast(unary.device.type, enabled=False):
            for chunk in zip(unary.split(group), image.split(group), output.split(group), strict=True):
                self._infer(chunk[0].float(), chunk[1].float(), chunk[2], triton)
        return output

    def _triton(self, device: torch.device) -> ModuleType | None:
        """The module of the Triton kernel if it is to run on this device."""
        if self.backend == "torch" or (self.backend == "auto" and device.type != "cuda"):
            return None
        try:
            # Imported here: it takes a second, and the CPU has no use for it.
            return importlib.import_module("src.crf_triton")
        except ImportError as error:
            if self.backend == "triton":
                raise UserError(f"CRF backend 'triton': {error}; install triton or use 'torch'") from error
            warnings.warn(f"CRF in plain torch, slower with the same result: {error}", stacklevel=3)
            return None

    def _infer(self, unary: Tensor, image: Tensor, output: Tensor, triton: ModuleType | None) -> None:
        if not self.iterations:
            torch.log_softmax(unary, dim=1, out=output)
            return
        _, classes, height, width = unary.shape
        messages = _Messages(self, image, classes)
        cells = strip = height // self.pooling
        if unary.device.type == "cpu" and triton is None:
            strip = min(strip, max(1, STRIP_BYTES // (4 * self.pooling * classes * width)))
        strips = [range(cells)[first : first + strip] for first in range(0, cells, strip)]
        pixels = unary.split(strip * self.pooling, dim=2)
        phases = [self._split(rows.log_softmax(dim=1)).contiguous() for rows in pixels]

        for rows, u in zip(strips, phases, strict=True):
            messages.pooled(rows).copy_(u.sum((1, 2)))  # q starts as u, not softmaxed
            u.mul_(self.unary_weight)
        for iteration in range(self.iterations):
            padded = messages.pass_on()  # [B, C, h + 2, w + 2]
            last = iteration == self.iterations - 1
            if triton and not last:
                triton.update(phases[0], padded, messages.pooled(strips[0]))
                continue
            for rows, u in zip(strips, phases, strict=True):
                q = self._upsample(padded[:, :, rows.start : rows.stop + 2]).add_(u)
                if last:
                    pixels = output[:, :, rows.start * self.pooling : rows.stop * self.pooling]
                    self._split(pixels).copy_(q)
                else:
                    pooled = messages.pooled(rows)
                    torch.sum(torch.softmax(q, dim=3, out=q), dim=(1, 2), out=pooled)
                    F.threshold_(pooled, NEGLIGIBLE, 0)

    def _split(self, pixels: Tensor) -> Tensor:
        """Pixels by their phases: a view of [B, C, H, W] as [B, f, f, C, h, w]."""
        cells = pixels.unflatten(3, (-1, self.pooling)).unflatten(2, (-1, self.pooling))
        return cells.permute(0, 3, 5, 1, 2, 4)

    def _upsample(self, messages: Tensor) -> Tensor:
        """Bilinear upsampling, split into phases: [B, C, h + 2, w + 2], border repeated -> [B, f, f, C, h, w]."""
        batch, classes, height, width = messages.shape
        h, w, taps = height - 2, width - 2, phase_taps(self.pooling)
        rows = messages.new_empty(batch, self.pooling, classes, h, width)
        for phase, (i, weight) in enumerate(taps):
            above, below = messages[:, :, i : i + h], messages[:, :, i + 1 : i + 1 + h]
            torch.lerp(above, below, weight, out=rows[:, phase])
        upsampled = messages.new_empty(batch, self.pooling, self.pooling, classes, h, w)
        for phase, (j, weight) in enumerate(taps):
            left, right = rows[..., j : j + w], rows[..., j + 1 : j + 1 + w]
            torch.lerp(left, right, weight, out=upsampled[:, :, phase])
        return upsampled


def phase_taps(pooling: int) -> list[tuple[int, float]]:
    """Bilinear upsampling (align_corners=False) along one axis, phase by phase.

    Returns for each phase (offset, weight): pixel pooling * i + phase is (1 - weight) * cells[i + offset] +
    weight * cells[i + offset + 1], where cells has its first and last element repeated once.
    """
    positions = [(phase + 0.5) / pooling + 0.5 for phase in range(pooling)]
    return [(int(position), position - int(position)) for position in positions]


class _Messages:
    """The kernel of a group of images as block matrices, and the buffers of the message passing."""

    def __init__(self, crf: ConvCRF, image: Tensor, classes: int) -> None:
        """image: [B, 3, H, W]."""
        batch, _, height, width = image.shape
        self.cells = height // crf.pooling, width // crf.pooling
        self.radius = crf.window // 2
        self.blocks = -(-self.cells[0] // BLOCK[0]), -(-self.cells[1] // BLOCK[1])
        self.around = BLOCK[0] + 2 * self.radius, BLOCK[1] + 2 * self.radius
        self.kernel = self._block_kernel(crf, image)  # [B n, cells around, cells of the block]
        grid = self.blocks[0] * BLOCK[0], self.blocks[1] * BLOCK[1]
        self._q = image.new_zeros(batch, classes, grid[0] + 2 * self.radius, grid[1] + 2 * self.radius)
        self._neighbours = image.new_empty(self._neighbourhoods(self._q).shape)
        self._sums = image.new_empty(self.kernel.shape[0], classes, BLOCK[0] * BLOCK[1])
        self._grid = image.new_empty(batch, classes, grid[0] + 2, grid[1] + 2)

    def pooled(self, rows: range) -> Tensor:
        """Where the sum of q over the pixels of each cell belongs: a view of [B, C, len(rows), w]."""
        first = self.radius + rows.start
        return self._q[:, :, first : first + len(rows), self.radius : self.radius + self.cells[1]]

    def pass_on(self) -> Tensor:
        """The kernel-weighted sum of q around each cell: [B, C, h + 2, w + 2], the border repeated once around."""
        h, w = self.cells
        classes = self._q.shape[1]
        self._neighbours.copy_(self._neighbourhoods(self._q))
        torch.bmm(self._neighbours.view(-1, classes, self.kernel.shape[1]), self.kernel, out=self._sums)
        sums = self._sums.view(-1, *self.blocks, classes, *BLOCK).permute(0, 3, 1, 4, 2, 5)
        inner = self._grid[:, :, 1:-1, 1:-1]
        inner.unflatten(3, (-1, BLOCK[1])).unflatten(2, (-1, BLOCK[0])).copy_(sums)
        grid = self._grid[:, :, : h + 2, : w + 2]
        grid[:, :, 0], grid[:, :, -1] = grid[:, :, 1], grid[:, :, -2]
        grid[..., 0], grid[..., -1] = grid[..., 1], grid[..., -2]
        return grid

    def _neighbourhoods(self, cells: Tensor) -> Tensor:
        """Padded cells around each block: a view of [B, n rows, n columns, channels, *around]."""
        rows = cells.unfold(2, self.around[0], BLOCK[0])
        return rows.unfold(3, self.around[1], BLOCK[1]).permute(0, 2, 3, 1, 4, 5)

    def _block_kernel(self, crf: ConvCRF, image: Tensor) -> Tensor:
        """The kernel, times the weight of the messages and the 1/f^2 of the pooling."""
        spatial, window = self._spatial_kernel(crf, image.device)
        window *= crf.message_weight / crf.pooling**2
        spatial *= crf.spatial_weight * window
        window *= crf.colour_weight
        # Beyond the image any colour will do: q is 0 there.
        colours = F.avg_pool2d(image, crf.pooling).mul_(0.5**0.5 / crf.colour_bandwidth)
        r = self.radius
        below, right = (-cells % block for cells, block in zip(self.cells, BLOCK, strict=True))
        neighbours = self._neighbourhoods(F.pad(colours, (r, r + right, r, r + below)))
        centres = neighbours[..., r : r + BLOCK[0], r : r + BLOCK[1]].reshape(-1, 3, 1, BLOCK[0] * BLOCK[1])
        neighbours = neighbours.reshape(-1, 3, self.around[0] * self.around[1], 1)
        kernel = image.new_empty(len(centres), *window.shape)
        # Few blocks at a time on the CPU, for the cache. Differences, where a matrix product of colours would cancel.
        step = 2 if image.device.type == "cpu" else 1024
        for out, j, i in zip(kernel.split(step), neighbours.split(step), centres.split(step), strict=True):
            torch.sub(j[:, 0], i[:, 0], out=out).square_()
            for channel in (1, 2):
                out += (j[:, channel] - i[:, channel]).square_()
            out.clamp_(max=FARTHEST).neg_().exp_().mul_(window).add_(spatial)
        return kernel

    def _spatial_kernel(self, crf: ConvCRF, device: torch.device) -> tuple[Tensor, Tensor]:
        """The spatial Gaussian and the window (0 or 1): [cells around, cells of the block] each."""
        apart = []  # rows, then columns, between the cells around and those of the block
        for around, block in zip(self.around, BLOCK, strict=True):
            first = torch.arange(around, device=device) - self.radius
            apart.append(first[:, None] - torch.arange(block, device=device))
        rows, columns = apart[0][:, None, :, None], apart[1][None, :, None, :]
        shape = self.around[0] * self.around[1], BLOCK[0] * BLOCK[1]
        window = (rows.abs() <= self.radius) & (columns.abs() <= self.radius)
        exponent = (rows.square() + columns.square()) * (0.5 * (crf.pooling / crf.spatial_bandwidth) ** 2)
        return torch.exp(-exponent.clamp(max=FARTHEST)).view(shape), window.float().view(shape)
