"""Several systems scored on the same rows, each figure with its interval, and how they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bclef.intervals import Interval, bootstrap, bootstrap_difference
from bclef.metrics import Metric, Truth

Tree: TypeAlias = "Mapping[str, float | Tree]"
"""Nested figures, as they stand in a metrics file."""


class EvaluationError(Exception):
    """Scores do not cover the windows, clips or classes that they are to be judged on."""


@dataclass(frozen=True)
class Scorecard:
    """Figures of one system, or of the difference of two."""

    figures: Tree
    """{metric: {value, low, high}}; what is undefined is absent."""
    notes: tuple[str, ...]
    """Why each absent figure is absent."""


@dataclass(frozen=True)
class TruthTable:
    """Rows whose truth is known, on which systems are compared."""

    truth: Truth
    """[N, C]."""
    recording_ids: NDArray[np.object_]
    """Recording of each row, [N]."""
    n_replicates: int
    """Replicates of each interval."""
    seed: int
    """Of the replicates."""

    def card(self, scores: ArrayLike, metrics: Sequence[Metric]) -> Scorecard:
        """Returns each of `metrics` of `scores` [N, C] with its interval."""
        return _card(
            {
                metric.name: bootstrap(
                    metric, self.truth, scores, self.recording_ids, self.n_replicates, self.seed
                )
                for metric in metrics
            }
        )

    def difference(
        self, first: ArrayLike, second: ArrayLike, metrics: Sequence[Metric]
    ) -> Scorecard:
        """Returns each of `metrics` of `first` less that of `second`, on paired replicates."""
        pair = (first, second)
        return _card(
            {
                metric.name: bootstrap_difference(
                    metric, self.truth, pair, self.recording_ids, self.n_replicates, self.seed
                )
                for metric in metrics
            }
        )

    def counts(self) -> dict[str, float]:
        """Returns how much is behind the scores: recordings, rows, classes that can be ranked."""
        n_positive = self.truth.sum(axis=0)
        return {
            "n_recordings": len(set(self.recording_ids)),
            "n_windows": len(self.truth),
            "n_classes_scored": int(((n_positive > 0) & (n_positive < len(self.truth))).sum()),
        }


def _card(intervals: Mapping[str, Interval]) -> Scorecard:
    figures = {name: interval.figures() for name, interval in intervals.items()}
    reasons = {interval.reason for interval in intervals.values() if interval.reason}
    return Scorecard({name: tree for name, tree in figures.items() if tree}, tuple(sorted(reasons)))
