"""Pretraining, finetuning and distillation: what they train on, start from, go through and say."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bclef.clipsampling import SamplingError
from bclef.config import ConfigError, Params
from bclef.distillation import DistillConfig, distill
from bclef.finetuning import FinetuneConfig, finetune
from bclef.frontend import FrontEndConfig
from bclef.inference import ScoreError
from bclef.modelfiles import extract_backbone, load_model, read_card
from bclef.models import ModelConfig, ModelError
from bclef.pretraining import PretrainConfig, pretrain, start_folder
from bclef.taxonomy import ClassList
from bclef.trainconfig import TrainConfig
from bclef.trainings import TrainingResult
from bclef.trainingsetup import TrainingSetup

TARGETS = ClassList(("bee", "cro", "dov"))
PRETRAIN = PretrainConfig(
    start_from=None, start_with_head=False, min_recordings=8, validation_share=0.25
)
FINETUNE = FinetuneConfig(start_from="pretrain", hold_out=True)
AFRESH = FINETUNE.model_copy(update={"start_from": "nothing"})
DISTILL = DistillConfig(
    start_from="pretrain", pseudo_share=0.5, pseudo_loss_weight=1.0, validation_share=0.25
)


@pytest.fixture
def setup(
    world: Any,
    splits: pd.DataFrame,
    frontend: FrontEndConfig,
    model_config: ModelConfig,
    train_config: TrainConfig,
    tmp_path: Path,
) -> TrainingSetup:
    return TrainingSetup(
        store=world,
        splits=splits,
        sample_rate_hz=8000,
        frontend=frontend,
        model=model_config,
        phases=(train_config,),
        seed=1,
        work_dir=tmp_path / "work",
        on_metrics=lambda _figures, _epoch: None,
        params={"train.lr": 5e-3},
        data={"data/features/index.parquet": "0" * 64},
    )


def with_train(setup: TrainingSetup, work: str, *phases: Mapping[str, object]) -> TrainingSetup:
    """The setup with a phase for each mapping of overrides, and a place of its own to work."""
    configs = tuple(setup.phases[0].model_copy(update=dict(each)) for each in phases)
    return replace(setup, phases=configs, work_dir=setup.work_dir.with_name(work))


SHORT = {"epochs": 1, "clips_per_epoch": 16}


def read_places(setup: TrainingSetup) -> list[tuple[str, int, int | None]]:
    """Makes the store note what is read, and returns that list: recording, first sample, number."""
    noted: list[tuple[str, int, int | None]] = []
    store: Any = setup.store
    read = store.read

    def noting(recording_id: str, first_sample: int = 0, n_samples: int | None = None) -> Any:
        noted.append((recording_id, first_sample, n_samples))
        return read(recording_id, first_sample, n_samples)

    store.read = noting
    return noted


def ids(places: list[tuple[str, int, int | None]], role: str) -> set[str]:
    """Recordings of a role: f(ocal), n(oise), s(oundscape)."""
    return {name for name, *_ in places if name.startswith(role)}


@pytest.fixture
def pretrained(setup: TrainingSetup, tmp_path: Path) -> Path:
    directory = tmp_path / "pretrained"
    pretrain(with_train(setup, "pretrain", SHORT), TARGETS, PRETRAIN, None, directory)
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(directory)[0].named_parameters())


def backbone(directory: Path) -> torch.Tensor:
    """All weights of the backbone, one after another."""
    parts = [tensor for name, tensor in weights(directory).items() if name.startswith("backbone.")]
    return torch.cat([part.detach().flatten() for part in parts])


def test_pretraining_reads_no_recording_that_a_fold_validates(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    noted = read_places(setup)
    result = pretrain(setup, TARGETS, PRETRAIN, None, tmp_path / "model")
    in_folds = setup.splits.loc[setup.splits["fold"].notna(), "recording_id"]
    assert not ids(noted, "f") & set(in_folds)
    assert result.metrics["n_recordings"] == 12
    assert result.metrics["n_validation_recordings"] == 4
    card = read_card(tmp_path / "model")
    assert card.labels == ("ani", "bee", "cro", "dov"), "the species heard, not only the targets"
    assert card.training == {"train.lr": 5e-3}
    assert card.started_from == "random"


@pytest.mark.parametrize(
    ("least", "said", "level"), [(17, "17", logging.WARNING), (None, "null", logging.INFO)]
)
def test_with_too_few_recordings_the_network_is_left_as_it_starts(
    setup: TrainingSetup,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    least: int | None,
    said: str,
    level: int,
) -> None:
    """Which is worth a warning only where something else was asked for."""
    noted = read_places(setup)
    many = PRETRAIN.model_copy(update={"min_recordings": least})
    with caplog.at_level(logging.INFO, "bclef"):
        result = pretrain(setup, TARGETS, many, None, tmp_path / "model")
    assert "nothing pretrained: 16 recordings are in no fold" in caplog.text
    assert f"pretrain.min_recordings is {said}" in caplog.text
    assert "is the network as it starts, from random" in caplog.text
    assert [record.levelno for record in caplog.records] == [level, logging.INFO]
    assert not noted
    assert result.history.empty
    card = read_card(tmp_path / "model")
    assert card.labels == TARGETS.labels
    assert card.training == {}, "nothing was trained"


def test_untrained_network_is_left_by_the_first_process_alone(
    setup: TrainingSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = PRETRAIN.model_copy(update={"min_recordings": None})
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        pretrain(setup, TARGETS, none, None, tmp_path / "model")
    assert ended.value.code == 0
    assert not list(tmp_path.iterdir())


def test_what_starts_from_a_model_that_was_not_trained_says_so(
    setup: TrainingSetup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    none = PRETRAIN.model_copy(update={"min_recordings": None})
    pretrain(setup, TARGETS, none, None, tmp_path / "untrained")
    with caplog.at_level(logging.INFO):
        settings = with_train(setup, "finetune", SHORT)
        finetune(settings, TARGETS, FINETUNE, 0, tmp_path / "untrained", tmp_path / "model")
    assert "nothing was pretrained: starting from what" in caplog.text
    assert f"starting from {tmp_path}" not in caplog.text
    assert read_card(tmp_path / "model").started_from == "random"


def test_pretraining_starts_from_a_folder_and_hands_it_on_untrained(
    setup: TrainingSetup, pretrained: Path, tmp_path: Path
) -> None:
    extract_backbone(pretrained, tmp_path / "weights/mine")
    config = PRETRAIN.model_copy(update={"start_from": "mine", "min_recordings": None})
    start = start_folder(config, tmp_path / "weights")
    assert start is not None
    pretrain(setup, TARGETS, config, start, tmp_path / "model")
    card = read_card(tmp_path / "model")
    assert (card.started_from, card.training) == (start.as_posix(), {})
    assert torch.equal(backbone(tmp_path / "model"), backbone(pretrained))
    settings = with_train(setup, "finetune", {**SHORT, "lr": 1e-12, "ema_decay": None})
    finetune(settings, TARGETS, FINETUNE, 0, tmp_path / "model", tmp_path / "teacher")
    assert read_card(tmp_path / "teacher").started_from == start.as_posix()
    taught, start_weights = backbone(tmp_path / "teacher"), backbone(pretrained)
    torch.testing.assert_close(taught, start_weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("with_head", [False, True])
def test_pretraining_takes_the_head_only_if_told_to(
    setup: TrainingSetup, pretrained: Path, tmp_path: Path, with_head: bool
) -> None:
    config = PRETRAIN.model_copy(update={"min_recordings": None, "start_with_head": with_head})
    pretrain(setup, TARGETS, config, pretrained, tmp_path / "model")
    rows = weights(pretrained)["head.classify.weight"][1:], "ani comes first there"
    found = weights(tmp_path / "model")["head.classify.weight"]
    assert torch.equal(found, rows[0]) == with_head


@pytest.mark.parametrize("name", ["mien", "../weights/mine", ""])
def test_folder_that_is_no_model_below_weights_is_refused(
    pretrained: Path, tmp_path: Path, name: str
) -> None:
    extract_backbone(pretrained, tmp_path / "weights/mine")
    (tmp_path / "weights/README.md").write_text("what this is")
    config = PRETRAIN.model_copy(update={"start_from": name})
    with pytest.raises(ConfigError, match=r"start_from: no model folder .*('mine'|are mine)"):
        start_folder(config, tmp_path / "weights")
    assert start_folder(PRETRAIN, tmp_path / "weights") is None


def test_teacher_trains_outside_its_fold_and_scores_in_it(
    setup: TrainingSetup, pretrained: Path, tmp_path: Path
) -> None:
    figures: list[Mapping[str, float]] = []
    trained: set[str] = set()
    noted = read_places(setup)

    def on_metrics(of_epoch: Mapping[str, float], _epoch: int) -> None:
        if "val_loss" not in of_epoch:
            trained.update(ids(noted, "f"))
        figures.append(of_epoch)

    settings = with_train(setup, "finetune", {"validate_every_epochs": 3})
    settings = replace(settings, on_metrics=on_metrics)
    noted.clear()
    result = finetune(settings, TARGETS, FINETUNE, 1, pretrained, tmp_path / "model")
    splits = setup.splits.merge(setup.store.index, on="recording_id")
    targets = splits[splits["label"].isin(TARGETS)]
    held_out = set(targets.loc[targets["fold"] == 1, "recording_id"])
    assert trained
    assert not trained & held_out
    assert set(result.scores["recording_id"]) == held_out
    assert result.metrics["n_recordings"] == len(targets) - len(held_out)
    assert result.metrics["hold_out"] is True
    assert read_card(tmp_path / "model").started_from == pretrained.as_posix()
    assert {int(each["epoch"]) for each in figures} == {1, 2, 3}


@pytest.mark.parametrize(
    ("start_from", "same_backbone", "same_head"),
    [
        ("pretrain", True, True),
        ("pretrain_backbone", True, False),
        ("nothing", False, False),
    ],
)
def test_teacher_starts_from_the_whole_model_or_its_backbone_or_nothing(
    setup: TrainingSetup,
    pretrained: Path,
    tmp_path: Path,
    start_from: str,
    same_backbone: bool,
    same_head: bool,
) -> None:
    config = FINETUNE.model_copy(update={"start_from": start_from})
    still = {**SHORT, "lr": 1e-12, "ema_decay": None}
    settings = replace(with_train(setup, "finetune", still), seed=9)
    finetune(settings, TARGETS, config, 0, pretrained, tmp_path / "model")
    heads = [weights(at)["head.classify.weight"] for at in (tmp_path / "model", pretrained)]
    near = {"rtol": 0, "atol": 1e-6}
    assert torch.allclose(heads[0], heads[1][1:], **near) == same_head, "ani comes first there"
    backbones = [backbone(at) for at in (tmp_path / "model", pretrained)]
    assert torch.allclose(*backbones, **near) == same_backbone
    name = "random" if start_from == "nothing" else pretrained.as_posix()
    assert read_card(tmp_path / "model").started_from == name


def test_in_all_data_mode_every_teacher_hears_all_and_none_is_validated(
    setup: TrainingSetup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AFRESH.model_copy(update={"hold_out": False})
    noted = read_places(setup)
    results: list[TrainingResult] = []
    for fold in (0, 1):
        whole = {"sampler": "uniform", "clips_per_epoch": None, "select": "best"}
        settings = with_train(setup, f"finetune{fold}", whole)
        with caplog.at_level(logging.INFO):
            results.append(
                finetune(settings, TARGETS, config, fold, tmp_path, tmp_path / str(fold))
            )
        targets = set(setup.recordings(TARGETS)["recording_id"])
        assert ids(noted, "f") == targets
        noted.clear()
        assert f"training on all 36 recordings, with seed {1 + fold};" in caplog.text
    for result in results:
        assert result.scores.empty
        assert list(result.scores.columns) == ["recording_id", "start_s", "end_s", *TARGETS]
        assert "val_loss" not in result.history or result.history["val_loss"].isna().all()
        assert result.metrics["n_recordings"] == 36
        assert result.metrics["n_validation_recordings"] == 0
        assert result.metrics["hold_out"] is False
        assert result.metrics["n_epochs_chosen_from"] == 1
        assert result.metrics["epoch"] == 3
    one, other = (weights(tmp_path / fold)["head.classify.weight"] for fold in "01")
    assert not torch.allclose(one, other)


def test_phases_differ_in_clips_and_the_last_one_is_validated_by(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    noted = read_places(setup)
    settings = with_train(
        setup,
        "finetune",
        {**SHORT, "epochs": 2, "val_step_s": 1.0, "ema_decay": None, "noise": ()},
        {**SHORT, "window_s": 0.5, "val_step_s": 0.5, "trainable": "class_layers", "noise": ()},
    )
    result = finetune(settings, TARGETS, AFRESH, 0, tmp_path, tmp_path / "model")
    assert result.history["phase"].tolist() == [1, 1, 2]
    assert result.history["epoch"].tolist() == [1, 2, 3]
    lengths = [n for name, _, n in noted if name.startswith("f") and n in (8000, 4000)]
    assert set(lengths) == {8000, 4000}
    steps = result.scores.groupby("recording_id")["start_s"].diff().dropna()
    assert steps.min() == pytest.approx(0.5)
    assert result.metrics["epoch"] == 3


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([{"validate_every_epochs": 1, "epochs": 2}], 1),
        ([{"select": "best", "epochs": 3}], 2),
        ([{"select": "soup", "epochs": 2, "validate_every_epochs": 1}, {}], 2),
        ([{"select": "soup", "epochs": 3}, {"select": "best"}], 3),
    ],
    ids=["last", "best of the second and the third", "soup, then last", "both"],
)
def test_metrics_say_among_how_many_epochs_the_fold_chose(
    setup: TrainingSetup, tmp_path: Path, phases: list[dict[str, object]], expected: int
) -> None:
    settings = with_train(setup, "finetune", *(SHORT | phase for phase in phases))
    result = finetune(settings, TARGETS, AFRESH, 0, tmp_path, tmp_path / "model")
    assert result.metrics["n_epochs_chosen_from"] == expected


def test_max_epochs_shortens_every_phase(setup: TrainingSetup, tmp_path: Path) -> None:
    phases = ({**SHORT, "epochs": 5, "max_epochs": 2}, {**SHORT, "epochs": 1, "max_epochs": 2})
    settings = with_train(setup, "finetune", *phases)
    result = finetune(settings, TARGETS, AFRESH, 0, tmp_path, tmp_path / "model")
    assert result.history["phase"].tolist() == [1, 1, 2]


def test_each_phase_has_its_own_least_rating(setup: TrainingSetup, tmp_path: Path) -> None:
    index = setup.store.index
    bad = index["recording_id"].isin([f"f{n:02d}" for n in range(1, 48, 8)])
    index.loc[bad, "rating"] = np.float32(1)
    phases = ({**SHORT, "min_rating": 2.0}, {**SHORT, "min_rating": 0.0, "clips_per_epoch": 96})
    noted = read_places(setup)
    heard: list[set[str]] = []

    def on_metrics(_figures: Mapping[str, float], _epoch: int) -> None:
        heard.append(ids(noted, "f"))

    everything = AFRESH.model_copy(update={"hold_out": False})
    settings = replace(with_train(setup, "finetune", *phases), on_metrics=on_metrics)
    result = finetune(settings, TARGETS, everything, 0, tmp_path, tmp_path / "model")
    low = set(index.loc[bad, "recording_id"])
    assert not heard[0] & low
    assert heard[-1] & low
    assert result.metrics["n_recordings"] == 36
    strict = with_train(setup, "strict", {**SHORT, "min_rating": 2.0})
    result = finetune(strict, TARGETS, everything, 0, tmp_path, tmp_path / "strict")
    assert result.metrics["n_recordings"] == 36 - len(low)


def test_ratings_that_leave_nothing_to_train_on_are_refused(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    setup.store.index["rating"] = np.float32(1)
    settings = with_train(setup, "finetune", {**SHORT, "min_rating": 2.0})
    with pytest.raises(SamplingError, match="min_rating"):
        finetune(settings, TARGETS, AFRESH, 0, tmp_path, tmp_path / "model")


@pytest.mark.parametrize(
    ("network", "phases", "error", "said"),
    [
        ({}, ({"val_step_s": 1.5},), ScoreError, r"^train\.val_step_s: found 1\.5"),
        ({"part_s": 0.5}, ({}, {"window_s": 0.75}), ModelError, r"of model\.part_s"),
        (
            {"backbone": "vit_tiny_patch16_224"},
            ({}, {"window_s": 2.0}),
            ModelError,
            r"takes .* \(32, 63\)",
        ),
        ({}, ({}, {"window_s": 0.01}), ConfigError, r"frontend\.n_fft"),
        ({"frame_shift": 9}, ({},), ModelError, r"model\.frame_shift"),
    ],
    ids=["step", "part", "size", "front end", "shift"],
)
def test_what_cannot_work_is_said_before_any_training(
    setup: TrainingSetup,
    tmp_path: Path,
    network: dict[str, object],
    phases: tuple[dict[str, object], ...],
    error: type[Exception],
    said: str,
) -> None:
    """And not by the first validation, or by a later phase: its cure begins from nothing again."""
    never = {"validate_every_epochs": 100}
    settings = with_train(setup, "finetune", *(SHORT | never | phase for phase in phases))
    settings = replace(settings, model=setup.model.model_copy(update={"max_share": 0.5} | network))
    noted = read_places(settings)
    with pytest.raises(error, match=said):
        finetune(settings, TARGETS, AFRESH, 0, tmp_path, tmp_path / "model")
    assert not noted


def test_step_that_nothing_is_scored_by_is_not_asked_about(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    everything = AFRESH.model_copy(update={"hold_out": False})
    settings = with_train(setup, "finetune", {**SHORT, "val_step_s": 1.5})
    result = finetune(settings, TARGETS, everything, 0, tmp_path, tmp_path / "model")
    assert result.metrics["epoch"] == 1


@pytest.mark.slow
def test_teacher_learns_tones_in_noise(setup: TrainingSetup, tmp_path: Path) -> None:
    mixup = setup.phases[0].mixup.model_copy(update={"probability": 0.0})
    plain = {"mixup": mixup, "noise": (), "epochs": 15, "clips_per_epoch": 64}
    settings = with_train(setup, "finetune", plain)
    result = finetune(settings, TARGETS, AFRESH, 0, tmp_path / "none", tmp_path / "model")
    assert result.metrics["val_macro_roc_auc"] > 0.9
    losses = result.history["train_loss"]
    assert losses.iloc[-3:].mean() < 0.8 * losses.iloc[:3].mean()


def pseudo_labels(setup: TrainingSetup, start_s: float = 0.0) -> pd.DataFrame:
    names = setup.store.index["recording_id"].tolist()
    soundscapes = [name for name in names if name.startswith("s")]
    fixed = {"start_s": start_s, "weight": np.float32(1.0)}
    return pd.DataFrame(
        {"recording_id": soundscapes} | fixed | dict.fromkeys(TARGETS.labels, np.float32(0.3))
    )


def test_student_hears_all_folds_and_is_validated_on_unseen_soundscapes(
    setup: TrainingSetup, pretrained: Path, tmp_path: Path
) -> None:
    long = {"epochs": 4, "clips_per_epoch": 64, "validate_every_epochs": 4}
    settings = with_train(setup, "distill", long)
    noted = read_places(settings)
    directory = tmp_path / "model"
    result = distill(settings, TARGETS, DISTILL, pseudo_labels(setup), pretrained, directory)
    unseen = {name for name, *_ in noted[-2:]}
    heard = ids(noted[:-2], "s")
    assert len(heard) == 6
    assert not heard & unseen
    folds = setup.splits.set_index("recording_id")["fold"]
    assert {0, 1} <= set(folds[list(ids(noted, "f"))].dropna())
    assert result.metrics["n_recordings"] == 36
    assert result.metrics["n_pseudo_windows"] == 6
    assert result.metrics["n_validation_windows"] == 2
    assert 0 < result.metrics["val_mean_difference"] < 1
    assert result.scores.empty
    assert load_model(directory)[1].labels == TARGETS.labels
    assert read_card(directory).started_from == pretrained.as_posix()


def test_pseudo_labelled_part_is_the_middle_of_a_longer_clip(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    config = DISTILL.model_copy(update={"start_from": "nothing", "validation_share": 0.0})
    settings = with_train(setup, "distill", SHORT, {**SHORT, "window_s": 2.0})
    noted = read_places(settings)
    distill(settings, TARGETS, config, pseudo_labels(setup, 0.6), tmp_path, tmp_path / "model")
    firsts = {first for name, first, _ in noted if name.startswith("s")}
    # Scored is 1 s from 0.6 s on; a clip of 2 s begins half a second earlier.
    assert firsts == {round(0.6 * 8000), round(0.1 * 8000)}


def test_clips_shorter_than_what_a_pseudo_label_is_about_are_refused(
    setup: TrainingSetup, tmp_path: Path
) -> None:
    config = DISTILL.model_copy(update={"start_from": "nothing"})
    settings = with_train(setup, "distill", SHORT, {**SHORT, "window_s": 0.5})
    noted = read_places(settings)
    with pytest.raises(ConfigError, match=r"distill\.window_s: found 0\.5, .* least the 1\.0 of"):
        distill(settings, TARGETS, config, pseudo_labels(setup), tmp_path, tmp_path / "model")
    assert not noted


def test_params_of_the_repository_are_settings_of_each_training() -> None:
    repository = Path(__file__).parents[2]
    for stage, item, own in (
        ("pretrain", None, PretrainConfig),
        ("finetune", "0", FinetuneConfig),
        ("distill", "1", DistillConfig),
    ):
        params = Params.for_stage(stage, item, repository)
        phases, _ = params.phases(TrainConfig, own, stage)
        assert len(phases) == 1
