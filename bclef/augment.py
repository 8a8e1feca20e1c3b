"""Augmentation of waves, labels and log-mel images; what is drawn stands apart from its effect.

Draws come from a passed generator, on the CPU and few numbers a clip; effects are batched tensor
operations on whatever device the waves are on, and change neither their arguments nor their shape.
Waves are augmented before the front end, images after it.
"""

import math
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from bclef.config import Section

SILENCE = 1e-6
"""Root mean square below which a clip counts as silent; full scale is 1, so this is -120 dBFS."""


class AugmentConfig(Section):
    """How training clips are varied (part of section `train`)."""

    mixup_probability: float = Field(ge=0, le=1)
    """Chance of a clip to be mixed with another one of its batch, which adds its labels."""
    mixup_level_db: float = Field(ge=0, le=40)
    """Largest difference in level, either way, between the two mixed clips, dB."""
    noise_probability: float = Field(ge=0, le=1)
    """Chance of a clip to get background noise from recordings of role `noise`."""
    noise_snr_min_db: float = Field(ge=-40, le=60)
    """Least signal-to-noise ratio of that noise, dB, by root mean square of the crop."""
    noise_snr_max_db: float = Field(ge=-40, le=60)
    """Greatest signal-to-noise ratio, dB."""
    gain_range_db: float = Field(ge=0, le=60)
    """Clips are made louder or softer by up to this, dB; moot where `wave_scaling` is not none."""
    mask_probability: float = Field(ge=0, le=1)
    """Chance of an image to get the masks below."""
    n_time_masks: int = Field(ge=0, le=8)
    """Time masks per image."""
    time_mask_share: float = Field(ge=0, le=1)
    """Largest width of a time mask, as a share of the frames."""
    n_frequency_masks: int = Field(ge=0, le=8)
    """Frequency masks per image."""
    frequency_mask_share: float = Field(ge=0, le=1)
    """Largest width of a frequency mask, as a share of the mel bands."""

    @model_validator(mode="after")
    def _snr_is_a_range(self) -> Self:
        if self.noise_snr_min_db > self.noise_snr_max_db:
            raise ValueError(
                f"noise_snr_min_db {self.noise_snr_min_db} exceeds noise_snr_max_db "
                f"{self.noise_snr_max_db}"
            )
        return self


class WaveDraws(NamedTuple):
    """What happens to each of B clips."""

    partner: Tensor
    """Position in the batch of the clip that is mixed in, int64 [B]; its own for none."""
    partner_level_db: Tensor
    """Level of the partner above the clip's, float32 [B]."""
    noise_snr_db: Tensor
    """Signal-to-noise ratio of added noise, float32 [B]; infinite for none."""
    gain_db: Tensor
    """Change of level, float32 [B]."""


class MaskDraws(NamedTuple):
    """Masks of each of B images as shares of an axis, float32 [B, number of masks]."""

    time_first: Tensor
    time_width: Tensor
    frequency_first: Tensor
    frequency_width: Tensor


def draw_waves(config: AugmentConfig, n_clips: int, generator: Generator) -> WaveDraws:
    """Returns what happens to the waves of a batch of `n_clips`."""
    chance = torch.rand(2, n_clips, generator=generator)
    spread = torch.rand(3, n_clips, generator=generator)
    own = torch.arange(n_clips)
    snr_span_db = config.noise_snr_max_db - config.noise_snr_min_db
    snr_db = config.noise_snr_min_db + snr_span_db * spread[1]
    return WaveDraws(
        partner=torch.where(
            chance[0] < config.mixup_probability,
            torch.randperm(n_clips, generator=generator),
            own,
        ),
        partner_level_db=config.mixup_level_db * (2 * spread[0] - 1),
        noise_snr_db=torch.where(chance[1] < config.noise_probability, snr_db, math.inf),
        gain_db=config.gain_range_db * (2 * spread[2] - 1),
    )


def draw_masks(config: AugmentConfig, n_images: int, generator: Generator) -> MaskDraws:
    """Returns the masks of a batch of `n_images`."""
    masked = torch.rand(n_images, 1, generator=generator) < config.mask_probability

    def axis(n_masks: int, share: float) -> tuple[Tensor, Tensor]:
        width = share * masked * torch.rand(n_images, n_masks, generator=generator)
        return (1 - width) * torch.rand(n_images, n_masks, generator=generator), width

    return MaskDraws(
        *axis(config.n_time_masks, config.time_mask_share),
        *axis(config.n_frequency_masks, config.frequency_mask_share),
    )


def mix_waves(wave: Tensor, partner: Tensor, partner_level_db: Tensor) -> Tensor:
    """Returns `wave` [B, T] with each clip's partner mixed in: the mean of both.

    The partner is first brought to the clip's own level plus `partner_level_db`, or else a loud
    clip would drown a soft one whose label it gets. Where either is silent, levels stay.

    Source:
        recipes.md E16, where both are peak-normalised instead.
    """
    mixed = (partner != torch.arange(len(partner), device=partner.device)).nonzero()[:, 0]
    if not len(mixed):
        return wave
    level = _rms(wave)
    own, other = level[mixed], level[partner[mixed]]
    audible = (own > SILENCE) & (other > SILENCE)
    factor = torch.where(audible, own / other * _ratio(partner_level_db[mixed]), 1.0)
    result = wave.clone()
    result[mixed] = wave[mixed].add_(wave[partner[mixed]].mul_(factor[:, None])).mul_(0.5)
    return result


def mix_targets(target: Tensor, partner: Tensor) -> Tensor:
    """Returns the labels [B, C] of mixed clips: the sum of both, at most 1; recipes.md E16."""
    own = torch.arange(len(partner), device=partner.device)
    other = torch.where((partner != own)[:, None], target[partner], 0.0)
    return (target + other).clamp(max=1.0)


def mix_masks(mask: Tensor, mixed_target: Tensor, partner: Tensor) -> Tensor:
    """Returns the loss mask [B, C] of mixed clips: a class counts where both knew it.

    A class that either of them surely holds counts too; recipes.md section 6.
    """
    return torch.maximum(torch.minimum(mask, mask[partner]), mixed_target)


def add_noise(wave: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Returns `wave` [B, T] plus noise at `snr_db` [B], by root mean square of the crops.

    Silent clips and silent noise change nothing.

    Args:
        wave: The clips.
        noise: [K, T]: one row for each of the K clips whose `snr_db` is finite, in their order.
        snr_db: Signal-to-noise ratio; infinite for no noise.
    """
    noisy = torch.isfinite(snr_db).nonzero()[:, 0]
    if not len(noisy):
        return wave
    clean = wave[noisy]
    factor = _rms(clean) / _rms(noise).clamp(min=SILENCE) / _ratio(snr_db[noisy])
    result = wave.clone()
    result[noisy] = clean.addcmul_(noise, factor[:, None])
    return result


def change_level(wave: Tensor, gain_db: Tensor) -> Tensor:
    """Returns `wave` [B, T] made louder by `gain_db` [B]; it may then exceed full scale."""
    if not gain_db.any():
        return wave
    return wave * _ratio(gain_db)[:, None]


def apply_masks(mel: Tensor, draws: MaskDraws) -> Tensor:
    """Returns `mel` [B, 1, M, F] with masked bands and frames set to the mean of their image."""
    n_bands, n_frames = mel.shape[2:]
    frames = _covered(draws.time_first, draws.time_width, n_frames)
    bands = _covered(draws.frequency_first, draws.frequency_width, n_bands)
    masked = bands[:, None, :, None] | frames[:, None, None, :]
    return torch.where(masked, mel.mean(dim=(2, 3), keepdim=True), mel)


def _covered(first: Tensor, width: Tensor, n_places: int) -> Tensor:
    """Whether a place along an axis lies under one of the masks, bool [B, n_places]."""
    place = (torch.arange(n_places, device=first.device) + 0.5) / n_places
    after = place[None, None] - first[..., None]
    return ((after >= 0) & (after < width[..., None])).any(dim=1)


def _rms(wave: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wave, dim=1) / math.sqrt(wave.shape[1])


def _ratio(level_db: Tensor) -> Tensor:
    """Amplitude ratio of a level difference."""
    return torch.pow(10.0, level_db / 20)
