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
CLAMPED_BYTES = 32 * 2**20  # of full-size maps that are computed at a time

COLUMNS = ("layer", "mean_image_entropy", "dataset_entropy", "entropy_ratio", "cov", "infoscore", "rank")
"""Header of the CSV with :meth:`LayerScores.rows`."""


@dataclass(frozen=True)
class LayerScores:
    """InfoScore and its parts of L layers, [L] float64 each.

    Attributes:
        layers: indices of the layers in the text encoder.
        skipped: unreadable images: image and reason.
        halved: number of batches that were computed in parts because memory ran out.
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
    the quotient at 1e-6 too, and take the mean over all pixels, padding included. Most prompts do not need full-size
    maps: with the upsampling matrix W and s = max(W sum_p map_p, 1e-6), the mean of W map_p / s over pixels is
    <map_p, W^T (1 / s)> / S^2. Only prompts whose quotient may be below the clamp somewhere, by a bound from their
    smallest patch, are computed by the definition.

    Args:
        maps: [B, P, N], prompt maps of one layer (softmax over prompts, times itm).
        image_size: S.

    Returns:
        [B, P].
    """
    return _shares([maps], image_size)[0]


def layer_shares(attended: PatchAttention, layers: Sequence[int], image_size: int) -> Tensor:
    """:func:`prompt_shares` [L, B, P] of ``layers`` for the images of ``attended``."""
    return _shares([attended.prompt_maps(layer).float() for layer in layers], image_size)


def _shares(layers: Sequence[Tensor], image_size: int) -> Tensor:
    """:func:`prompt_shares` of L layers' maps, [B, P, N] each: [L, B, P].

    Synchronises once with a GPU, for the clamp, and copies the indices of all clamped prompts to it in one transfer.
    """
    at_a_time = max(1, CLAMPED_BYTES // (4 * image_size**2))
    with threads(1):  # the rounding of a sum depends on the number of threads
        parts = [_unclamped_shares(maps, image_size) for maps in layers]
        shares = torch.stack([part.shares for part in parts])
        marked, by_layer = _marked(torch.stack([part.may_clamp for part in parts]).cpu())
        for maps, part, own, indices in zip(
            layers, parts, shares, marked.to(shares.device).split(by_layer), strict=True
        ):
            for first in range(0, len(indices), at_a_time):
                image, prompt = indices[first : first + at_a_time].unbind(1)
                full_size = upsample(maps[image, prompt][:, None], image_size)[:, 0]  # [K', S, S]
                clamped = full_size.div_(part.total[image]).clamp_(min=CLAMP)
                own[image, prompt] = clamped.mean((1, 2))
    return shares


@dataclass(frozen=True)
class _Unclamped:
    """Shares [B, P] without the clamp; which of them the clamp may change; the clamped sum over prompts [B, S, S]."""

    shares: Tensor
    may_clamp: Tensor
    total: Tensor


def _unclamped_shares(maps: Tensor, image_size: int) -> _Unclamped:
    grid = round(maps.shape[-1] ** 0.5)
    total = upsample(maps.sum(1, keepdim=True), image_size)[:, 0].clamp_(min=CLAMP)  # [B, S, S]
    axis = upsampling_matrix(grid, image_size, maps)  # [S, g]; W is this along both axes
    weight = axis.T @ (1 / total) @ axis  # [B, g, g]
    shares = (maps @ weight.flatten(1)[..., None])[..., 0] / image_size**2
    return _Unclamped(shares, maps.amin(2) < CLAMP * total.amax((1, 2))[:, None], total)


def _marked(may_clamp: Tensor) -> tuple[Tensor, list[int]]:
    """Indices (image, prompt) [K, 2] of the true values in [L, B, P], layer by layer, and their number per layer."""
    places = may_clamp.nonzero()
    return places[:, 1:].contiguous(), places[:, 0].bincount(minlength=len(may_clamp)).tolist()


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
