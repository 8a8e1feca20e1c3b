"""Which clips go into a batch, with which targets: labelled recordings and pseudo-labelled windows.

Both kinds are drawn for a whole epoch at once from a passed generator, so that without replacement
means once an epoch and a batch is found by its position.
"""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Generator, Tensor

from bclef.config import Section
from bclef.crops import Crop, RandomCrops
from bclef.taxonomy import ClassList


class SamplingError(Exception):
    """There is nothing to train on."""


class SamplingConfig(Section):
    """How clips, their parts and their targets are chosen (part of section `train`)."""

    window_s: float = Field(gt=0, le=60)
    """Length of a clip, s."""
    sampler: Literal["uniform", "inverse_sqrt"]
    """`uniform`: each recording in turn. `inverse_sqrt`: with replacement, rare classes more."""
    crop_place: Literal["uniform", "active"]
    """`uniform`: anywhere in the recording. `active`: the liveliest of three random places."""
    secondary_label_value: float | None = Field(ge=0, le=1)
    """Target of background species; null leaves them out of the loss."""


class Rows(NamedTuple):
    """Clips of a batch and what they hold."""

    crops: list[Crop]
    target: Tensor
    """float32 [B, C]"""
    mask: Tensor
    """float32 [B, C], 1 where the target is known."""
    weight: Tensor
    """Weight in the loss, float32 [B]."""


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Returns the rows of all `parts`, in order."""
    return Rows(
        crops=[crop for part in parts for crop in part.crops],
        target=torch.cat([part.target for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
    )


def labelled_recordings(index: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Returns the rows of the feature index that hold a class of the list, annotated ones apart.

    A background species of the list is enough. Annotated soundscapes are the held-out truth.
    """
    named = [
        label in classes or any(other in classes for other in secondary)
        for label, secondary in zip(index["label"], index["secondary_labels"], strict=True)
    ]
    chosen = index["label"].notna().to_numpy(bool) & ~index["annotated"].to_numpy(bool)
    return index[chosen & np.array(named, bool)].reset_index(drop=True)


class LabelledClips:
    """Random crops of labelled recordings.

    Args:
        recordings: Rows of the feature index: recording_id, n_samples, label, secondary_labels.
        classes: Classes of the targets; labels outside it are passed over.
        config: Sampler and label values.
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
                f"no labelled recording holds any of the {len(classes)} classes: "
                "check the folds, and that labels are those of the class list"
            )
        self._ids: list[str] = recordings["recording_id"].tolist()
        self._n_samples: list[int] = recordings["n_samples"].tolist()
        self._crops = crops
        primary = _targets(classes, [[label] for label in recordings["label"]])
        secondary = _targets(classes, recordings["secondary_labels"].tolist())
        background = secondary * (1 - primary)
        value = config.secondary_label_value
        self._target = primary + background * (value or 0.0)
        self._mask = 1 - background if value is None else torch.ones_like(primary)
        self._chances = (
            sampling_weights(primary, background) if config.sampler == "inverse_sqrt" else None
        )

    def __len__(self) -> int:
        return len(self._ids)

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the recordings, int64."""
        if self._chances is not None:
            return torch.multinomial(self._chances, n_clips, replacement=True, generator=generator)
        return _shuffled(len(self), n_clips, generator)

    def rows(self, positions: Tensor, generator: Generator) -> Rows:
        """Returns crops of the recordings at `positions`."""
        ids = [self._ids[position] for position in positions.tolist()]
        n_samples = [self._n_samples[position] for position in positions.tolist()]
        return Rows(
            crops=self._crops.draw(ids, n_samples, generator),
            target=self._target[positions],
            mask=self._mask[positions],
            weight=torch.ones(len(positions)),
        )


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
        self._crops = crops
        self._target = torch.tensor(windows[list(classes.labels)].to_numpy(np.float32))
        self._chances = torch.tensor(windows["weight"].to_numpy(np.float64))
        self._loss_weight = loss_weight

    def __len__(self) -> int:
        return len(self._crops)

    def epoch(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the windows, int64."""
        return torch.multinomial(self._chances, n_clips, replacement=True, generator=generator)

    def rows(self, positions: Tensor) -> Rows:
        """Returns the windows at `positions`."""
        return Rows(
            crops=[self._crops[position] for position in positions.tolist()],
            target=self._target[positions],
            mask=torch.ones(len(positions), self._target.shape[1]),
            weight=torch.full((len(positions),), self._loss_weight),
        )


class NoiseClips:
    """Random crops of background noise, every recording as likely as any other.

    Args:
        recordings: At least one row of the feature index: recording_id, n_samples.
        crops: Chooses the place.
    """

    def __init__(self, recordings: pd.DataFrame, crops: RandomCrops) -> None:
        self._ids: list[str] = recordings["recording_id"].tolist()
        self._n_samples: list[int] = recordings["n_samples"].tolist()
        self._crops = crops

    def draw(self, n_clips: int, generator: Generator) -> list[Crop]:
        """Returns `n_clips` crops."""
        positions = torch.randint(len(self._ids), (n_clips,), generator=generator).tolist()
        return self._crops.draw(
            [self._ids[position] for position in positions],
            [self._n_samples[position] for position in positions],
            generator,
        )


def sampling_weights(primary: Tensor, background: Tensor) -> Tensor:
    """Returns the chance of each clip to be drawn, float64 [N], not normalised.

    A clip counts by its own class's n^-0.5, one with background species alone by their mean.

    Args:
        primary: 1 where a clip is of a class, [N, C].
        background: 1 where a class is heard besides, [N, C].

    Source:
        recipes.md E15, the inverse square root of the 2023 first place. Their 2025 successor drew
        without replacement, which takes every clip once and balances nothing.
    """
    per_class = primary.double().sum(dim=0).clamp(min=1).rsqrt()
    counted = torch.where(primary.any(dim=1, keepdim=True), primary, background).double()
    return counted @ per_class / counted.sum(dim=1)


def _targets(classes: ClassList, label_sets: Sequence[Collection[str]]) -> Tensor:
    return torch.from_numpy(classes.targets(label_sets, ignore_unknown=True))


def _shuffled(n_rows: int, n_clips: int, generator: Generator) -> Tensor:
    """`n_clips` positions that go through all rows again and again, each time in another order."""
    n_passes = -(-n_clips // n_rows)
    passes = [torch.randperm(n_rows, generator=generator) for _ in range(n_passes)]
    return torch.cat(passes)[:n_clips]
