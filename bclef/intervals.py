"""Intervals of scores: how far another choice of recordings would have moved them.

Windows of one recording share the bird, the site and the weather, so whole recordings are drawn,
never windows. What cannot be scored is None with the reason, never a stand-in number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bclef.metrics import Floats, Metric, UndefinedScoreError, checked_tables

LEVEL = 0.95
"""Share of the replicates that lies within an interval."""

_CELLS_PER_BLOCK = 4_000_000
"""Replicates x rows weighed at a time: bounds the memory to about 200 MB."""


@dataclass(frozen=True)
class Interval:
    """A score with the 95 % interval of its bootstrap over recordings.

    The percentiles of the replicates, moved by as much as their mean misses the score: recordings
    drawn twice and classes not drawn at all lift some metrics, and padded cmAP so much that the
    bare percentiles may lie above the score.
    """

    value: float | None
    """The score of the table as it is; None where undefined."""
    low: float | None
    """Lower end; None where the replicates say nothing."""
    high: float | None
    """Upper end; None where the replicates say nothing."""
    n_recordings: int
    """Recordings drawn from."""
    n_replicates: int
    """Replicates in which the score was defined."""
    reason: str | None = None
    """Why a figure is missing; None when all are there."""

    def figures(self) -> dict[str, float]:
        """Returns value, low and high as far as they are defined (for a metrics file)."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {name: figure for name, figure in named.items() if figure is not None}


def bootstrap(
    metric: Metric,
    truth: ArrayLike,
    scores: ArrayLike,
    recording_ids: ArrayLike,
    n_replicates: int,
    seed: int,
) -> Interval:
    """Returns `metric` of the table with its interval over recordings.

    Args:
        metric: What to measure.
        truth: 0 or 1, [N, C].
        scores: [N, C].
        recording_ids: Recording of each row, [N].
        n_replicates: Draws of as many recordings as there are, with replacement.
        seed: The same seed draws the same recordings, whatever the order of the rows.

    Raises:
        ValueError: The tables do not fit each other.
    """
    try:
        hard, soft = checked_tables(truth, scores)
        value = metric(hard, soft)
    except UndefinedScoreError as error:
        return Interval(None, None, None, _n_distinct(recording_ids), 0, str(error))
    return _interval(
        value,
        lambda w: metric.weighted(hard, soft, w),
        recording_ids,
        n_replicates,
        seed,
        limits=(0, 1),
    )


def bootstrap_difference(
    metric: Metric,
    truth: ArrayLike,
    scores: tuple[ArrayLike, ArrayLike],
    recording_ids: ArrayLike,
    n_replicates: int,
    seed: int,
) -> Interval:
    """Returns `metric` of the first of two `scores` less that of the second, with its interval.

    Both tables are scored on the same rows of each replicate (paired), so what makes a recording
    easy or hard for both cancels. Arguments as in `bootstrap`.

    Raises:
        ValueError: The tables do not fit each other.
    """
    try:
        hard, first = checked_tables(truth, scores[0])
        _, second = checked_tables(truth, scores[1])
        value = metric(hard, first) - metric(hard, second)
    except UndefinedScoreError as error:
        return Interval(None, None, None, _n_distinct(recording_ids), 0, str(error))
    return _interval(
        value,
        lambda w: metric.weighted(hard, first, w) - metric.weighted(hard, second, w),
        recording_ids,
        n_replicates,
        seed,
        limits=(-1, 1),
    )


def _n_distinct(recording_ids: ArrayLike) -> int:
    return len(np.unique(np.asarray(recording_ids, dtype=np.str_)))


def _interval(
    value: float,
    weighted: Callable[[Floats], Floats],
    recording_ids: ArrayLike,
    n_replicates: int,
    seed: int,
    limits: tuple[float, float],
) -> Interval:
    """`value` with the moved percentiles of `weighted` (weights [R, N] -> values [R])."""
    _, row_recording = np.unique(np.asarray(recording_ids, dtype=np.str_), return_inverse=True)
    n_recordings = int(row_recording.max()) + 1
    if n_recordings < 2:
        reason = "an interval needs at least 2 recordings, found 1"
        return Interval(value, None, None, n_recordings, 0, reason)
    drawn = np.random.default_rng(seed).multinomial(
        n_recordings, np.full(n_recordings, 1 / n_recordings), size=n_replicates
    )
    n_block = max(1, _CELLS_PER_BLOCK // len(row_recording))
    values = np.concatenate(
        [
            weighted(drawn[first : first + n_block][:, row_recording].astype(np.float64))
            for first in range(0, n_replicates, n_block)
        ]
    )
    defined = values[np.isfinite(values)]
    if not len(defined):
        reason = f"the score is defined in none of {n_replicates} replicates"
        return Interval(value, None, None, n_recordings, 0, reason)
    bias = defined.mean() - value
    ends = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - bias
    low, high = np.clip(ends, *limits)
    return Interval(value, float(low), float(high), n_recordings, len(defined))
