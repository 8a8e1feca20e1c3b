import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bclef.inference import ScoreConfig, score_listed
from bclef.models import BirdModel
from bclef.taxonomy import ClassList
from bclef.validation import AgreementValidation, ClipValidation, binary_cross_entropy

CLASSES = ClassList(("ani", "bee", "cro", "dov"))
CONFIG = ScoreConfig(step_s=1.0, batch_size=16)


class Listener(torch.nn.Module):
    """Knows each species by its tone, with as much doubt as it is told."""

    def __init__(self, model: BirdModel) -> None:
        super().__init__()
        self.spec = model.spec
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.images = torch.nn.Identity()

    def scores(self, wave: torch.Tensor) -> torch.Tensor:
        tones = torch.tensor([600, 1100, 1900, 3000])
        power = torch.fft.rfft(wave).abs().square()
        bands = torch.stack([power[:, t - t // 12 : t + t // 12].sum(1) for t in tones], dim=1)
        share = bands / power.sum(dim=1, keepdim=True)
        return (self.scale * (share - 0.4) * 20).sigmoid()


@pytest.fixture
def listener(lively_model: BirdModel) -> Any:
    return Listener(lively_model)


def test_model_that_knows_scores_best_and_one_that_errs_worst(listener: Any, world: Any) -> None:
    recordings = world.index[world.index["role"] == "focal"]
    validation = ClipValidation(world, recordings, CLASSES, CONFIG)
    figures = validation(listener)
    assert figures["val_macro_roc_auc"] == 1.0
    assert figures["val_top1"] == 1.0
    assert set(validation.scores["recording_id"]) == set(recordings["recording_id"])
    with torch.no_grad():
        listener.scale.neg_()
    assert validation(listener)["val_macro_roc_auc"] == 0.0
    assert validation(listener)["val_loss"] > 2 * figures["val_loss"]


def test_clip_score_is_its_best_window_and_its_labels_are_hard(listener: Any, world: Any) -> None:
    recordings = world.index[world.index["role"] == "focal"].head(12)
    config = ScoreConfig(step_s=0.5, batch_size=16)
    validation = ClipValidation(world, recordings, CLASSES, config)
    found = validation(listener)["val_loss"]
    assert len(validation.scores) > 2 * len(recordings)
    losses = []
    for row in recordings.to_dict("records"):
        windows = validation.scores[validation.scores["recording_id"] == row["recording_id"]]
        for label in CLASSES:
            p = min(max(float(windows[label].max()), 1e-6), 1 - 1e-6)
            losses.append(-math.log(p) if label == row["label"] else -math.log(1 - p))
    assert found == pytest.approx(np.mean(losses), rel=1e-6)


def test_background_species_count_as_present(listener: Any, world: Any) -> None:
    recordings = world.index[world.index["recording_id"].isin(["f00", "f01"])].copy()
    recordings["secondary_labels"] = [["bee", "zzz"], []]
    loss = ClipValidation(world, recordings, CLASSES, CONFIG)(listener)["val_loss"]
    recordings["secondary_labels"] = [[], []]
    assert loss > ClipValidation(world, recordings, CLASSES, CONFIG)(listener)["val_loss"] + 0.1


def test_figure_that_is_undefined_is_not_reported(listener: Any, world: Any) -> None:
    figures = ClipValidation(world, world.index[:1], CLASSES, CONFIG)(listener)
    assert set(figures) == {"val_loss", "val_top1"}


def test_nothing_to_validate_gives_no_figures(listener: Any, world: Any) -> None:
    validation = ClipValidation(world, world.index[:0], CLASSES, CONFIG)
    assert validation(listener) == {}
    assert validation.scores.columns.tolist() == ["recording_id", "start_s", "end_s", *CLASSES]
    windows = pd.DataFrame(columns=["recording_id", "start_s", *CLASSES])
    assert AgreementValidation(world, windows, CLASSES, 4)(listener) == {}


def test_student_that_says_what_its_teacher_says_agrees(
    lively_model: BirdModel, world: Any
) -> None:
    windows = pd.DataFrame({"recording_id": ["s0", "s1"], "start_s": [0.0, 0.0]})
    own = score_listed(lively_model, world, windows, 2)
    agreeing = pd.concat([windows, pd.DataFrame(own, columns=list(CLASSES))], axis=1)
    figures = AgreementValidation(world, agreeing, CLASSES, 2)(lively_model)
    assert figures["val_mean_difference"] == pytest.approx(0, abs=1e-6)
    entropy = -(own * np.log(own) + (1 - own) * np.log(1 - own)).mean()
    assert figures["val_loss"] == pytest.approx(entropy, rel=1e-4)
    opposed = agreeing.assign(**{label: 1 - agreeing[label] for label in CLASSES})
    worse = AgreementValidation(world, opposed, CLASSES, 2)(lively_model)
    assert worse["val_mean_difference"] == pytest.approx(np.abs(1 - 2 * own).mean(), rel=1e-4)
    assert worse["val_loss"] > figures["val_loss"]


def test_cross_entropy_is_the_formula_and_finite_at_the_ends() -> None:
    assert binary_cross_entropy(np.array([0.25]), np.array([1.0])) == pytest.approx(math.log(4))
    assert binary_cross_entropy(np.array([0.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx(
        -math.log(1e-6) / 2, rel=1e-6
    )
