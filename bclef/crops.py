"""Crops: pieces of recordings as long as a window, and how they are read from the store.

What does not fill the window is padded with zeros or repeated, never dropped and never stretched.
`cropplaces` chooses places at random, `window_crops` takes those of a table.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_FULL_SCALE = 32767


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
    is_tiled: bool = False
    """Whether the audio is repeated up to the window's end."""


def read_crops(store: WaveStore, crops: Sequence[Crop], window_samples: int) -> NDArray[np.float32]:
    """Returns the waves of `crops`, float32 [N, window_samples], full scale at 1."""
    pcm = read_pcm(store, [(crop,) for crop in crops], window_samples)
    return np.multiply(pcm, np.float32(1 / 32768))


def read_pcm(
    store: WaveStore, clips: Sequence[Sequence[Crop]], window_samples: int
) -> NDArray[np.int16]:
    """Returns the waves of `clips`, int16 [N, window_samples].

    A clip of several crops is their sum, made softer only where it would exceed full scale.
    """
    waves = np.empty((len(clips), window_samples), np.int16)
    for wave, crops in zip(waves, clips, strict=True):
        if len(crops) == 1:
            _write(store, crops[0], wave)
        else:
            wave[:] = _sum(store, crops, window_samples)
    return waves


def _write(store: WaveStore, crop: Crop, wave: NDArray[np.int16]) -> None:
    pcm = store.read(crop.recording_id, crop.first_sample, crop.n_samples)
    if crop.is_tiled:
        pcm = np.resize(pcm, len(wave) - crop.place)
    end = crop.place + len(pcm)
    wave[: crop.place], wave[crop.place : end], wave[end:] = 0, pcm, 0


def _sum(store: WaveStore, crops: Sequence[Crop], window_samples: int) -> NDArray[np.int16]:
    total, part = np.zeros(window_samples, np.int64), np.empty(window_samples, np.int16)
    for crop in crops:
        _write(store, crop, part)
        total += part
    peak = int(np.abs(total).max())
    if peak > _FULL_SCALE:
        return np.round(total * (_FULL_SCALE / peak)).astype(np.int16)
    return total.astype(np.int16)


def n_samples_by_id(index: pd.DataFrame) -> dict[str, int]:
    """Returns the length of each recording of the feature index, samples, by its id."""
    return dict(zip(index["recording_id"].tolist(), index["n_samples"].tolist(), strict=True))


def window_crops(
    windows: pd.DataFrame,
    n_samples: Mapping[str, int],
    window_samples: int,
    sample_rate_hz: int,
    lead_samples: int = 0,
) -> list[Crop]:
    """Returns the crops that a table names, in its order.

    Zeros stand before a recording's beginning and after its end.

    Args:
        windows: Table with recording_id and start_s.
        n_samples: Length of each recording of the feature index, from `n_samples_by_id`.
        window_samples: Length of the window.
        sample_rate_hz: Of the recordings.
        lead_samples: How long before start_s the window begins, for context.

    Raises:
        CropError: A window of a recording that is not in the index, or start_s outside it.
    """
    crops = []
    for recording_id, start_s in zip(windows["recording_id"], windows["start_s"], strict=True):
        start_sample, n_in_all = round(start_s * sample_rate_hz), n_samples.get(recording_id, 0)
        if not 0 <= start_sample < n_in_all:
            raise CropError(
                f"window at {start_s} s of {recording_id}: the feature index has {n_in_all} "
                f"samples of it at {sample_rate_hz} Hz; make the window table again"
            )
        begin = start_sample - lead_samples
        first_sample = max(begin, 0)
        n_heard = min(begin + window_samples, n_in_all) - first_sample
        crops.append(Crop(recording_id, first_sample, n_heard, first_sample - begin))
    return crops
