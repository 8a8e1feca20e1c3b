"""Finetuning: one teacher per fold, which scores the recordings that it has not seen."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bclef.config import Section
from bclef.taxonomy import ClassList
from bclef.trainconfig import TrainConfig
from bclef.trainings import StartFrom, TrainingResult, start_from, train_on_clips
from bclef.trainingsetup import TrainingSetup

_LOG = logging.getLogger(__name__)


class FinetuneConfig(Section):
    """Finetuning's own settings (section `finetune`, beside overrides of `train`)."""

    start_from: StartFrom
    """`pretrain`: the model of the stage `pretrain`, its classes matched by label;
    `pretrain_backbone`: that model with a fresh head; `nothing`: timm's weights or random ones."""
    hold_out: bool
    """Whether a fold's teacher holds out its fold to be scored on. Else (all-data mode) every
    teacher trains on all recordings, with a seed of its own, and there is no out-of-fold score."""


def finetune(
    setup: TrainingSetup,
    classes: ClassList,
    config: FinetuneConfig,
    fold: int,
    pretrained: Path,
    directory: Path,
) -> TrainingResult:
    """Writes a teacher trained on all recordings outside `fold`, or on all; scores those in it.

    Args:
        setup: What all trainings need alike.
        classes: The target species.
        config: Finetuning's own settings.
        fold: The fold that is validated; without any it tells the seeds of the teachers apart.
        pretrained: Model folder of `pretrain`.
        directory: The model folder to write.

    Raises:
        ScoreError: As `train_on_clips`.
        ConfigError: As `train_on_clips`.
        ModelError: As `train_on_clips`.
        SamplingError: As `train_on_clips`.
    """
    recordings = setup.recordings(classes)
    is_held_out = (recordings["fold"] == fold).fillna(value=False).astype(bool)
    validated = recordings[is_held_out & config.hold_out]
    if not config.hold_out:
        setup = replace(setup, seed=(setup.seed + fold) % 2**32)
        _LOG.info(
            "finetune.hold_out is false: training on all %d recordings, with seed %d; nothing is "
            "validated and there are no out-of-fold scores",
            len(recordings), setup.seed,
        )  # fmt: skip
    parts = (recordings.drop(validated.index), validated)
    start = start_from(config.start_from, pretrained)
    result = train_on_clips(setup, classes, parts, start, directory)
    own = {
        "hold_out": config.hold_out,
        "n_epochs_chosen_from": n_epochs_chosen_from(result.history, setup.phases),
    }
    return replace(result, metrics={**own, **result.metrics})


def n_epochs_chosen_from(history: pd.DataFrame, phases: Sequence[TrainConfig]) -> int:
    """Returns how many epochs were compared on the held-out fold to choose what was kept.

    Those of all phases that do so count, for each goes on from what the one before kept; 1 where
    nothing was chosen.

    Args:
        history: Of the training: phase, from 1, and val_loss where there is one.
        phases: Their settings.
    """
    choosing = [number for number, phase in enumerate(phases, 1) if phase.select != "last"]
    epochs = history.reindex(columns=["phase", "val_loss"])
    compared = epochs.loc[epochs["phase"].isin(choosing), "val_loss"].notna()
    return max(1, int(compared.sum()))
