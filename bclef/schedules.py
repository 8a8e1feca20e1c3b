"""The learning rate along the way, as a share of its peak: pure functions of the step."""

import math
from typing import Literal

from pydantic import Field

from bclef.config import Section


class ScheduleConfig(Section):
    """How the learning rate goes (part of section `train`); shares are of its peak, `lr`."""

    schedule: Literal["cosine", "one_cycle", "linear", "constant"]
    """Shape after the warm-up, down to `final_lr_share`. `cosine`: half a cosine. `linear`: a line.
    `constant`: stays at the peak. `one_cycle`: half a cosine, and another one up to the peak."""
    schedule_every: Literal["step", "epoch"]
    """Whether the rate changes with each step of the optimiser or with each epoch."""
    warmup_epochs: float = Field(ge=0)
    """Epochs of the rise to the peak; by a line, but for `one_cycle`."""
    initial_lr_share: float = Field(ge=0, le=1)
    """Where the rise begins."""
    final_lr_share: float = Field(ge=0, le=1)
    """Where the fall ends."""


def shortened(config: ScheduleConfig, share: float) -> ScheduleConfig:
    """Returns the schedule of a training that is cut to a `share` of its epochs."""
    return config.model_copy(update={"warmup_epochs": config.warmup_epochs * share})


def learning_rate_share(
    config: ScheduleConfig, step: int, steps_per_epoch: int, n_epochs: int
) -> float:
    """Returns the learning rate of a step as a share of its peak.

    Args:
        config: The schedule.
        step: Steps of the optimiser that were taken before, in this phase.
        steps_per_epoch: Steps of an epoch.
        n_epochs: Epochs of the phase.
    """
    if config.schedule_every == "epoch":
        return _share(config, step // steps_per_epoch, config.warmup_epochs, n_epochs)
    n_warmup = config.warmup_epochs * steps_per_epoch
    return _share(config, step, n_warmup, n_epochs * steps_per_epoch)


def _share(config: ScheduleConfig, position: int, n_warmup: float, n_positions: int) -> float:
    """The share at `position` of `n_positions` steps or epochs, the first `n_warmup` of which rise.

    Source:
        `cosine` without a warm-up is torch's CosineAnnealingLR with T_max `n_positions`,
        `one_cycle` its OneCycleLR with pct_start `n_warmup` / `n_positions`.
    """
    initial, final = config.initial_lr_share, config.final_lr_share
    if config.schedule == "one_cycle":
        peak = n_warmup - 1
        if position <= peak:
            return _cosine(initial, 1.0, position / peak if peak else 1.0)
        return _cosine(1.0, final, (position - peak) / max(1.0, n_positions - 1 - peak))
    if position < n_warmup:
        # No step is lost at a rate of 0: the line goes from one step before to one step after.
        return initial + (1 - initial) * (position + 1) / (n_warmup + 1)
    progress = min(1.0, (position - n_warmup) / max(1.0, n_positions - n_warmup))
    if config.schedule == "cosine":
        return _cosine(1.0, final, progress)
    return 1 - (1 - final) * progress if config.schedule == "linear" else 1.0


def _cosine(first: float, last: float, progress: float) -> float:
    """Half a cosine from `first` to `last` while `progress` goes from 0 to 1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
