"""The ConvCRF (Teichmann and Cipolla 2018): aligns class probabilities with the edges of the image.

Computed literally, the formula (docs/method.md, "ConvCRF") unfolds the 15 x 15 neighbourhood of every cell of every
class map and keeps q at full size. Two observations make it cheaper:

- The kernel does not change over the iterations. It is stored as one matrix per block of cells (rows: the cells around
  the block; columns: the cells of the block; zeros outside the window), and the messages of an iteration are one
  batched matrix product.
- Bilinear upsampling and average pooling by the same factor f are polyphase: the pixels (f i + a, f j + b) of one
  phase (a, b) get the messages of cells i - 1, i and i + 1 with weights that depend on (a, b) alone. The pixels are
  stored by phase, an update works on strips of rows that fit in the cache, and only the last iteration writes q at
  full size.

B images, C classes, H x W pixels, f pooling, h x w = H/f x W/f cells, n blocks of cells in an image.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..runtime import MAX_WORKING_BYTES, working_memory
from ..screen import note

Run = Callable[..., list]

# Height and width of a block, cells. Larger blocks multiply more zeros, smaller ones gather more neighbours.
BLOCK = 8
# Bytes of q that a CPU thread works on at a time: small enough to stay in the cache over a few operations, large
# enough to keep the interpreter's share of the time small.
STRIP_BYTES = 4_000_000
# Below this number of values in a unary, several threads on one image lose more by waiting than they gain.
SMALL_IMAGE = 2_000_000
# q below NEGLIGIBLE counts as 0, and a Gaussian is at least exp(-FARTHEST): both far below the rounding of the sums
# that they enter. This avoids subnormal numbers, on which processors are many times slower.
NEGLIGIBLE = 1e-15
FARTHEST = 40.0


@dataclass(frozen=True)
class ConvCRF:
    """Mean-field inference with a spatial and a colour kernel in a window; the defaults are the paper's settings.

    The kernel between two cells is the sum of two Gaussians, one of their positions and one of their colours:
    weight * exp(-|difference / bandwidth|^2 / 2).

    Computes in float32, also under autocast, and without gradients.
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
    # auto: the Triton kernel on CUDA, torch on the CPU. triton on the CPU needs Triton's interpreter and is slow.
    backend: Literal["auto", "torch", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}; expected an odd number of cells")

    def __call__(self, unary: Tensor, image: Tensor) -> Tensor:
        """Run the mean-field iterations.

        Args:
            unary: [B, C, H, W] class probabilities.
            image: [B, 3, H, W] normalised image.

        Returns:
            [B, C, H, W] float32, the last iteration without softmax. With 0 iterations: log_softmax of the unary.

        Raises:
            ValueError: the shapes differ, or H or W is not a multiple of the pooling.
            UserError: ``backend`` is "triton" and the kernel does not run on this device.
        """
        batch, classes, height, width = unary.shape
        if image.shape != (batch, 3, height, width):
            raise ValueError(f"image is {tuple(image.shape)}; expected {(batch, 3, height, width)}")
        if height % self.pooling or width % self.pooling:
            raise ValueError(f"unary is {height} x {width}; expected multiples of {self.pooling}")
        device = unary.device
        # inference_mode and autocast hold for one thread only: turn them off, so that all threads compute alike.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            return self._infer(unary.detach(), image.detach(), self._triton(device, classes))

    def _triton(self, device: torch.device, classes: int) -> ModuleType | None:
        """The module of the Triton kernel, or None to compute in torch."""
        if self.backend == "torch" or (self.backend == "auto" and device.type != "cuda"):
            return None
        module, fault = load_triton(device, classes, self.pooling)
        if module is None and self.backend == "triton":
            raise UserError(f"CRF backend 'triton' does not run on {device}: {fault}; use 'torch'")
        if module is None:
            _note_once(f"CRF on {device} runs in plain torch: slower, same result: {fault}")
        return module

    def _infer(self, unary: Tensor, image: Tensor, triton: ModuleType | None) -> Tensor:
        output = torch.empty(unary.shape, dtype=torch.float32, device=unary.device)
        on_cpu = unary.device.type == "cpu"
        group = self._group(unary)
        groups = unary.split(group), image.split(group), output.split(group)
        with _parallel(unary.device) as run:
            # For small images, synchronising threads costs more than it gains: each thread takes an image of its own.
            apart = on_cpu and triton is None and unary[0].numel() < SMALL_IMAGE
            over_images, within = (run, _in_turn) if apart else (_in_turn, run)

            def infer(u: Tensor, i: Tensor, out: Tensor) -> None:
                if self.iterations:
                    self._infer_group(u.float(), i.float(), out, triton, within)
                else:
                    torch.log_softmax(u.float(), dim=1, out=out)

            over_images(infer, *groups)
        return output

    def _group(self, unary: Tensor) -> int:
        """Number of images of ``unary`` [B, C, H, W] to process at a time."""
        batch, classes, height, width = unary.shape
        if unary.device.type == "cpu":
            return 1  # one fills the cache
        # On CUDA, larger groups need fewer launches: as many images as fit, in groups of about equal size.
        most = max(
            1, working_memory(unary.device, MAX_WORKING_BYTES, 0) // self._bytes_per_image(classes, height, width)
        )
        return -(-batch // -(-batch // most))

    def _bytes_per_image(self, classes: int, height: int, width: int) -> int:
        """Working memory per image, besides its unary and its output."""
        blocks = -(-height // (BLOCK * self.pooling)) * -(-width // (BLOCK * self.pooling))
        around = (BLOCK + self.window - 1) ** 2
        kernel = blocks * around * BLOCK**2
        neighbourhoods = blocks * classes * (around + BLOCK**2)  # of q, and their sums
        upsampled = 3 * classes * height * width // 2  # messages along one axis and along both
        pooled = 2 * (classes + 3) * height * width // self.pooling**2  # q, messages, colours
        # two copies of the kernel exist while it is computed
        return 4 * (kernel + max(kernel, neighbourhoods, upsampled) + pooled)

    def _infer_group(self, unary: Tensor, image: Tensor, output: Tensor, triton: ModuleType | None, run: Run) -> None:
        _, classes, height, width = unary.shape
        messages = _Messages(self, image, classes, run)
        cells = strip = height // self.pooling
        if unary.device.type == "cpu" and triton is None:
            strip = min(strip, max(1, STRIP_BYTES // (4 * self.pooling * classes * width)))
        strips = [range(cells)[first : first + strip] for first in range(0, cells, strip)]

        def pixels(tensor: Tensor, rows: range) -> Tensor:
            return self._split(tensor[:, :, rows.start * self.pooling : rows.stop * self.pooling])

        def prepare(rows: range) -> Tensor:
            # The strip's part of the output holds its phases until the last iteration; each class is contiguous.
            part = output[:, :, rows.start * self.pooling : rows.stop * self.pooling]
            u = part.view(*part.shape[:2], self.pooling, self.pooling, len(rows), -1).permute(0, 2, 3, 1, 4, 5)
            torch.log_softmax(pixels(unary, rows), dim=3, out=u)  # [B, f, f, C, len(rows), w]
            messages.pooled(rows).copy_(u.sum((1, 2)))  # q starts as u, not softmaxed
            return u.mul_(self.unary_weight)

        def update(rows: range, u: Tensor) -> None:
            if triton:
                triton.update(u, padded, messages.pooled(rows))
                return
            q = self._upsample(padded[:, :, rows.start : rows.stop + 2]).add_(u)
            torch.sum(torch.softmax(q, dim=3, out=q), dim=(1, 2), out=messages.pooled(rows))
            torch.threshold_(messages.pooled(rows), NEGLIGIBLE, 0)

        def finish(rows: range, u: Tensor) -> None:
            pixels(output, rows).copy_(self._upsample(padded[:, :, rows.start : rows.stop + 2]).add_(u))

        phases = run(prepare, strips)
        for iteration in range(self.iterations):
            padded = messages.pass_on()  # [B, C, h + 2, w + 2]
            run(update if iteration < self.iterations - 1 else finish, strips, phases)

    def _split(self, pixels: Tensor) -> Tensor:
        """Split pixels into phases: a view of [B, C, H, W] as [B, f, f, C, h, w]."""
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


@functools.cache
def load_triton(device: torch.device, classes: int, pooling: int) -> tuple[ModuleType | None, str]:
    """The module of the Triton kernel and "", or None and the reason why the kernel does not run on ``device``.

    Found out by running it, once per device and number of classes: Triton compiles at the first launch, which needs a C
    compiler, Python's headers, a writable cache folder and a supported GPU.
    """
    try:
        # Imported here: the import takes a second, and the CPU does not need it.
        module = importlib.import_module(".crf_triton", __package__)
        module.probe(device, classes, pooling)
    except torch.OutOfMemoryError:
        raise  # not a fault of the kernel
    except Exception as error:  # compilers, drivers and file systems raise many kinds; all mean: it does not run
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
    return module, ""


_note_once = functools.cache(note)


@contextmanager
def _parallel(device: torch.device) -> Iterator[Run]:
    """A ``map`` that returns a list; on the CPU it runs in as many threads as torch has.

    Torch's own threads would synchronise at each operation of each strip, thousands of times per image. That takes many
    times longer as soon as another process, such as a worker that reads images, needs a core.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield _in_turn
        return
    # set_num_threads in a pool's thread also changes the default for later threads: restore it.
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda function, *arguments: list(pool.map(function, *arguments))
    finally:
        torch.set_num_threads(threads)


def _in_turn(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    return list(map(function, *arguments))


def phase_taps(pooling: int) -> list[tuple[int, float]]:
    """Bilinear upsampling (align_corners=False) along one axis, phase by phase.

    Returns:
        (offset, weight) for each phase: pixel pooling * i + phase is (1 - weight) * cells[i + offset] +
        weight * cells[i + offset + 1], where the first and last element of cells are repeated once.
    """
    positions = [(phase + 0.5) / pooling + 0.5 for phase in range(pooling)]
    return [(int(position), position - int(position)) for position in positions]


class _Messages:
    """The kernel of a group of images as block matrices, and the buffers of the message passing."""

    def __init__(self, crf: ConvCRF, image: Tensor, classes: int, run: Run) -> None:
        """image: [B, 3, H, W]."""
        batch, _, height, width = image.shape
        self._run = run
        self.cells = height // crf.pooling, width // crf.pooling
        self.radius = crf.window // 2
        self.blocks = -(-self.cells[0] // BLOCK), -(-self.cells[1] // BLOCK)
        # On the CPU one row of blocks at a time, to stay in the cache.
        step = 1 if image.device.type == "cpu" else self.blocks[0]
        self._steps = [slice(first, first + step) for first in range(0, self.blocks[0], step)]
        self._kernels = self._block_kernels(crf, image)  # one a step: [B n, cells around, cells of the block]
        h, w = self.blocks[0] * BLOCK, self.blocks[1] * BLOCK
        self._q = image.new_zeros(batch, classes, h + 2 * self.radius, w + 2 * self.radius)
        self._grid = image.new_empty(batch, classes, h + 2, w + 2)

    def pooled(self, rows: range) -> Tensor:
        """Buffer for the sum of q over the pixels of each cell: a view of [B, C, len(rows), w]."""
        first = self.radius + rows.start
        return self._q[:, :, first : first + len(rows), self.radius : self.radius + self.cells[1]]

    def pass_on(self) -> Tensor:
        """The kernel-weighted sum of q around each cell: [B, C, h + 2, w + 2], the border repeated once."""
        h, w = self.cells
        batch, classes = self._q.shape[:2]
        neighbourhoods = self._neighbourhoods(self._q)
        inner = self._grid[:, :, 1:-1, 1:-1].unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))

        def weigh(step: slice, kernel: Tensor) -> None:
            q = neighbourhoods[:, step].reshape(-1, classes, kernel.shape[1])
            sums = torch.bmm(q, kernel).view(batch, -1, self.blocks[1], classes, BLOCK, BLOCK)
            inner[:, :, step].copy_(sums.permute(0, 3, 1, 4, 2, 5))

        self._run(weigh, self._steps, self._kernels)
        grid = self._grid[:, :, : h + 2, : w + 2]
        grid[:, :, 0], grid[:, :, -1] = grid[:, :, 1], grid[:, :, -2]
        grid[..., 0], grid[..., -1] = grid[..., 1], grid[..., -2]
        return grid

    def _neighbourhoods(self, cells: Tensor) -> Tensor:
        """Padded cells around each block: a view of [B, n rows, n columns, channels, side, side]."""
        side = BLOCK + 2 * self.radius
        return cells.unfold(2, side, BLOCK).unfold(3, side, BLOCK).permute(0, 2, 3, 1, 4, 5)

    def _block_kernels(self, crf: ConvCRF, image: Tensor) -> list[Tensor]:
        """The kernel, times the weight of the messages and the 1/f^2 of the pooling."""
        spatial, window = self._spatial_kernel(crf, image.device)
        window *= crf.message_weight / crf.pooling**2
        spatial *= crf.spatial_weight * window
        window *= crf.colour_weight
        # Beyond the image the colour does not matter: q is 0 there.
        colours = F.avg_pool2d(image, crf.pooling).mul_(0.5**0.5 / crf.colour_bandwidth)
        r = self.radius
        below, right = (-cells % BLOCK for cells in self.cells)
        neighbourhoods = self._neighbourhoods(F.pad(colours, (r, r + right, r, r + below)))

        def kernel(step: slice) -> Tensor:
            around = neighbourhoods[:, step]
            centres = around[..., r : r + BLOCK, r : r + BLOCK].reshape(-1, 3, 1, window.shape[1])
            around = around.reshape(-1, 3, window.shape[0], 1)
            # Explicit differences: a matrix product of colours would lose precision by cancellation.
            out = (around[:, 0] - centres[:, 0]).square_()
            for channel in (1, 2):
                out += (around[:, channel] - centres[:, channel]).square_()
            return out.clamp_(max=FARTHEST).neg_().exp_().mul_(window).add_(spatial)

        return self._run(kernel, self._steps)

    def _spatial_kernel(self, crf: ConvCRF, device: torch.device) -> tuple[Tensor, Tensor]:
        """The spatial Gaussian and the window (0 or 1): [cells around, cells of the block] each."""
        around = torch.arange(BLOCK + 2 * self.radius, device=device) - self.radius
        apart = around[:, None] - torch.arange(BLOCK, device=device)
        rows, columns = apart[:, None, :, None], apart[None, :, None, :]
        shape = len(around) ** 2, BLOCK**2
        window = (rows.abs() <= self.radius) & (columns.abs() <= self.radius)
        exponent = (rows.square() + columns.square()) * (0.5 * (crf.pooling / crf.spatial_bandwidth) ** 2)
        return torch.exp(-exponent.clamp(max=FARTHEST)).view(shape), window.float().view(shape)
