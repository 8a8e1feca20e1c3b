"""What batches are mixed of: labelled recordings, pseudo-labelled windows and background noise.

A stream draws positions for a whole epoch from a passed generator, and says of each position which
audio it is, with which targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from bclef.clipsampling import (
    Passes,
    SamplingConfig,
    SamplingError,
    heard_classes,
    rated_recordings,
    rating_weights,
    scored_recordings,
)
from bclef.cropplaces import N_CHANCES, RandomCrops
from bclef.crops import Crop, WaveStore
from bclef.mixing import Labels
from bclef.taxonomy import ClassList


class Stream(Protocol):
    """One kind of clips."""

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions for an epoch, int64."""

    def labels(self, positions: Tensor) -> Labels:
        """Returns what is known of the clips at `positions`."""

    def crops(self, position: int, chances: Sequence[float]) -> Sequence[Crop]:
        """Returns the audio of one clip, whose place depends on `N_CHANCES` numbers."""


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Returns the labels of all `parts`, in order."""
    return Labels(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class LabelledClips:
    """Random crops of labelled recordings.

    Args:
        recordings: Rows of the feature index: recording_id, n_samples, label, secondary_labels and
            rating.
        classes: Classes of the targets; labels outside it are passed over.
        config: Sampler, label values and weights.
        crops: Chooses the place.

    Raises:
        SamplingError: No recordings.
    """

    def __init__(
        self,
        recordings: pd.DataFrame,
        classes: ClassList,
        config: SamplingConfig,
        crops: RandomCrops,
    ) -> None:
        if recordings.empty:
            raise SamplingError(
                f"no labelled recording holds any of the {len(classes)} classes: check the folds, "
                "that labels are those of the class list, and train.min_rating"
            )
        self._ids: list[str] = recordings["recording_id"].tolist()
        self._n_samples: list[int] = recordings["n_samples"].tolist()
        self._crops = crops
        self._config = config
        self._heard = heard_classes(recordings, classes)
        is_background = self._heard.primary < 0
        weight = np.where(is_background, config.background_weight, 1.0)
        weight *= rating_weights(recordings) if config.rating_weight else 1.0
        self._weight = torch.from_numpy(weight.astype(np.float32))
        others = [bool(background) for background in self._heard.background]
        self._is_weak: list[bool] = (is_background | np.array(others, bool)).tolist()
        self._passes = Passes(self._heard, config)

    def __len__(self) -> int:
        """Returns the turns of all recordings in one pass, with copies and caps."""
        return self._passes.n_rows

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the recordings, int64."""
        return self._passes.draw(n_clips, generator)

    def labels(self, positions: Tensor) -> Labels:
        """Returns the targets, smoothed, and weights of the recordings at `positions`."""
        value = self._config.secondary_label_value
        target = np.zeros((len(positions), self._heard.n_classes), np.float32)
        mask = np.ones_like(target)
        for row, position in enumerate(positions.tolist()):
            for other in self._heard.background[position]:
                target[row, other] = value or 0.0
                mask[row, other] = 0.0 if value is None else 1.0
        primary = self._heard.primary[positions.numpy()]
        named = np.flatnonzero(primary >= 0)
        target[named, primary[named]] = 1.0
        smooth = smooth_labels(
            torch.from_numpy(target), self._config.label_smoothing, self._config.smoothing
        )
        return Labels(smooth, torch.from_numpy(mask), self._weight[positions])

    def crops(self, position: int, chances: Sequence[float]) -> Sequence[Crop]:
        """Returns a crop of the recording at `position`, or its windows for self-mixup."""
        return self._crops.of(
            self._ids[position],
            self._n_samples[position],
            chances,
            is_weak=self._is_weak[position],
        )


def smooth_labels(target: Tensor, amount: float, smoothing: Literal["spread", "add"]) -> Tensor:
    """Returns `target` [B, C] smoothed: `amount` of each row's mass spread, or added to all.

    Source:
        docs/formulas.md E13: `spread` y (1 - eps) + eps sum(y) / C, `add` clip(y + eps, 0, 1).
    """
    if not amount:
        return target
    if smoothing == "add":
        return (target + amount).clamp(max=1.0)
    return target * (1 - amount) + amount * target.sum(dim=1, keepdim=True) / target.shape[1]


class PseudoWindows:
    """Soundscape windows with soft targets, drawn by their weight with replacement.

    Args:
        crops: The audio of each window.
        windows: Row by row with `crops`: weight, and one column per class.
        classes: Classes of the targets, in the model's order.
        loss_weight: Weight of these windows in the loss; labelled clips have 1.

    Raises:
        SamplingError: No windows.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        windows: pd.DataFrame,
        classes: ClassList,
        loss_weight: float,
    ) -> None:
        if not crops:
            raise SamplingError(
                "no pseudo-labelled windows to train on: lower pseudo_label.min_confidence, "
                "or set pseudo_label.rounds to 0"
            )
        self._windows = crops
        self._target = torch.tensor(windows[list(classes.labels)].to_numpy(np.float32))
        self._chances = torch.tensor(windows["weight"].to_numpy(np.float64))
        self._loss_weight = loss_weight

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the windows, int64."""
        return torch.multinomial(self._chances, n_clips, replacement=True, generator=generator)

    def labels(self, positions: Tensor) -> Labels:
        """Returns the soft targets of the windows at `positions`."""
        target = self._target[positions]
        weight = torch.full((len(positions),), self._loss_weight)
        return Labels(target, torch.ones_like(target), weight)

    def crops(self, position: int, chances: Sequence[float]) -> Sequence[Crop]:
        """Returns the window at `position`."""
        return (self._windows[position],)


class NoiseClips:
    """Random crops of background noise without any of the classes, each recording as likely.

    Args:
        recordings: At least one row of the feature index: recording_id, n_samples.
        n_classes: Number of classes.
        crops: Chooses the place.
    """

    def __init__(self, recordings: pd.DataFrame, n_classes: int, crops: RandomCrops) -> None:
        self._ids: list[str] = recordings["recording_id"].tolist()
        self._n_samples: list[int] = recordings["n_samples"].tolist()
        self._n_classes = n_classes
        self._crops = crops

    def matching(self, pattern: str) -> Sequence[int]:
        """Returns the positions of the recordings whose id matches a pattern such as `esc50/*`."""
        return [n for n, name in enumerate(self._ids) if fnmatchcase(name, pattern)]

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the recordings, int64."""
        return torch.randint(len(self._ids), (n_clips,), generator=generator)

    def labels(self, positions: Tensor) -> Labels:
        """Returns targets of zero."""
        target = torch.zeros(len(positions), self._n_classes)
        return Labels(target, torch.ones_like(target), torch.ones(len(positions)))

    def crops(self, position: int, chances: Sequence[float]) -> Sequence[Crop]:
        """Returns a crop of the recording at `position`."""
        return self._crops.of(self._ids[position], self._n_samples[position], chances)

    def seeded_crops(self, choice: Sequence[int], seed: int) -> Sequence[Crop]:
        """Returns a crop of one of the recordings at the positions `choice`, by `seed` alone."""
        which, *chances = np.random.default_rng(seed).random(1 + N_CHANCES).tolist()
        return self.crops(choice[int(which * len(choice))], chances)


@dataclass(frozen=True)
class ClipSources:
    """Where the clips of a training come from."""

    labelled: LabelledClips
    """Labelled recordings."""
    scored: LabelledClips | None
    """Those with a scored label, if there are any."""
    noise: NoiseClips | None
    """Background noise, if there is any."""
    pseudo: PseudoWindows | None = None
    """Pseudo-labelled windows, if there are any."""
    pseudo_share: float = 0.0
    """Their share of each batch, from 0 up to but not including 1."""


def clip_sources(
    store: WaveStore,
    recordings: pd.DataFrame,
    classes: ClassList,
    config: SamplingConfig,
    sample_rate_hz: int,
) -> ClipSources:
    """Returns the labelled recordings, the scored ones among them, and all noise of the store.

    Args:
        store: The feature store.
        recordings: Rows of its index, from `labelled_recordings`, that may be trained on.
        classes: Classes of the targets.
        config: How clips are chosen.
        sample_rate_hz: Of the store.

    Raises:
        SamplingError: No recordings, or none rated well enough.
    """
    crops = RandomCrops(store, config, sample_rate_hz)
    rated = rated_recordings(recordings, config.min_rating)
    scored = scored_recordings(rated, config)
    in_turn = config.model_copy(
        update={"sampler": "uniform", "copies_up_to": None, "max_per_class": None}
    )
    noise = store.index[store.index["role"] == "noise"]
    anywhere = config.model_copy(update={"crop_place": "uniform", "short_clips": "tile"})
    noise_crops = RandomCrops(store, anywhere, sample_rate_hz)
    return ClipSources(
        labelled=LabelledClips(rated, classes, config, crops),
        scored=None if scored.empty else LabelledClips(scored, classes, in_turn, crops),
        noise=None if noise.empty else NoiseClips(noise, len(classes), noise_crops),
    )
