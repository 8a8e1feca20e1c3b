"""The metrics against scikit-learn and against figures worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from bclef.metrics import (
    UndefinedScoreError,
    clip_maxima,
    f1_macro,
    f1_micro,
    fold_mean,
    macro_roc_auc,
    padded_cmap,
    per_class_average_precision,
    per_class_f1,
    per_class_roc_auc,
    top1,
)

Tables = tuple[NDArray[np.int64], NDArray[np.float64]]


def tied_tables(seed: int = 0, n_rows: int = 90, n_classes: int = 7) -> Tables:
    """Truth and informative scores on a grid of 11 values, so that most rows tie."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((n_rows, n_classes)) < 0.25).astype(int)
    scores: NDArray[np.float64] = 0.3 * truth + 0.7 * generator.random((n_rows, n_classes))
    return truth, np.round(scores, 1)


def test_macro_roc_auc_equals_scikit_learn_with_ties() -> None:
    truth, scores = tied_tables()
    assert macro_roc_auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_class_without_positives_or_without_negatives_is_skipped() -> None:
    truth, scores = tied_tables()
    expected = roc_auc_score(truth[:, 2:], scores[:, 2:])
    truth[:, 0], truth[:, 1] = 0, 1
    assert macro_roc_auc(truth, scores) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(per_class_roc_auc(truth, scores)).tolist() == [True, True] + [False] * 5


def test_constant_scores_give_one_half() -> None:
    truth, scores = tied_tables()
    assert macro_roc_auc(truth, np.full_like(scores, 0.4)) == 0.5


def test_undefined_score_is_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(UndefinedScoreError, match="3 rows x 2 classes with 0 positives"):
        macro_roc_auc(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(UndefinedScoreError, match="row with a positive"):
        top1(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(UndefinedScoreError, match="nothing to score"):
        macro_roc_auc(np.zeros((0, 2)), np.zeros((0, 2)))


def test_average_precision_equals_scikit_learn_with_ties() -> None:
    truth, scores = tied_tables()
    expected = [average_precision_score(truth[:, c], scores[:, c]) for c in range(7)]
    np.testing.assert_allclose(per_class_average_precision(truth, scores), expected, atol=1e-12)


def test_macro_roc_auc_is_e25() -> None:
    truth, scores = tied_tables()
    truth[:, 0], truth[:, 1] = 0, 1

    def auc(y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
        above = p[y == 1][:, None] - p[y == 0]
        return float((0.5 * (np.sign(above) + 1)).mean())

    expected = np.mean([auc(truth[:, c], scores[:, c]) for c in range(2, 7)])
    assert macro_roc_auc(truth, scores) == pytest.approx(expected, abs=1e-6)


def test_padded_cmap_is_e24() -> None:
    truth, _ = tied_tables()
    scores = np.random.default_rng(3).random(truth.shape)  # without ties, but for the padding
    truth[:, 0] = 0

    def average_precision(y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
        y, p = np.append(y, np.ones(5)), np.append(p, np.ones(5))
        ranked = y[np.argsort(-p, kind="stable")]  # the padding is first, and all positive
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        return float((precision * ranked).sum() / ranked.sum())

    expected = np.mean([average_precision(truth[:, c], scores[:, c]) for c in range(7)])
    assert padded_cmap(truth, scores) == pytest.approx(expected, abs=1e-6)
    zeros = np.vstack([truth, np.zeros((5, 7))]), np.vstack([scores, np.zeros((5, 7))])
    with_zeros = [average_precision_score(zeros[0][:, c], zeros[1][:, c]) for c in range(1, 7)]
    assert abs(np.sum(with_zeros) / 7 - expected) > 0.1  # what padding with zeros would say


def test_padded_cmap_equals_scikit_learn_on_padded_tables() -> None:
    truth, scores = tied_tables()
    truth[:, 0] = 0
    padding = np.ones((5, 7))
    expected = average_precision_score(
        np.vstack([truth, padding]), np.vstack([scores, padding]), average="macro"
    )
    assert padded_cmap(truth, scores) == pytest.approx(expected, abs=1e-12)


def test_padded_cmap_of_a_class_without_positives_is_one() -> None:
    assert padded_cmap(np.zeros((8, 1)), np.full((8, 1), 0.9)) == 1.0


def test_padded_cmap_of_one_missed_positive_stays_above_five_sixths() -> None:
    truth = np.zeros((1000, 1))
    truth[0] = 1
    scores = np.full((1000, 1), 0.9)
    scores[0] = 0.0
    assert padded_cmap(truth, scores) == pytest.approx((5 + 6 / 1005) / 6, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_f1_equals_scikit_learn(threshold: float) -> None:
    truth, scores = tied_tables()
    called = scores >= threshold
    expected = f1_score(truth, called, average=None, zero_division=0)
    np.testing.assert_allclose(per_class_f1(truth, scores, threshold), expected, atol=1e-12)
    assert f1_micro(threshold)(truth, scores) == pytest.approx(
        f1_score(truth, called, average="micro"), abs=1e-12
    )
    assert f1_macro(threshold)(truth, scores) == pytest.approx(expected.mean(), abs=1e-12)


def test_macro_f1_leaves_out_classes_without_positives_but_micro_f1_counts_their_false_calls() -> (
    None
):
    truth = np.array([[1, 0], [0, 0]])
    scores = np.array([[0.9, 0.9], [0.1, 0.1]])
    assert f1_macro(0.5)(truth, scores) == 1.0
    assert f1_micro(0.5)(truth, scores) == pytest.approx(2 / 3)


def test_score_at_the_threshold_is_a_call() -> None:
    assert f1_micro(0.5)(np.array([[1]]), np.array([[0.5]])) == 1.0


def test_top1_counts_a_secondary_species_as_right_and_skips_rows_without_birds() -> None:
    truth = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    scores = np.array([[0.2, 0.9, 0.1], [0.9, 0.1, 0.2], [0.9, 0.1, 0.2]])
    assert top1(truth, scores) == 0.5


def test_top1_of_constant_scores_is_chance_and_not_the_first_class() -> None:
    assert top1(np.eye(4), np.zeros((4, 4))) == 0.25


def test_weight_of_a_row_acts_like_that_many_copies() -> None:
    truth, scores = tied_tables(n_rows=30)
    copies = np.random.default_rng(1).integers(0, 4, size=30)
    rows = np.repeat(np.arange(30), copies)
    for metric in (macro_roc_auc, top1, f1_micro(0.5), f1_macro(0.5)):
        weighted = metric.weighted(truth.astype(bool), scores, copies[None].astype(float))[0]
        assert weighted == pytest.approx(metric(truth[rows], scores[rows]), abs=1e-12), metric.name


def test_tables_that_do_not_fit_are_refused() -> None:
    truth, scores = tied_tables()
    with pytest.raises(ValueError, match="joined by recording"):
        macro_roc_auc(truth[1:], scores)
    with pytest.raises(ValueError, match="hard labels"):
        macro_roc_auc(truth * 0.5, scores)
    scores[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        macro_roc_auc(truth, scores)


def test_clip_score_is_the_maximum_over_its_windows() -> None:
    windows = pd.DataFrame(
        {"recording_id": ["b", "a", "b"], "x": [0.1, 0.2, 0.7], "y": [0.9, 0.3, 0.2]}
    )
    clips = clip_maxima(windows, ["y", "x"])
    assert clips.columns.tolist() == ["recording_id", "y", "x"]
    assert clips.to_numpy().tolist() == [["a", 0.3, 0.2], ["b", 0.9, 0.7]]


def test_fold_mean_ranks_within_folds_and_skips_folds_without_a_score() -> None:
    truth, scores = tied_tables(n_rows=60)
    folds = np.repeat([0, 1, 2], 20)
    truth[folds == 2] = 0
    each = [macro_roc_auc(truth[folds == k], scores[folds == k]) for k in (0, 1)]
    shifted = scores + folds[:, None]  # another scale per fold changes no rank within it
    assert fold_mean(macro_roc_auc, folds)(truth, shifted) == pytest.approx(np.mean(each))
    assert macro_roc_auc(truth, shifted) != pytest.approx(np.mean(each), abs=0.01)
