"""Measures of a wave while it streams by: length, hash, fingerprint, levels, clipping."""

import base64
from collections.abc import Iterable, Iterator

import numpy as np

from bclef import audio
from bclef.audio import Wave
from bclef.fingerprints import Fingerprinter

FLOOR_DBFS = -150.0
"""Level of digital silence, whose logarithm is not finite."""
_CLIPPED = 0.99
"""Samples from here on count as clipped; resampling moves clipped ones off the exact full scale."""


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
        }


def _dbfs(power: float) -> float:
    return max(FLOOR_DBFS, 10 * np.log10(power)) if power > 0 else FLOOR_DBFS
