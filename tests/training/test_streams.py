"""Streams: the targets, weights and audio of labelled, pseudo-labelled and noise clips."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Generator, Tensor

from bclef.clipsampling import SamplingError
from bclef.cropplaces import RandomCrops
from bclef.crops import Crop
from bclef.streams import (
    LabelledClips,
    NoiseClips,
    PseudoWindows,
    clip_sources,
    join_labels,
    smooth_labels,
)
from bclef.taxonomy import ClassList
from tests.trainsettings import SAMPLING

RATE_HZ = 8000
CLASSES = ClassList(("a", "b", "c"))
CONFIG = SAMPLING.model_copy(
    update={"crop_place": "start", "short_clips": "right", "self_mixup_s": 2.0}
)
CHANCES = [0.5, 0.5, 0.5]


def seeded() -> Generator:
    return Generator().manual_seed(0)


def row(name: str, label: str | None, secondary: list[str] | None = None) -> dict[str, object]:
    fixed = {"n_samples": 16000, "role": "focal", "annotated": False}
    return {"recording_id": name, "label": label, "secondary_labels": secondary or [], **fixed}


@pytest.fixture
def clips_of(
    index_of: Callable[..., pd.DataFrame], store_of: Callable[..., Any]
) -> Callable[..., LabelledClips]:
    """A function that makes clips of rows, with overrides of the configuration."""

    def make(
        rows: list[dict[str, object]], *, none_of_them: bool = False, **overrides: object
    ) -> LabelledClips:
        index = index_of(rows)[: 0 if none_of_them else len(rows)]
        config = CONFIG.model_copy(update=overrides)
        return LabelledClips(
            index, CLASSES, config, RandomCrops(store_of(index, {}), config, RATE_HZ)
        )

    return make


def target_and_mask(clips: LabelledClips) -> tuple[Tensor, Tensor]:
    labels = clips.labels(torch.arange(len(clips)))
    return labels.target, labels.mask


def test_background_species_get_the_stated_value(clips_of: Callable[..., LabelledClips]) -> None:
    rows = [row("1", "a", ["b", "zzz"]), row("2", "b", ["b"]), row("3", "zzz", ["c"])]
    target, mask = target_and_mask(clips_of(rows, secondary_label_value=0.5))
    assert target.tolist() == [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]]
    assert mask.all()


def test_background_species_without_a_value_leave_the_loss(
    clips_of: Callable[..., LabelledClips],
) -> None:
    """E11: masked where a background species is no target besides."""
    rows = [row("1", "a", ["b"]), row("2", "b", ["b"])]
    target, mask = target_and_mask(clips_of(rows, secondary_label_value=None))
    assert target.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert mask.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def test_weight_is_rating_times_background(clips_of: Callable[..., LabelledClips]) -> None:
    rows = [row("1", "a", ["b"]) | {"rating": 4.0}, row("2", "zzz", ["c"]) | {"rating": 2.0}]
    rows.append(row("3", "zzz", ["c"]))

    def weights(**overrides: object) -> list[float]:
        return clips_of(rows, **overrides).labels(torch.arange(3)).weight.tolist()

    assert weights() == [1, 1, 1]
    assert weights(background_weight=0.8) == pytest.approx([1, 0.8, 0.8])
    expected = [0.8, 0.4 * 0.8, 0.8]
    assert weights(rating_weight=True, background_weight=0.8) == pytest.approx(expected)


def test_weakly_labelled_recordings_are_mixed_with_themselves(
    clips_of: Callable[..., LabelledClips],
) -> None:
    """E20: weak is a background species of the list, or a primary one that is not in it."""
    rows = [row("1", "a"), row("2", "a", ["b"]), row("3", "zzz", ["c"]), row("4", "a", ["zzz"])]
    clips = clips_of(rows)
    assert [len(clips.crops(position, CHANCES)) for position in range(4)] == [1, 2, 2, 1]


def test_no_recordings_are_refused(clips_of: Callable[..., LabelledClips]) -> None:
    with pytest.raises(SamplingError, match="no labelled recording holds any of the 3 classes"):
        clips_of([row("1", "a")], none_of_them=True)


def pseudo(weights: list[float]) -> PseudoWindows:
    windows = pd.DataFrame(
        {
            "weight": np.array(weights, np.float32),
            "c": np.float32(0.25),
            "a": np.arange(len(weights), dtype=np.float32) / 10,
            "b": np.float32(0.0),
        }
    )
    crops = [Crop(f"s{i}", 0, 8000, 0) for i in range(len(weights))]
    return PseudoWindows(crops, windows, CLASSES, loss_weight=0.5)


def test_pseudo_windows_keep_their_soft_targets_in_class_order() -> None:
    windows = pseudo([1.0, 1.0, 1.0])
    labels = windows.labels(torch.tensor([2, 0]))
    torch.testing.assert_close(labels.target, torch.tensor([[0.2, 0.0, 0.25], [0.0, 0.0, 0.25]]))
    assert labels.weight.tolist() == [0.5, 0.5]
    assert [crop.recording_id for crop in windows.crops(2, CHANCES)] == ["s2"]


def test_pseudo_windows_are_drawn_by_weight() -> None:
    drawn = pseudo([1.0, 3.0, 0.0]).epoch(4000, seeded())
    assert (drawn == 1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert not (drawn == 2).any()


def test_round_without_pseudo_windows_is_refused() -> None:
    with pytest.raises(SamplingError, match="min_confidence"):
        PseudoWindows([], pd.DataFrame(), CLASSES, loss_weight=1.0)


def test_joined_labels_keep_their_order(clips_of: Callable[..., LabelledClips]) -> None:
    first = clips_of([row("1", "a")]).labels(torch.tensor([0]))
    labels = join_labels([first, pseudo([1.0]).labels(torch.tensor([0]))])
    assert labels.weight.tolist() == [1.0, 0.5]
    assert labels.target.tolist() == [[1, 0, 0], [0, 0, 0.25]]
    assert labels.mask.shape == (2, 3)


@pytest.fixture
def mixed_world(index_of: Callable[..., pd.DataFrame], store_of: Callable[..., Any]) -> Any:
    """Labelled recordings of 2 s, and noise of 0.5 s and of 2 s."""
    rows = [row("1", "a") | {"rating": 1.0}, row("2", "b"), row("3", "c", ["b"])]
    noise = [row("esc50/x1", None), row("esc50/x2", None), row("nocall/y", None)]
    rows += [each | {"role": "noise"} for each in noise]
    rows[-1]["n_samples"] = 4000
    return store_of(index_of(rows), {})


def test_sources_are_rated_recordings_scored_ones_and_noise(mixed_world: Any) -> None:
    config = CONFIG.model_copy(update={"min_rating": 2.0, "scored_labels": ("b",)})
    labelled = mixed_world.index[mixed_world.index["role"] == "focal"]
    sources = clip_sources(mixed_world, labelled, CLASSES, config, RATE_HZ)
    assert len(sources.labelled) == 2
    assert sources.scored is not None
    assert [sources.scored.crops(n, CHANCES)[0].recording_id for n in (0, 1)] == ["2", "3"]
    none = config.model_copy(update={"scored_labels": ("elsewhere",)})
    assert clip_sources(mixed_world, labelled, CLASSES, none, RATE_HZ).scored is None
    assert (sources.pseudo, sources.pseudo_share) == (None, 0.0)


def test_scored_recordings_come_in_turn_whatever_the_sampler(mixed_world: Any) -> None:
    config = CONFIG.model_copy(update={"sampler": "equal", "copies_up_to": 9})
    labelled = mixed_world.index[mixed_world.index["role"] == "focal"]
    sources = clip_sources(mixed_world, labelled, CLASSES, config, RATE_HZ)
    assert sources.scored is not None
    drawn = sources.scored.epoch(30, seeded())
    assert drawn.bincount().tolist() == [10, 10, 10]
    assert not all(torch.equal(part, drawn[:3]) for part in drawn.view(10, 3))


def noise_of(world: Any) -> NoiseClips:
    labelled = world.index[world.index["role"] == "focal"]
    noise = clip_sources(world, labelled, CLASSES, CONFIG, RATE_HZ).noise
    assert noise is not None
    return noise


def test_noise_has_targets_of_zero_and_is_repeated_if_short(mixed_world: Any) -> None:
    noise = noise_of(mixed_world)
    labels = noise.labels(torch.tensor([0, 2]))
    assert labels.target.tolist() == [[0, 0, 0]] * 2
    assert labels.mask.all()
    assert labels.weight.tolist() == [1, 1]
    assert noise.crops(2, CHANCES) == (Crop("nocall/y", 0, 4000, 0, is_tiled=True),)
    assert noise.crops(0, CHANCES) == (Crop("esc50/x1", 4000, 8000, 0),)
    assert noise.epoch(300, seeded()).bincount().tolist() == pytest.approx([100] * 3, abs=25)


def test_noise_of_an_adder_is_drawn_by_its_seed_from_what_matches(mixed_world: Any) -> None:
    noise = noise_of(mixed_world)
    assert noise.matching("*") == [0, 1, 2]
    assert noise.matching("esc50/*") == [0, 1]
    assert noise.matching("ESC50*") == []
    drawn = [noise.seeded_crops([0, 1], seed)[0] for seed in range(300)]
    assert drawn == [noise.seeded_crops([0, 1], seed)[0] for seed in range(300)]
    n_each = [sum(crop.recording_id == f"esc50/x{n}" for crop in drawn) for n in (1, 2)]
    assert n_each == pytest.approx([150] * 2, abs=30)
    assert len({crop.first_sample for crop in drawn}) > 250


@pytest.mark.parametrize("smoothing", ["spread", "add"])
def test_labels_are_smoothed_before_any_mixing_and_pseudo_labels_never(
    clips_of: Callable[..., LabelledClips], smoothing: str
) -> None:
    """E13; with `add` a mask of a class that may be there stays as it is."""
    rows = [row("1", "a", ["b"]), row("2", "c")]
    clips = clips_of(rows, label_smoothing=0.1, smoothing=smoothing, secondary_label_value=None)
    target, mask = target_and_mask(clips)
    small = 0.1 / 3 if smoothing == "spread" else 0.1
    large = 0.9 + small if smoothing == "spread" else 1.0
    expected = torch.tensor([[large, small, small], [small, small, large]])
    torch.testing.assert_close(target, expected)
    assert mask.tolist() == [[1, 0, 1], [1, 1, 1]]
    soft = pd.DataFrame({"weight": [1.0], "a": [0.7], "b": [0.2], "c": [0.0]})
    windows = PseudoWindows([Crop("1", 0, 8000, 0)], soft, CLASSES, 1.0)
    torch.testing.assert_close(
        windows.labels(torch.tensor([0])).target[0], torch.tensor([0.7, 0.2, 0.0])
    )


def test_spread_smoothing_keeps_the_label_mass(rng: np.random.Generator) -> None:
    smooth = smooth_labels(torch.eye(206)[:1], 0.05, "spread")
    assert smooth[0, 0].item() == pytest.approx(0.950243, abs=1e-6)
    assert smooth[0, 1].item() == pytest.approx(0.000243, abs=1e-6)
    assert smooth.sum().item() == pytest.approx(1.0)
    y = rng.uniform(size=(3, 5))
    expected = y * (1 - 0.1) + 0.1 * y.sum(axis=1, keepdims=True) / 5
    found = smooth_labels(torch.tensor(y), 0.1, "spread").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_added_smoothing_is_cut_at_one(rng: np.random.Generator) -> None:
    y = np.hstack([np.eye(3), rng.uniform(size=(3, 2))])
    found = smooth_labels(torch.tensor(y), 0.1, "add").numpy()
    np.testing.assert_allclose(found, np.clip(y + 0.1, 0, 1), atol=1e-12)


def test_no_smoothing_leaves_the_labels_alone() -> None:
    assert torch.equal(smooth_labels(torch.eye(3), 0.0, "spread"), torch.eye(3))
    assert torch.equal(smooth_labels(torch.eye(3), 0.0, "add"), torch.eye(3))
