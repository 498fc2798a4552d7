"""Content of an explorer page: a photo and the output of every text layer for it, as plain values.

The page computes class maps, labels and rankings itself, for any choice of layers. It gets the token-summed logits of
every layer and prompt at the patch grid in float32, and the matching scores: at 512 px, with 12 layers and 20 prompts,
1.3 MB in base64.

L text layers, P prompts, N = g * g patches, C classes (0 = background), S image side.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..layer_selection.infoscore import entropy, prompt_shares
from ..method.segmenter import PatchAttention, Segmenter
from ..output import pictures
from ..output.colours import VOC_PALETTE, safe_palette
from ..task import scope_warning

LONGEST_SIDE = 1024  # of the photo in the page, pixels
OVERLAY_SIDE = 480  # of the picture for browsers without JavaScript
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Truth:
    """Ground truth of an image and the IoU of its prediction.

    Attributes:
        labels: uint8 [height, width] true labels of the original image, 255 ignored.
        frame: uint8 [S, S] the same in the frame.
        iou: [C] IoU of the prediction in this image; None for a class that is absent from both.
        resolution: ``letterbox`` or ``original``: where the evaluation counted ``iou``.
    """

    labels: np.ndarray
    frame: np.ndarray
    iou: list[float | None]
    resolution: str = "letterbox"


@torch.no_grad()
def page_content(
    segmenter: Segmenter,
    rgb: np.ndarray,
    embeds: Tensor,
    labels: np.ndarray,
    name: str,
    truth: Truth | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """Everything the page shows of one image, ready for JSON. The page gets all layers of the model.

    Args:
        rgb: the image, uint8 [height, width, 3].
        embeds: [1, 1 + N, D], the encoded image.
        labels: uint8 [height, width], predicted; shown as those after the CRF if the segmenter has one.
        name: title of the page, such as the image's file name.
        truth: ground truth, if known.
        file: of the image, for :func:`src.task.scope_warning`; None for one that came without.

    Raises:
        UserError: a logit is not a number, see :meth:`Segmenter.check_numbers`.
    """
    layers = segmenter.model.layers
    attended = segmenter.attend(embeds, layers)
    segmenter.check_numbers()
    prompts, frame = segmenter.prompts, segmenter.frame
    palette = safe_palette() if truth is None else VOC_PALETTE
    itm = attended.itm[0].float().tolist()
    class_of_prompt = np.repeat(np.arange(len(prompts.class_names)), prompts.prompts_per_class).tolist()
    height, width = rgb.shape[:2]
    inner = frame.inner((height, width))
    return {
        "name": name,
        "model": segmenter.model.name + (" with tuned weights" if segmenter.weights else ""),
        "warning": scope_warning(segmenter.model.name, [file]),
        "imageSize": frame.size,
        "grid": frame.size // segmenter.model.patch_size,
        "inner": inner,
        "photo": {"height": height, "width": width, "source": jpeg(rgb), "digest": _digest(rgb)},
        "classes": [
            {"name": title, "prompts": count, "scored": title in prompts.scored_names}
            for title, count in zip(prompts.class_names, prompts.prompts_per_class, strict=True)
        ],
        "words": [
            {"text": word, "class": label, "itm": score}
            for word, label, score in zip(prompts.words, class_of_prompt, itm, strict=True)
        ],
        "layers": list(layers),
        "configured": list(segmenter.layers),
        "logits": _base64(token_logits(attended).tobytes()),
        "entropy": [
            entropy(prompt_shares(attended.prompt_maps(layer).float(), frame.size))[0].item() for layer in layers
        ],
        "crf": segmenter.crf.iterations if segmenter.crf else 0,
        "refined": _packed(labels) if segmenter.crf else None,
        "truth": None
        if truth is None
        else {
            "labels": _packed(truth.labels),
            "frame": _packed(truth.frame[: inner[0], : inner[1]]),
            "iou": truth.iou,
            "resolution": truth.resolution,
        },
        "palette": _base64(palette.tobytes()),
        "overlay": jpeg(pictures.overlay(rgb, labels, palette), OVERLAY_SIDE),
        "heatColours": _base64(heat_palette().tobytes()),
        "leastHeat": pictures.LEAST_HEAT,
    }


def token_logits(attended: PatchAttention) -> np.ndarray:
    """Logits of the first image, little-endian float32 [L, P, N], layers in order.

    At each patch the largest over prompts is 0: softmax over prompts does not see the shift, and exp cannot overflow.
    """
    logits = torch.stack([attended.token_logits[layer][0].float() for layer in sorted(attended.token_logits)])
    return (logits - logits.amax(1, keepdim=True)).cpu().numpy().astype("<f4")


def word_parts(segmenter: Segmenter, embeds: Tensor, layer: int) -> dict[str, Any]:
    """Logits of one layer for a word, token by token and head by head, ready for JSON.

    The maximum over heads gives a token's logits, the sum over tokens the word's.

    Args:
        segmenter: with one prompt.
        embeds: [1, 1 + N, D], the encoded image.

    Returns:
        ``tokens``: T texts, and ``logits``: little-endian float32 [H, T, N] in base64.

    Raises:
        UserError: a logit is not a number.
    """
    logits = segmenter.head_logits(embeds, layer)[0, 0].float()
    segmenter.check_numbers()
    (prompt,) = segmenter.prompts.prompts
    return {
        "tokens": segmenter.model.tokens(prompt),
        "logits": _base64(logits.cpu().numpy().astype("<f4").tobytes()),
    }


def heat_palette() -> np.ndarray:
    """The colours of heat maps from 0 to the top of the scale, RGB uint8 [256, 3]."""
    return pictures.heat_colours(np.arange(256, dtype=np.uint8)[None])[0]


def jpeg(image: np.ndarray, longest_side: int = LONGEST_SIDE) -> str:
    """An RGB image uint8 [height, width, 3] as a JPEG's data URL, no side longer than ``longest_side`` pixels."""
    ratio = min(1.0, longest_side / max(image.shape[:2]))
    if ratio < 1:
        size = [max(1, round(side * ratio)) for side in (image.shape[1], image.shape[0])]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def _packed(labels: np.ndarray) -> str:
    """Labels uint8 as base64 of a zlib stream, row by row."""
    return _base64(zlib.compress(np.ascontiguousarray(labels).tobytes(), 9))


def _digest(rgb: np.ndarray) -> str:
    """Equal for pages of the same photo."""
    return hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()[:16]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
