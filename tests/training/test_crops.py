from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bclef.crops import Crop, CropError, n_samples_by_id, read_crops, read_pcm, window_crops

RATE_HZ = 8000


@pytest.fixture
def two(store_of: Callable[..., Any], index_of: Callable[..., pd.DataFrame]) -> Any:
    """A ramp of 3 s and a constant of half a second."""
    waves = {
        "long": np.arange(24000, dtype=np.int16),
        "short": np.full(4000, 16384, np.int16),
    }
    rows = [
        {"recording_id": name, "n_samples": len(wave), "role": "focal", "label": "a"}
        for name, wave in waves.items()
    ]
    return store_of(index_of(rows), waves)


def test_short_clip_is_padded_not_dropped(two: Any) -> None:
    (wave,) = read_crops(two, [Crop("short", 0, 4000, 1000)], RATE_HZ)
    assert wave.shape == (8000,)
    assert wave.dtype == np.float32
    assert (wave[1000:5000] == 0.5).all()
    assert not wave[:1000].any()
    assert not wave[5000:].any()


def test_crop_is_the_stated_part(two: Any) -> None:
    (wave,) = read_crops(two, [Crop("long", 123, 8000, 0)], RATE_HZ)
    np.testing.assert_array_equal(wave * 32768, np.arange(123, 8123))


def test_waves_of_batches_are_the_int16_of_the_store(two: Any) -> None:
    pcm = read_pcm(two, [(Crop("long", 5, 8000, 0),), (Crop("short", 0, 4000, 0),)], RATE_HZ)
    assert pcm.dtype == np.int16
    np.testing.assert_array_equal(pcm[0], np.arange(5, 8005))
    np.testing.assert_array_equal(pcm[1], np.repeat([16384, 0], 4000))


def test_listed_window_keeps_its_start_and_is_padded_at_the_end(two: Any) -> None:
    windows = pd.DataFrame({"recording_id": ["long", "long"], "start_s": [1.0, 2.5]})
    crops = window_crops(windows, n_samples_by_id(two.index), RATE_HZ, RATE_HZ)
    assert crops == [Crop("long", 8000, 8000, 0), Crop("long", 20000, 4000, 0)]


def test_context_before_and_after_the_recording_is_zeros(two: Any) -> None:
    windows = pd.DataFrame({"recording_id": ["long"] * 3, "start_s": [0.0, 1.0, 2.75]})
    crops = window_crops(windows, n_samples_by_id(two.index), 12000, RATE_HZ, lead_samples=2000)
    ramp = np.concatenate([np.zeros(2000), np.arange(24000), np.zeros(8000)])
    expected = [ramp[first : first + 12000] for first in (0, 8000, 22000)]
    np.testing.assert_array_equal(read_crops(two, crops, 12000) * 32768, expected)


@pytest.mark.parametrize(("name", "start_s"), [("gone", 0.0), ("long", 3.0), ("long", -0.1)])
def test_window_that_the_store_does_not_have_is_refused(
    two: Any, name: str, start_s: float
) -> None:
    windows = pd.DataFrame({"recording_id": [name], "start_s": [start_s]})
    with pytest.raises(CropError, match=f"window at {start_s} s of {name}"):
        window_crops(windows, n_samples_by_id(two.index), RATE_HZ, RATE_HZ)
