"""Distillation: a student of labelled recordings and of windows that its teachers labelled."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from pydantic import Field

from bclef.config import ConfigError, Section
from bclef.crops import n_samples_by_id, window_crops
from bclef.holdout import hold_out_recordings
from bclef.streams import ClipSources, PseudoWindows, clip_sources
from bclef.taxonomy import ClassList
from bclef.trainconfig import TrainConfig
from bclef.trainings import (
    StartFrom,
    TrainingResult,
    n_trained_on,
    no_scores,
    start_from,
    train,
)
from bclef.trainingsetup import TrainingSetup
from bclef.validation import AgreementValidation


class DistillConfig(Section):
    """Distillation's own settings (section `distill`, beside overrides of `train`)."""

    start_from: StartFrom
    """`pretrain`: the model of the stage `pretrain`, its classes matched by label;
    `pretrain_backbone`: that model with a fresh head; `nothing`: timm's weights or random ones."""
    pseudo_share: float = Field(gt=0, lt=1)
    """Share of pseudo-labelled windows in each batch."""
    pseudo_loss_weight: float = Field(gt=0)
    """Their weight in the loss; labelled clips have 1."""
    validation_share: float = Field(ge=0, lt=1)
    """Share of the pseudo-labelled recordings held out to measure agreement with the teachers."""


def distill(
    setup: TrainingSetup,
    classes: ClassList,
    config: DistillConfig,
    pseudo: pd.DataFrame,
    pretrained: Path,
    directory: Path,
) -> TrainingResult:
    """Writes a student trained on all labelled recordings and on pseudo-labelled windows.

    Every fold is trained on, so it can be validated on agreement with the teachers only.

    Args:
        setup: What all trainings need alike.
        classes: The target species.
        config: Distillation's own settings.
        pseudo: recording_id, start_s, weight and one column per class.
        pretrained: Model folder of `pretrain`.
        directory: The model folder to write.

    Raises:
        ConfigError: The clips of a phase are shorter than what a pseudo label is about, or too
            short for the front end.
        ModelError: The network does not take them, or cannot start from the weights.
        SamplingError: There is nothing to train on, or a batch has no room for it.
    """
    held_out = pseudo["recording_id"].isin(
        hold_out_recordings(set(pseudo["recording_id"]), config.validation_share, setup.seed)
    )
    windows, unseen = pseudo[~held_out], pseudo[held_out].reset_index(drop=True)
    recordings = setup.recordings(classes)

    def sources(phase: TrainConfig) -> ClipSources:
        return replace(
            clip_sources(setup.store, recordings, classes, phase, setup.sample_rate_hz),
            pseudo=_pseudo_windows(setup, windows, classes, phase, config.pseudo_loss_weight),
            pseudo_share=config.pseudo_share,
        )

    validate = AgreementValidation(setup.store, unseen, classes, setup.phases[-1].batch_size)
    start = start_from(config.start_from, pretrained)
    result = train(setup, classes, sources, validate, start, directory)
    counts = {
        "n_recordings": n_trained_on(setup, recordings),
        "n_pseudo_windows": len(windows),
        "n_validation_windows": len(unseen),
    }
    metrics = {**counts, **result.figures, "epoch": result.epoch}
    return TrainingResult(result.history, metrics, no_scores(classes))


def _pseudo_windows(
    setup: TrainingSetup,
    windows: pd.DataFrame,
    classes: ClassList,
    phase: TrainConfig,
    loss_weight: float,
) -> PseudoWindows:
    """The windows as clips of a phase: what was scored stands in the middle of longer clips."""
    n_samples = setup.clip_samples(phase)
    n_spare = n_samples - setup.spec(classes).scored_samples
    if n_spare < 0:
        raise ConfigError(
            f"params.yaml: distill.window_s: found {phase.window_s}, expected at least the "
            f"{setup.model.scored_s} of model.scored_s, which a pseudo label is about"
        )
    lengths = n_samples_by_id(setup.store.index)
    crops = window_crops(windows, lengths, n_samples, setup.sample_rate_hz, n_spare // 2)
    return PseudoWindows(crops, windows, classes, loss_weight)
