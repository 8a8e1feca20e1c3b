"""What an epoch takes: every sampler moves the share of a rare class, and says by how much."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from torch import Generator

from bclef.clipsampling import (
    Heard,
    Passes,
    heard_classes,
    labelled_recordings,
    rated_recordings,
    rating_weights,
    sampling_weights,
    scored_recordings,
)
from bclef.taxonomy import ClassList
from tests.trainsettings import SAMPLING

CLASSES = ClassList(("a", "b", "c"))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def row(name: str, label: str | None, secondary: list[str] | None = None) -> dict[str, object]:
    fixed = {"n_samples": 8000, "role": "focal", "annotated": False}
    return {"recording_id": name, "label": label, "secondary_labels": secondary or [], **fixed}


@pytest.fixture
def heard_in(index_of: Callable[..., pd.DataFrame]) -> Callable[..., Heard]:
    """A function that makes the classes of so many recordings of each label."""

    def make(**n_by_label: int) -> Heard:
        labels = [label for label, n in n_by_label.items() for _ in range(n)]
        rows = [row(str(n), label) for n, label in enumerate(labels)]
        return heard_classes(index_of(rows), CLASSES)

    return make


def drawn(heard: Heard, n_clips: int, **overrides: object) -> list[int]:
    passes = Passes(heard, SAMPLING.model_copy(update=overrides))
    return passes.draw(n_clips, seeded()).tolist()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("uniform", 4 / 400),
        ("inverse_sqrt", 4**0.5 / (4**0.5 + 396**0.5)),
        ("inverse", 1 / 2),
        ("equal", 1 / 2),
    ],
)
def test_rare_class_has_the_share_of_its_sampler(
    heard_in: Callable[..., Heard], sampler: str, expected: float
) -> None:
    """What failed in 2025: drawn without replacement, N of N clips have the share of `uniform`."""
    heard = heard_in(a=4, b=396)
    n_rare = sum(position < 4 for position in drawn(heard, 400 * 25, sampler=sampler))
    assert n_rare / 10_000 == pytest.approx(expected, abs=0.015)
    of_one_pass = sum(position < 4 for position in drawn(heard, 400, sampler=sampler))
    assert of_one_pass / 400 == pytest.approx(expected, abs=0.06)
    assert (sampler == "uniform") == (of_one_pass == 4)


def test_weighted_samplers_are_their_formulas(index_of: Callable[..., pd.DataFrame]) -> None:
    """E15 in plain numpy; a background species of the list may be the primary one of no row."""
    rows = [
        row("1", "a", ["b", "zzz"]),
        row("2", "a"),
        row("3", "a", ["a"]),
        row("4", "b"),
        row("5", "zzz", ["a", "c", "a"]),
        row("6", "b", ["a", "b"]),
    ]
    heard = heard_classes(index_of(rows), CLASSES)
    once = np.ones(6, np.int64)
    primaries = np.array([3.0, 2.0, 1.0])  # c has none, and counts as one
    root = (primaries**-0.5)[[0, 0, 0, 1, 0, 1]]
    root[4] = (3**-0.5 + 1) / 2
    np.testing.assert_allclose(sampling_weights(heard, "inverse_sqrt", once), root, atol=1e-6)
    n = np.array([3 + 0.5 * 2, 2 + 0.5 * 1, 0.5])
    inverse = (1 / n)[[0, 0, 0, 1, 0, 1]]
    inverse[4] = np.mean([1 / n[0], 1 / n[2]])
    np.testing.assert_allclose(sampling_weights(heard, "inverse", once), inverse, atol=1e-6)
    equal = (1 / primaries)[[0, 0, 0, 1, 0, 1]]
    equal[4] = np.mean([1 / 3, 1])
    np.testing.assert_allclose(sampling_weights(heard, "equal", once), equal, atol=1e-6)


def test_turns_count_as_recordings_of_their_class(heard_in: Callable[..., Heard]) -> None:
    turns = np.array([3, 2, 0, 1])
    weights = sampling_weights(heard_in(a=2, b=2), "inverse", turns)
    np.testing.assert_allclose(weights, [3 / 5, 2 / 5, 0, 1], atol=1e-6)


def test_uniform_epoch_takes_each_recording_once_before_any_twice(
    heard_in: Callable[..., Heard],
) -> None:
    positions = drawn(heard_in(a=10), 25)
    assert sorted(positions[:10]) == list(range(10))
    assert sorted(positions[10:20]) == list(range(10))
    assert positions[:10] != positions[10:20]


def test_small_classes_fill_their_turns_with_whole_copies(heard_in: Callable[..., Heard]) -> None:
    heard = heard_in(a=3, b=12, c=10)
    config = SAMPLING.model_copy(update={"copies_up_to": 10})
    passes = Passes(heard, config)
    assert passes.n_rows == 10 + 12 + 10
    choices = [passes.draw(32, seeded(seed)).tolist() for seed in (0, 0, 1, 2, 3, 4)]
    counts = [np.bincount(choice, minlength=25) for choice in choices]
    assert all(sorted(count[:3]) == [3, 3, 4] for count in counts)
    assert all((count[3:] == 1).all() for count in counts)
    assert choices[0] == choices[1]
    assert len({int(count[:3].argmax()) for count in counts}) > 1


@pytest.mark.parametrize("sampler", ["uniform", "equal"])
def test_copies_move_the_share_of_a_rare_class(
    heard_in: Callable[..., Heard], sampler: str
) -> None:
    heard = heard_in(a=2, b=38)

    def share(copies_up_to: int | None) -> float:
        taken = drawn(heard, 4000, sampler=sampler, copies_up_to=copies_up_to)
        return sum(position < 2 for position in taken) / 4000

    expected = {"uniform": (2 / 40, 20 / 58), "equal": (0.5, 0.5)}[sampler]
    assert (share(None), share(20)) == pytest.approx(expected, abs=0.03)


def test_cap_takes_a_fresh_choice_of_a_class_each_epoch(heard_in: Callable[..., Heard]) -> None:
    passes = Passes(heard_in(a=100, b=5), SAMPLING.model_copy(update={"max_per_class": 20}))
    assert passes.n_rows == 25
    epochs = [passes.draw(25, seeded(seed)).tolist() for seed in range(2)]
    for epoch in epochs:
        assert len(set(epoch)) == 25
        assert sum(position < 100 for position in epoch) == 20
    assert set(epochs[0]) != set(epochs[1])


def test_cap_binds_weighted_samplers_too(heard_in: Callable[..., Heard]) -> None:
    taken = drawn(heard_in(a=100, b=5), 4000, sampler="inverse_sqrt", max_per_class=20)
    assert len({position for position in taken if position < 100}) == 20
    share = sum(position >= 100 for position in taken) / 4000
    assert share == pytest.approx(5**0.5 / (5**0.5 + 20**0.5), abs=0.03)


def test_recordings_of_background_species_alone_have_one_turn(
    index_of: Callable[..., pd.DataFrame],
) -> None:
    rows = [row("1", "zzz", ["a"]), row("2", "a"), row("3", "yyy", ["b"])]
    heard = heard_classes(index_of(rows), CLASSES)
    positions = drawn(heard, 6, copies_up_to=4)
    assert np.bincount(positions).tolist() == [1, 4, 1]


def test_recordings_without_a_class_and_annotated_ones_are_left_out(
    index_of: Callable[..., pd.DataFrame],
) -> None:
    rows = [
        row("main", "a"),
        row("background", "zzz", ["c"]),
        row("stranger", "zzz"),
        row("unlabelled", None, ["a"]),
        row("truth", "a") | {"annotated": True},
    ]
    chosen = labelled_recordings(index_of(rows), CLASSES)
    assert chosen["recording_id"].tolist() == ["main", "background"]


def test_scored_recordings_hold_a_scored_label_anywhere(
    index_of: Callable[..., pd.DataFrame],
) -> None:
    rows = index_of([row("1", "a"), row("2", "b", ["a"]), row("3", "b"), row("4", "zzz", ["b"])])
    config = SAMPLING.model_copy(update={"scored_labels": ("a", "elsewhere")})
    assert scored_recordings(rows, config)["recording_id"].tolist() == ["1", "2"]
    assert len(scored_recordings(rows, SAMPLING)) == 4


def test_low_rated_recordings_go_and_unrated_ones_stay(
    index_of: Callable[..., pd.DataFrame],
) -> None:
    ratings = [None, 0.0, 0.5, 1.5, 5.0]
    rows = index_of([row(str(n), "a") | {"rating": rating} for n, rating in enumerate(ratings)])
    assert rated_recordings(rows, 1.5)["recording_id"].tolist() == ["0", "1", "3", "4"]
    assert len(rated_recordings(rows, 0.0)) == 5


def test_rating_weight_is_its_formula(index_of: Callable[..., pd.DataFrame]) -> None:
    """E14, where a rating of 0 is none: its recording weighs 1."""
    ratings = [None, 0.0, 0.3, 2.5, 5.0]
    rows = index_of([row(str(n), "a") | {"rating": rating} for n, rating in enumerate(ratings)])
    plain = np.clip(np.array([5, 5, 0.3, 2.5, 5]) / 5, 0.1, 1)
    np.testing.assert_allclose(rating_weights(rows), plain, atol=1e-6)
