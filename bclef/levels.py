"""Levels of waves: root mean square, peak, decibels; full scale is 1."""

import math

import torch
from torch import Tensor

SILENCE = 1e-6
"""Level below which a wave counts as silent, -120 dBFS."""


def rms(wave: Tensor) -> Tensor:
    """Returns the root mean square [B] of `wave` [B, T]."""
    return torch.linalg.vector_norm(wave, dim=1) / math.sqrt(wave.shape[1])


def peak(wave: Tensor) -> Tensor:
    """Returns the largest absolute value [B] of `wave` [B, T]."""
    return torch.linalg.vector_norm(wave, ord=math.inf, dim=1)


def amplitude(level_db: Tensor) -> Tensor:
    """Returns the amplitude ratio of a level difference in dB."""
    return torch.pow(10.0, level_db / 20)
