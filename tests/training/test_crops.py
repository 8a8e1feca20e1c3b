from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Generator

from bclef.crops import Crop, CropError, RandomCrops, read_crops, window_crops

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


def test_short_clips_lie_anywhere_in_the_window(two: Any) -> None:
    crops = RandomCrops(two, RATE_HZ, RATE_HZ, prefer_active=False)
    drawn = crops.draw(["short"] * 400, [4000] * 400, Generator().manual_seed(0))
    places = np.array([crop.place for crop in drawn])
    assert places.min() >= 0
    assert places.max() <= 4000
    assert places.min() < 100
    assert places.max() > 3900
    read_crops(two, drawn, RATE_HZ)


def test_long_clips_are_cropped_anywhere(two: Any) -> None:
    crops = RandomCrops(two, RATE_HZ, RATE_HZ, prefer_active=False)
    drawn = crops.draw(["long"] * 400, [24000] * 400, Generator().manual_seed(0))
    firsts = np.array([crop.first_sample for crop in drawn])
    assert firsts.min() < 200
    assert 15800 < firsts.max() <= 16000
    assert firsts.mean() == pytest.approx(8000, abs=600)


def test_active_crops_prefer_the_loud_part(
    store_of: Callable[..., Any], index_of: Callable[..., pd.DataFrame]
) -> None:
    wave = np.ones(80000, np.int16)
    wave[64000:72000] = 10000
    row = {"recording_id": "a", "n_samples": 80000, "role": "focal", "label": "x"}
    store = store_of(index_of([row]), {"a": wave})

    def share_with_the_loud_second(*, prefer_active: bool) -> float:
        crops = RandomCrops(store, RATE_HZ, RATE_HZ, prefer_active=prefer_active)
        drawn = crops.draw(["a"] * 400, [80000] * 400, Generator().manual_seed(0))
        firsts = np.array([crop.first_sample for crop in drawn])
        return float(np.mean((firsts > 56000) & (firsts < 72000)))

    uniform = share_with_the_loud_second(prefer_active=False)
    active = share_with_the_loud_second(prefer_active=True)
    assert uniform == pytest.approx(16000 / 72000, abs=0.06)
    # The chance that at least one of three places holds some of it.
    assert active == pytest.approx(1 - (1 - 16000 / 72000) ** 3, abs=0.08)


def test_listed_window_keeps_its_start_and_is_padded_at_the_end(two: Any) -> None:
    windows = pd.DataFrame({"recording_id": ["long", "long"], "start_s": [1.0, 2.5]})
    crops = window_crops(windows, two.index, RATE_HZ, RATE_HZ)
    assert crops == [Crop("long", 8000, 8000, 0), Crop("long", 20000, 4000, 0)]


@pytest.mark.parametrize(("name", "start_s"), [("gone", 0.0), ("long", 3.0), ("long", -0.1)])
def test_window_that_the_store_does_not_have_is_refused(
    two: Any, name: str, start_s: float
) -> None:
    windows = pd.DataFrame({"recording_id": [name], "start_s": [start_s]})
    with pytest.raises(CropError, match=f"window at {start_s} s of {name}"):
        window_crops(windows, two.index, RATE_HZ, RATE_HZ)
