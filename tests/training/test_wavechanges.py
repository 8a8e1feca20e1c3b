import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from bclef.config import ConfigError
from bclef.wavechanges import (
    FILTER_FFT,
    FILTER_HOP,
    PITCH_HOP,
    GainDraw,
    PitchDraw,
    ShiftDraw,
    SpectrumDraw,
    change_level,
    change_spectrum,
    draw_gain,
    draw_pitch,
    draw_shift,
    draw_spectrum,
    gain_curve,
    shift_pitch,
    shift_time,
)
from tests.augmentations import settings

RATE_HZ = 16000
SAMPLES = 16100
"""About a second, and no whole number of hops."""


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def waves(n_clips: int = 2, n_samples: int = SAMPLES) -> Tensor:
    return 0.1 * torch.randn(n_clips, n_samples, generator=generator(5))


def tone(frequency_hz: float, n_samples: int = SAMPLES) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * frequency_hz * torch.arange(n_samples) / RATE_HZ)[None]


def rows(*chosen: int) -> Tensor:
    return torch.tensor(chosen, dtype=torch.int64)


def spectrum_draw(
    points_db: list[float], cutoff_hz: float = np.inf, slope: float = 12.0
) -> SpectrumDraw:
    """Of row 0."""
    return SpectrumDraw(
        rows(0), torch.tensor([points_db]), torch.tensor([cutoff_hz]), torch.tensor([slope])
    )


def gain_draw(first_db: float, last_db: float, first: float = 0.0, last: float = 1.0) -> GainDraw:
    """Of row 0."""
    return GainDraw(rows(0), *torch.tensor([first_db, last_db, first, last])[:, None])


def rms(wave: Tensor) -> Tensor:
    return wave.square().mean(dim=-1).sqrt()


def filtered_slowly(wave: NDArray[np.float64], gain_db: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter frame by frame: windowed, attenuated, windowed, added up over the squares."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FILTER_FFT) / FILTER_FFT)
    padded = np.pad(wave, (FILTER_FFT // 2, FILTER_FFT))
    total, squares = np.zeros_like(padded), np.zeros_like(padded)
    for first in range(0, len(padded) - FILTER_FFT + 1, FILTER_HOP):
        place = slice(first, first + FILTER_FFT)
        bins = np.fft.rfft(padded[place] * window) * 10 ** (gain_db / 20)
        total[place] += np.fft.irfft(bins) * window
        squares[place] += window**2
    kept = slice(FILTER_FFT // 2, FILTER_FFT // 2 + len(wave))
    return total[kept] / squares[kept]


def test_random_filter_is_e23_over_the_whole_clip() -> None:
    points_db = [-3.0, -20.0, 0.0, -11.0]
    found = change_spectrum(waves(), spectrum_draw(points_db), RATE_HZ)
    gain_db = np.interp(np.linspace(0, 3, 513), np.arange(4), points_db)
    expected = filtered_slowly(waves()[0].double().numpy(), gain_db)
    np.testing.assert_allclose(found[0], expected, atol=1e-6, rtol=0)
    assert torch.equal(found[1], waves()[1])


@pytest.mark.parametrize("n_samples", [700, 1024, 5 * 512, 5 * 512 + 1, 5 * 512 - 1])
def test_filter_that_does_nothing_gives_the_clip_back_to_its_end(n_samples: int) -> None:
    wave = waves(1, n_samples)
    found = change_spectrum(wave, spectrum_draw([0.0, 0.0, 0.0, 0.0]), RATE_HZ)
    np.testing.assert_allclose(found, wave, atol=1e-6, rtol=0)


def test_low_pass_falls_by_its_slope_above_its_cutoff() -> None:
    draw = spectrum_draw([0.0, 0.0], cutoff_hz=1000.0, slope=12.0)
    for frequency_hz, expected_db in [(500, 0.0), (2000, -12.0), (4000, -24.0)]:
        wave = tone(frequency_hz)
        found_db = 20 * (rms(change_spectrum(wave, draw, RATE_HZ)) / rms(wave)).log10()
        assert found_db.item() == pytest.approx(expected_db, abs=0.3)


def test_spectrum_is_only_ever_attenuated() -> None:
    groups = {
        "filtering": {"probability": 0.7, "min_db": -20.0, "n_points": 4},
        "low_pass": {"probability": 0.7, "cutoff_min_hz": 500.0, "cutoff_max_hz": 4000.0},
    }
    config = settings(**groups)
    draw = draw_spectrum(config.filtering, config.low_pass, 500, generator())
    curve = gain_curve(draw, RATE_HZ)
    assert curve.max() <= 1
    assert curve.isfinite().all()
    alone = gain_curve(draw._replace(cutoff_hz=torch.full_like(draw.cutoff_hz, np.inf)), RATE_HZ)
    assert alone.min() >= 0.1 - 1e-6


def test_spectral_changes_are_drawn_apart() -> None:
    groups = {
        "filtering": {"probability": 0.5, "min_db": -20.0, "n_points": 4},
        "low_pass": {"probability": 0.2, "cutoff_min_hz": 500.0, "cutoff_max_hz": 8000.0},
    }
    config = settings(**groups)
    draw = draw_spectrum(config.filtering, config.low_pass, 4000, generator())
    filtered, passed = draw.points_db.any(dim=1), draw.cutoff_hz.isfinite()
    assert filtered.sum().item() / 4000 == pytest.approx(0.5, abs=0.03)
    assert passed.sum().item() / 4000 == pytest.approx(0.2, abs=0.03)
    assert (filtered & passed).sum().item() / 4000 == pytest.approx(0.1, abs=0.03)
    assert (filtered | passed).all()
    octaves = (draw.cutoff_hz[passed] / 500).log2()
    assert np.allclose(
        np.histogram(octaves, bins=4, range=(0, 4))[0] / len(octaves), 0.25, atol=0.06
    )
    assert -20 <= draw.points_db.min() < draw.points_db.max() <= 0
    off = settings()
    assert len(draw_spectrum(off.filtering, off.low_pass, 50, generator()).rows) == 0


def test_level_changes_by_decibels() -> None:
    found = change_level(torch.ones(2, 3), gain_draw(-6.0, -6.0))
    torch.testing.assert_close(found, torch.tensor([[0.5011872] * 3, [1.0] * 3]))


def test_moving_level_goes_linearly_in_decibels_between_its_places() -> None:
    found_db = 20 * change_level(torch.ones(1, 100), gain_draw(-10.0, 10.0, 0.2, 0.6)).log10()[0]
    expected = np.interp(np.arange(100) / 100, [0.2, 0.6], [-10.0, 10.0])
    np.testing.assert_allclose(found_db, expected, atol=1e-4)
    at_once = change_level(torch.ones(1, 100), gain_draw(-10.0, 10.0, 0.5, 0.5))
    assert at_once.isfinite().all()


def test_gains_are_drawn_by_their_chances_and_ranges() -> None:
    config = settings(gain={"probability": 0.8, "range_db": 15.0, "transition_share": 0.5}).gain
    draw = draw_gain(config, 4000, generator())
    assert len(draw.rows) / 4000 == pytest.approx(0.8, abs=0.03)
    assert (draw.first_db != draw.last_db).float().mean().item() == pytest.approx(0.5, abs=0.03)
    for gain_db in (draw.first_db, draw.last_db):
        quarters = np.histogram(gain_db, bins=4, range=(-15.0, 15.0))[0] / len(draw.rows)
        np.testing.assert_allclose(quarters, 0.25, atol=0.03)
    assert (draw.first_place <= draw.last_place).all()


@pytest.mark.parametrize("semitones", [-4.0, -1.0, 0.5, 4.0])
def test_pitch_of_a_tone_is_shifted_and_its_level_kept(semitones: float) -> None:
    n_steps = round(100 * 2 ** (semitones / 12))
    wave = tone(1500.0)
    found = shift_pitch(wave, PitchDraw(rows(0), torch.tensor([n_steps])))
    assert found.shape == wave.shape
    middle = found[0, 2000:-2000]
    spectrum = np.abs(np.fft.rfft(middle.numpy() * np.hanning(len(middle)), n=2**18))
    found_hz = spectrum.argmax() * RATE_HZ / 2**18
    assert found_hz == pytest.approx(1500.0 * n_steps / 100, abs=1.0)
    assert 12 * np.log2(found_hz / 1500.0) == pytest.approx(semitones, abs=0.11)
    assert (20 * (rms(middle) / rms(wave)).log10()).item() == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize("n_steps", [79, 126])
def test_sound_stays_where_it_is_in_time_when_its_pitch_is_shifted(n_steps: int) -> None:
    place = torch.arange(SAMPLES)
    for centre in (3000, 13000):
        wave = tone(2000.0) * torch.exp(-(((place - centre) / 400) ** 2))
        found = shift_pitch(wave, PitchDraw(rows(0), torch.tensor([n_steps])))
        energy = found[0].square()
        assert ((energy * place).sum() / energy.sum()).item() == pytest.approx(
            centre, abs=PITCH_HOP
        )


def test_rows_are_shifted_by_their_own_ratio() -> None:
    wave = torch.cat([tone(1500.0), tone(1500.0), tone(900.0), tone(1500.0)])
    draw = PitchDraw(rows(3, 0, 2), torch.tensor([110, 90, 110]))
    found = shift_pitch(wave, draw)
    assert torch.equal(found[1], wave[1])
    for row, n_steps in [(3, 110), (0, 90), (2, 110)]:
        alone = shift_pitch(wave[row : row + 1], PitchDraw(rows(0), torch.tensor([n_steps])))
        torch.testing.assert_close(found[row], alone[0], atol=1e-5, rtol=0)


def test_pitches_are_drawn_in_hundredths_within_their_range() -> None:
    config = settings(pitch_shift={"probability": 0.4, "range_semitones": 4.0}).pitch_shift
    draw = draw_pitch(config, 4000, generator())
    assert len(draw.rows) / 4000 == pytest.approx(0.4, abs=0.03)
    assert (draw.n_steps.min().item(), draw.n_steps.max().item()) == (79, 126)
    assert not (draw.n_steps == 100).any()
    semitones = 12 * (draw.n_steps / 100).log2()
    assert semitones.mean().item() == pytest.approx(0.0, abs=0.2)


def test_rolling_moves_what_leaves_to_the_other_end() -> None:
    wave = torch.arange(20.0).view(2, 10)
    for share, n_shifted in [(0.3, 3), (-0.26, -3), (0.0, 0), (1.0, 10)]:
        found = shift_time(wave, ShiftDraw(rows(1), torch.tensor([share])))
        assert torch.equal(found[1], wave[1].roll(n_shifted))
        assert torch.equal(found[0], wave[0])


def test_shifts_are_drawn_by_their_chance_and_range() -> None:
    config = settings(time_shift={"probability": 0.4, "max_share": 0.5}).time_shift
    draw = draw_shift(config, 4000, generator())
    assert len(draw.rows) / 4000 == pytest.approx(0.4, abs=0.03)
    quarters = np.histogram(draw.share, bins=4, range=(-0.5, 0.5))[0] / len(draw.rows)
    np.testing.assert_allclose(quarters, 0.25, atol=0.05)


def all_changes(wave: Tensor) -> list[Tensor]:
    """Row 0 of `wave` changed in every way."""
    return [
        change_spectrum(wave, spectrum_draw([-3.0, -20.0], 500.0), RATE_HZ),
        change_level(wave, gain_draw(-3.0, 3.0)),
        shift_pitch(wave, PitchDraw(rows(0), torch.tensor([90]))),
        shift_time(wave, ShiftDraw(rows(0), torch.tensor([0.2]))),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_changes_keep_shape_and_type_and_are_finite_on_silence(dtype: torch.dtype) -> None:
    for wave in (torch.zeros(2, SAMPLES, dtype=dtype), waves().to(dtype)):
        before = wave.clone()
        for found in all_changes(wave):
            assert (found.shape, found.dtype) == (wave.shape, dtype)
            assert found.isfinite().all()
            assert torch.equal(found[1], wave[1])
            assert found[0].any() == wave[0].any()
        assert torch.equal(wave, before)


@pytest.mark.parametrize("n_samples", [16000, 16001, 15999, 1500])
def test_shifted_pitch_keeps_any_length(n_samples: int) -> None:
    for n_steps in (51, 79, 99, 101, 126, 199):
        found = shift_pitch(waves(1, n_samples), PitchDraw(rows(0), torch.tensor([n_steps])))
        assert found.shape == (1, n_samples)
        assert found.abs().max() < 1
        assert rms(found[:, -200:]) > 0.03


def test_inverted_cutoffs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cutoff_min_hz 9000\.0 exceeds cutoff_max_hz 100\.0"):
        settings(low_pass={"cutoff_min_hz": 9000.0, "cutoff_max_hz": 100.0})
