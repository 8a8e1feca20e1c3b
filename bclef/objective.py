"""What training minimises: the loss of an augmented batch, and the learning rate along the way."""

import math

from torch import Tensor

from bclef.augment import add_noise, apply_masks, change_level, mix_masks, mix_targets, mix_waves
from bclef.dataset import Batch
from bclef.losses import LOSSES, LossConfig, mean_loss, smooth_labels
from bclef.models import BirdModel


def training_loss(model: BirdModel, batch: Batch, config: LossConfig) -> Tensor:
    """Returns the loss of `model` on `batch`, with the augmentation that was drawn for it."""
    draws = batch.wave_draws
    wave = mix_waves(batch.wave, draws.partner, draws.partner_level_db)
    wave = add_noise(wave, batch.noise, draws.noise_snr_db)
    wave = change_level(wave, draws.gain_db)
    target = mix_targets(batch.target, draws.partner)
    mask = mix_masks(batch.mask, target, draws.partner)
    target = smooth_labels(target, config.label_smoothing)
    logits = model.features(apply_masks(model.images(wave), batch.mask_draws))
    element_loss = LOSSES[config.loss]
    loss = mean_loss(element_loss(logits.clip.float(), target), mask, batch.weight)
    if config.frame_loss_weight:
        loudest = element_loss(logits.frames.float().amax(dim=1), target)
        loss = loss + config.frame_loss_weight * mean_loss(loudest, mask, batch.weight)
    return loss


def learning_rate_share(step: int, n_warmup_steps: float, n_steps: int) -> float:
    """Returns the learning rate of `step`, from 0, as a share of its peak.

    It rises linearly over the warm-up, then falls by half a cosine to 0.

    >>> [round(learning_rate_share(step, 1, 5), 2) for step in range(6)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < n_warmup_steps:
        return (step + 1) / (n_warmup_steps + 1)
    progress = (step - n_warmup_steps) / max(1.0, n_steps - n_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
