"""Losses of multi-label clips: element losses by name, the soft area under the curve, their sum.

Every element loss takes logits and targets [B, C], targets anywhere in [0, 1], and gives [B, C];
`total_loss` weighs them by mask and clip and adds up what `LossConfig` asks for.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, softplus
from torch.utils.checkpoint import checkpoint

from bclef.config import Section

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0

LEAST_MASS = 1e-6
"""Sum of labels or of weights below which there is nothing to learn: the loss is then 0."""

PAIRS_AT_ONCE = 2**22
"""Pairs of scores that `soft_auc` holds in memory at a time: 16 MiB per float32 table of them."""

_UNKNOWN = -1e4
"""Logit that takes a class out of a softmax."""


class LossConfig(Section):
    """What is minimised (part of section `train`)."""

    loss: Literal[
        "bce", "focal", "bce_focal", "bcefocal_2022", "cross_entropy", "cross_entropy_normalised"
    ]
    """Element loss; a cross-entropy still means a sigmoid when scoring."""
    clip_loss_weight: float = Field(ge=0)
    """Weight of the loss on the clip score."""
    frame_loss_weight: float = Field(ge=0)
    """Weight of the same loss on each class's highest frame score (docs/formulas.md E8, E9)."""
    soft_auc_weight: float = Field(ge=0)
    """Weight of the soft area under the curve of the clip scores (docs/formulas.md E12)."""
    soft_auc_on: Literal["probability", "logit"]
    """Scores that it compares."""
    loss_sum: bool
    """Losses are summed over classes and clips, instead of averaged; the soft area is not."""

    @model_validator(mode="after")
    def _something_is_minimised(self) -> Self:
        if not self.clip_loss_weight + self.frame_loss_weight + self.soft_auc_weight:
            raise ValueError(
                "clip_loss_weight, frame_loss_weight and soft_auc_weight are all 0: one must be "
                "above 0, or nothing is learned"
            )
        return self


class Truth(NamedTuple):
    """What B clips hold, and how much it counts."""

    target: Tensor
    """From 0 to 1, [B, C]."""
    mask: Tensor
    """Share in which an element counts, [B, C]: 1, or 0 where its truth is unknown."""
    weight: Tensor
    """Of each clip, [B], >= 0."""
    divisor: float
    """What the sum of weighted losses is divided by: the sum of weights, or 1 for a plain sum."""


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the binary cross-entropy of each clip and class, [B, C]."""
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the focal loss of each clip and class, [B, C].

    Source:
        docs/formulas.md E5, alpha 0.25 and gamma 2, extended to soft targets as the 2023 first
        place.
    """
    p = torch.sigmoid(logits)
    agreement = p * target + (1 - p) * (1 - target)
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return balance * (1 - agreement) ** FOCAL_GAMMA * bce(logits, target)


def bce_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the sum of `bce` and `focal`, [B, C]; docs/formulas.md E6."""
    return bce(logits, target) + focal(logits, target)


def bcefocal_2022(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the focal loss of 2022 of each clip and class, [B, C].

    Source:
        docs/formulas.md E7: positives are weighed by alpha 0.25, negatives by 1.
    """
    p = torch.sigmoid(logits)
    positive = FOCAL_ALPHA * target * (1 - p) ** FOCAL_GAMMA
    negative = (1 - target) * p**FOCAL_GAMMA
    return (positive + negative) * bce(logits, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the soft cross-entropy's terms, [B, C], which are summed over classes.

    Source:
        docs/formulas.md E10; targets are not normalised, several classes may be 1.
    """
    return -target * log_softmax(logits, dim=1)


def cross_entropy_normalised(logits: Tensor, target: Tensor) -> Tensor:
    """Returns `cross_entropy` to targets scaled to a sum of 1, [B, C]; 0 for a clip without any.

    Source:
        docs/formulas.md E10, the form y / sum(y) of the 2026 first place.
    """
    mass = target.sum(dim=1, keepdim=True)
    return cross_entropy(logits, target / mass.clamp(min=LEAST_MASS))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "focal": focal,
    "bce_focal": bce_focal,
    "bcefocal_2022": bcefocal_2022,
    "cross_entropy": cross_entropy,
    "cross_entropy_normalised": cross_entropy_normalised,
}

_OVER_CLASSES = ("cross_entropy", "cross_entropy_normalised")
"""Losses whose classes share one softmax."""


def clip_losses(logits: Tensor, truth: Truth, config: LossConfig) -> Tensor:
    """Returns the loss of each clip, [B], by its logits [B, C].

    A masked element counts as 0 and still counts in the mean over classes (docs/formulas.md E11). A
    cross-entropy is always summed over classes, and a class of unknown truth is left out of its
    softmax, or else the loss would push it down.
    """
    element_loss = LOSSES[config.loss]
    if config.loss in _OVER_CLASSES:
        known = logits.masked_fill(truth.mask == 0, _UNKNOWN)
        return element_loss(known, truth.target * truth.mask).sum(dim=1)
    losses = element_loss(logits, truth.target) * truth.mask
    return losses.sum(dim=1) if config.loss_sum else losses.mean(dim=1)


def weighted_loss(logits: Tensor, truth: Truth, config: LossConfig) -> Tensor:
    """Returns the scalar sum(w L) / divisor over clips of logits [B, C]; docs/formulas.md E14."""
    return (clip_losses(logits, truth, config) * truth.weight).sum() / truth.divisor


def soft_auc(scores: Tensor, truth: Truth) -> Tensor:
    """Returns the soft area under the curve of `scores` [B, C], a scalar loss.

    It is the mean, over all pairs of a positive (y > .5) and a negative (y < .5) among the B x C
    elements, of (y_i - .5) (.5 - y_j) softplus(s_j - s_i); 0 where either is lacking. Elements are
    weighed by mask times clip weight, so a masked one is in no pair.

    All pairs are compared exactly, `PAIRS_AT_ONCE` at a time, and again in the backward pass
    instead of being kept: memory is bounded (or by the negatives alone, where these are more), time
    is not. Of several processes each compares its own rows only, which is a mean over fewer pairs
    and not that of one process.

    Source:
        docs/formulas.md E12.
    """
    amount = (truth.mask * truth.weight[:, None]).flatten()
    excess = (truth.target.flatten() - 0.5) * amount
    flat, positive, negative = scores.flatten(), excess > 0, excess < 0
    others, cost = flat[negative], -excess[negative]
    n_rows = max(1, PAIRS_AT_ONCE // max(1, len(others)))
    total = 0 * flat[positive].sum()  # of no pair: 0 that has a gradient
    chunks = zip(flat[positive].split(n_rows), excess[positive].split(n_rows), strict=True)
    for sought, worth in chunks:
        pairs = checkpoint(
            _pair_losses, sought, worth, others, cost, use_reentrant=False, preserve_rng_state=False
        )
        total = total + pairs
    n_pairs = amount[positive].sum() * amount[negative].sum()
    return total / n_pairs.clamp(min=LEAST_MASS**2)


def _pair_losses(sought: Tensor, worth: Tensor, others: Tensor, cost: Tensor) -> Tensor:
    """Sum of the losses of all pairs of `sought` [P] and `others` [Q]."""
    return ((softplus(others - sought[:, None]) * cost).sum(dim=1) * worth).sum()


def total_loss(clip: Tensor, frames: Tensor, truth: Truth, config: LossConfig) -> Tensor:
    """Returns what training minimises, a scalar.

    Args:
        clip: Logits of the clips, float32 [B, C].
        frames: Logits of their frames, float32 [B, F, C].
        truth: Of the clips.
        config: Which terms, and their weights.
    """
    loss = torch.zeros((), device=clip.device)
    if config.clip_loss_weight:
        loss = loss + config.clip_loss_weight * weighted_loss(clip, truth, config)
    if config.frame_loss_weight:
        loudest = frames.amax(dim=1)
        loss = loss + config.frame_loss_weight * weighted_loss(loudest, truth, config)
    if config.soft_auc_weight:
        scores = clip if config.soft_auc_on == "logit" else torch.sigmoid(clip)
        loss = loss + config.soft_auc_weight * soft_auc(scores, truth)
    return loss
