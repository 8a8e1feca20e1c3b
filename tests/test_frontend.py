"""The numpy front end against formulas written out, and against what sound is known to do."""

import math
import subprocess
import sys

import numpy as np
import pytest

from bclef.config import ConfigError
from bclef.frontend import FrontEndConfig, analysis_window, log_mel, mel_filters

SAMPLE_RATE_HZ = 32_000
V23 = {
    "n_fft": 2048,
    "win_samples": 2048,
    "hop_samples": 512,
    "n_mels": 128,
    "f_min_hz": 20.0,
    "f_max_hz": 16000.0,
    "mel_scale": "htk",
    "mel_norm": None,
    "normalise_window": True,
    "power": 2,
    "wave_scaling": "none",
    "top_db": 80.0,
    "scaling": "none",
}


def front_end(**changes: object) -> FrontEndConfig:
    return FrontEndConfig(**{**V23, **changes})


def tone(frequency_hz: float, n_samples: int = 16_000, amplitude: float = 0.5) -> np.ndarray:
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s))[None]


def test_five_seconds_at_hop_512_have_313_frames():
    assert front_end().n_frames(160_000) == 313
    assert front_end(hop_samples=417).n_frames(160_000) == 384
    assert front_end(hop_samples=1252).n_frames(640_000) == 512


def test_image_has_as_many_frames_as_announced():
    config = front_end(n_fft=512, win_samples=400, hop_samples=177, n_mels=20)
    assert log_mel(np.zeros((3, 5_000)), config, SAMPLE_RATE_HZ).shape == (3, 20, 29)
    assert config.n_frames(5_000) == 29


def test_one_value_agrees_with_the_formula_written_out():
    config = front_end(n_fft=64, win_samples=48, hop_samples=16, n_mels=6, top_db=None)
    wave = np.random.default_rng(1).uniform(-1, 1, (1, 200))
    frame_index, band = 5, 3
    window = [0.0] * 8 + [0.5 - 0.5 * math.cos(2 * math.pi * n / 48) for n in range(48)] + [0.0] * 8
    norm = sum(value**2 for value in window)
    first_sample = frame_index * 16 - 32
    edges_mel = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 16000 / 700), 8)
    left_hz, peak_hz, right_hz = 700 * (10 ** (edges_mel[band : band + 3] / 2595) - 1)
    total = 0.0
    for k in range(33):
        bin_hz = k * SAMPLE_RATE_HZ / 64
        weight = max(
            0,
            min(
                (bin_hz - left_hz) / (peak_hz - left_hz), (right_hz - bin_hz) / (right_hz - peak_hz)
            ),
        )
        value = sum(
            window[n] * wave[0, first_sample + n] * np.exp(-2j * math.pi * k * n / 64)
            for n in range(64)
        )
        total += weight * abs(value) ** 2 / norm
    image = log_mel(wave, config, SAMPLE_RATE_HZ)
    assert image[0, band, frame_index] == pytest.approx(10 * math.log10(total), abs=1e-5)


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("frequency_hz", [700.0, 3000.0, 9000.0])
def test_tone_is_loudest_in_the_band_around_its_frequency(mel_scale, frequency_hz):
    config = front_end(mel_scale=mel_scale)
    image = log_mel(tone(frequency_hz), config, SAMPLE_RATE_HZ)[0]
    filters = mel_filters(config, SAMPLE_RATE_HZ)
    expected = filters[round(frequency_hz / SAMPLE_RATE_HZ * 2048)].argmax()
    assert abs(image[:, 10].argmax() - expected) <= 1


def test_click_shows_in_the_frame_at_its_time():
    wave = np.zeros((1, 16_000))
    wave[0, 7 * 512] = 1
    image = log_mel(wave, front_end(n_fft=512, win_samples=512), SAMPLE_RATE_HZ)[0]
    assert image.mean(axis=0).argmax() == 7


def test_half_the_amplitude_is_six_db_less():
    config = front_end(top_db=None)
    loud, quiet = (log_mel(tone(3000, amplitude=a), config, SAMPLE_RATE_HZ) for a in (0.5, 0.25))
    band = loud[0, :, 5].argmax()
    assert (loud - quiet)[0, band, 5] == pytest.approx(20 * math.log10(2), abs=1e-6)


def test_magnitude_mel_of_half_the_amplitude_is_three_db_less():
    config = front_end(top_db=None, power=1)
    loud, quiet = (log_mel(tone(3000, amplitude=a), config, SAMPLE_RATE_HZ) for a in (0.5, 0.25))
    band = loud[0, :, 5].argmax()
    assert (loud - quiet)[0, band, 5] == pytest.approx(10 * math.log10(2), abs=1e-6)


def test_dynamic_range_is_cut_at_top_db_below_the_maximum():
    image = log_mel(tone(3000), front_end(top_db=60.0), SAMPLE_RATE_HZ)
    assert image.max() - image.min() == pytest.approx(60.0)


def test_loud_neighbour_in_the_batch_changes_nothing():
    rng = np.random.default_rng(2)
    quiet, loud = 1e-4 * rng.standard_normal((1, 8_000)), rng.standard_normal((1, 8_000))
    for scaling in ("none", "n80", "zscore", "zmm"):
        for wave_scaling in ("none", "peak", "std"):
            config = front_end(scaling=scaling, wave_scaling=wave_scaling, top_db=30.0)
            alone = log_mel(quiet, config, SAMPLE_RATE_HZ)
            together = log_mel(np.concatenate([loud, quiet]), config, SAMPLE_RATE_HZ)
            np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_and_constant_give_finite_images(dtype, level):
    for scaling in ("none", "n80", "n40", "n255", "zscore", "zmm"):
        for wave_scaling in ("none", "peak", "std"):
            config = front_end(scaling=scaling, wave_scaling=wave_scaling)
            image = log_mel(np.full((2, 8_000), level), config, SAMPLE_RATE_HZ, dtype)
            assert image.dtype == dtype
            assert np.isfinite(image).all()


@pytest.mark.parametrize("scaling", ["zscore", "zmm"])
def test_silent_clip_is_zero_after_scaling_per_clip(scaling):
    image = log_mel(np.zeros((1, 8_000)), front_end(scaling=scaling), SAMPLE_RATE_HZ, np.float32)
    assert not image.any()


def test_scalings_are_those_of_the_published_systems():
    wave = np.random.default_rng(3).standard_normal((2, 8_000))
    plain = log_mel(wave, front_end(), SAMPLE_RATE_HZ)
    scaled = {
        name: log_mel(wave, front_end(scaling=name), SAMPLE_RATE_HZ)
        for name in ("n80", "n40", "n255", "zscore", "zmm")
    }
    np.testing.assert_allclose(scaled["n80"], (plain + 80) / 80)
    np.testing.assert_allclose(scaled["n40"], (plain - 40) / 80)
    np.testing.assert_allclose(scaled["n255"], plain / 255)
    np.testing.assert_allclose(scaled["zscore"].mean((1, 2)), 0, atol=1e-9)
    np.testing.assert_allclose(scaled["zscore"].std((1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose(scaled["zmm"].min((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(scaled["zmm"].max((1, 2)), 1, atol=1e-6)
    order = np.argsort(plain[0].ravel())
    assert (np.diff(scaled["zmm"][0].ravel()[order]) >= 0).all()


@pytest.mark.parametrize("wave_scaling", ["peak", "std"])
def test_scaled_wave_makes_the_level_of_a_recording_irrelevant(wave_scaling):
    wave = np.random.default_rng(4).standard_normal((1, 8_000))
    config = front_end(wave_scaling=wave_scaling)
    loud, quiet = (log_mel(g * wave, config, SAMPLE_RATE_HZ) for g in (1.0, 0.1))
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_slaney_bands_have_one_area_and_htk_bands_one_peak():
    fine = {"n_fft": 16384, "n_mels": 40, "f_min_hz": 500.0}
    area = mel_filters(front_end(**fine, mel_norm="slaney"), SAMPLE_RATE_HZ).sum(axis=0)
    peak = mel_filters(front_end(**fine), SAMPLE_RATE_HZ).max(axis=0)
    np.testing.assert_allclose(area * SAMPLE_RATE_HZ / 16384, 1, atol=1e-3)
    np.testing.assert_allclose(peak, 1, atol=0.05)


def test_normalised_window_shifts_by_the_energy_of_the_window():
    wave = tone(3000)
    shifted = log_mel(wave, front_end(top_db=None), SAMPLE_RATE_HZ)
    plain = log_mel(wave, front_end(top_db=None, normalise_window=False), SAMPLE_RATE_HZ)
    energy = (analysis_window(front_end(normalise_window=False)) ** 2).sum()
    assert energy == pytest.approx(3 / 8 * 2048)
    band = plain[0, :, 5].argmax()
    assert (plain - shifted)[0, band, 5] == pytest.approx(10 * math.log10(energy), abs=1e-6)


def test_bands_above_half_the_sample_rate_are_refused():
    with pytest.raises(ConfigError, match=r"f_max_hz: found 16000.0, expected at most 11025.0"):
        mel_filters(front_end(), 22_050)


def test_clip_shorter_than_its_mirror_image_is_refused():
    with pytest.raises(ConfigError, match="1024 samples is too short for n_fft 2048"):
        log_mel(np.zeros((1, 1024)), front_end(), SAMPLE_RATE_HZ)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"win_samples": 4096}, "win_samples 4096 exceeds n_fft 2048"),
        ({"f_min_hz": 16000.0}, "f_min_hz 16000.0 is not below f_max_hz 16000.0"),
        ({"n_fft": 2047}, "multiple of 2"),
        ({"top_db": 0.0}, "greater than 0"),
        ({"power": 3}, "1 or 2"),
    ],
)
def test_contradictory_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        front_end(**changes)


def test_front_end_needs_no_torch():
    code = "import sys, bclef.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
