"""InfoScore: find the text layers that attend to the image's content, without labels (docs/method.md, "InfoScore").

A good layer attends to few prompts in one image (low entropy per image), to many prompts over all images (high entropy
of the mean), and to different prompts in different images (high coefficient of variation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..method.attention import upsample, upsampling_matrix
from ..method.segmenter import PatchAttention
from ..runtime import threads
from ..screen import table

CLAMP = 1e-6
CROSSING_BYTES = 8 * 2**20  # of upsampled cells that are computed at a time

COLUMNS = ("layer", "mean_image_entropy", "dataset_entropy", "entropy_ratio", "cov", "infoscore", "rank")
"""Header of the CSV with :meth:`LayerScores.rows`."""


@dataclass(frozen=True)
class LayerScores:
    """InfoScore and its parts of L layers, [L] float64 each.

    Attributes:
        layers: indices of the layers in the text encoder.
        skipped: unreadable images: image and reason.
        halved: number of batches computed in smaller parts for lack of memory, which rounds differently.
    """

    layers: tuple[int, ...]
    mean_image_entropy: Tensor
    dataset_entropy: Tensor
    cov: Tensor
    skipped: list[dict[str, str]] = field(default_factory=list)
    halved: int = 0

    @property
    def entropy_ratio(self) -> Tensor:
        return self.dataset_entropy / self.mean_image_entropy

    @property
    def infoscore(self) -> Tensor:
        return self.entropy_ratio * self.cov

    @property
    def ranking(self) -> list[int]:
        """Layers, highest InfoScore first; equal scores in layer order."""
        return [self.layers[place] for place in self.infoscore.argsort(descending=True, stable=True).tolist()]

    def top(self, count: int) -> list[int]:
        """The ``count`` best layers, in layer order: their attention is averaged, so the order does not matter."""
        return sorted(self.ranking[:count])

    def rows(self) -> list[tuple[int | float, ...]]:
        """One row per layer with the values of :data:`COLUMNS`; rank 1 is the best."""
        ranking = self.ranking
        columns = (self.mean_image_entropy, self.dataset_entropy, self.entropy_ratio, self.cov, self.infoscore)
        values = torch.stack(columns, 1).tolist()
        return [(layer, *row, ranking.index(layer) + 1) for layer, row in zip(self.layers, values, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the layers in order of InfoScore, the rows, and the unreadable images."""
        return {
            "layers_by_infoscore": self.ranking,
            "table": [dict(zip(COLUMNS, row, strict=True)) for row in self.rows()],
            "skipped": self.skipped,
            **({"batches_halved": self.halved} if self.halved else {}),
        }

    def table(self) -> str:
        """The rows for the screen."""
        header = ("layer", "image entropy", "dataset entropy", "ratio", "CoV", "InfoScore", "rank")
        formats = ("d", ".4f", ".4f", ".4f", ".3f", ".3f", "d")
        cells = [[format(value, form) for value, form in zip(row, formats, strict=True)] for row in self.rows()]
        return table([header, *cells])


def prompt_shares(maps: Tensor, image_size: int) -> Tensor:
    """Each prompt's share of the image.

    Definition: upsample the prompts' maps to S x S, divide each pixel by its sum over prompts (clamped at 1e-6), clamp
    the quotient at 1e-6 too, and take the mean over all pixels, padding included.

    The pixels between four neighbouring patches form a cell, where a map is bilinear in its four corners. With s for
    the clamped sum over prompts, the quotients of a cell add up to the corners' values times weights that depend on
    1 / s alone. Where a prompt is below the clamp in the whole cell, by a bound from its corners and s, the sum is the
    clamp times the number of pixels. Only cells in between, where a prompt may cross the clamp, are upsampled.

    Args:
        maps: [B, P, N], prompt maps of one layer (softmax over prompts, times itm).
        image_size: S.

    Returns:
        [B, P].
    """
    with threads(1):  # the rounding of a sum depends on the number of threads
        return _shares(maps, image_size)


def layer_shares(attended: PatchAttention, layers: Sequence[int], image_size: int) -> Tensor:
    """:func:`prompt_shares` [L, B, P] of ``layers`` for the images of ``attended``.

    Synchronises once with a GPU.
    """
    maps = [attended.prompt_maps(layer).float() for layer in layers]
    if maps[0].device.type == "cpu":  # a layer at a time fits the cache
        return torch.stack([prompt_shares(each, image_size) for each in maps])
    return prompt_shares(torch.cat(maps), image_size).unflatten(0, (len(maps), -1))


def _shares(maps: Tensor, image_size: int) -> Tensor:
    square, cells = _corners(maps), _Cells.of(maps, image_size)
    inverse = cells.cut(1 / upsample(maps.sum(1, keepdim=True), image_size)[:, 0].clamp(min=CLAMP))
    weights = cells.corner_weights(inverse)
    last = square.shape[-1] - 1
    corners = [square[..., i : i + last, j : j + last] for i in (0, 1) for j in (0, 1)]  # [B, P, Q, Q] each
    sums = corners[0] * weights[0]
    for corner, weight in zip(corners[1:], weights[1:], strict=True):
        sums.addcmul_(corner, weight)
    lowest = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    highest = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    below = highest * inverse.amax((3, 4))[:, None] <= CLAMP
    crossing = (lowest * inverse.amin((3, 4))[:, None] < CLAMP) & ~below
    sums = torch.where(below, CLAMP * cells.pixels, sums)
    for places in _places(crossing).split(max(1, CROSSING_BYTES // (4 * cells.inside.shape[1] ** 2))):
        image, prompt, row, column = places.unbind(1)
        four = [square[image, prompt, row + i, column + j][:, None] for i in (0, 1) for j in (0, 1)]
        down, across = cells.weights[row], cells.weights[column]  # [K, m, 2]
        left, right = (down[..., 0] * four[j] + down[..., 1] * four[2 + j] for j in (0, 1))  # [K, m]
        full_size = left[..., None] * across[:, None, :, 0] + right[..., None] * across[:, None, :, 1]  # [K, m, m]
        clamped = full_size.mul_(inverse[image, row, column]).clamp_(min=CLAMP)
        inside = cells.inside[row][..., None] * cells.inside[column][:, None]
        sums[image, prompt, row, column] = clamped.mul_(inside).sum((1, 2))
    return sums.sum((2, 3)) / image_size**2


def _corners(maps: Tensor) -> Tensor:
    """Maps [B, P, g * g] as [B, P, g, g]; a single patch is repeated to [B, P, 2, 2], which is upsampled alike."""
    grid = round(maps.shape[-1] ** 0.5)
    return maps.unflatten(2, (grid, grid)) if grid > 1 else maps[..., None].expand(-1, -1, 2, 2)


def _places(crossing: Tensor) -> Tensor:
    """Indices [K, 4] of the true values of [B, P, Q, Q]; the only synchronisation with a GPU."""
    return crossing.nonzero()


@dataclass(frozen=True)
class _Cells:
    """The pixels of an image cut into Q x Q cells between four neighbouring patches, up to m pixels along an axis.

    Attributes:
        index: [Q, m], pixels of a cell along an axis; the last one is repeated to fill up.
        inside: [Q, m], 1 for a pixel of the cell, 0 for a repeated one.
        weights: [Q, m, 2], how much of a cell's first and second patch a pixel gets; 0 for a repeated one.
    """

    index: Tensor
    inside: Tensor
    weights: Tensor

    @staticmethod
    def of(maps: Tensor, image_size: int) -> _Cells:
        """The cells of maps [B, P, g * g] upsampled to S x S."""
        last = max(round(maps.shape[-1] ** 0.5), 2) - 1  # Q
        cell = torch.arange(last, device=maps.device)
        # cell k has the pixels x with k <= x (g - 1) / (S - 1) < k + 1; the last cell has the last pixel, too
        first = -(-cell * (image_size - 1) // last)
        end = torch.where(cell == last - 1, image_size, -(-(cell + 1) * (image_size - 1) // last))
        most = (image_size - 1) // last + 1
        index = first[:, None] + torch.arange(most, device=maps.device)
        inside = (index < end[:, None]).to(maps.dtype)
        index = torch.minimum(index, end[:, None] - 1)
        axis = upsampling_matrix(last + 1, image_size, maps)  # [S, g]
        weights = torch.stack([axis[index, cell[:, None] + side] for side in (0, 1)], 2) * inside[..., None]
        return _Cells(index, inside, weights)

    @property
    def pixels(self) -> Tensor:
        """Number of pixels of each cell, [Q, Q]."""
        along = self.inside.sum(1)
        return along[:, None] * along

    def cut(self, image: Tensor) -> Tensor:
        """Cut [B, S, S] into cells [B, Q, Q, m, m]."""
        return image[:, self.index[:, None, :, None], self.index[:, None]]

    def corner_weights(self, inverse: Tensor) -> list[Tensor]:
        """Sums over the pixels of a cell of ``inverse`` [B, Q, Q, m, m] times each corner's weight: [B, 1, Q, Q] each.

        Corners in the order upper left, upper right, lower left, lower right.
        """
        across = [(inverse * self.weights[:, None, :, side]).sum(4) for side in (0, 1)]  # [B, Q, Q, m] each
        return [(half * self.weights[:, None, :, side]).sum(3)[:, None] for side in (0, 1) for half in across]


class InfoScore:
    """Collects prompt shares of L text layers (indices ``layers``) over a data set and scores the layers."""

    def __init__(self, layers: Sequence[int], image_size: int) -> None:
        self.layers = tuple(layers)
        self.image_size = image_size
        self._shares: dict[int, dict[int, Tensor]] = {layer: {} for layer in self.layers}
        self._sums = {layer: _Sums() for layer in self.layers}

    @property
    def images(self) -> int:
        """Number of images added so far."""
        return self._sums[self.layers[-1]].images

    def update(self, layer: int, maps: Tensor) -> None:
        """Add the prompt maps [B, P, N] of ``layer`` on B images."""
        self._add(layer, prompt_shares(maps.float(), self.image_size).cpu(), len(self._shares[layer]))

    def add(self, shares: Tensor, block: int | None = None) -> None:
        """Add prompt shares [L, B, P] of all layers on B images, from :func:`layer_shares`.

        ``block`` is their position among all blocks: sums of floats depend on the order. None: after the last one.
        """
        for layer, own in zip(self.layers, shares.cpu(), strict=True):
            self._add(layer, own, len(self._shares[layer]) if block is None else block)

    def _add(self, layer: int, shares: Tensor, block: int) -> None:
        self._shares[layer][block] = shares
        self._sums[layer].add(shares)

    def scores(self) -> LayerScores:
        """Score all layers on the images added so far.

        Raises:
            ValueError: no image was added.
            UserError: a layer's score is not a finite number.
        """
        if not self.images:
            raise ValueError("InfoScore needs at least one image")
        ordered = [[shares for _, shares in sorted(blocks.items())] for blocks in self._shares.values()]
        shares = torch.stack([torch.cat(blocks) for blocks in ordered]).double()  # [L, images, P]
        mean = shares.mean(1)
        return _finite(
            LayerScores(
                self.layers,
                mean_image_entropy=entropy(shares).mean(1),
                dataset_entropy=entropy(mean),
                cov=(shares.std(1, unbiased=False) / mean).sum(1),
            )
        )

    def running_ranking(self) -> list[int]:
        """The ranking by the images added so far, from running sums: its cost does not grow with the images.

        Its scores differ from :meth:`scores` by rounding, so nearly equal layers may be ordered differently.
        """
        if not self.images:
            raise ValueError("InfoScore needs at least one image")
        sums = [self._sums[layer] for layer in self.layers]
        mean = torch.stack([each.shares / each.images for each in sums])  # [L, P]
        square = torch.stack([each.squares / each.images for each in sums])
        scores = LayerScores(
            self.layers,
            mean_image_entropy=torch.stack([each.entropy / each.images for each in sums]),
            dataset_entropy=entropy(mean),
            cov=((square - mean.square()).clamp(min=0).sqrt() / mean).sum(1),
        )
        return _finite(scores).ranking


class _Sums:
    """Running sums over images for one layer, float64: entropies (a number), prompt shares and squares ([P] each)."""

    def __init__(self) -> None:
        self.images = 0
        self.entropy = self.shares = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, shares: Tensor) -> None:
        shares = shares.double()
        self.images += len(shares)
        self.entropy = self.entropy + entropy(shares).sum()
        self.shares = self.shares + shares.sum(0)
        self.squares = self.squares + shares.square().sum(0)


def _finite(scores: LayerScores) -> LayerScores:
    bad = [layer for layer, score in zip(scores.layers, scores.infoscore.tolist(), strict=True) if not isfinite(score)]
    if bad:  # NaN would be sorted before every number
        raise UserError(
            f"InfoScore of layers {bad} is not a number, because their attention is not: check the model's "
            "weights, or set runtime.amp to bf16 or false"
        )
    return scores


def entropy(shares: Tensor) -> Tensor:
    """Entropy of prompt shares [..., P] in nats, [...]."""
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(-1)
