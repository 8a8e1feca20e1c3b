from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Generator, Tensor

from bclef.clipsampling import (
    LabelledClips,
    PseudoWindows,
    SamplingError,
    join_rows,
    labelled_recordings,
    sampling_weights,
)
from bclef.crops import Crop, RandomCrops
from bclef.taxonomy import ClassList
from bclef.training import TrainConfig

CLASSES = ClassList(("a", "b", "c"))


def seeded() -> Generator:
    return Generator().manual_seed(0)


def row(name: str, label: str | None, secondary: list[str] | None = None) -> dict[str, object]:
    fixed = {"n_samples": 8000, "role": "focal", "annotated": False}
    return {"recording_id": name, "label": label, "secondary_labels": secondary or [], **fixed}


@pytest.fixture
def clips_of(
    index_of: Callable[..., pd.DataFrame], store_of: Callable[..., Any], train_config: TrainConfig
) -> Callable[..., LabelledClips]:
    """A function that makes clips of rows, with overrides of the train section."""

    def make(
        rows: list[dict[str, object]], *, none_of_them: bool = False, **overrides: object
    ) -> LabelledClips:
        index = index_of(rows)[: 0 if none_of_them else len(rows)]
        crops = RandomCrops(store_of(index, {}), 8000, 8000, prefer_active=False)
        config = train_config.model_copy(update=overrides)
        return LabelledClips(index, CLASSES, config, crops)

    return make


def target_and_mask(clips: LabelledClips) -> tuple[Tensor, Tensor]:
    rows = clips.rows(torch.arange(len(clips)), seeded())
    return rows.target, rows.mask


def test_background_species_get_the_stated_value(clips_of: Callable[..., LabelledClips]) -> None:
    rows = [row("1", "a", ["b", "zzz"]), row("2", "b", ["b"])]
    target, mask = target_and_mask(clips_of(rows, secondary_label_value=0.5))
    assert target.tolist() == [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0]]
    assert mask.all()


def test_background_species_without_a_value_leave_the_loss(
    clips_of: Callable[..., LabelledClips],
) -> None:
    rows = [row("1", "a", ["b"]), row("2", "b", ["b"])]
    target, mask = target_and_mask(clips_of(rows, secondary_label_value=None))
    assert target.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert mask.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def rare_share(clips: LabelledClips, n_rare: int) -> float:
    drawn = clips.epoch(4000, seeded())
    return float((drawn < n_rare).float().mean())


def test_rare_class_is_drawn_more_often_than_it_occurs(
    clips_of: Callable[..., LabelledClips],
) -> None:
    rows = [row(f"{i}", "a") for i in range(4)] + [row(f"{i}", "b") for i in range(4, 400)]
    assert rare_share(clips_of(rows, sampler="uniform"), 4) == pytest.approx(0.01, abs=0.001)
    # 4 clips at 4^-0.5 against 396 at 396^-0.5
    expected = 4**0.5 / (4**0.5 + 396**0.5)
    assert rare_share(clips_of(rows, sampler="inverse_sqrt"), 4) == pytest.approx(
        expected, abs=0.015
    )


def test_clip_with_background_species_alone_counts_by_their_mean() -> None:
    primary = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    background = torch.zeros(6, 3)
    background[5] = torch.tensor([1.0, 1.0, 0.0])
    background[0] = torch.tensor([0.0, 1.0, 0.0])
    weights = sampling_weights(primary, background)
    torch.testing.assert_close(weights, torch.tensor([0.5] * 4 + [1.0, 0.75]).double())


def test_uniform_epoch_takes_each_recording_once_before_any_twice(
    clips_of: Callable[..., LabelledClips],
) -> None:
    clips = clips_of([row(f"{i}", "a") for i in range(10)], sampler="uniform")
    drawn = clips.epoch(25, seeded())
    assert sorted(drawn[:10].tolist()) == list(range(10))
    assert sorted(drawn[10:20].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


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
    rows = pseudo([1.0, 1.0, 1.0]).rows(torch.tensor([2, 0]))
    torch.testing.assert_close(rows.target, torch.tensor([[0.2, 0.0, 0.25], [0.0, 0.0, 0.25]]))
    assert [crop.recording_id for crop in rows.crops] == ["s2", "s0"]
    assert rows.weight.tolist() == [0.5, 0.5]


def test_pseudo_windows_are_drawn_by_weight() -> None:
    drawn = pseudo([1.0, 3.0, 0.0]).epoch(4000, seeded())
    assert (drawn == 1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert not (drawn == 2).any()


def test_round_without_pseudo_windows_is_refused() -> None:
    with pytest.raises(SamplingError, match="min_confidence"):
        PseudoWindows([], pd.DataFrame(), CLASSES, loss_weight=1.0)


def test_joined_rows_keep_their_order(clips_of: Callable[..., LabelledClips]) -> None:
    labelled = clips_of([row("1", "a")]).rows(torch.tensor([0]), seeded())
    rows = join_rows([labelled, pseudo([1.0]).rows(torch.tensor([0]))])
    assert [crop.recording_id for crop in rows.crops] == ["1", "s0"]
    assert rows.weight.tolist() == [1.0, 0.5]
    assert rows.target.shape == rows.mask.shape == (2, 3)
