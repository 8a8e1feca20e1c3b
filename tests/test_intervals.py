"""Bootstrap intervals against a slow twin that copies rows, and their coverage."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bclef.intervals import Interval, bootstrap, bootstrap_difference
from bclef.metrics import Metric, macro_roc_auc, padded_cmap

Tables = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.str_]]


def world(
    seed: int, n_recordings: int = 20, n_windows: int = 6, n_classes: int = 5, skill: float = 0.4
) -> Tables:
    """Truth, scores and recording ids; windows of a recording share their birds."""
    generator = np.random.default_rng(seed)
    birds = (generator.random((n_recordings, n_classes)) < 0.3).astype(int)
    truth = np.repeat(birds, n_windows, axis=0)
    luck = np.repeat(generator.random((n_recordings, n_classes)), n_windows, axis=0)
    scores = skill * truth + (1 - skill) * luck
    ids = np.repeat([f"r{i:03d}" for i in range(n_recordings)], n_windows)
    return truth, scores, ids


def test_interval_equals_a_bootstrap_that_copies_the_rows() -> None:
    truth, scores, ids = world(0, n_recordings=9)
    names, rows = np.unique(ids, return_inverse=True)
    drawn = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=40)
    values = [
        macro_roc_auc(
            *(table[np.repeat(np.arange(len(ids)), d[rows])] for table in (truth, scores))
        )
        for d in drawn
    ]
    interval = bootstrap(macro_roc_auc, truth, scores, ids, 40, seed=5)
    assert interval.n_recordings == len(names) == 9
    bias = np.mean(values) - macro_roc_auc(truth, scores)
    assert (interval.low, interval.high) == pytest.approx(
        tuple((np.quantile(values, [0.025, 0.975]) - bias).clip(0, 1)), abs=1e-12
    )


@pytest.mark.parametrize("metric", [macro_roc_auc, padded_cmap])
@pytest.mark.parametrize("seed", range(6))
def test_a_score_lies_within_its_interval(metric: Metric, seed: int) -> None:
    truth, scores, ids = world(seed, n_recordings=8, n_classes=12)
    interval = bootstrap(metric, truth, scores, ids, 200, seed=0)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low <= interval.value <= interval.high


def test_interval_does_not_depend_on_the_order_of_rows_or_the_block_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, scores, ids = world(1)
    whole = bootstrap(macro_roc_auc, truth, scores, ids, 50, seed=1)
    rows = np.random.default_rng(0).permutation(len(ids))
    monkeypatch.setattr("bclef.intervals._CELLS_PER_BLOCK", 7 * len(ids))
    assert bootstrap(macro_roc_auc, truth[rows], scores[rows], ids[rows], 50, seed=1) == whole


def test_recordings_are_drawn_and_not_windows() -> None:
    truth, scores, ids = world(2)
    clustered = bootstrap(macro_roc_auc, truth, scores, ids, 300, seed=0)
    windows = np.array([f"w{i}" for i in range(len(ids))])
    independent = bootstrap(macro_roc_auc, truth, scores, windows, 300, seed=0)
    assert width(clustered) > 1.7 * width(independent)


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


@pytest.mark.slow
def test_interval_covers_the_true_score_about_nineteen_times_in_twenty() -> None:
    truth_score = macro_roc_auc(*world(999, n_recordings=4000, n_windows=1)[:2])
    covered = []
    for seed in range(120):
        interval = bootstrap(macro_roc_auc, *world(seed, 60, 2), 200, seed=seed)
        assert interval.low is not None
        assert interval.high is not None
        covered.append(interval.low <= truth_score <= interval.high)
    assert 0.87 <= np.mean(covered) <= 0.99


def test_difference_of_a_table_with_itself_is_exactly_zero() -> None:
    truth, scores, ids = world(3)
    interval = bootstrap_difference(padded_cmap, truth, (scores, scores), ids, 50, seed=0)
    assert interval.figures() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_paired_difference_is_narrower_than_two_intervals_apart() -> None:
    truth, scores, ids = world(4)
    better = scores + 0.05 * truth
    paired = bootstrap_difference(macro_roc_auc, truth, (better, scores), ids, 300, seed=0)
    alone = bootstrap(macro_roc_auc, truth, scores, ids, 300, seed=0)
    assert paired.value == pytest.approx(
        macro_roc_auc(truth, better) - macro_roc_auc(truth, scores), abs=1e-12
    )
    assert paired.low is not None
    assert paired.low > 0
    assert width(paired) < 0.8 * width(alone)


def test_undefined_score_is_none_with_a_reason() -> None:
    interval = bootstrap(macro_roc_auc, np.zeros((4, 2)), np.zeros((4, 2)), list("aabb"), 10, 0)
    assert interval.figures() == {}
    assert interval.reason is not None
    assert "0 positives" in interval.reason
    empty = bootstrap(macro_roc_auc, np.zeros((0, 2)), np.zeros((0, 2)), [], 10, 0)
    assert (empty.value, empty.n_recordings) == (None, 0)


def test_one_recording_has_a_value_but_no_interval() -> None:
    truth, scores, _ = world(5, n_recordings=1)
    truth[0] = 1 - truth[0]
    interval = bootstrap(macro_roc_auc, truth, scores, ["a"] * len(truth), 10, 0)
    assert set(interval.figures()) == {"value"}
    assert interval.reason is not None
    assert "2 recordings" in interval.reason


def test_replicates_without_a_defined_class_are_left_out_and_counted() -> None:
    truth, scores = np.array([[1], [0]]), np.array([[0.9], [0.1]])
    interval = bootstrap(macro_roc_auc, truth, scores, ["a", "b"], 200, seed=0)
    assert interval.value == 1.0
    assert 70 < interval.n_replicates < 130  # half of the draws hold both recordings
