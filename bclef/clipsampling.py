"""Which labelled recordings an epoch takes, and how often: samplers, copies and caps.

Positions are drawn for a whole epoch at once, so that a batch is found by its place in it. What is
weighted is drawn with replacement: without it every recording comes once whatever its weight.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Generator, Tensor

from bclef.cropplaces import CropConfig
from bclef.taxonomy import ClassList

MAX_RATING = 5.0
"""Best rating of a recording; 0 or none is unrated."""

LEAST_RATING_WEIGHT = 0.1

_FORMS = {"inverse_sqrt": (0.5, 0.0), "inverse": (1.0, 0.5), "equal": (1.0, 0.0)}
"""Per sampler: the power of the inverse count, and what a background species adds to a count."""

Counts = NDArray[np.int64]


class SamplingError(Exception):
    """There is nothing to train on, or no room for it in a batch."""


class SamplingConfig(CropConfig):
    """How clips, their parts, their targets and their weights are chosen (of section `train`)."""

    min_rating: float = Field(ge=0, le=5)
    """Lowest rating that is trained on, 0 to 5; unrated recordings always are."""
    sampler: Literal["uniform", "inverse_sqrt", "inverse", "equal"]
    """`uniform`: each recording in turn. The others draw with replacement, rare classes more often,
    by the number n of recordings of their class: `inverse_sqrt` by n^-0.5; `inverse` by 1/n, where
    a background species counts half; `equal` by 1/n of foreground species alone, so that each is
    as likely."""
    copies_up_to: int | None = Field(ge=1)
    """Classes with fewer recordings fill so many turns in each pass, by repeating; null: no."""
    max_per_class: int | None = Field(ge=1)
    """Most turns of a class in each pass, a fresh choice each time; null for no limit."""
    secondary_label_value: float | None = Field(ge=0, le=1)
    """Target of background species; null leaves them out of the loss."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Amount of label smoothing, from 0, before any mixup; what is pseudo-labelled or validated is
    never smoothed."""
    smoothing: Literal["spread", "add"]
    """`spread`: that share of a clip's label mass goes to all classes; `add`: to each so much."""
    rating_weight: bool
    """Whether the loss weight is rating / 5, at least 0.1; unrated recordings weigh 1, not 0.1 as a
    rating of 0 would (docs/formulas.md E14)."""
    background_weight: float = Field(gt=0, le=1)
    """Factor of the loss weight of recordings that hold classes only in the background."""
    scored_labels: tuple[str, ...] | None = Field(min_length=1)
    """Classes that `scored_share` and `selective_mixup` draw from; null for all."""

    @model_validator(mode="after")
    def _copies_are_within_the_cap(self) -> Self:
        if self.copies_up_to and self.max_per_class and self.copies_up_to > self.max_per_class:
            raise ValueError(
                f"copies_up_to {self.copies_up_to} exceeds max_per_class {self.max_per_class}"
            )
        return self


class Heard(NamedTuple):
    """The classes of N recordings, by their positions in the class list."""

    primary: Counts
    """int64 [N], -1 where the primary label is none of the classes."""
    background: list[tuple[int, ...]]
    """The other classes of each recording."""
    n_classes: int
    """Length of the class list."""


def labelled_recordings(index: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Returns the rows of the feature index that hold a class of the list, annotated ones apart.

    A background species of the list is enough. Annotated soundscapes are the held-out truth.
    """
    chosen = index["label"].notna().to_numpy(bool) & ~index["annotated"].to_numpy(bool)
    return index[chosen & _holds_any(index, classes)].reset_index(drop=True)


def rated_recordings(recordings: pd.DataFrame, min_rating: float) -> pd.DataFrame:
    """Returns the recordings that are unrated (0 or none) or rated `min_rating` or better."""
    rating = recordings["rating"].fillna(0).to_numpy(np.float32)
    return recordings[(rating == 0) | (rating >= min_rating)].reset_index(drop=True)


def scored_recordings(recordings: pd.DataFrame, config: SamplingConfig) -> pd.DataFrame:
    """Returns the recordings that hold a scored label, in the foreground or not."""
    if config.scored_labels is None:
        return recordings
    return recordings[_holds_any(recordings, config.scored_labels)].reset_index(drop=True)


def _holds_any(recordings: pd.DataFrame, labels: ClassList | tuple[str, ...]) -> NDArray[np.bool_]:
    known = set(labels)
    held = [
        label in known or not known.isdisjoint(others)
        for label, others in zip(_primary(recordings), recordings["secondary_labels"], strict=True)
    ]
    return np.array(held, bool)


def heard_classes(recordings: pd.DataFrame, classes: ClassList) -> Heard:
    """Returns the classes of `recordings`; labels outside the list are passed over."""
    positions = {label: position for position, label in enumerate(classes)}
    primary = [positions.get(label, -1) for label in _primary(recordings)]
    background = [
        tuple(dict.fromkeys(positions[o] for o in others if o in positions and positions[o] != own))
        for own, others in zip(primary, recordings["secondary_labels"], strict=True)
    ]
    return Heard(np.array(primary, np.int64), background, len(classes))


def _primary(recordings: pd.DataFrame) -> list[str]:
    return recordings["label"].fillna("").tolist()


def rating_weights(recordings: pd.DataFrame) -> NDArray[np.float32]:
    """Returns the loss weight of each recording by its rating, float32 [N]; 1 where unrated.

    Source:
        docs/formulas.md E14.
    """
    rating = recordings["rating"].fillna(0).to_numpy(np.float32)
    weight = np.clip(rating / MAX_RATING, LEAST_RATING_WEIGHT, 1)
    return np.where(rating == 0, np.float32(1), weight).astype(np.float32)


def sampling_weights(
    heard: Heard, sampler: Literal["inverse_sqrt", "inverse", "equal"], turns: Counts
) -> NDArray[np.float64]:
    """Returns the chance of each recording to be drawn, float64 [N], not normalised.

    A recording counts by its own class, one with background species alone by their mean.

    Args:
        heard: Classes of the recordings.
        sampler: Which form.
        turns: How often each recording stands in a pass, int64 [N]: it counts as so many.

    Source:
        docs/formulas.md E15. `inverse_sqrt` is that of the 2023 first place; their 2025 successor
        drew without replacement, which balances nothing. `inverse` is that of the 2023 second
        place.
    """
    power, background_share = _FORMS[sampler]
    n_each = np.array([len(others) for others in heard.background])
    row = np.repeat(np.arange(len(n_each)), n_each)
    other = np.fromiter((c for others in heard.background for c in others), np.int64, n_each.sum())
    own = heard.primary >= 0
    n_own = np.bincount(heard.primary[own], turns[own], heard.n_classes)
    n_background = np.bincount(other, turns[row], heard.n_classes)
    n_per_class = np.asarray(n_own + background_share * n_background, np.float64)
    per_class = np.where(n_per_class > 0, n_per_class, 1.0) ** -power
    mean = np.bincount(row, per_class[other], len(n_each)) / np.maximum(n_each, 1)
    return np.where(own, per_class[heard.primary], mean) * turns.astype(np.float64)


class Passes:
    """Draws recordings for an epoch.

    Args:
        heard: Classes of the recordings.
        config: Sampler, copies and cap.
    """

    def __init__(self, heard: Heard, config: SamplingConfig) -> None:
        self._heard = heard
        self._sampler = config.sampler
        self._resized = _resized_classes(heard, config)
        self._turns = np.ones(len(heard.primary), np.int64)
        self._turns[[row for rows, _ in self._resized for row in rows]] = 0
        self.n_rows = int(self._turns.sum()) + sum(n_turns for _, n_turns in self._resized)
        """Turns of all recordings in one pass."""

    def draw(self, n_clips: int, generator: Generator) -> Tensor:
        """Returns `n_clips` positions among the recordings, int64.

        A uniform epoch goes through passes, each in another order; weighted ones are drawn with
        replacement from a single pass.
        """
        if self._sampler == "uniform":
            n_passes = -(-n_clips // self.n_rows)
            passes = [self._shuffled(generator) for _ in range(n_passes)]
            return torch.cat(passes)[:n_clips]
        weights = sampling_weights(self._heard, self._sampler, self._draw_turns(generator))
        return torch.multinomial(
            torch.from_numpy(weights), n_clips, replacement=True, generator=generator
        )

    def _shuffled(self, generator: Generator) -> Tensor:
        turns = self._draw_turns(generator)
        positions = torch.from_numpy(np.repeat(np.arange(len(turns)), turns))
        return positions[torch.randperm(len(positions), generator=generator)]

    def _draw_turns(self, generator: Generator) -> Counts:
        """How often each recording stands in this pass; what does not go round is a choice."""
        turns = self._turns.copy()
        for rows, n_turns in self._resized:
            turns[rows] += n_turns // len(rows)
            order = torch.randperm(len(rows), generator=generator).numpy()
            turns[rows[order[: n_turns % len(rows)]]] += 1
        return turns


def _resized_classes(heard: Heard, config: SamplingConfig) -> list[tuple[Counts, int]]:
    """The recordings of each class whose turns are not just their number, and those turns."""
    order = np.argsort(heard.primary, kind="stable")
    order = order[np.searchsorted(heard.primary[order], 0) :]
    cuts = np.flatnonzero(np.diff(heard.primary[order])) + 1
    by_class: Sequence[Counts] = np.split(order, cuts) if len(order) else []
    sized = [(rows, _n_turns(len(rows), config)) for rows in by_class]
    return [(rows, n_turns) for rows, n_turns in sized if n_turns != len(rows)]


def _n_turns(n_recordings: int, config: SamplingConfig) -> int:
    n_turns = max(n_recordings, config.copies_up_to or 0)
    return min(n_turns, config.max_per_class or n_turns)
