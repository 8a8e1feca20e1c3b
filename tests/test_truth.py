"""Boxes to windows: overlaps, edges, and what is passed over."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bclef.taxonomy import ClassList
from bclef.truth import clip_truth, truth_windows, window_grid

CLASSES = ClassList(("a", "b"))


def boxes(*rows: tuple[str, float, float, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["recording_id", "start_s", "end_s", "label"])


def positives(
    *rows: tuple[str, float, float, str], duration_s: float = 20.0, min_overlap_s: float = 0.5
) -> list[list[int]]:
    """(window, class) of every positive on a 5 s grid over recording r."""
    grid = window_grid(pd.Series({"r": round(1000 * duration_s)}), 1000, 5.0, 5.0)
    return np.argwhere(truth_windows(grid, boxes(*rows), CLASSES, min_overlap_s)).tolist()


def test_box_marks_every_window_that_it_overlaps_by_enough() -> None:
    assert positives(("r", 4.4, 10.4, "b")) == [[0, 1], [1, 1]]
    assert positives(("r", 4.4, 10.5, "b")) == [[0, 1], [1, 1], [2, 1]]


def test_box_that_ends_where_a_window_begins_is_not_heard_in_it() -> None:
    assert positives(("r", 0.0, 5.0, "a"), min_overlap_s=1e-6) == [[0, 0]]


def test_short_box_counts_where_half_of_it_lies() -> None:
    assert positives(("r", 4.95, 5.05, "a")) == [[0, 0], [1, 0]]
    assert positives(("r", 4.98, 5.05, "a")) == [[1, 0]]


def test_moment_without_length_is_heard_where_it_falls() -> None:
    assert positives(("r", 7.0, 7.0, "a")) == [[1, 0]]


@given(
    start_s=st.floats(0, 18, allow_subnormal=False),
    length_s=st.floats(0.01, 8),
    min_overlap_s=st.floats(0.01, 3),
)
def test_every_box_is_heard_in_at_least_one_window(
    start_s: float, length_s: float, min_overlap_s: float
) -> None:
    found = positives(
        ("r", start_s, start_s + length_s, "a"), duration_s=30.0, min_overlap_s=min_overlap_s
    )
    assert found


def test_labels_outside_the_classes_and_other_recordings_are_passed_over() -> None:
    assert positives(("r", 0.0, 5.0, "frog"), ("other", 0.0, 5.0, "a")) == []


def test_windows_are_matched_by_recording_in_any_order() -> None:
    grid = window_grid(pd.Series({"r": 10, "q": 10}), 1, 5.0, 5.0).iloc[[3, 0, 2, 1]]
    truth = truth_windows(grid, boxes(("q", 5.0, 10.0, "a")), CLASSES, 0.5)
    assert truth[:, 0].tolist() == [True, False, False, False]


@pytest.mark.parametrize(("duration_s", "n_windows"), [(0.4, 1), (5.0, 1), (5.1, 2), (60.0, 12)])
def test_last_partial_window_is_kept_whole_and_an_even_length_gets_no_empty_one(
    duration_s: float, n_windows: int
) -> None:
    grid = window_grid(pd.Series({"r": round(1000 * duration_s)}), 1000, 5.0, 5.0)
    assert len(grid) == n_windows
    assert grid["end_s"].iloc[-1] == 5.0 * n_windows


def test_overlapping_grid_stops_where_the_recording_is_covered() -> None:
    grid = window_grid(pd.Series({"r": 100}), 10, 5.0, 2.5)
    assert grid["start_s"].tolist() == [0.0, 2.5, 5.0]


def test_grid_of_no_recordings_is_empty() -> None:
    assert len(window_grid(pd.Series({}, dtype=int), 10, 5.0, 5.0)) == 0


def test_clip_is_positive_for_first_and_secondary_labels() -> None:
    clips = pd.DataFrame(
        {
            "label": pd.array(["a", None, "frog"], dtype="string"),
            "secondary_labels": [np.array(["b", "frog"]), np.array(["b"]), np.array([])],
        }
    )
    assert clip_truth(clips, CLASSES).tolist() == [[True, True], [False, True], [False, False]]
