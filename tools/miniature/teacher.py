"""The teacher: a small convolutional network that learns the locations of words from captions alone.

Matching pictures with prompts alone does not make attention localise at this scale. So a network that scores all
subjects at each patch is trained first, by multiple-instance learning from captions. Its predictions, restricted to the
words of the picture's caption, are the patch labels for the tiny BLIP. Masks and boxes are not used.

B pictures, N patches, K subjects (class_words.SUBJECTS without the empty one).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.miniature.class_words import CLASSES, SUBJECTS

NUM_SUBJECTS = len(SUBJECTS) - 1
INPUT_SIDE = 64  # the picture is halved: the network has a stride of 8, so that it sees the 8 x 8 patches
LABEL_SIDE = 96  # patch labels come from a finer view, averaged to the patches
# patches of 64 that a word of the caption has to win
PATCHES_LONE_CLASS = 12
PATCHES_CLASS = 7
PATCHES_SCENERY = 8
IS_CLASS = torch.arange(NUM_SUBJECTS) < len(CLASSES)


def build_teacher() -> nn.Sequential:
    """Pixels [B, 3, 64, 64] to subject logits [B, K, 8, 8]."""

    def block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    return nn.Sequential(
        block(3, 32, 2, kernel=5),
        block(32, 64, 2),
        block(64, 64, 1),
        block(64, 128, 2),
        block(128, 128, 1),
        block(128, 160, 1),
        block(160, 160, 1),
        nn.Conv2d(160, NUM_SUBJECTS, 1),
    )


def subject_logits(teacher: nn.Module, pixels: Tensor, side: int) -> Tensor:
    """Logits of ``pixels`` resized to ``side``: [B, K, side / 8, side / 8]."""
    return teacher(F.interpolate(pixels, size=side, mode="bilinear", antialias=True))


def caption_loss(logits: Tensor, named: Tensor, content: Tensor) -> Tensor:
    """Multiple-instance loss of patch ``logits`` [B, N, K] from captions alone.

    ``named`` [B, K] is 1 for subjects of the caption, ``content`` [B, N] is 0 for patches of black padding, else 1.
    """
    log_shares = logits.log_softmax(-1)
    explained = torch.logsumexp(log_shares + torch.log(named + 1e-6)[:, None], -1)
    loss = -(explained * content).sum() / content.sum()

    padding = (content[..., None] - 1) * 1e4
    count = _patches_to_win(named)
    importance = named * torch.where(IS_CLASS, 1.0, 0.3)
    won = _mean_of_largest(log_shares + padding, count)
    loss = loss - (won * importance).sum() / named.sum().clamp(min=1)

    positive = torch.where(IS_CLASS, 6.0, 2.0)
    present = _mean_of_largest(logits + padding, count)
    return loss + F.binary_cross_entropy_with_logits(present, named, pos_weight=positive)


@torch.no_grad()
def patch_labels(teacher: nn.Module, pixels: Tensor, named: Tensor, grid: int) -> Tensor:
    """Probabilities of the subjects that the caption names, for each patch: [B, grid * grid, K], sums to 1."""
    logits = F.interpolate(subject_logits(teacher, pixels, LABEL_SIDE), size=grid, mode="bilinear", antialias=True)
    return (logits.flatten(2).transpose(1, 2) + torch.log(named + 1e-9)[:, None]).softmax(-1)


def _patches_to_win(named: Tensor) -> Tensor:
    classes = (named * IS_CLASS).sum(1, keepdim=True)
    of_class = torch.where(classes > 1, PATCHES_CLASS, PATCHES_LONE_CLASS)
    return torch.where(IS_CLASS, of_class, PATCHES_SCENERY)


def _mean_of_largest(scores: Tensor, count: Tensor) -> Tensor:
    """Mean of the ``count`` [B, K] largest of ``scores`` [B, N, K] over patches: [B, K]."""
    largest = scores.topk(PATCHES_LONE_CLASS, dim=1).values
    taken = torch.arange(PATCHES_LONE_CLASS)[None, :, None] < count[:, None]
    return (largest * taken).sum(1) / count
