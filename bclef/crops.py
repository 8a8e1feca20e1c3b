"""Crops: pieces of recordings as long as the network's window, chosen at random or by place.

A recording shorter than the window is padded with zeros, never dropped and never stretched.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Generator

from bclef.store import step_samples

N_CANDIDATES = 3
"""Places from which the liveliest is taken when crops prefer active parts."""


class CropError(Exception):
    """A table names windows that the feature store does not have."""


class WaveStore(Protocol):
    """What is needed of the feature store."""

    @property
    def index(self) -> pd.DataFrame:
        """One row per recording: recording_id, n_samples, role, labels and so on."""

    def read(
        self, recording_id: str, first_sample: int = 0, n_samples: int | None = None
    ) -> NDArray[np.int16]:
        """Returns `n_samples` of a recording from `first_sample` on."""

    def activity(self, recording_id: str) -> NDArray[np.float32]:
        """Returns the level of each 0.1 s of a recording, dBFS."""


class Crop(NamedTuple):
    """One window's worth of a recording."""

    recording_id: str
    """Which recording."""
    first_sample: int
    """Where the audio starts in the recording."""
    n_samples: int
    """How much audio there is; the rest of the window is zeros."""
    place: int
    """Where the audio starts in the window."""


def read_crops(store: WaveStore, crops: Sequence[Crop], window_samples: int) -> NDArray[np.float32]:
    """Returns the waves of `crops`, float32 [N, window_samples], full scale at 1."""
    waves = np.zeros((len(crops), window_samples), np.float32)
    for wave, crop in zip(waves, crops, strict=True):
        pcm = store.read(crop.recording_id, crop.first_sample, crop.n_samples)
        np.multiply(pcm, 1 / 32768, out=wave[crop.place : crop.place + crop.n_samples])
    return waves


def window_crops(
    windows: pd.DataFrame, index: pd.DataFrame, window_samples: int, sample_rate_hz: int
) -> list[Crop]:
    """Returns the crops that a table names, in its order; zeros stand after a recording's end.

    Args:
        windows: Table with recording_id and start_s.
        index: The feature index, for the length of each recording.
        window_samples: Length of the window.
        sample_rate_hz: Of the recordings.

    Raises:
        CropError: A window of a recording that is not in the index, or outside its recording.
    """
    n_by_id = dict(zip(index["recording_id"], index["n_samples"].tolist(), strict=True))
    crops = []
    for recording_id, start_s in zip(windows["recording_id"], windows["start_s"], strict=True):
        first_sample, n_samples = round(start_s * sample_rate_hz), n_by_id.get(recording_id, 0)
        if not 0 <= first_sample < n_samples:
            raise CropError(
                f"window at {start_s} s of {recording_id}: the feature index has {n_samples} "
                f"samples of it at {sample_rate_hz} Hz; make the window table again"
            )
        n_left = min(window_samples, n_samples - first_sample)
        crops.append(Crop(recording_id, first_sample, n_left, 0))
    return crops


class RandomCrops:
    """Chooses where in their recordings crops lie.

    Args:
        store: The recordings.
        window_samples: Length of the window.
        sample_rate_hz: Of the recordings.
        prefer_active: Whether the liveliest of a few random places is taken, by mean level in dB,
            and not just any place.
    """

    def __init__(
        self, store: WaveStore, window_samples: int, sample_rate_hz: int, *, prefer_active: bool
    ) -> None:
        self._store = store
        self._window_samples = window_samples
        self._step_samples = step_samples(sample_rate_hz)
        self._n_candidates = N_CANDIDATES if prefer_active else 1
        self._summed_levels: dict[str, NDArray[np.float64]] = {}

    def draw(
        self, recording_ids: Sequence[str], n_samples: Sequence[int], generator: Generator
    ) -> list[Crop]:
        """Returns one crop of each recording, which is `n_samples` long.

        A long recording is cropped anywhere; a short one is put anywhere in the window.
        """
        shape = (len(recording_ids), self._n_candidates)
        draws = torch.rand(shape, generator=generator, dtype=torch.float64).tolist()
        return [
            self._crop(recording_id, n, places)
            for recording_id, n, places in zip(recording_ids, n_samples, draws, strict=True)
        ]

    def _crop(self, recording_id: str, n_samples: int, places: Sequence[float]) -> Crop:
        spare = n_samples - self._window_samples
        if spare <= 0:
            return Crop(recording_id, 0, n_samples, int(places[0] * (1 - spare)))
        candidates = [int(place * (spare + 1)) for place in places]
        first_sample = candidates[0]
        if len(candidates) > 1:
            first_sample = max(candidates, key=lambda sample: self._level(recording_id, sample))
        return Crop(recording_id, first_sample, self._window_samples, 0)

    def _level(self, recording_id: str, first_sample: int) -> float:
        """Sum of the levels in the window; equal numbers of values make it rank as the mean."""
        if recording_id not in self._summed_levels:
            curve = self._store.activity(recording_id).astype(np.float64)
            self._summed_levels[recording_id] = np.concatenate([[0.0], np.cumsum(curve)])
        summed = self._summed_levels[recording_id]
        n_steps = min(round(self._window_samples / self._step_samples), len(summed) - 1)
        first = min(round(first_sample / self._step_samples), len(summed) - 1 - n_steps)
        return float(summed[first + n_steps] - summed[first])
