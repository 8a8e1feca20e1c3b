"""Flatness: noise of any colour has one value, birds another, silence none."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile

from bclef import audio
from bclef.meters import FlatnessMeter, Meter
from tests.sounds import RATE_HZ, noise, song, tone

STEADY = 0.45
"""The default of `resample.noise_like.min_flatness`."""


def flatness(wave, block_samples=47_000):
    meter = FlatnessMeter(RATE_HZ)
    for first in range(0, len(wave), block_samples):
        meter.update(wave[first : first + block_samples])
    return meter.flatness()


def coloured(slope, duration_s=1.0, seed=0):
    """Noise whose power falls with frequency to the power of `slope`."""
    spectrum = np.fft.rfft(noise(duration_s, seed=seed))
    frequencies = np.maximum(np.arange(len(spectrum)), 1.0)
    wave = np.fft.irfft(spectrum / frequencies ** (slope / 2))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def slow_flatness(wave):
    """The same by its definition, frame by frame."""
    taper = np.hanning(1024)
    frames = [wave[first : first + 1024] for first in range(0, len(wave) - 1023, 512)]
    powers = np.array([np.abs(np.fft.rfft(frame * taper)) ** 2 for frame in frames])
    ratios = np.exp(np.log(powers).mean(axis=0)) / powers.mean(axis=0)
    edges = np.round(np.linspace(500, 9_000, 17) * 1024 / RATE_HZ).astype(int)
    bands = [ratios[a:b].mean() for a, b in pairwise(edges)]
    of_noise = np.exp(-np.euler_gamma)
    steadiest = max(*bands, ratios[edges[0] : edges[-1]].max() - 0.25)
    return min(*bands, 2 * of_noise - steadiest)


@pytest.mark.parametrize("wave", [noise(2, rms=0.05), song(3), coloured(2)])
def test_flatness_is_the_ratio_of_geometric_to_arithmetic_mean_over_time(wave):
    assert flatness(wave) == pytest.approx(slow_flatness(wave), rel=1e-3)


@pytest.mark.parametrize("pulses_hz", [0, 50, 60])
def test_whistles_and_steady_trills_are_no_noise(pulses_hz):
    times_s = np.arange(RATE_HZ) / RATE_HZ
    gate = np.cos(2 * np.pi * pulses_hz * times_s) > -0.5
    wave = (0.3 * np.sin(2 * np.pi * 4_000 * times_s) * gate).astype(np.float32)
    assert flatness(wave) < 0.4
    assert flatness(wave + noise(1.0, rms=0.02)) < 0.4


def test_flatness_does_not_depend_on_block_sizes_or_gain():
    wave = song(1)
    for block_samples in (100, 1_000, 65_536):
        assert flatness(wave, block_samples) == pytest.approx(flatness(wave), rel=1e-6)
    assert flatness(0.01 * wave) == pytest.approx(flatness(wave), rel=1e-3)


@pytest.mark.parametrize("slope", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["", "mp3", "ogg"])
def test_steady_noise_of_any_colour_is_told_through_codecs(slope, suffix, tmp_path):
    wave = coloured(slope, seed=slope)
    if suffix == "ogg":
        audio.write_ogg(tmp_path / "a.ogg", [wave], RATE_HZ)
        wave = audio.load(tmp_path / "a.ogg", RATE_HZ)
    elif suffix == "mp3":
        options = {"bitrate_mode": "CONSTANT", "compression_level": 0.7}
        soundfile.write(tmp_path / "a.mp3", wave, RATE_HZ, "MPEG_LAYER_III", **options)
        wave = audio.load(tmp_path / "a.mp3", RATE_HZ)
    assert STEADY <= flatness(wave) < 0.6


def test_one_short_call_in_noise_is_no_steady_noise():
    wave, times_s = coloured(1), np.arange(round(0.2 * RATE_HZ)) / RATE_HZ
    call = 0.3 * np.hanning(len(times_s)) * np.sin(2 * np.pi * (3e3 + 2e3 * times_s) * times_s)
    wave[9_000 : 9_000 + len(call)] += call.astype(np.float32)
    assert flatness(wave) < STEADY - 0.05


def test_digital_silence_and_less_than_a_frame_have_no_flatness():
    assert flatness(np.zeros(RATE_HZ, np.float32)) is None
    assert flatness(noise(0.03)) is None
    assert flatness(np.zeros(0, np.float32)) is None
    assert Meter(RATE_HZ).measures()["flatness"] is None


def test_silence_around_noise_is_no_part_of_it():
    wave = coloured(1)
    padded = np.concatenate([np.zeros(RATE_HZ, np.float32), wave, np.zeros(RATE_HZ, np.float32)])
    assert flatness(padded) == pytest.approx(flatness(wave), abs=0.06)


def test_tones_and_silent_bands_give_finite_values():
    assert 0 <= flatness(tone(3_000, 1)) <= 1
    assert 0 <= flatness(tone(100, 1)) <= 1
    assert 0 <= flatness(np.full(RATE_HZ, 0.25, np.float32)) <= 1


@pytest.mark.slow
def test_real_birds_are_hardly_ever_steady(real_audio):
    paths = sorted((real_audio / "species").rglob("*.*"))[::4]
    values = np.array([flatness(audio.load(path, RATE_HZ)) for path in paths])
    assert len(values) == 60
    assert (values >= STEADY).mean() <= 1 / 60
    assert np.median(values) < 0.1
