"""The three phases of training as one call each: tables and settings in, a model folder out.

`pretrain` makes a backbone from recordings that no fold validates, `finetune` one teacher per fold
with out-of-fold scores, `distill` a student of labelled and pseudo-labelled audio.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from pydantic import Field

from bclef.clipsampling import (
    LabelledClips,
    NoiseClips,
    PseudoWindows,
    labelled_recordings,
)
from bclef.config import Scalar, Section
from bclef.crops import RandomCrops, WaveStore, window_crops
from bclef.dataset import ClipSources, TrainingBatches
from bclef.frontend import FrontEndConfig
from bclef.holdout import hold_out_groups, hold_out_recordings
from bclef.inference import ScoreConfig
from bclef.modelfiles import initialise, make_card, save_model
from bclef.models import BirdModel, ModelConfig, ModelSpec, build_model
from bclef.tables import empty_table
from bclef.taxonomy import ClassList
from bclef.training import FitPlan, FitResult, TrainConfig, Validation, fit
from bclef.validation import AgreementValidation, ClipValidation
from bclef.windowscores import window_scores_schema

_LOG = logging.getLogger(__name__)


class PretrainConfig(Section):
    """Pretraining's own settings (section `pretrain`, beside overrides of `train`)."""

    min_recordings: int = Field(ge=1)
    """With fewer recordings that no fold validates, the backbone is left as it starts."""
    validation_share: float = Field(ge=0, lt=1)
    """Share of the recordings, by whole groups, that pretraining is validated on."""


class FinetuneConfig(Section):
    """Finetuning's own settings (section `finetune`, beside overrides of `train`)."""

    from_pretrained: bool
    """Whether teachers start from the model of `pretrain`, or else as it started."""


class DistillConfig(Section):
    """Distillation's own settings (section `distill`, beside overrides of `train`)."""

    from_pretrained: bool
    """Whether the student starts from the model of `pretrain`."""
    pseudo_share: float = Field(gt=0, lt=1)
    """Share of pseudo-labelled windows in each batch."""
    pseudo_loss_weight: float = Field(gt=0)
    """Their weight in the loss; labelled clips have 1."""
    validation_share: float = Field(ge=0, lt=1)
    """Share of the pseudo-labelled recordings held out to measure agreement with the teachers."""


@dataclass(frozen=True)
class PhaseSetup:
    """What all phases need alike."""

    store: WaveStore
    """The feature store."""
    splits: pd.DataFrame
    """recording_id, group, fold (null: in no fold)."""
    sample_rate_hz: int
    """Of the store."""
    frontend: FrontEndConfig
    """The front end."""
    model: ModelConfig
    """The network."""
    train: TrainConfig
    """Settings of this phase."""
    seed: int
    """Of everything random."""
    work_dir: Path
    """For checkpoints; it belongs to this phase with these settings and data alone."""
    on_metrics: Callable[[Mapping[str, float], int], None]
    """Is told the figures of each epoch."""
    params: Mapping[str, Scalar]
    """Declared params, for the model card."""
    data: Mapping[str, str]
    """Hashes of the tables, for the model card."""

    @property
    def window_samples(self) -> int:
        """Length of the network's window."""
        return round(self.train.window_s * self.sample_rate_hz)

    def recordings(self, classes: ClassList) -> pd.DataFrame:
        """Returns the labelled rows of the feature index with their group and fold."""
        return labelled_recordings(self.store.index, classes).merge(self.splits, on="recording_id")

    def spec(self, classes: ClassList) -> ModelSpec:
        """Returns the shape of a network over `classes`."""
        return ModelSpec(
            labels=classes.labels,
            sample_rate_hz=self.sample_rate_hz,
            window_samples=self.window_samples,
            frontend=self.frontend,
            model=self.model,
        )


@dataclass(frozen=True)
class PhaseResult:
    """What a phase made besides its model folder."""

    history: pd.DataFrame
    """One row per epoch; no rows if nothing was trained."""
    metrics: dict[str, float | int]
    """Figures of the kept weights, with the counts behind them."""
    scores: pd.DataFrame
    """Window scores of the recordings that were held out; no rows if there are none."""


def pretrain(
    setup: PhaseSetup, classes: ClassList, config: PretrainConfig, directory: Path
) -> PhaseResult:
    """Writes a model trained on the recordings of no fold, over the species heard there.

    Where there are too few of them, `directory` gets the network as it starts, over `classes`.

    Args:
        setup: What all phases need alike.
        classes: The target species.
        config: Pretraining's own settings.
        directory: The model folder.
    """
    index, splits = setup.store.index, setup.splits
    free = index[index["recording_id"].isin(splits.loc[splits["fold"].isna(), "recording_id"])]
    labels = sorted(set(free["label"].dropna()))
    if len(free) < config.min_recordings:
        _LOG.warning(
            "nothing pretrained: %d recordings are in no fold, and pretrain.min_recordings is %d",
            len(free), config.min_recordings,
        )  # fmt: skip
        model = build_model(setup.spec(classes), setup.seed)
        _save(setup, model, initialise(model, None), directory)
        history = pd.DataFrame(columns=["epoch", "val_loss"])
        return PhaseResult(history, {"n_recordings": 0}, _no_scores(classes))
    heard = ClassList(tuple(labels))
    recordings = setup.recordings(heard)
    recordings = recordings[recordings["fold"].isna()]
    held_out = recordings["recording_id"].isin(
        hold_out_groups(recordings, config.validation_share, setup.seed)
    )
    return _train_on_clips(
        setup, heard, (recordings[~held_out], recordings[held_out]), None, directory
    )


def finetune(
    setup: PhaseSetup,
    classes: ClassList,
    config: FinetuneConfig,
    fold: int,
    pretrained: Path,
    directory: Path,
) -> PhaseResult:
    """Writes a teacher trained on all recordings outside `fold`; scores those in it.

    Args:
        setup: What all phases need alike.
        classes: The target species.
        config: Finetuning's own settings.
        fold: The fold that is validated.
        pretrained: Model folder of `pretrain`.
        directory: The model folder to write.
    """
    recordings = setup.recordings(classes)
    validated = (recordings["fold"] == fold).fillna(value=False).astype(bool)
    parts = (recordings[~validated], recordings[validated])
    initial = pretrained if config.from_pretrained else None
    return _train_on_clips(setup, classes, parts, initial, directory)


def distill(
    setup: PhaseSetup,
    classes: ClassList,
    config: DistillConfig,
    pseudo: pd.DataFrame,
    pretrained: Path,
    directory: Path,
) -> PhaseResult:
    """Writes a student trained on all labelled recordings and on pseudo-labelled windows.

    Every fold is trained on, so it can be validated on agreement with the teachers only.

    Args:
        setup: What all phases need alike.
        classes: The target species.
        config: Distillation's own settings.
        pseudo: recording_id, start_s, weight and one column per class.
        pretrained: Model folder of `pretrain`.
        directory: The model folder to write.
    """
    held_out = pseudo["recording_id"].isin(
        hold_out_recordings(set(pseudo["recording_id"]), config.validation_share, setup.seed)
    )
    windows, unseen = pseudo[~held_out], pseudo[held_out].reset_index(drop=True)
    crops = window_crops(windows, setup.store.index, setup.window_samples, setup.sample_rate_hz)
    recordings = setup.recordings(classes)
    sources = replace(
        _sources(setup, recordings, classes),
        pseudo=PseudoWindows(crops, windows, classes, config.pseudo_loss_weight),
        pseudo_share=config.pseudo_share,
    )
    initial = pretrained if config.from_pretrained else None
    validate = AgreementValidation(setup.store, unseen, classes, setup.train.batch_size)
    result = _train(setup, classes, sources, validate, initial, directory)
    counts = {
        "n_recordings": len(recordings),
        "n_pseudo_windows": len(windows),
        "n_validation_windows": len(unseen),
    }
    return PhaseResult(
        result.history, {**counts, **result.figures, "epoch": result.epoch}, _no_scores(classes)
    )


def _train_on_clips(
    setup: PhaseSetup,
    classes: ClassList,
    parts: tuple[pd.DataFrame, pd.DataFrame],
    initial: Path | None,
    directory: Path,
) -> PhaseResult:
    """Trains on the first part of the labelled recordings and validates on the second."""
    training, validated = parts
    score = ScoreConfig(step_s=setup.train.val_step_s, batch_size=setup.train.batch_size)
    validate = ClipValidation(setup.store, validated, classes, score)
    sources = _sources(setup, training, classes)
    result = _train(setup, classes, sources, validate, initial, directory)
    counts = {"n_recordings": len(training), "n_validation_recordings": len(validated)}
    metrics = {**counts, **result.figures, "epoch": result.epoch}
    return PhaseResult(result.history, metrics, validate.scores)


def _train(
    setup: PhaseSetup,
    classes: ClassList,
    sources: ClipSources,
    validate: Validation,
    initial: Path | None,
    directory: Path,
) -> FitResult:
    model = build_model(setup.spec(classes), setup.seed)
    started_from = initialise(model, initial)
    plan = FitPlan(
        model=model,
        batches=TrainingBatches(
            setup.store, sources, setup.train, setup.window_samples, setup.seed
        ),
        config=setup.train,
        seed=setup.seed,
        work_dir=setup.work_dir,
        validate=validate,
        on_metrics=setup.on_metrics,
    )
    result = fit(plan)
    _save(setup, result.model, started_from, directory)
    return result


def _no_scores(classes: ClassList) -> pd.DataFrame:
    return empty_table(window_scores_schema(classes))


def _sources(setup: PhaseSetup, recordings: pd.DataFrame, classes: ClassList) -> ClipSources:
    """Clips of labelled recordings, and noise if the store has any."""
    config, index = setup.train, setup.store.index
    crops = RandomCrops(
        setup.store,
        setup.window_samples,
        setup.sample_rate_hz,
        prefer_active=config.crop_place == "active",
    )
    noise = index[index["role"] == "noise"]
    return ClipSources(
        labelled=LabelledClips(recordings, classes, config, crops),
        pseudo=None,
        pseudo_share=0.0,
        noise=None if noise.empty else NoiseClips(noise, crops),
    )


def _save(setup: PhaseSetup, model: BirdModel, started_from: str, directory: Path) -> None:
    card = make_card(model.spec, started_from, setup.params, setup.data)
    save_model(model, directory, card)
