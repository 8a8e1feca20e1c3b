import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bclef.modelfiles import load_model
from bclef.phases import (
    DistillConfig,
    FinetuneConfig,
    PhaseSetup,
    PretrainConfig,
    distill,
    finetune,
    pretrain,
)
from bclef.taxonomy import ClassList

TARGETS = ClassList(("bee", "cro", "dov"))
PRETRAIN = PretrainConfig(min_recordings=8, validation_share=0.25)
FINETUNE = FinetuneConfig(from_pretrained=True)


def with_train(setup: PhaseSetup, work: str, **overrides: object) -> PhaseSetup:
    train = setup.train.model_copy(update=overrides)
    return replace(setup, train=train, work_dir=setup.work_dir.with_name(work))


def read_ids(setup: PhaseSetup) -> list[str]:
    """Makes the store note which recordings are read, and returns that list."""
    noted: list[str] = []
    store: Any = setup.store
    read = store.read

    def noting(recording_id: str, *place: int) -> Any:
        noted.append(recording_id)
        return read(recording_id, *place)

    store.read = noting
    return noted


@pytest.fixture
def pretrained(setup: PhaseSetup, tmp_path: Path) -> Path:
    pretrain(with_train(setup, "pretrain", epochs=1), TARGETS, PRETRAIN, tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_pretraining_reads_no_recording_that_a_fold_validates(
    setup: PhaseSetup, tmp_path: Path
) -> None:
    noted = read_ids(setup)
    result = pretrain(setup, TARGETS, PRETRAIN, tmp_path / "model")
    in_folds = setup.splits.loc[setup.splits["fold"].notna(), "recording_id"]
    assert not set(noted) & set(in_folds)
    assert result.metrics["n_recordings"] == 12
    assert result.metrics["n_validation_recordings"] == 4
    _, card = load_model(tmp_path / "model")
    assert card.labels == ("ani", "bee", "cro", "dov"), "the species heard, not only the targets"
    assert card.training == {"train.lr": 5e-3}
    assert card.started_from == "random"


def test_with_too_few_recordings_the_network_is_left_as_it_starts(
    setup: PhaseSetup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noted = read_ids(setup)
    many = PRETRAIN.model_copy(update={"min_recordings": 17})
    with caplog.at_level(logging.WARNING):
        result = pretrain(setup, TARGETS, many, tmp_path / "model")
    assert "nothing pretrained: 16 recordings are in no fold" in caplog.text
    assert not noted
    assert result.history.empty
    assert load_model(tmp_path / "model")[1].labels == TARGETS.labels


def test_teacher_trains_outside_its_fold_and_scores_in_it(
    setup: PhaseSetup, pretrained: Path, tmp_path: Path
) -> None:
    trained: set[str] = set()
    noted = read_ids(setup)
    figures: list[Mapping[str, float]] = []

    def on_metrics(of_epoch: Mapping[str, float], _epoch: int) -> None:
        figures.append(of_epoch)
        trained.update(noted)

    settings = with_train(setup, "finetune", validate_every_epochs=3)
    settings = replace(settings, on_metrics=on_metrics)
    noted.clear()
    result = finetune(settings, TARGETS, FINETUNE, 1, pretrained, tmp_path / "model")
    splits = setup.splits.merge(setup.store.index, on="recording_id")
    targets = splits[splits["label"].isin(TARGETS)]
    held_out = set(targets.loc[targets["fold"] == 1, "recording_id"])
    before_validation = {name for name in noted[: 3 * 32] if name.startswith("f")}
    assert not before_validation & held_out
    assert set(result.scores["recording_id"]) == held_out
    assert result.metrics["n_recordings"] == len(targets) - len(held_out)
    assert load_model(tmp_path / "model")[1].started_from == pretrained.as_posix()
    assert [int(each["epoch"]) for each in figures] == [1, 2, 3, 3]


def test_teacher_may_start_afresh(setup: PhaseSetup, pretrained: Path, tmp_path: Path) -> None:
    afresh = FinetuneConfig(from_pretrained=False)
    settings = with_train(setup, "finetune", epochs=1)
    finetune(settings, TARGETS, afresh, 0, pretrained, tmp_path / "model")
    assert load_model(tmp_path / "model")[1].started_from == "random"


@pytest.mark.slow
def test_teacher_learns_tones_in_noise(setup: PhaseSetup, tmp_path: Path) -> None:
    plain = {"mixup_probability": 0.0, "noise_probability": 0.0}
    settings = with_train(setup, "finetune", epochs=20, clips_per_epoch=64, **plain)
    afresh = FinetuneConfig(from_pretrained=False)
    result = finetune(settings, TARGETS, afresh, 0, tmp_path / "none", tmp_path / "model")
    assert result.metrics["val_macro_roc_auc"] > 0.9
    losses = result.history["train_loss"]
    assert losses.iloc[-3:].mean() < 0.8 * losses.iloc[:3].mean()


def pseudo_labels(setup: PhaseSetup) -> pd.DataFrame:
    ids = setup.store.index["recording_id"].tolist()
    soundscapes = [name for name in ids if name.startswith("s")]
    fixed = {"start_s": 0.0, "weight": np.float32(1.0)}
    return pd.DataFrame(
        {"recording_id": soundscapes} | fixed | dict.fromkeys(TARGETS.labels, np.float32(0.3))
    )


def test_student_hears_all_folds_and_is_validated_on_unseen_soundscapes(
    setup: PhaseSetup, pretrained: Path, tmp_path: Path
) -> None:
    config = DistillConfig(
        from_pretrained=True, pseudo_share=0.5, pseudo_loss_weight=1.0, validation_share=0.25
    )
    settings = with_train(setup, "distill", epochs=4, clips_per_epoch=64, validate_every_epochs=4)
    noted = read_ids(settings)
    directory = tmp_path / "model"
    result = distill(settings, TARGETS, config, pseudo_labels(setup), pretrained, directory)
    in_training = noted[:-2]
    unseen = set(noted[-2:])
    heard = {name for name in in_training if name.startswith("s")}
    assert len(heard) == 6
    assert not heard & unseen
    focal = {name for name in in_training if name.startswith("f")}
    folds = setup.splits.set_index("recording_id")["fold"]
    assert {0, 1} <= set(folds[list(focal)].dropna())
    assert result.metrics["n_pseudo_windows"] == 6
    assert result.metrics["n_validation_windows"] == 2
    assert 0 < result.metrics["val_mean_difference"] < 1
    assert result.scores.empty
    assert load_model(directory)[1].labels == TARGETS.labels
