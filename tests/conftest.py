"""Sounds of known content, and the real recordings where they are at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Wave = npt.NDArray[np.float32]


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers for every test."""
    return np.random.default_rng(20261121)


@pytest.fixture
def make_tone() -> Callable[..., Wave]:
    """A function that makes a sine of given frequency, length and peak."""

    def tone(
        frequency_hz: float, length_s: float, sample_rate_hz: int = 32_000, peak: float = 0.5
    ) -> Wave:
        time_s = np.arange(round(length_s * sample_rate_hz)) / sample_rate_hz
        return (peak * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)

    return tone


@pytest.fixture
def make_chirp() -> Callable[..., Wave]:
    """A function that makes a bird: one swept syllable, soft at its edges, within silence."""

    def chirp(
        band_hz: tuple[float, float],
        begin_s: float,
        syllable_s: float,
        length_s: float,
        sample_rate_hz: int = 32_000,
    ) -> Wave:
        time_s = np.arange(round(syllable_s * sample_rate_hz)) / sample_rate_hz
        low_hz, high_hz = band_hz
        phase = 2 * np.pi * (low_hz + (high_hz - low_hz) * time_s / (2 * syllable_s)) * time_s
        syllable = 0.5 * np.hanning(len(time_s)) * np.sin(phase)
        wave = np.zeros(round(length_s * sample_rate_hz), dtype=np.float32)
        first_sample = round(begin_s * sample_rate_hz)
        wave[first_sample : first_sample + len(syllable)] = syllable
        return wave

    return chirp


@pytest.fixture(scope="session")
def real_audio() -> Path:
    """The folder of real recordings; tests that want it are skipped where it is not."""
    repository = Path(__file__).parents[1]
    folder = (repository / os.environ.get("BCLEF_REAL_AUDIO", "../shared/audio")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; BCLEF_REAL_AUDIO names their folder")
    return folder
