"""An audio fingerprint that survives re-encoding: 32 bits per 32 ms, and which of them are weak.

Each bit is the sign of one difference in time and frequency: between two neighbouring bands, and
between now and an eighth of a second earlier. Gain cancels, so does every steady spectrum (wind,
hum, the microphone), and a codec moves only the bits whose difference was small. Those three
weakest are noted with each word, so that an index can be asked for the words that they may turn to.

Source: the idea of Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002;
bands, window, lag and weak bits are set here for birds (measured in tests/test_duplicates.py).
"""

import numpy as np
import numpy.typing as npt

HOP_S = 0.032
"""Time between two words."""
WINDOW_S = 0.256
"""Length of the spectrum behind a word: long against half a hop, by which copies may be shifted."""
LAG_FRAMES = 4
"""How many words earlier the spectrum lies that is subtracted."""
LOWEST_HZ, HIGHEST_HZ = 1_000.0, 9_000.0
"""Below is wind and hum, above is what copies at 22 kHz or 64 kb/s lost."""
N_BITS = 32
N_WEAK_BITS = 3
LONGEST_S = 600.0
"""What follows later in a recording is left out of its fingerprint."""
_FRAMES_AT_ONCE = 64
QUIET_SHARE = 1e-7
"""Words of less than this share (-70 dB) of the loudest word's power are silence (word 0)."""

FRAME = np.dtype([("word", "<u4"), ("weak_bits", "<u2")])
"""One frame: its word (0 for silence), and the places of its weakest bits, five bits each."""

Frames = npt.NDArray[np.void]


class Fingerprinter:
    """Collects the fingerprint of a recording block by block."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._window_samples = round(WINDOW_S * sample_rate_hz)
        self._hop_samples = round(HOP_S * sample_rate_hz)
        self._taper = np.hanning(self._window_samples).astype(np.float32)
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, N_BITS + 2)
        self._edges = np.round(edges_hz * self._window_samples / sample_rate_hz).astype(np.int64)
        self._rest = np.zeros(0, np.float32)
        self._powers: list[npt.NDArray[np.float32]] = []
        self._n_left = round(LONGEST_S / HOP_S)

    def update(self, block: npt.NDArray[np.float32]) -> None:
        """Takes the next samples, float32 [T]."""
        if self._n_left <= 0:
            return
        samples = np.concatenate([self._rest, block])
        n_frames = (len(samples) - self._window_samples) // self._hop_samples + 1
        if n_frames > 0:
            frames = np.lib.stride_tricks.sliding_window_view(samples, self._window_samples)
            for first in range(0, n_frames, _FRAMES_AT_ONCE):
                self._add(frames[:: self._hop_samples][first : first + _FRAMES_AT_ONCE])
            samples = samples[n_frames * self._hop_samples :]
        self._rest = samples

    def frames(self) -> Frames:
        """Returns the fingerprint so far, FRAME [F]; empty below about .4 s of sound."""
        powers = np.concatenate([np.zeros((0, N_BITS + 1), np.float32), *self._powers])
        powers = powers[: round(LONGEST_S / HOP_S)]
        falls = powers[:, :-1] - powers[:, 1:]
        slopes = falls[LAG_FRAMES:] - falls[:-LAG_FRAMES]
        totals = powers[:, :-1] + powers[:, 1:]
        totals = totals[LAG_FRAMES:] + totals[:-LAG_FRAMES]
        loudness = totals.sum(axis=1)
        frames = np.zeros(len(slopes), FRAME)
        if loudness.size:
            strength = np.abs(slopes) / np.maximum(totals, np.finfo(np.float32).tiny)
            weakest = np.argsort(strength, axis=1, kind="stable")[:, :N_WEAK_BITS]
            heard = loudness > QUIET_SHARE * loudness.max()
            words = np.packbits(slopes > 0, axis=1, bitorder="little").view("<u4")[:, 0]
            frames["word"] = np.where(heard, words, 0)
            frames["weak_bits"] = (weakest << 5 * np.arange(N_WEAK_BITS)).sum(axis=1)
        return frames

    def _add(self, frames: npt.NDArray[np.float32]) -> None:
        spectra = np.abs(np.fft.rfft(frames * self._taper, axis=1)) ** 2
        bands = np.add.reduceat(spectra[:, : self._edges[-1]], self._edges[:-1], axis=1)
        self._powers.append(bands.astype(np.float32))
        self._n_left -= len(frames)


def probe_masks(frames: Frames) -> npt.NDArray[np.uint32]:
    """Returns what to turn in each word to get the words its copies may have, uint32 [8, F].

    All subsets of the weak bits; the first row is zero, the word itself.
    """
    weak = frames["weak_bits"].astype(np.uint32)
    bits = [np.uint32(1) << (weak >> np.uint32(5 * i) & np.uint32(31)) for i in range(N_WEAK_BITS)]
    masks = np.zeros((2**N_WEAK_BITS, len(frames)), np.uint32)
    for subset in range(2**N_WEAK_BITS):
        for place in range(N_WEAK_BITS):
            if subset >> place & 1:
                masks[subset] |= bits[place]
    return masks


def bit_errors(one: Frames, other: Frames) -> npt.NDArray[np.float32]:
    """Returns the share of bits that differ in each frame of two aligned fingerprints, [F].

    It is 0.5, that of unrelated sounds, where only one of them is silent, and NaN where both are.
    """
    heard = np.stack([one["word"] != 0, other["word"] != 0])
    wrong = np.bitwise_count(one["word"] ^ other["word"]) / np.float32(N_BITS)
    return np.where(heard.all(axis=0), wrong, np.where(heard.any(axis=0), 0.5, np.nan)).astype(
        np.float32
    )
