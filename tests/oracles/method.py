"""The method from letterbox to score by its description, on HuggingFace's original BLIP: loops, full-size maps.

The ConvCRF, InfoScore and tuning have separate oracles in this folder.
"""

import math
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_letterbox(pixels: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB [h, w, 3] and labels [h, w] in the frame: float32 [S, S, 3] padded with 0, uint8 [S, S] padded with 255."""
    height, width = labels.shape
    ratio = size / max(labels.shape)
    # the longer side is S; of a square the height is S, and the width may be one cell less
    height, width = (size, int(width * ratio)) if height >= width else (int(height * ratio), size)
    height, width = height // 8 * 8, width // 8 * 8
    image = np.zeros((size, size, 3), dtype=np.float32)
    target = np.full((size, size), 255, dtype=np.uint8)
    image[:height, :width] = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    target[:height, :width] = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    return image, target


@torch.no_grad()
def plain_forward(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor, layers: tuple[int, ...]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Match one image [3, S, S] with all P prompts.

    Returns the last hidden state [P, T, D] and the logits [P, H, T, 1 + N] of ``layers``.
    """
    return plain_match(model, input_ids, attention_mask, plain_encode(model, pixels[None]), layers)


def plain_encode(model: nn.Module, pixels: Tensor) -> Tensor:
    """Embeddings [1, 1 + N, D] of pixels [1, 3, S, S]."""
    return model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state


class QueriesAndKeys:
    """Queries and keys of the last call of an attention with ``heads`` heads, kept by hooks."""

    def __init__(self, attention: nn.Module, heads: int) -> None:
        self._heads = heads
        self._kept: dict[str, Tensor] = {}
        modules = {name: getattr(attention, name) for name in ("query", "key")}
        self._hooks = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items()]

    def _keeper(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._kept[name] = output

        return keep

    def logits(self) -> Tensor:
        """The scaled products of queries and keys, before softmax: [P, H, T, 1 + N]."""
        query, key = (self._kept[name].unflatten(-1, (self._heads, -1)).transpose(1, 2) for name in ("query", "key"))
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def plain_match(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, embeds: Tensor, layers: Iterable[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Match an encoded image [1, 1 + N, D] with all P prompts; differentiable.

    As in the published code the image has batch size 1: HuggingFace's model computes its keys and values once and
    broadcasts them over the prompts.

    Returns the last hidden state [P, T, D] and the logits [P, H, T, 1 + N] of ``layers``.
    """
    heads = model.config.text_config.num_attention_heads
    attentions = {layer: model.text_encoder.encoder.layer[layer].crossattention.self for layer in layers}
    kept = {layer: QueriesAndKeys(attention, heads) for layer, attention in attentions.items()}
    hidden = model.text_encoder(
        input_ids=input_ids,
        attention_mask=attention_mask,
        encoder_hidden_states=embeds,
        encoder_attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
    ).last_hidden_state
    for each in kept.values():
        each.remove()
    return hidden, {layer: each.logits() for layer, each in kept.items()}


def plain_itm(model: nn.Module, hidden: Tensor) -> Tensor:
    """Matching score [P] of hidden states [P, T, D]: the largest over all tokens."""
    with torch.no_grad():
        return torch.stack([model.itm_head(prompt).softmax(dim=-1)[:, 1].max() for prompt in hidden])


def plain_token_logits(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Logits [P, H, T, 1 + N] reduced over heads and tokens: [P, N]."""
    prompts, _, tokens, positions = logits.shape
    summed = torch.zeros(prompts, positions - 1)
    for prompt in range(prompts):
        for token in range(tokens):
            if attention_mask[prompt, token]:
                summed[prompt] += logits[prompt, :, token, 1:].max(dim=0).values
    return summed


def plain_unary(token_logits: list[Tensor], itm: Tensor, prompts_per_class: tuple[int, ...], size: int) -> Tensor:
    """Class probabilities [C, S, S] from each layer's [P, N]; every layer is upsampled separately."""
    layers = []
    for layer in token_logits:
        maps = layer.softmax(dim=0) * itm[:, None]
        classes, first = [], 0
        for label, count in enumerate(prompts_per_class):
            own = maps[first : first + count]
            classes.append(own.sum(dim=0) if label == 0 else own.max(dim=0).values)
            first += count
        grid = math.isqrt(maps.shape[1])
        square = torch.stack(classes).reshape(1, -1, grid, grid)
        layers.append(F.interpolate(square, size=(size, size), mode="bilinear", align_corners=True)[0])
    mean = sum(layers) / len(layers)
    return mean / mean.sum(dim=0).clamp(min=1e-12)


def plain_iou(predictions: list[np.ndarray], targets: list[np.ndarray], num_classes: int) -> list[tuple[int, int]]:
    """(intersection, union) per class, summed over images, pixels with target 255 left out."""
    scores = []
    for label in range(num_classes):
        intersection = union = 0
        for prediction, target in zip(predictions, targets, strict=True):
            predicted, true = ((array == label) & (target != 255) for array in (prediction, target))
            intersection += int((predicted & true).sum())
            union += int((predicted | true).sum())
        scores.append((intersection, union))
    return scores
