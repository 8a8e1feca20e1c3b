"""Measures of a wave while it streams by: length, hash, fingerprint, levels, clipping, flatness.

Source: the ratio of geometric to arithmetic mean of power is the spectral flatness of A. H. Gray
and J. D. Markel, 1974; here it is taken over time, bin by bin, so a noise may have any colour.
"""

import base64
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from bclef import audio
from bclef.audio import Wave
from bclef.fingerprints import Fingerprinter

FLOOR_DBFS = -150.0
"""Level of digital silence, whose logarithm is not finite."""
_CLIPPED = 0.99
"""Samples from here on count as clipped; resampling moves clipped ones off the exact full scale."""
_LOWEST_HZ, _HIGHEST_HZ = 500.0, 9_000.0
"""Below is hum, above is what MP3 at 64 kb/s leaves out now and then."""
_FRAME_S = 0.032
_N_BANDS = 16
_NOISE_RATIO = math.exp(-np.euler_gamma)
"""Geometric by arithmetic mean of the power of Gaussian noise."""
_STRAY = 0.25
"""How far above that a single bin of a second of noise comes by chance."""
_LEAST_POWER = 1e-12
"""Power of a bin that counts as nothing: a 16-bit dither has 1e-8 and more."""


class FlatnessMeter:
    """Tells steady noise of any colour from sound in which something happens.

    In each bin of a spectrogram the geometric mean of the power over time is divided by the
    arithmetic one: 0.56 (e to the power of minus Euler's constant) for stationary Gaussian noise,
    close to 0 where a bird sings now and then, 1 for a steady tone, which is no noise either: what
    is above 0.56 counts as as much below it. The ratio that is least like noise, of 16 bands from
    500 Hz to 9 kHz and of the steadiest bin, is the flatness: a narrow call in noise counts.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._frame_samples = round(_FRAME_S * sample_rate_hz)
        self._taper = np.hanning(self._frame_samples).astype(np.float32)
        edges_hz = np.linspace(_LOWEST_HZ, _HIGHEST_HZ, _N_BANDS + 1)
        edges = np.round(edges_hz * self._frame_samples / sample_rate_hz).astype(np.int64)
        self._bins = slice(int(edges[0]), int(edges[-1]))
        self._firsts = edges[:-1] - edges[0]
        self._widths = np.diff(edges)
        self._rest = np.zeros(0, np.float32)
        self._powers = np.zeros(edges[-1] - edges[0])
        self._logs = np.zeros(edges[-1] - edges[0])
        self._n_frames = 0

    def update(self, block: Wave) -> None:
        """Takes the next samples, float32 [T]."""
        samples = np.concatenate([self._rest, block])
        step = self._frame_samples // 2
        n_frames = max(0, (len(samples) - self._frame_samples) // step + 1)
        if n_frames:
            views = np.lib.stride_tricks.sliding_window_view(samples, self._frame_samples)
            self._add(views[::step])
        self._rest = samples[n_frames * step :]

    def flatness(self) -> float | None:
        """Returns the flatness so far, to 0.56; None without a frame that holds any sound."""
        if not self._n_frames:
            return None
        means = np.maximum(self._powers / self._n_frames, _LEAST_POWER)
        ratios = np.exp(self._logs / self._n_frames) / means
        bands = np.add.reduceat(ratios, self._firsts) / self._widths
        steadiest = 2 * _NOISE_RATIO - max(bands.max(), ratios.max() - _STRAY)
        return float(min(bands.min(), steadiest))

    def _add(self, frames: npt.NDArray[np.float32]) -> None:
        spectra = np.fft.rfft(frames * self._taper, axis=1)[:, self._bins]
        powers = spectra.real**2 + spectra.imag**2
        powers = powers[powers.max(axis=1) > _LEAST_POWER]  # digital silence is no part of a noise
        self._powers += powers.sum(axis=0, dtype=np.float64)
        self._logs += np.log(np.maximum(powers, _LEAST_POWER)).sum(axis=0, dtype=np.float64)
        self._n_frames += len(powers)


class Meter:
    """Measures a mono wave that passes through it.

    Attributes:
        peak: Largest magnitude so far; full scale is 1.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.peak = 0.0
        self._n_samples = self._n_clipped = 0
        self._total = self._energy = 0.0
        self._digest = audio.PcmHash()
        self._fingerprinter = Fingerprinter(sample_rate_hz)
        self._flatness = FlatnessMeter(sample_rate_hz)

    def metered(self, blocks: Iterable[Wave]) -> Iterator[Wave]:
        """Yields the blocks as they are."""
        for block in blocks:
            magnitude, exact = np.abs(block), block.astype(np.float64)
            self.peak = max(self.peak, float(magnitude.max(initial=0)))
            self._n_samples += len(block)
            self._n_clipped += int((magnitude >= _CLIPPED).sum())
            self._total += float(exact.sum())
            self._energy += float(exact @ exact)
            self._digest.update(block)
            self._fingerprinter.update(block)
            self._flatness.update(block)
            yield block

    def measures(self) -> dict[str, object]:
        """Returns what goes into the sidecar; the fingerprint in base64."""
        n_samples = max(1, self._n_samples)
        power = max(0.0, self._energy / n_samples - (self._total / n_samples) ** 2)
        fingerprint = base64.b64encode(self._fingerprinter.frames().tobytes())
        return {
            "n_samples": self._n_samples,
            "pcm_hash": self._digest.hexdigest(),
            "fingerprint": fingerprint.decode("ascii"),
            "peak_dbfs": _dbfs(self.peak**2),
            "rms_dbfs": _dbfs(power),
            "clipped_share": self._n_clipped / n_samples,
            "flatness": self._flatness.flatness(),
        }


def _dbfs(power: float) -> float:
    return max(FLOOR_DBFS, 10 * np.log10(power)) if power > 0 else FLOOR_DBFS
