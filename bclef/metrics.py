"""Scores of multi-label classifiers: the formulas of the BirdCLEF years.

Torch-free. Every formula is written for many row weightings at once, because a bootstrap over
recordings (`bclef.intervals`) is nothing but the same table under other row weights: the scores
are sorted once per class, not once per replicate. Undefined is never a number: a single score
raises `UndefinedScoreError`, a per-class array holds NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Truth = NDArray[np.bool_]
Floats = NDArray[np.float64]

PADDING_ROWS = 5
"""Rows of ones that the padded class-wise mean average precision appends (BirdCLEF 2023)."""


class UndefinedScoreError(ValueError):
    """The table holds nothing that the metric could score."""


@dataclass(frozen=True)
class Metric:
    """A score of (truth, scores) tables that can also be taken under many row weightings.

    Calling it gives one number: `macro_roc_auc(truth, scores)`.
    """

    name: str
    """What is measured, as in metrics files."""
    weighted: Callable[[Truth, Floats, Floats], Floats]
    """(truth [N, C], scores [N, C], weights [R, N]) -> values [R], NaN where undefined."""
    needs: str
    """What a table must hold for the score to be defined."""

    def __call__(self, truth: ArrayLike, scores: ArrayLike) -> float:
        """Returns the score of `scores` [N, C] against `truth` [N, C] (0 or 1).

        Raises:
            UndefinedScoreError: No class or row can be scored.
            ValueError: The shapes differ, or a value is not finite or not 0 or 1.
        """
        hard, soft = checked_tables(truth, scores)
        value = float(self.weighted(hard, soft, np.ones((1, len(hard))))[0])
        if np.isnan(value):
            raise UndefinedScoreError(self.undefined(hard))
        return value

    def undefined(self, truth: Truth) -> str:
        """Returns the sentence that says why `truth` [N, C] cannot be scored."""
        n_rows, n_classes = truth.shape
        return (
            f"{self.name} is undefined for {n_rows} rows x {n_classes} classes with "
            f"{int(truth.sum())} positives: it needs {self.needs}"
        )


def checked_tables(truth: ArrayLike, scores: ArrayLike) -> tuple[Truth, Floats]:
    """Returns `truth` as booleans and `scores` as float64, both [N, C].

    Raises:
        UndefinedScoreError: The tables are empty.
        ValueError: The shapes differ, or a value is not finite or not 0 or 1.
    """
    hard, soft = np.asarray(truth), np.asarray(scores, dtype=np.float64)
    if hard.ndim != 2 or hard.shape != soft.shape:
        raise ValueError(
            f"truth has shape {hard.shape} and scores {soft.shape}: expected two equal [N, C] "
            "tables, joined by recording and time"
        )
    if not hard.size:
        raise UndefinedScoreError(f"nothing to score: the tables have shape {hard.shape}")
    if not np.isin(hard, (0, 1)).all():
        raise ValueError("truth holds values other than 0 and 1: score against hard labels")
    if not np.isfinite(soft).all():
        n_bad = int((~np.isfinite(soft)).sum())
        raise ValueError(f"scores hold {n_bad} values that are not finite: mend the model first")
    return hard.astype(np.bool_), soft


def per_class_roc_auc(truth: ArrayLike, scores: ArrayLike) -> Floats:
    """Returns the ROC-AUC of each class, float64 [C]; NaN without positives or without negatives.

    Raises:
        ValueError: The tables do not fit each other.
    """
    hard, soft = checked_tables(truth, scores)
    return _roc_auc(hard, soft, np.ones((1, len(hard))))[0]


def per_class_average_precision(truth: ArrayLike, scores: ArrayLike) -> Floats:
    """Returns the average precision of each class, float64 [C]; NaN without positives.

    Raises:
        ValueError: The tables do not fit each other.
    """
    hard, soft = checked_tables(truth, scores)
    return _average_precision(hard, soft, np.ones((1, len(hard))))[0]


def per_class_f1(truth: ArrayLike, scores: ArrayLike, threshold: float) -> Floats:
    """Returns F1 of each class at `scores >= threshold`, float64 [C]; NaN without positives.

    Raises:
        ValueError: The tables do not fit each other.
    """
    hard, soft = checked_tables(truth, scores)
    return _class_f1(hard, soft, np.ones((1, len(hard))), threshold)[0]


def defined_mean(values: Floats) -> Floats:
    """Returns the mean of each row of `values` [R, C] over what is defined (not NaN), [R]."""
    defined = np.isfinite(values)
    return _divided(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))


def clip_maxima(window_scores: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Returns one row per recording: the maximum of each of `labels` over its windows.

    Args:
        window_scores: Columns recording_id and one per label.
        labels: The classes, in the order wanted.

    Returns:
        recording_id (string, sorted) and one float column per label.
    """
    return window_scores.groupby("recording_id", sort=True)[list(labels)].max().reset_index()


def _cumulative(truth: Truth, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of true and of false calls as the threshold falls through `scores` of one class.

    Args:
        truth: [N].
        scores: [N].
        weights: [R, N].

    Returns:
        Two tables [R, 1 + distinct scores]: rows that tie are called together, from none to all.
    """
    order = np.argsort(-scores, kind="stable")
    steps = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ranked = weights[:, order]
    calls = np.cumsum(ranked, axis=1)[:, steps]
    hits = np.cumsum(ranked * truth[order], axis=1)[:, steps]
    nothing = np.zeros((len(weights), 1))
    return np.hstack([nothing, hits]), np.hstack([nothing, calls - hits])


def _divided(above: Floats, below: Floats) -> Floats:
    """`above` / `below`, NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _roc_auc(truth: Truth, scores: Floats, weights: Floats) -> Floats:
    """ROC-AUC [R, C] by the trapezoid rule, which counts a tied pair one half."""
    values = np.empty((len(weights), truth.shape[1]))
    for c in range(truth.shape[1]):
        hits, false_calls = _cumulative(truth[:, c], scores[:, c], weights)
        area = (np.diff(false_calls) * (hits[:, 1:] + hits[:, :-1]) / 2).sum(axis=1)
        values[:, c] = _divided(area, hits[:, -1] * false_calls[:, -1])
    return values


def _average_precision(truth: Truth, scores: Floats, weights: Floats) -> Floats:
    """Average precision [R, C]: precision at each distinct score, weighted by the recall gained."""
    values = np.empty((len(weights), truth.shape[1]))
    for c in range(truth.shape[1]):
        hits, false_calls = _cumulative(truth[:, c], scores[:, c], weights)
        gained, calls = np.diff(hits), hits[:, 1:] + false_calls[:, 1:]
        precision = np.divide(hits[:, 1:], calls, out=np.zeros_like(calls), where=calls > 0)
        values[:, c] = _divided((gained * precision).sum(axis=1), hits[:, -1])
    return values


def _padded_cmap(truth: Truth, scores: Floats, weights: Floats) -> Floats:
    """Mean average precision [R] with the padding rows, which every replicate holds once."""
    shape = (PADDING_ROWS, truth.shape[1])
    padded_truth = np.vstack([truth, np.ones(shape, dtype=np.bool_)])
    padded_scores = np.vstack([scores, np.ones(shape)])
    padded_weights = np.hstack([weights, np.ones((len(weights), PADDING_ROWS))])
    return defined_mean(_average_precision(padded_truth, padded_scores, padded_weights))


def _calls(truth: Truth, scores: Floats, weights: Floats, at: float) -> tuple[Floats, Floats]:
    """Weight [R, C] of the true calls, and of calls plus positives, at `scores >= at`."""
    called = scores >= at
    both = called.astype(np.float64) + truth
    return weights @ (called & truth).astype(np.float64), weights @ both


def _class_f1(truth: Truth, scores: Floats, weights: Floats, at: float) -> Floats:
    """F1 [R, C] at a threshold, NaN for classes without positives."""
    hits, both = _calls(truth, scores, weights, at)
    has_positives = weights @ truth.astype(np.float64) > 0
    return np.where(has_positives, _divided(2 * hits, both), np.nan)


def _micro_f1(truth: Truth, scores: Floats, weights: Floats, at: float) -> Floats:
    """F1 [R] of all (row, class) cells together; NaN with neither a call nor a positive."""
    hits, both = _calls(truth, scores, weights, at)
    return _divided(2 * hits.sum(axis=1), both.sum(axis=1))


def _top1(truth: Truth, scores: Floats, weights: Floats) -> Floats:
    """Share [R] of labelled rows whose best class is right; k tied best classes count 1/k each."""
    best = scores == scores.max(axis=1, keepdims=True)
    right = (best & truth).sum(axis=1) / best.sum(axis=1)
    labelled = truth.any(axis=1).astype(np.float64)
    return _divided(weights @ (right * labelled), weights @ labelled)


macro_roc_auc = Metric(
    "macro_roc_auc",
    lambda truth, scores, weights: defined_mean(_roc_auc(truth, scores, weights)),
    "a class with both a positive and a negative row",
)
"""Mean ROC-AUC over the classes that have positives and negatives (BirdCLEF since 2024)."""

padded_cmap = Metric("padded_cmap", _padded_cmap, "a class")
"""Padded class-wise mean average precision over all classes (BirdCLEF 2023).

Five rows of ones are appended to truth **and** scores. Take it per fold and average; pooled folds
dilute the padding.
"""

top1 = Metric("top1", _top1, "a row with a positive")
"""Share of the labelled rows whose highest score is on a true class."""


def f1_micro(threshold: float) -> Metric:
    """Returns the F1 of all (row, class) calls together at `scores >= threshold`."""
    return Metric(
        "f1_micro",
        lambda truth, scores, weights: _micro_f1(truth, scores, weights, threshold),
        "a positive or a call",
    )


def f1_macro(threshold: float) -> Metric:
    """Returns the mean of F1 at `scores >= threshold` over the classes that have positives."""
    return Metric(
        "f1_macro",
        lambda truth, scores, weights: defined_mean(_class_f1(truth, scores, weights, threshold)),
        "a class with a positive row",
    )


def fold_mean(metric: Metric, folds: ArrayLike) -> Metric:
    """Returns `metric` taken within each fold and averaged over the folds where it is defined.

    Models of different folds need not agree on a scale, so their scores are not ranked together.

    Args:
        metric: What to measure.
        folds: Fold of each row of the tables to come, [N].
    """
    numbers = np.asarray(folds)
    members = [np.flatnonzero(numbers == fold) for fold in np.unique(numbers)]

    def weighted(truth: Truth, scores: Floats, weights: Floats) -> Floats:
        values = [metric.weighted(truth[m], scores[m], weights[:, m]) for m in members]
        return defined_mean(np.stack(values, axis=1))

    return Metric(metric.name, weighted, f"{metric.needs} within one fold")
