"""Geometry of figures: round axes, places in percent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bclef.figures import Line, axis, chart


@given(st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 6)), min_size=1, max_size=9))
def test_axis_holds_all_values_with_few_distinct_ticks(values: list[float]) -> None:
    found = axis(values)
    slack = 1e-9 * max(1.0, abs(found.low), abs(found.high))
    assert found.low - slack <= min(values) <= max(values) <= found.high + slack
    assert 2 <= len(found.ticks) <= 8
    labels = [label for _, label in found.labels()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.71, 0.93], ["0.70", "0.75", "0.80", "0.85", "0.90", "0.95"]),
        ([0, 9], ["0", "2", "4", "6", "8", "10"]),
        ([0.5], ["0.5", "0.6"]),
        ([0.1, 0.2], ["0.10", "0.12", "0.14", "0.16", "0.18", "0.20"]),
        ([0.0, 0.12], ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125"]),
    ],
)
def test_axis_has_round_labels(values: list[float], labels: list[str]) -> None:
    assert [label for _, label in axis(values).labels()] == labels


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 12, 13, 50])
def test_epochs_are_marked_by_whole_numbers(n_epochs: int) -> None:
    labels = [label for _, label in axis(range(n_epochs), whole=True).labels()]
    assert all(label.isdecimal() for label in labels)
    assert 2 <= len(labels) <= 8


def test_value_beyond_the_axis_stays_within_the_frame() -> None:
    found = axis([0.0, 1.0])
    assert [found.percent(v) for v in (-3, 0, 0.25, 1, 9)] == [0, 0, 25, 100, 100]


def test_chart_turns_values_into_points_from_the_top_left() -> None:
    drawn = chart("loss", [Line("a", [0, 5, 10], [1.0, math.nan, 0.0], 0)])
    assert drawn is not None
    assert drawn.points(drawn.lines[0]) == "0,0 100,100"


def test_chart_of_nothing_finite_is_none() -> None:
    assert chart("loss", [Line("a", [0], [math.nan], 0)]) is None
