"""Pseudo-labels: worked figures of each transform, joins, and what may never enter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bclef.pseudolabels import (
    PSEUDO,
    PseudoLabelConfig,
    PseudoLabelError,
    PseudoLabels,
    make_pseudo_labels,
)
from bclef.tables import read_table, write_table
from bclef.taxonomy import ClassList

CLASSES = ClassList(("a", "b", "c"))
PLAIN = PseudoLabelConfig(
    rounds=1, power=1.0, floor=0.0, mass_cap=None, min_confidence=0.0, previous_weight=0.5
)


def scores(rows: Sequence[Sequence[float]], recording_id: str = "s1") -> pd.DataFrame:
    """Window scores of one recording, 5 s apart."""
    table = pd.DataFrame(rows, columns=["a", "b", "c"], dtype="float32")
    starts = 5.0 * np.arange(len(rows))
    table.insert(0, "recording_id", pd.Series([recording_id] * len(rows), dtype="string"))
    table.insert(1, "start_s", starts)
    table.insert(2, "end_s", starts + 5)
    return table


def made(
    teachers: list[pd.DataFrame],
    previous: pd.DataFrame | None = None,
    unlabelled: Sequence[str] = ("s1",),
    **changes: float,
) -> PseudoLabels:
    config = PseudoLabelConfig(**{**PLAIN.model_dump(), **changes})
    return make_pseudo_labels(teachers, previous, unlabelled, CLASSES, config)


def labels_of(pseudo: PseudoLabels) -> list[list[float]]:
    return np.round(pseudo.windows[["a", "b", "c"]].to_numpy().astype(float), 6).tolist()


def test_teachers_are_averaged_and_the_previous_student_has_its_share() -> None:
    teachers = [scores([[0.2, 0.4, 0.0]]), scores([[0.4, 0.8, 0.0]])]
    student = scores([[1.0, 0.0, 1.0]])
    assert labels_of(made(teachers)) == [[0.3, 0.6, 0.0]]
    assert labels_of(made(teachers, student, previous_weight=0.25)) == [[0.475, 0.45, 0.25]]


def test_floor_comes_before_the_power() -> None:
    pseudo = made([scores([[0.2, 0.5, 0.9]])], floor=0.3, power=2.0)
    assert labels_of(pseudo) == [[0.0, 0.25, 0.81]]


def test_mass_cap_scales_only_the_windows_beyond_it() -> None:
    pseudo = made([scores([[0.8, 0.8, 0.4], [0.3, 0.2, 0.0]])], mass_cap=1.0)
    assert labels_of(pseudo) == [[0.4, 0.4, 0.2], [0.3, 0.2, 0.0]]


def test_window_is_kept_when_its_best_score_before_the_power_reaches_the_limit() -> None:
    pseudo = made([scores([[0.5, 0.0, 0.0], [0.4, 0.4, 0.4]])], min_confidence=0.5, power=3.0)
    assert pseudo.windows["start_s"].tolist() == [0.0]
    assert pseudo.summary()["share_kept"] == 0.5


def test_window_with_nothing_above_the_floor_is_dropped() -> None:
    pseudo = made([scores([[0.1, 0.1, 0.1], [0.9, 0.0, 0.0]])], floor=0.2)
    assert pseudo.windows["start_s"].tolist() == [5.0]


def test_weight_is_the_summed_confidence_with_mean_one_and_ignores_the_cap() -> None:
    pseudo = made([scores([[0.9, 0.6, 0.0], [0.5, 0.0, 0.0]])], mass_cap=0.5)
    np.testing.assert_allclose(pseudo.windows["weight"], [1.5, 0.5], atol=1e-6)


def test_tables_are_joined_by_recording_and_time_and_not_by_position() -> None:
    first = pd.concat([scores([[0.2, 0, 0], [0.4, 0, 0]]), scores([[0.8, 0, 0]], "s2")])
    second = first.sample(frac=1, random_state=3)
    pseudo = made([first, second], unlabelled=("s1", "s2"))
    assert labels_of(pseudo) == [[0.2, 0, 0], [0.4, 0, 0], [0.8, 0, 0]]
    assert pseudo.windows["recording_id"].tolist() == ["s1", "s1", "s2"]


def test_annotated_soundscape_never_enters() -> None:
    both = pd.concat([scores([[0.9, 0, 0]]), scores([[0.9, 0, 0]], "annotated")])
    pseudo = made([both], unlabelled=("s1",))
    assert set(pseudo.windows["recording_id"]) == {"s1"}
    assert pseudo.summary()["n_windows_scored"] == 1


def test_teacher_that_scored_other_windows_is_refused() -> None:
    shifted = scores([[0.9, 0, 0]]).assign(start_s=2.5)
    with pytest.raises(PseudoLabelError, match="start at other times"):
        made([scores([[0.9, 0, 0]]), shifted])


def test_unlabelled_soundscape_without_scores_is_refused() -> None:
    with pytest.raises(PseudoLabelError, match=r"1 of 2 unlabelled .* such as s9"):
        made([scores([[0.9, 0, 0]])], unlabelled=("s1", "s9"))


def test_scores_that_are_no_probabilities_are_refused() -> None:
    for value in (1.5, float("nan")):
        with pytest.raises(PseudoLabelError, match=r"outside \[0, 1\]"):
            made([scores([[value, 0, 0]])])
    with pytest.raises(PseudoLabelError, match="at least one teacher"):
        made([])


def test_mass_is_counted_per_class_and_in_all() -> None:
    labels = made([scores([[0.5, 0.25, 0.0], [0.5, 0.0, 0.0]])])
    summary, by_class = labels.summary(), labels.mass_per_class()
    assert dict(by_class.itertuples(index=False)) == {"a": 1.0, "b": 0.25, "c": 0.0}
    assert (summary["label_mass"], summary["label_mass_per_window"]) == (1.25, 0.625)
    assert summary["n_recordings"] == 1


def test_round_that_keeps_nothing_is_an_empty_table_that_can_be_written(tmp_path: Path) -> None:
    pseudo = made([scores([[0.1, 0.1, 0.1]])], min_confidence=0.9)
    assert pseudo.summary()["share_kept"] == 0.0
    schema = PSEUDO.with_columns(dict.fromkeys(CLASSES.labels, "float32"))
    path = tmp_path / "1.parquet"
    write_table(pseudo.windows, path, schema)
    assert len(read_table(path, schema)) == 0
