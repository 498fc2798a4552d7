"""Tuning on a few labelled images: what is trained, the loss, the steps (docs/method.md, "Tuning").

Trained are the word embeddings and the cross-attention blocks of the chosen layers. The vision encoder is frozen, so
images come encoded and nothing is differentiated through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from src.config.schema import OneShotConfig
from src.data.dataset import SegmentationDataset
from src.data.lists import ListEntry
from src.errors import UserError
from src.evaluation.evaluate import Encoder
from src.method.segmenter import Segmenter
from src.one_shot.supports import Support

BACKGROUND_WEIGHT = 0.5
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True)
class LabelledImage:
    """A support image, encoded, with its labels in the letterbox frame.

    Attributes:
        embeds: [1 + N, D].
        labels: [S, S] uint8.
    """

    embeds: Tensor
    labels: Tensor


def read_supports(
    supports: Sequence[Support],
    entries: Sequence[ListEntry],
    segmenter: Segmenter,
    ignore_label: int,
    encoder: Encoder | None = None,
) -> list[LabelledImage]:
    """Read and encode support images.

    Args:
        supports: the drawn ones, in class order.
        entries: the support list they index.
        segmenter: whose frame, classes and vision encoder count.
        ignore_label: of the masks.
        encoder: stands in for the vision encoder.

    Raises:
        UserError: an image or mask could not be read.
    """
    indices = [support.index for support in supports]
    num_classes = len(segmenter.prompts.class_names)
    dataset = SegmentationDataset(entries, segmenter.frame, num_classes, ignore_label, indices=indices)
    images = []
    for position, support in enumerate(tqdm(supports, desc="encoding supports", unit="image", dynamic_ncols=True)):
        sample = dataset[position]
        assert sample.labels is not None
        labels = sample.labels.to(segmenter.device)
        if support.isolated:
            labels[(labels != support.label) & (labels != ignore_label)] = 0
        pixels = sample.pixels[None].to(segmenter.device)
        embeds = encoder([support.index], pixels) if encoder else segmenter.encode_images(pixels)
        images.append(LabelledImage(embeds[0], labels))
    return images


class Tunable:
    """The weights of a segmenter's text encoder that tuning changes, by name, and a way to change and restore them.

    Only the embedding rows of tokens that occur in the prompts are trained: no other row can change a result. The row
    of the padding token gets no gradient, as in HuggingFace's embedding, but takes part in weight decay.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        text_encoder = segmenter.blip.model.text_encoder
        self._embedding: nn.Embedding = text_encoder.embeddings.word_embeddings
        self._blocks = {layer: text_encoder.encoder.layer[layer].crossattention for layer in segmenter.layers}
        self.untuned_digest = segmenter.blip.digest  # taken now, before anything changes
        self.token_ids = segmenter.input_ids.unique()  # [R], sorted

    def state(self) -> dict[str, Tensor]:
        """Current values: ``word_embeddings`` [R, D] of :attr:`token_ids`, and ``layer.{n}.crossattention.*``."""
        state = {"word_embeddings": self._embedding.weight.detach()[self.token_ids].clone()}
        for name, parameter in self._cross_attention():
            state[name] = parameter.detach().clone()
        return state

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Set all values; ``state`` as :meth:`state` gives it."""
        self._embedding.weight[self.token_ids] = state["word_embeddings"].to(self._embedding.weight)
        for name, parameter in self._cross_attention():
            parameter.copy_(state[name])
        self.segmenter.forget_prompts()

    @contextmanager
    def training(self) -> Iterator[list[nn.Parameter]]:
        """Yield the parameters to optimise; while it lasts, the text encoder computes with them."""
        embeddings = self.segmenter.blip.model.text_encoder.embeddings
        whole, input_ids = self._embedding, self.segmenter.input_ids
        padding = (
            (self.token_ids == whole.padding_idx).nonzero().flatten().tolist() if whole.padding_idx is not None else []
        )
        rows = nn.Embedding.from_pretrained(
            whole.weight.detach()[self.token_ids].clone(), freeze=False, padding_idx=padding[0] if padding else None
        )
        trained = [rows.weight, *(parameter for _, parameter in self._cross_attention())]
        embeddings.word_embeddings = rows
        self.segmenter.input_ids = torch.searchsorted(self.token_ids, input_ids)
        for parameter in trained:
            parameter.requires_grad_(True)
        try:
            yield trained
        finally:
            embeddings.word_embeddings = whole
            self.segmenter.input_ids = input_ids
            for parameter in trained:
                parameter.requires_grad_(False).grad = None
            with torch.no_grad():
                whole.weight[self.token_ids] = rows.weight
            self.segmenter.forget_prompts()

    def _cross_attention(self) -> Iterator[tuple[str, nn.Parameter]]:
        for layer, block in self._blocks.items():
            for name, parameter in block.named_parameters():
                yield f"layer.{layer}.crossattention.{name}", parameter


def tune(
    tunable: Tunable, supports: Sequence[LabelledImage], oneshot: OneShotConfig, ignore_label: int, description: str
) -> list[float]:
    """Train ``tunable`` on ``supports``: passes in the given order, one AdamW step every few images.

    Args:
        tunable: changed in place.
        supports: in class order.
        oneshot: passes, learning rate, weight decay and images per step.
        ignore_label: pixels with this label count for nothing.
        description: of the progress bar.

    Returns:
        The loss of every step.

    Raises:
        UserError: a loss is not a number; the weights are then as they were before that step.
    """
    size = oneshot.batch_gradient_accumulation
    steps = [supports[first : first + size] for first in range(0, len(supports), size)]
    losses: list[float] = []
    with (
        tunable.training() as parameters,
        tqdm(total=oneshot.num_iterations * len(steps), desc=description, unit="step", dynamic_ncols=True) as bar,
    ):
        optimizer = torch.optim.AdamW(parameters, lr=oneshot.lr, weight_decay=oneshot.weight_decay)
        for number in range(oneshot.num_iterations):
            for images in steps:
                optimizer.zero_grad()
                loss = _accumulate(tunable.segmenter, images, ignore_label)
                if not math.isfinite(loss):
                    raise UserError(
                        f"{description}: the loss is {loss} in pass {number + 1}; lower oneshot.lr ({oneshot.lr}) "
                        "or set runtime.amp to false"
                    )
                optimizer.step()
                losses.append(loss)
                bar.update()
                bar.set_postfix({"pass": number + 1, "loss": f"{loss:.4f}"})
    return losses


def _accumulate(segmenter: Segmenter, images: Sequence[LabelledImage], ignore_label: int) -> float:
    """Gradient of the loss over the pixels of all ``images``, image by image so that one at a time is in memory."""
    weights = [pixel_weights(image.labels, ignore_label) for image in images]
    total = sum(float(weight.sum()) for weight in weights)
    loss = 0.0
    for image, weight in zip(images, weights, strict=True):
        unary = segmenter.unary(segmenter.attend(image.embeds[None]))
        part = weighted_nll(unary, image.labels[None], weight[None], ignore_label) / total
        part.backward()
        loss += float(part.detach())
    return loss


def pixel_weights(labels: Tensor, ignore_label: int) -> Tensor:
    """Weight of each pixel in the loss, float32 of the shape of ``labels``: background 0.5, others 1, ignored 0."""
    weight = torch.where(labels == 0, BACKGROUND_WEIGHT, 1.0)
    return weight.masked_fill(labels == ignore_label, 0.0)


def weighted_nll(unary: Tensor, labels: Tensor, weights: Tensor, ignore_label: int) -> Tensor:
    """Sum over pixels of weight times -log of the true class's probability, clamped at 1e-12.

    Args:
        unary: [B, C, S, S] probabilities.
        labels: [B, S, S] uint8.
        weights: [B, S, S], from :func:`pixel_weights`; ignored pixels have 0.
        ignore_label: stands for no class.
    """
    true_class = labels.long().masked_fill(labels == ignore_label, 0)[:, None]
    probability = unary.gather(1, true_class)[:, 0].clamp(min=MIN_PROBABILITY)
    return -(weights * probability.log()).sum()
