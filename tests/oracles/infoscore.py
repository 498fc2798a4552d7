"""InfoScore by its definition: full-size maps, prompt by prompt, in float64."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def plain_prompt_shares(maps: Tensor, size: int, clamp: float = 1e-6) -> Tensor:
    """Mean over pixels of each prompt's share of the pixel: maps [B, P, g * g] -> [B, P] float64.

    The sum over prompts is clamped at 1e-6 before the division, the quotient at ``clamp``.
    """
    grid = int(maps.shape[-1] ** 0.5)
    square = maps.double().reshape(*maps.shape[:2], grid, grid)
    full = F.interpolate(square, size=(size, size), mode="bilinear", align_corners=True)
    share = full / full.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return share.clamp(min=clamp).mean(dim=(2, 3))


def plain_layer_scores(layers: list[Tensor], size: int) -> dict[str, np.ndarray]:
    """InfoScore and its parts, one value per layer, of maps [images, P, g * g] per layer."""
    parts: dict[str, list[float]] = {"mean_image_entropy": [], "dataset_entropy": [], "cov": []}
    for maps in layers:
        shares = np.stack([plain_prompt_shares(image[None], size)[0].numpy() for image in maps])  # [images, P]
        mean = shares.mean(axis=0)
        parts["mean_image_entropy"].append(np.mean([-np.sum(share * np.log(share)) for share in shares]))
        parts["dataset_entropy"].append(-np.sum(mean * np.log(mean)))
        deviation = np.sqrt(((shares - mean) ** 2).mean(axis=0))
        parts["cov"].append(np.sum(deviation / mean))
    scores = {name: np.array(values) for name, values in parts.items()}
    scores["entropy_ratio"] = scores["dataset_entropy"] / scores["mean_image_entropy"]
    scores["infoscore"] = scores["entropy_ratio"] * scores["cov"]
    return scores
