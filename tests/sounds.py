"""Sounds of known content, and files of them."""

import numpy as np
import soundfile

from bclef.fingerprints import Fingerprinter

RATE_HZ = 32_000


def tone(frequency_hz, duration_s, sample_rate_hz=RATE_HZ, amplitude=0.5):
    times_s = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


def noise(duration_s, sample_rate_hz=RATE_HZ, seed=0, rms=0.1):
    n_samples = round(duration_s * sample_rate_hz)
    return (rms * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def song(seed, duration_s=6.0):
    """Synthetic syllables over faint noise; the same seed sings the same song."""
    rng = np.random.default_rng(seed)
    wave = noise(duration_s, seed=seed, rms=0.005)
    times_s = np.arange(round(0.15 * RATE_HZ)) / RATE_HZ
    for begin_s in np.arange(0.2, duration_s - 0.3, 0.35):
        low_hz, high_hz = rng.uniform(1_500, 7_000, 2)
        phase = 2 * np.pi * (low_hz + (high_hz - low_hz) * times_s / 0.3) * times_s
        first = round(begin_s * RATE_HZ)
        wave[first : first + len(times_s)] += 0.4 * np.hanning(len(times_s)) * np.sin(phase)
    return wave.astype(np.float32)


def write(path, wave, sample_rate_hz=RATE_HZ, **options):
    soundfile.write(path, wave, sample_rate_hz, **options)
    return path


def fingerprint(wave, block_samples=47_000):
    maker = Fingerprinter(RATE_HZ)
    for first in range(0, len(wave), block_samples):
        maker.update(wave[first : first + block_samples])
    return maker.frames()
