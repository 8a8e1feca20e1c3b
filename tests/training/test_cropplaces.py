"""Places of crops: each rule by its bounds and its distribution, with a store of ramps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bclef.cropplaces import N_CHANCES, CropConfig, RandomCrops
from bclef.crops import Crop, read_pcm

RATE_HZ = 8000
CONFIG = CropConfig(window_s=1.0, crop_place="uniform", short_clips="left", self_mixup_s=None)


@pytest.fixture
def crops_of(
    index_of: Callable[..., pd.DataFrame], store_of: Callable[..., Any]
) -> Callable[..., RandomCrops]:
    """A function that makes crops of one recording, with overrides of the configuration."""

    def make(wave: NDArray[np.int16] | None = None, **overrides: object) -> RandomCrops:
        waves = {} if wave is None else {"a": wave}
        store = store_of(index_of([{"recording_id": "a", "role": "focal", "label": "x"}]), waves)
        return RandomCrops(store, CONFIG.model_copy(update=overrides), RATE_HZ)

    return make


def firsts(crops: RandomCrops, n_samples: int) -> NDArray[np.int64]:
    chances = np.random.default_rng(0).random((400, N_CHANCES)).tolist()
    drawn = [crops.of("a", n_samples, numbers) for numbers in chances]
    assert all(len(pieces) == 1 for pieces in drawn)
    assert {pieces[0].n_samples for pieces in drawn} == {crops.window_samples}
    return np.array([pieces[0].first_sample for pieces in drawn])


def test_long_clips_are_cropped_anywhere(crops_of: Callable[..., RandomCrops]) -> None:
    drawn = firsts(crops_of(), 24000)
    assert drawn.min() < 200
    assert 15800 < drawn.max() <= 16000
    assert drawn.mean() == pytest.approx(8000, abs=600)
    last = crops_of().of("a", 24000, [1 - 1e-16, 0, 0])
    assert last == (Crop("a", 16000, 8000, 0),)


def test_whole_seconds_are_taken_up_to_the_last_that_fits(
    crops_of: Callable[..., RandomCrops],
) -> None:
    drawn = firsts(crops_of(crop_place="whole_second"), 3 * RATE_HZ + 7900)
    assert sorted(set(drawn)) == [0, 8000, 16000]
    assert set(firsts(crops_of(crop_place="whole_second"), RATE_HZ + 1)) == {0}


def test_start_is_the_first_window(crops_of: Callable[..., RandomCrops]) -> None:
    assert set(firsts(crops_of(crop_place="start"), 24000)) == {0}


def test_ends_are_a_second_longer_than_the_window_and_equally_likely(
    crops_of: Callable[..., RandomCrops],
) -> None:
    drawn = firsts(crops_of(crop_place="ends"), 80000)
    is_head, is_tail = drawn <= 8000, drawn >= 64000
    assert (is_head | is_tail).all()
    assert drawn.max() <= 72000
    assert is_head.mean() == pytest.approx(0.5, abs=0.08)
    assert drawn[is_head].mean() == pytest.approx(4000, abs=500)
    assert drawn[is_tail].mean() == pytest.approx(68000, abs=500)
    near = firsts(crops_of(crop_place="ends"), 8100)
    assert near.min() >= 0
    assert near.max() <= 100


def test_active_crops_find_the_loud_part(crops_of: Callable[..., RandomCrops]) -> None:
    wave = np.ones(80000, np.int16)
    wave[64000:72000] = 10000

    def share_with_the_loud_second(place: str) -> float:
        drawn = firsts(crops_of(wave, crop_place=place), 80000)
        return float(np.mean((drawn > 56000) & (drawn < 72000)))

    assert share_with_the_loud_second("uniform") == pytest.approx(16000 / 72000, abs=0.06)
    # The chance that at least one of three places holds some of it.
    expected = 1 - (1 - 16000 / 72000) ** 3
    assert share_with_the_loud_second("active") == pytest.approx(expected, abs=0.08)


def test_levels_are_read_once_for_each_crop_and_not_kept(
    crops_of: Callable[..., RandomCrops], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept, the curves of a thousand hours would fill the memory of every worker."""
    crops = crops_of(np.ones(24000, np.int16), crop_place="active")
    store: Any = crops._store
    activity = store.activity
    asked: list[str] = []

    def noting(recording_id: str) -> NDArray[np.float32]:
        asked.append(recording_id)
        return activity(recording_id)

    monkeypatch.setattr(store, "activity", noting)
    for n_crops in (1, 2, 3):
        crops.of("a", 24000, [0.1, 0.5, 0.9])
        assert asked == ["a"] * n_crops


@pytest.mark.parametrize(("place", "expected"), [("left", 0), ("right", 5000)])
def test_short_clip_stands_at_one_side(
    crops_of: Callable[..., RandomCrops], place: str, expected: int
) -> None:
    drawn = crops_of(short_clips=place).of("a", 3000, [0.5] * 3)
    assert drawn == (Crop("a", 0, 3000, expected),)


@pytest.mark.parametrize("place", ["anywhere", "split"])
def test_short_clips_lie_anywhere_in_the_window(
    crops_of: Callable[..., RandomCrops], place: str
) -> None:
    crops = crops_of(short_clips=place)
    chances = np.random.default_rng(0).random(400)
    places = np.array([crops.of("a", 3000, [chance] * 3)[0].place for chance in chances])
    assert places.min() < 100
    assert 4900 < places.max() <= 5000
    assert crops.of("a", 8000, [0.99] * 3) == (Crop("a", 0, 8000, 0),)


def test_tiled_clip_is_repeated_to_the_end_of_the_window(
    crops_of: Callable[..., RandomCrops], store_of: Callable[..., Any]
) -> None:
    wave = np.arange(1, 3001, dtype=np.int16)
    crops = crops_of(wave, short_clips="tile").of("a", 3000, [0.7] * 3)
    (read,) = read_pcm(store_of(pd.DataFrame(), {"a": wave}), [crops], 8000)
    np.testing.assert_array_equal(read, np.concatenate([wave, wave, wave[:2000]]))


def self_mixed(
    crops: RandomCrops,
    store: Any,
    wave: NDArray[np.int16],
    *,
    is_weak: bool = True,
    chance: float = 0.0,
) -> NDArray[np.int16]:
    pieces = crops.of("a", len(wave), [chance] * 3, is_weak=is_weak)
    return read_pcm(store, [pieces], crops.window_samples)[0]


def test_self_mixup_sums_the_windows_of_so_many_seconds(
    crops_of: Callable[..., RandomCrops], store_of: Callable[..., Any]
) -> None:
    """E20: a bird anywhere in those seconds is heard; the last window is padded."""
    rng = np.random.default_rng(0)
    wave = rng.integers(-3000, 3000, 40000).astype(np.int16)
    store, crops = store_of(pd.DataFrame(), {"a": wave}), crops_of(self_mixup_s=3.5)
    for chance, begin in ((0.0, 0), (0.5, 6000), (0.99999, 12000)):
        heard = np.concatenate([wave[begin : begin + 28000].astype(float), np.zeros(4000)])
        plain = heard.reshape(4, 8000).sum(axis=0)
        np.testing.assert_allclose(self_mixed(crops, store, wave, chance=chance), plain, atol=1e-6)
    # Other recordings, and those no longer than the window, are cropped as ever.
    np.testing.assert_array_equal(self_mixed(crops, store, wave, is_weak=False), wave[:8000])
    np.testing.assert_array_equal(self_mixed(crops, store, wave[:8000]), wave[:8000])


def test_self_mixup_is_softened_only_where_it_exceeds_full_scale(
    crops_of: Callable[..., RandomCrops], store_of: Callable[..., Any]
) -> None:
    wave = np.full(16000, 16383, np.int16)
    crops = crops_of(self_mixup_s=2.0)
    loudest = self_mixed(crops, store_of(pd.DataFrame(), {"a": wave}), wave)
    assert set(loudest) == {32766}
    wave[:4000] = 32767
    mixed = self_mixed(crops, store_of(pd.DataFrame(), {"a": wave}), wave)
    assert set(mixed[:4000]) == {32767}
    assert set(mixed[4000:]) == {round(32766 * 32767 / (32767 + 16383))}
