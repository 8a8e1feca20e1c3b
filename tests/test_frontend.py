"""The numpy front end against formulas written out, and against what sound is known to do."""

import math
import subprocess
import sys

import numpy as np
import pytest

from bclef.config import ConfigError
from bclef.frontend import FrontEndConfig, analysis_window, interpolation, log_mel, mel_filters

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
    "padding": "reflect",
    "channels": "mono",
    "image_size": None,
}


def front_end(**changes: object) -> FrontEndConfig:
    return FrontEndConfig(**{**V23, **changes})


def tone(frequency_hz: float, n_samples: int = 16_000, amplitude: float = 0.5) -> np.ndarray:
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s))[None]


def noise(n_clips: int = 2, n_samples: int = 8_000, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_clips, n_samples))


def test_five_seconds_at_hop_512_have_313_frames():
    assert front_end().n_frames(160_000) == 313
    assert front_end(hop_samples=417).n_frames(160_000) == 384
    assert front_end(hop_samples=1252).n_frames(640_000) == 512


def test_image_has_as_many_frames_as_announced():
    config = front_end(n_fft=512, win_samples=400, hop_samples=177, n_mels=20)
    assert log_mel(np.zeros((3, 5_000)), config, SAMPLE_RATE_HZ).shape == (3, 1, 20, 29)
    assert config.n_frames(5_000) == 29
    assert config.image_shape(5_000) == (20, 29)


@pytest.mark.parametrize(
    ("channels", "n_channels"), [("mono", 1), ("repeat", 3), ("ramp", 3), ("deltas", 3)]
)
def test_image_of_any_layout_and_size_has_the_announced_shape(channels, n_channels):
    config = front_end(channels=channels, image_size=(32, 50))
    assert config.n_channels == n_channels
    assert config.image_shape(8_000) == (32, 50)
    assert config.n_frames(8_000) == 16
    assert log_mel(noise(), config, SAMPLE_RATE_HZ).shape == (2, n_channels, 32, 50)


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
    assert image[0, 0, band, frame_index] == pytest.approx(10 * math.log10(total), abs=1e-5)


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("frequency_hz", [700.0, 3000.0, 9000.0])
def test_tone_is_loudest_in_the_band_around_its_frequency(mel_scale, frequency_hz):
    config = front_end(mel_scale=mel_scale)
    image = log_mel(tone(frequency_hz), config, SAMPLE_RATE_HZ)[0, 0]
    filters = mel_filters(config, SAMPLE_RATE_HZ)
    expected = filters[round(frequency_hz / SAMPLE_RATE_HZ * 2048)].argmax()
    assert abs(image[:, 10].argmax() - expected) <= 1


def test_click_shows_in_the_frame_at_its_time():
    wave = np.zeros((1, 16_000))
    wave[0, 7 * 512] = 1
    image = log_mel(wave, front_end(n_fft=512, win_samples=512), SAMPLE_RATE_HZ)[0, 0]
    assert image.mean(axis=0).argmax() == 7


def test_half_the_amplitude_is_six_db_less():
    config = front_end(top_db=None)
    loud, quiet = (log_mel(tone(3000, amplitude=a), config, SAMPLE_RATE_HZ) for a in (0.5, 0.25))
    band = loud[0, 0, :, 5].argmax()
    assert (loud - quiet)[0, 0, band, 5] == pytest.approx(20 * math.log10(2), abs=1e-6)


def test_magnitude_mel_of_half_the_amplitude_is_three_db_less():
    config = front_end(top_db=None, power=1)
    loud, quiet = (log_mel(tone(3000, amplitude=a), config, SAMPLE_RATE_HZ) for a in (0.5, 0.25))
    band = loud[0, 0, :, 5].argmax()
    assert (loud - quiet)[0, 0, band, 5] == pytest.approx(10 * math.log10(2), abs=1e-6)


def test_dynamic_range_is_cut_at_top_db_below_the_maximum():
    image = log_mel(tone(3000), front_end(top_db=60.0), SAMPLE_RATE_HZ)
    assert image.max() - image.min() == pytest.approx(60.0)


def test_loud_neighbour_in_the_batch_changes_nothing():
    rng = np.random.default_rng(2)
    quiet, loud = 1e-4 * rng.standard_normal((1, 8_000)), rng.standard_normal((1, 8_000))
    layout = {"top_db": 30.0, "channels": "deltas", "image_size": (50, 20)}
    for scaling in ("none", "n80", "zscore", "zmm"):
        for wave_scaling in ("none", "peak", "std"):
            config = front_end(scaling=scaling, wave_scaling=wave_scaling, **layout)
            alone = log_mel(quiet, config, SAMPLE_RATE_HZ)
            together = log_mel(np.concatenate([loud, quiet]), config, SAMPLE_RATE_HZ)
            np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_and_constant_give_finite_images(dtype, level):
    for scaling in ("none", "n80", "n40", "n255", "zscore", "zmm"):
        for wave_scaling in ("none", "peak", "std"):
            config = front_end(scaling=scaling, wave_scaling=wave_scaling, channels="deltas")
            image = log_mel(np.full((2, 8_000), level), config, SAMPLE_RATE_HZ, dtype)
            assert image.dtype == dtype
            assert np.isfinite(image).all()


@pytest.mark.parametrize("scaling", ["zscore", "zmm"])
def test_silent_clip_is_zero_after_scaling_per_clip(scaling):
    image = log_mel(np.zeros((1, 8_000)), front_end(scaling=scaling), SAMPLE_RATE_HZ, np.float32)
    assert not image.any()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("top_db", [None, 40.0])
def test_decibels_are_e1_with_the_range_of_each_clip(power, top_db):
    config = front_end(power=power, top_db=top_db, normalise_window=False, hop_samples=2048)
    wave = noise() * [[1.0], [1e-3]]
    wave[:, 4000:] = 0
    image = log_mel(wave, config, SAMPLE_RATE_HZ)[:, 0]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    for clip in range(2):
        padded = np.pad(wave[clip], 1024, mode="reflect")
        spectra = np.stack([np.fft.rfft(hann * padded[f * 2048 :][:2048]) for f in range(4)])
        x = (np.abs(spectra) ** power @ mel_filters(config, SAMPLE_RATE_HZ)).T
        s = 10 * np.log10(np.maximum(x, 1e-10))
        s = s if top_db is None else np.maximum(s, s.max() - top_db)
        np.testing.assert_allclose(image[clip], s, rtol=0, atol=1e-6)
        assert s.min() == (-100 if top_db is None else pytest.approx(s.max() - 40))


def test_scalings_are_e2():
    wave = noise()
    plain = log_mel(wave, front_end(), SAMPLE_RATE_HZ)
    scaled = {
        name: log_mel(wave, front_end(scaling=name), SAMPLE_RATE_HZ)
        for name in ("n80", "n40", "n255", "zscore", "zmm")
    }
    for clip in range(2):
        s = plain[clip, 0]
        z = (s - s.mean()) / (s.std() + 1e-6)
        expected = {
            "n80": (s + 80) / 80,
            "n40": (s - 40) / 80,
            "n255": s / 255,
            "zscore": z,
            "zmm": (z - z.min()) / (z.max() - z.min() + 1e-6),
        }
        for name, image in expected.items():
            np.testing.assert_allclose(scaled[name][clip, 0], image, rtol=0, atol=1e-6)


def test_ramp_is_the_image_twice_and_the_height_of_each_band():
    wave = noise()
    mono = log_mel(wave, front_end(), SAMPLE_RATE_HZ)[:, 0]
    image = log_mel(wave, front_end(channels="ramp"), SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(image[:, 0], mono)
    np.testing.assert_array_equal(image[:, 1], mono)
    for frame in range(image.shape[3]):
        np.testing.assert_allclose(image[1, 2, :, frame], np.arange(128) / 127, atol=1e-12)


def test_repeated_channels_are_all_the_image():
    wave = noise()
    mono = log_mel(wave, front_end(), SAMPLE_RATE_HZ)
    image = log_mel(wave, front_end(channels="repeat"), SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(image, np.concatenate([mono, mono, mono], axis=1))


def test_deltas_are_slopes_over_five_frames_and_then_slopes_of_those():
    image = log_mel(noise(), front_end(channels="deltas"), SAMPLE_RATE_HZ)
    n_frames = image.shape[3]
    for source, slope in ((0, 1), (1, 2)):
        for frame in range(n_frames):
            total = np.zeros((2, 128))
            for n in (1, 2):
                after, before = min(frame + n, n_frames - 1), max(frame - n, 0)
                total += n * (image[:, source, :, after] - image[:, source, :, before])
            expected = total / (2 * (1**2 + 2**2))
            np.testing.assert_allclose(image[:, slope, :, frame], expected, rtol=0, atol=1e-6)


def test_deltas_of_a_steady_tone_are_zero_and_of_a_swelling_one_its_slope():
    config = front_end(channels="deltas", top_db=None)
    swell = 10 ** (-np.arange(16_000) / 16_000)  # 20 dB down in 31.25 frames of 512
    steady, falling = tone(3000), tone(3000) * swell
    image = log_mel(np.concatenate([steady, falling]), config, SAMPLE_RATE_HZ)
    loud = image[0, 0, :, 10] > image[0, 0, :, 10].max() - 20
    assert np.ptp(image[0, 0, loud, 10]) > 1  # a slope along frequency would show
    np.testing.assert_allclose(image[0, 1, loud, 8:20], 0, atol=0.01)
    np.testing.assert_allclose(image[1, 1, loud, 8:20], -20 * 512 / 16_000, atol=0.01)
    np.testing.assert_allclose(image[1, 2, loud, 8:20], 0, atol=0.01)


@pytest.mark.parametrize(("n_from", "n_to"), [(313, 512), (224, 128), (7, 7), (5, 1), (1, 4)])
def test_interpolation_weighs_the_two_values_beside_each_place(n_from, n_to):
    values = noise(1, n_from)[0]
    for place, value in enumerate(interpolation(n_from, n_to) @ values):
        at = min(max((place + 0.5) * n_from / n_to - 0.5, 0), n_from - 1)
        left, share = int(at), at - int(at)
        right = min(left + 1, n_from - 1)
        expected = (1 - share) * values[left] + share * values[right]
        assert value == pytest.approx(expected, abs=1e-6)


def test_resized_image_is_that_of_the_scaled_one_in_both_directions():
    wave = noise()
    plain = log_mel(wave, front_end(scaling="zmm"), SAMPLE_RATE_HZ)
    resized = log_mel(wave, front_end(scaling="zmm", image_size=(40, 33)), SAMPLE_RATE_HZ)
    frames = np.stack([interpolation(16, 33) @ band for band in plain[1, 0]])
    expected = np.stack([interpolation(128, 40) @ frame for frame in frames.T]).T
    np.testing.assert_allclose(resized[1, 0], expected, rtol=0, atol=1e-6)


def test_ramp_and_deltas_are_made_at_the_final_size():
    config = front_end(channels="ramp", image_size=(40, 33))
    image = log_mel(noise(), config, SAMPLE_RATE_HZ)
    np.testing.assert_allclose(image[0, 2, :, 32], np.arange(40) / 39, atol=1e-12)
    config = front_end(channels="deltas", image_size=(40, 33))
    image = log_mel(noise(), config, SAMPLE_RATE_HZ)
    near, far = (image[0, 0, :, 10 + n] - image[0, 0, :, 10 - n] for n in (1, 2))
    np.testing.assert_allclose(image[0, 1, :, 10], (near + 2 * far) / 10, rtol=0, atol=1e-6)


def test_padding_with_zeros_hears_silence_around_the_clip():
    wave = noise(1, 8 * 512)
    config = front_end(padding="zeros", top_db=None)
    image = log_mel(wave, config, SAMPLE_RATE_HZ)[0, 0]
    surrounded = np.pad(wave, ((0, 0), (4 * 512, 4 * 512)))
    whole = log_mel(surrounded, front_end(top_db=None), SAMPLE_RATE_HZ)[0, 0]
    np.testing.assert_allclose(image, whole[:, 4:13], rtol=0, atol=1e-9)
    mirrored = log_mel(wave, front_end(top_db=None), SAMPLE_RATE_HZ)[0, 0]
    assert np.abs(mirrored - image)[:, 0].max() > 1


def test_clip_of_any_length_can_be_padded_with_zeros():
    config = front_end(padding="zeros")
    assert config.n_frames(100) == 1
    assert np.isfinite(log_mel(noise(1, 100), config, SAMPLE_RATE_HZ)).all()


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
    band = plain[0, 0, :, 5].argmax()
    assert (plain - shifted)[0, 0, band, 5] == pytest.approx(10 * math.log10(energy), abs=1e-6)


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
        ({"image_size": (0, 10)}, "greater than or equal to 1"),
        ({"image_size": (10,)}, "image_size"),
        ({"channels": "delta"}, "'deltas'"),
        ({"padding": "constant"}, "'zeros'"),
    ],
)
def test_contradictory_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        front_end(**changes)


def test_image_size_is_read_from_a_list_as_yaml_has_it():
    config = FrontEndConfig.from_tree({**V23, "image_size": [128, 384]}, "params.yaml")
    assert config.image_size == (128, 384)


def test_front_end_needs_no_torch():
    code = "import sys, bclef.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
