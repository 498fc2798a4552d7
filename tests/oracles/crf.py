"""The ConvCRF as a formula: neighbourhoods are unfolded, messages are upsampled, q has full size."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 15
POOLING = 4


def plain_crf(unary: Tensor, image: Tensor, iterations: int) -> Tensor:
    """ConvCRF (Teichmann and Cipolla 2018) with the settings of the paper.

    unary: [B, C, H, W] probabilities; image: [B, 3, H, W] normalised; H and W multiples of 4.
    Returns [B, C, H, W], the last iteration not softmaxed.
    """
    height, width = unary.shape[2:]
    kernel = pairwise_kernel(image)
    log_unary = unary.log_softmax(dim=1)
    q = log_unary
    for iteration in range(iterations):
        pooled = F.avg_pool2d(q, POOLING)
        neighbours = _unfold(pooled)  # [B, C, 225, h, w]
        message = (neighbours * kernel).sum(dim=2)
        message = F.interpolate(message, size=(height, width), mode="bilinear", align_corners=False)
        q = 0.8 * log_unary + 0.2 * message
        if iteration < iterations - 1:
            q = q.softmax(dim=1)
    return q


def pairwise_kernel(image: Tensor) -> Tensor:
    """Weight of each of the 225 neighbours of each pooled cell, 0 outside the image: [B, 1, 225, h, w]."""
    _, _, height, width = image.shape
    rows = torch.arange(height, dtype=image.dtype, device=image.device).view(1, 1, -1, 1)
    columns = torch.arange(width, dtype=image.dtype, device=image.device).view(1, 1, 1, -1)
    position = torch.cat([rows.expand(1, 1, height, width), columns.expand(1, 1, height, width)], dim=1)
    inside = _unfold(torch.ones_like(F.avg_pool2d(position[:, :1], POOLING)))
    return inside * (3 * _gaussian(position / 3) + 10 * _gaussian(image / 0.1))


def _gaussian(features: Tensor) -> Tensor:
    """exp(-|f_j - f_i|^2 / 2) for every cell i and neighbour j: [B, F, H, W] -> [B, 1, 225, h, w]."""
    pooled = F.avg_pool2d(features, POOLING)
    difference = _unfold(pooled) - pooled.unsqueeze(2)
    return torch.exp(-0.5 * difference.square().sum(dim=1, keepdim=True))


def _unfold(cells: Tensor) -> Tensor:
    """The 15 x 15 neighbourhood of every cell, zeros beyond the border: [B, C, h, w] -> [B, C, 225, h, w]."""
    batch, channels, height, width = cells.shape
    columns = F.unfold(cells, WINDOW, padding=WINDOW // 2)
    return columns.view(batch, channels, WINDOW * WINDOW, height, width)
