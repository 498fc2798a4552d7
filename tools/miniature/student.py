"""Losses of the tiny BLIP: matching of pictures with prompts, and the teacher's patch labels.

B pictures, P prompts, T tokens, N patches, K subjects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.miniature.batches import Prompts
from tools.miniature.teacher import IS_CLASS

WRONG_WEIGHT = 2.0  # a word that is wrongly found adds a whole class, so it weighs more than a missed word


def patch_weights(labels: Tensor, content: Tensor) -> Tensor:
    """Weight of every patch, [B, N], mean 1: 2 for objects, 0 for padding, relative to scenery."""
    weights = content * (1 + labels[..., IS_CLASS].sum(-1))
    return weights / weights.mean()


def head_loss(patch_logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of ``patch_logits`` [B, N, K], from a linear head on image embeddings, with patch ``labels``."""
    return -((labels * patch_logits.log_softmax(-1)).sum(-1) * weights).mean()


def matching_loss(itm_logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy of the matching head, [B, P, T, 2].

    The method takes the best score over all positions, padding included, so the loss trains the best and all positions.
    """
    found = itm_logits[..., 1] - itm_logits[..., 0]  # [B, P, T]
    weights = torch.where(wanted > 0, 1.0, WRONG_WEIGHT)
    positions = F.binary_cross_entropy_with_logits(found, wanted[..., None].expand_as(found), weights[..., None])
    best = F.binary_cross_entropy_with_logits(found.amax(-1), wanted, weights)
    return best + 0.5 * positions


def attention_loss(token_logits: Sequence[Tensor], prompts: Prompts, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the softmax over prompts at each patch with patch ``labels``, mean over ``token_logits``.

    The method's softmax runs over all words; the few wrong prompts of a picture represent all absent ones.
    """
    shares = labels.gather(2, prompts.subjects[:, None].expand(-1, labels.shape[1], -1))  # [B, N, P]
    shares = shares * prompts.wanted[:, None]
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=1e-6)
    count = torch.where(prompts.wanted > 0, 0.0, prompts.absent_words.log()[:, None])  # [B, P]
    losses = [
        -((shares * (logits.transpose(1, 2) + count[:, None]).log_softmax(-1)).sum(-1) * weights).mean()
        for logits in token_logits
    ]
    return torch.stack(losses).mean()


def matching_accuracy(itm_logits: Tensor, wanted: Tensor) -> Tensor:
    """Accuracy of the matching head: the best score of a prompt counts as yes above one half."""
    found = (itm_logits[..., 1] - itm_logits[..., 0]).amax(-1) > 0
    return (found == (wanted > 0)).float().mean()
