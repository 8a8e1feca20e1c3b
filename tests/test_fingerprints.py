"""The audio fingerprint against a slow reference, and what may and may not change it."""

from itertools import pairwise

import numpy as np
import pytest

from bclef.fingerprints import FRAME, HOP_S, Fingerprinter, bit_errors, probe_masks
from tests.sounds import RATE_HZ, fingerprint, noise, song


def test_fingerprint_does_not_depend_on_block_sizes():
    wave = song(1)
    whole = fingerprint(wave, len(wave))
    for block_samples in (1_000, 8_192, 65_536):
        np.testing.assert_array_equal(fingerprint(wave, block_samples), whole)


def test_fingerprint_equals_a_slow_reference():
    wave = song(2, 1.0)
    edges = np.round(np.geomspace(1_000, 9_000, 34) * 0.256).astype(int)
    powers = []
    for first in range(0, len(wave) - 8_192 + 1, 1_024):
        spectrum = np.abs(np.fft.rfft(wave[first : first + 8_192] * np.hanning(8_192))) ** 2
        powers.append([spectrum[a:b].sum() for a, b in pairwise(edges)])
    frames = fingerprint(wave)
    assert len(frames) == len(powers) - 4
    n_equal = 0
    for n, word in enumerate(frames["word"].tolist()):
        now, before = powers[n + 4], powers[n]
        for bit in range(32):
            rise = (now[bit] - now[bit + 1]) - (before[bit] - before[bit + 1])
            n_equal += (rise > 0) == bool(word >> bit & 1)
    assert n_equal >= 0.999 * 32 * len(frames)  # the last digits of float32 may turn a bit


def test_fingerprint_does_not_change_with_gain_or_steady_hum():
    wave = song(3)
    hum = 0.3 * np.sin(2 * np.pi * 2_000 * np.arange(len(wave)) / RATE_HZ).astype(np.float32)
    np.testing.assert_array_equal(fingerprint(0.25 * wave)["word"], fingerprint(wave)["word"])
    assert np.nanmean(bit_errors(fingerprint(wave + hum), fingerprint(wave))) < 0.15


def test_digital_silence_has_no_words():
    wave = np.concatenate([song(4, 3), np.zeros(4 * RATE_HZ, np.float32)])
    words = fingerprint(wave)["word"]
    assert (words[: round(2.5 / HOP_S)] != 0).all()
    assert (words[-round(3.5 / HOP_S) :] == 0).all()
    assert (fingerprint(np.zeros(RATE_HZ, np.float32))["word"] == 0).all()


def test_silence_is_compared_with_sound_but_not_with_silence():
    one, other = np.zeros(4, FRAME), np.zeros(4, FRAME)
    one["word"] = [0, 0b1111, 0b0011, 0]
    other["word"] = [7, 0b1110, 0, 0]
    np.testing.assert_array_equal(bit_errors(one, other), [0.5, 1 / 32, 0.5, np.nan])


def test_too_short_recording_has_an_empty_fingerprint():
    assert len(fingerprint(noise(0.3, rms=0.05))) == 0


def test_fingerprint_of_hours_stays_small():
    maker = Fingerprinter(RATE_HZ)
    block = noise(10, rms=0.05)
    for _ in range(70):
        maker.update(block)
    assert len(maker.frames()) * FRAME.itemsize < 120_000


def test_probe_masks_are_all_subsets_of_the_weak_bits():
    frames = np.zeros(2, FRAME)
    frames["weak_bits"] = [0 | 5 << 5 | 31 << 10, 3 | 2 << 5 | 1 << 10]
    masks = probe_masks(frames)
    a, b, c = 1, 1 << 5, 1 << 31
    assert sorted(masks[:, 0].tolist()) == sorted([0, a, b, c, a | b, a | c, b | c, a | b | c])
    assert masks[0].tolist() == [0, 0]
    assert set(masks[:, 1].tolist()) == {0, 2, 4, 6, 8, 10, 12, 14}


def test_unrelated_sounds_differ_in_half_of_the_bits():
    errors = bit_errors(fingerprint(noise(10, seed=1)), fingerprint(noise(10, seed=2)))
    assert errors.mean() == pytest.approx(0.5, abs=0.05)
    assert len(errors) > 300
