"""Fast sound from slow curves: interpolation and phase, a few nanoseconds a sample."""

import numpy as np
from numpy.typing import NDArray

STEP = 16
"""Samples between two values of a curve."""

Wave = NDArray[np.float32]


def n_steps(n_samples: int) -> int:
    """Returns how many values a curve needs to cover `n_samples`."""
    return -(-n_samples // STEP) + 1


def interpolate(curve: NDArray[np.floating], n_samples: int) -> Wave:
    """Returns `curve` with straight lines between its values.

    Args:
        curve: a value for every `STEP`-th sample, [n_steps(n_samples)].
        n_samples: length of the result.

    Returns:
        float32 [n_samples].
    """
    slow = np.asarray(curve, np.float32)
    ramp = np.arange(STEP, dtype=np.float32) / np.float32(STEP)
    lines = slow[:-1, None] + np.diff(slow)[:, None] * ramp
    return lines.reshape(-1)[:n_samples]


def phase(hz: NDArray[np.floating], n_samples: int, sample_rate_hz: int) -> Wave:
    """Returns the phase of an oscillator whose frequency follows `hz`.

    Args:
        hz: frequency at every `STEP`-th sample, [n_steps(n_samples)].
        n_samples: length of the result.
        sample_rate_hz: rate of the samples.

    Returns:
        float32 [n_samples], radians; continuous modulo 2 pi, starting at 0.
    """
    turns_per_sample = np.asarray(hz, np.float64) / sample_rate_hz
    steps = (turns_per_sample[:-1] + turns_per_sample[1:]) * (STEP / 2)
    # The sum runs in float64 and is folded before it becomes float32: long sounds stay in tune.
    starts = (np.concatenate(([0.0], np.cumsum(steps)[:-1])) % 1.0).astype(np.float32)
    at = np.arange(STEP, dtype=np.float32)
    slope = turns_per_sample[:-1].astype(np.float32)[:, None]
    bend = (np.diff(turns_per_sample) / (2 * STEP)).astype(np.float32)[:, None]
    turns = starts[:, None] + (slope + bend * at) * at
    turns *= np.float32(2 * np.pi)
    return turns.astype(np.float32, copy=False).reshape(-1)[:n_samples]
