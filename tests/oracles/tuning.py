"""One-shot tuning as published, on HuggingFace's own model, differentiated through as a whole.

Every step encodes its images again and differentiates through the vision tower, too, whose parameters are not frozen
before the forward pass. The whole word embedding is trained. Parameters of the text encoder that are not trained
are frozen.
"""

import math
import random

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.method import plain_encode
from tests.oracles.stages import attend, unary


def plain_unary(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    prompts_per_class: tuple[int, ...],
    pixels: Tensor,
    layers: tuple[int, ...],
) -> Tensor:
    """Class probabilities [C, S, S] of one image [3, S, S], from a HuggingFace ``BlipForImageTextRetrieval``."""
    embeds = plain_encode(model, pixels[None])
    itm, logits = attend(model, input_ids, attention_mask, embeds, layers)
    return unary(logits, itm, prompts_per_class, pixels.shape[-1])[0]


def plain_tune(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    prompts_per_class: tuple[int, ...],
    supports: list[tuple[Tensor, Tensor]],
    layers: tuple[int, ...],
    passes: int,
    accumulation: int,
    lr: float,
    weight_decay: float,
) -> list[float]:
    """Tune ``model`` in place on supports (pixels [3, S, S], labels [S, S]); returns the loss of every step."""
    model.requires_grad_(False)
    model.vision_model.requires_grad_(True)
    trained = [model.text_encoder.embeddings.word_embeddings.weight]
    for layer in layers:
        trained += model.text_encoder.encoder.layer[layer].crossattention.parameters()
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    class_weights = torch.ones(len(prompts_per_class), device=input_ids.device)
    class_weights[0] = 0.5
    criterion = nn.NLLLoss(weight=class_weights, ignore_index=255)
    losses = []
    for _ in range(passes):
        for first in range(0, len(supports), accumulation):
            step = supports[first : first + accumulation]
            unaries = [
                plain_unary(model, input_ids, attention_mask, prompts_per_class, pixels, layers) for pixels, _ in step
            ]
            log_probabilities = torch.stack(unaries).clamp(min=1e-12).log()
            loss = criterion(log_probabilities, torch.stack([labels for _, labels in step]).long())
            model.zero_grad()  # including the vision tower, whose gradients are not used
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def plain_draw(
    masks: list[np.ndarray], num_classes: int, shot: int, min_area: int, only_one: bool, rng: random.Random
) -> tuple[list[tuple[int, int, bool]], list[int]]:
    """Supports of one run as (image, class, other classes removed), and the images that were examined, in order."""
    drawn, looked_at = [], []
    for label in range(1, num_classes):
        candidates = [number for number, mask in enumerate(masks) if (mask == label).sum() >= min_area]
        order = list(range(len(candidates)))
        rng.shuffle(order)
        of_class = []
        for place in order:
            if len(of_class) == shot:
                break
            image = candidates[place]
            looked_at.append(image)
            if not only_one or set(np.unique(masks[image])) - {0, 255} == {label}:
                of_class.append((image, label, False))
        for _ in range(shot - len(of_class)):
            of_class.append((candidates[math.floor(rng.random() * len(candidates))], label, True))
        drawn += of_class
    return drawn, looked_at
