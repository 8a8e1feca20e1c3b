"""Smoothing against a slow twin, and its edges."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bclef.postprocess import smooth_neighbours, smooth_windows

KERNEL = (0.1, 0.2, 0.4, 0.2, 0.1)


def slow_twin(scores: NDArray[np.float64], kernel: tuple[float, ...]) -> NDArray[np.float64]:
    """One recording, [N, C], term by term."""
    half, smoothed = len(kernel) // 2, np.zeros_like(scores)
    for t in range(len(scores)):
        inside = [(k, t + k - half) for k in range(len(kernel)) if 0 <= t + k - half < len(scores)]
        weight = sum(kernel[k] for k, _ in inside)
        smoothed[t] = sum(kernel[k] * scores[u] for k, u in inside) / weight
    return smoothed


@pytest.mark.parametrize("n_windows", [1, 2, 3, 12])
@pytest.mark.parametrize("kernel", [KERNEL, (0.2, 0.6, 0.1), (1.0,)])
def test_smoothing_equals_the_slow_twin_for_any_length(
    n_windows: int, kernel: tuple[float, ...]
) -> None:
    scores = np.random.default_rng(0).random((n_windows, 3))
    smoothed = smooth_neighbours(scores, ["a"] * n_windows, kernel)
    np.testing.assert_allclose(smoothed, slow_twin(scores, kernel), atol=1e-6)


def test_recordings_do_not_mix() -> None:
    scores = np.array([[0.0], [0.0], [1.0], [1.0]])
    smoothed = smooth_neighbours(scores, ["a", "a", "b", "b"], KERNEL)
    assert smoothed.tolist() == scores.tolist()


def test_constant_scores_stay_constant_up_to_the_edges() -> None:
    np.testing.assert_allclose(smooth_neighbours(np.full((5, 2), 0.3), ["a"] * 5, KERNEL), 0.3)


def test_windows_are_neighbours_by_time_and_not_by_row() -> None:
    windows = pd.DataFrame(
        {"recording_id": ["a"] * 3, "start_s": [10.0, 0.0, 5.0], "x": [0.0, 1.0, 0.0]}
    )
    smoothed = smooth_windows(windows, ["x"], (0.25, 0.5, 0.25))
    assert smoothed["start_s"].tolist() == [0.0, 5.0, 10.0]
    np.testing.assert_allclose(smoothed["x"], [0.5 / 0.75, 0.25, 0.0], atol=1e-6)
    assert windows["x"].tolist() == [0.0, 1.0, 0.0]


def test_no_kernel_leaves_the_scores_as_they_are() -> None:
    windows = pd.DataFrame({"recording_id": ["a"] * 2, "start_s": [0.0, 5.0], "x": [0.1, 0.9]})
    smoothed = smooth_windows(windows, ["x"], None)
    pd.testing.assert_frame_equal(smoothed, windows)


def test_empty_table_stays_empty() -> None:
    assert smooth_neighbours(np.zeros((0, 4)), [], KERNEL).shape == (0, 4)


@pytest.mark.parametrize("kernel", [(0.5, 0.5), (), (0.5, -0.1, 0.5), (0.5, 0.0, 0.5)])
def test_kernel_that_is_not_centred_is_refused(kernel: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="no smoothing kernel"):
        smooth_neighbours(np.zeros((3, 1)), ["a"] * 3, kernel)
