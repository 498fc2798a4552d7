"""Tune on a few labelled images: trained weights, loss and steps (docs/method.md, "Tuning").

Word embeddings and cross-attention of the chosen layers are trained. Images are encoded once: the vision encoder is
frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.schema import OneShotConfig
from ..data.dataset import SegmentationDataset
from ..data.labels import Labelling
from ..data.lists import ListEntry
from ..errors import UserError
from ..method.segmenter import Segmenter
from ..screen import progress
from .embeddings import Encoder
from .supports import Support

BACKGROUND_WEIGHT = 0.5
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True)
class LabelledImage:
    """A support image: embeddings [1 + N, D], and labels in the letterbox frame, uint8 [S, S]."""

    embeds: Tensor
    labels: Tensor


def read_supports(
    supports: Sequence[Support],
    entries: Sequence[ListEntry],
    segmenter: Segmenter,
    labelling: Labelling,
    encoder: Encoder,
) -> list[LabelledImage]:
    """Read and encode the supports of a run, which index ``entries``, for the frame and device of ``segmenter``.

    Raises:
        UserError: an image or mask cannot be read.
    """
    indices = [support.index for support in supports]
    dataset = SegmentationDataset(entries, segmenter.frame, labelling, indices=indices)
    other_classes = 0 if labelling.background else labelling.ignore_label
    images = []
    with progress(len(supports), "encoding supports") as bar:
        for position, support in enumerate(supports):
            sample = dataset[position]
            assert sample.labels is not None
            labels = sample.labels.to(segmenter.device)
            if support.isolated:
                labels[(labels != support.label) & (labels != labelling.ignore_label)] = other_classes
            embeds = encoder([entries[support.index].image], sample.pixels[None].to(segmenter.device))[0]
            images.append(LabelledImage(embeds, labels))
            bar.update()
    return images


def tune(
    segmenter: Segmenter, supports: Sequence[LabelledImage], oneshot: OneShotConfig, ignore_label: int, description: str
) -> tuple[Segmenter, list[float]]:
    """Tune on ``supports`` with AdamW, in several passes in the given order.

    Args:
        segmenter: is not changed, nor is its model; tuning starts from the model's own weights.
        supports: in class order.
        ignore_label: pixels with this label are left out.

    Returns:
        The segmenter with tuned weights and the loss of every step.

    Raises:
        UserError: a loss is not a number.
    """
    weights = {name: value.requires_grad_() for name, value in segmenter.untuned_weights().items()}
    learner = segmenter.with_weights(weights)
    optimizer = torch.optim.AdamW(list(weights.values()), lr=oneshot.lr, weight_decay=oneshot.weight_decay)
    size = oneshot.batch_gradient_accumulation
    steps = [supports[first : first + size] for first in range(0, len(supports), size)]
    losses: list[float] = []
    numbers = segmenter.number_format
    with progress(oneshot.num_iterations * len(steps), description, "step") as bar:
        for number in range(oneshot.num_iterations):
            for images in steps:
                optimizer.zero_grad()
                loss = _accumulate(learner, images, ignore_label)
                if not math.isfinite(loss):
                    raise UserError(
                        f"{description}: the loss is {loss} in pass {number + 1} in {numbers.name}; lower oneshot.lr "
                        f"({oneshot.lr}), or {numbers.remedy}"
                    )
                optimizer.step()
                losses.append(loss)
                bar.update()
                bar.set_postfix({"pass": number + 1, "loss": f"{loss:.4f}"})
    return segmenter.with_weights({name: value.detach() for name, value in weights.items()}), losses


def _accumulate(segmenter: Segmenter, images: Sequence[LabelledImage], ignore_label: int) -> float:
    """Accumulate the gradient of the loss over the pixels of all ``images``, one image at a time to save memory."""
    total = sum(loss_weight(image.labels, ignore_label) for image in images)
    loss = 0.0
    for image in images:
        # the prompts are encoded again for each image, because backward frees their graph
        attended = segmenter.attend(image.embeds[None], prompts=segmenter.encode_prompts())
        part = summed_loss(segmenter.unary(attended), image.labels[None], ignore_label) / total
        part.backward()
        loss += float(part.detach())
    return loss


def loss_weight(labels: Tensor, ignore_label: int) -> float:
    """Total weight of the pixels ``labels`` in the loss: background 0.5, other classes 1, ignored pixels 0."""
    background = int((labels == 0).sum())
    return BACKGROUND_WEIGHT * background + int((labels != ignore_label).sum()) - background


def summed_loss(unary: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
    """Weighted sum over pixels of -log of the true class's probability, clamped at 1e-12, without ``ignore_label``.

    Args:
        unary: [B, C, S, S] probabilities.
        labels: [B, S, S] uint8.
    """
    ignored = labels == ignore_label
    # Gather one probability per pixel: the logarithm of all C maps takes a tenth of a step on the CPU, and nll_loss is
    # not deterministic on CUDA.
    classes = labels.long().masked_fill(ignored, 0)[:, None]
    log_probabilities = unary.gather(1, classes)[:, 0].clamp(min=MIN_PROBABILITY).log()
    weights = torch.where(labels == 0, BACKGROUND_WEIGHT, 1.0).masked_fill(ignored, 0)
    return -(weights * log_probabilities).sum()
