"""Losses of multi-label clips: element losses by name, and one way to average them.

Every element loss takes logits and targets [B, C], targets anywhere in [0, 1], and gives [B, C];
`mean_loss` averages over classes under a mask, then over clips by weight.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from bclef.config import Section

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


class LossConfig(Section):
    """What is minimised (part of section `train`)."""

    loss: Literal["bce", "focal", "bce_focal", "cross_entropy"]
    """Element loss; `cross_entropy` still means a sigmoid when scoring."""
    frame_loss_weight: float = Field(ge=0)
    """Weight of the same loss on each class's highest frame score; 0 for the clip score alone."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Share of a clip's label mass that is spread over all classes."""


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the binary cross-entropy of each clip and class, [B, C]."""
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the focal loss of each clip and class, [B, C].

    Source:
        recipes.md E5, alpha 0.25 and gamma 2, extended to soft targets as the 2023 first place.
    """
    p = torch.sigmoid(logits)
    agreement = p * target + (1 - p) * (1 - target)
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return balance * (1 - agreement) ** FOCAL_GAMMA * bce(logits, target)


def bce_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the sum of `bce` and `focal`, [B, C]; recipes.md E6."""
    return bce(logits, target) + focal(logits, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the soft cross-entropy's terms times C, [B, C], so that their mean is its sum.

    Source:
        recipes.md E10; targets are not normalised, several classes may be 1.
    """
    return -target * log_softmax(logits, dim=1) * logits.shape[1]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "focal": focal,
    "bce_focal": bce_focal,
    "cross_entropy": cross_entropy,
}


def mean_loss(element_losses: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Returns the scalar mean of `element_losses` [B, C].

    A masked element counts as 0 and still counts (recipes.md E11); clips are averaged by weight,
    sum(w L) / sum(w) (E14), so the step does not depend on the batch size.

    Args:
        element_losses: Of each clip and class, [B, C].
        mask: 1 where an element counts, 0 where its truth is unknown, [B, C].
        weight: Of each clip, [B], >= 0 and not all 0.
    """
    per_clip = (element_losses * mask).mean(dim=1)
    return (per_clip * weight).sum() / weight.sum()


def smooth_labels(target: Tensor, amount: float) -> Tensor:
    """Returns `target` [B, C] with the share `amount` of each row's mass spread over all classes.

    Source:
        recipes.md E13, the spreading form of the 2025 second place.
    """
    if not amount:
        return target
    return target * (1 - amount) + amount * target.sum(dim=1, keepdim=True) / target.shape[1]
