"""What pretraining, finetuning and distillation do alike: start, train through phases, write."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd
import torch

from bclef.clipsampling import rated_recordings
from bclef.dataset import TrainingBatches
from bclef.inference import ScoreConfig, check_step
from bclef.modelfiles import initialise, make_card, read_card, save_model
from bclef.models import BirdModel, build_model
from bclef.ranks import leave_to_first_process
from bclef.streams import ClipSources, clip_sources
from bclef.tables import empty_table
from bclef.taxonomy import ClassList
from bclef.trainconfig import TrainConfig
from bclef.training import FitPlan, FitResult, Phase, Validation, fit
from bclef.trainingsetup import TrainingSetup
from bclef.validation import ClipValidation
from bclef.windowscores import window_scores_schema

_LOG = logging.getLogger(__name__)

StartFrom: TypeAlias = Literal["pretrain", "pretrain_backbone", "nothing"]
"""Weights that a training starts from. `pretrain`: the model of the stage `pretrain`, classes
matched by label. `pretrain_backbone`: that model, with a fresh head. `nothing`: neither, so timm's
weights or random ones, as `model.pretrained` says."""


@dataclass(frozen=True)
class Start:
    """Where the weights of a training come from."""

    directory: Path | None
    """Model folder; None for timm's weights or random ones."""
    with_head: bool
    """Whether its head is taken over too, its classes matched by label."""
    name: str | None = None
    """What the folder's weights are, if not the folder's own: one that was never trained holds
    those that it started from."""

    def apply(self, model: BirdModel) -> str:
        """Puts the weights into `model` and returns what its card calls them.

        Raises:
            ModelError: The folder holds another backbone, or is no whole model folder.
        """
        found = initialise(model, self.directory, with_head=self.with_head)
        return self.name or found


AFRESH = Start(directory=None, with_head=False)
"""Timm's weights or random ones."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training made besides its model folder."""

    history: pd.DataFrame
    """One row per epoch; no rows if nothing was trained."""
    metrics: dict[str, float | int]
    """Figures of the kept weights, with the counts behind them."""
    scores: pd.DataFrame
    """Window scores of the recordings that were held out; no rows if there are none."""


def start_from(choice: StartFrom, pretrained: Path) -> Start:
    """Returns where a training starts that may go on from the stage `pretrain`.

    Args:
        choice: What the params say.
        pretrained: Model folder of `pretrain`. Where that had nothing to train on, the folder is
            the network as it started, and a training from it starts from the same.

    Raises:
        ModelError: No model of this version in `pretrained`.
    """
    if choice == "nothing":
        return AFRESH
    with_head, card = choice == "pretrain", read_card(pretrained)
    if card.training:
        return Start(pretrained, with_head)
    _LOG.info("nothing was pretrained: starting from what %s is, %s", pretrained, card.started_from)
    if card.started_from in ("random", "timm"):
        return AFRESH
    return Start(pretrained, with_head, card.started_from)


def train_on_clips(
    setup: TrainingSetup,
    classes: ClassList,
    parts: tuple[pd.DataFrame, pd.DataFrame],
    start: Start,
    directory: Path,
) -> TrainingResult:
    """Writes a model trained on the first part of the labelled recordings, validated on the second.

    Args:
        setup: What all trainings need alike.
        classes: Of the model.
        parts: Rows of `setup.recordings`; with no second ones nothing is validated.
        start: Where the weights come from.
        directory: The model folder to write.

    Raises:
        ScoreError: `val_step_s` exceeds the part of a window that the scores are about.
        ConfigError: As `train`.
        ModelError: As `train`.
        SamplingError: As `train`.
    """
    training, validated = parts
    last = setup.phases[-1]
    if len(validated):
        check_step(setup.spec(classes), last.val_step_s, "train.val_step_s")
    score = ScoreConfig(step_s=last.val_step_s, batch_size=last.batch_size)
    validate = ClipValidation(setup.store, validated, classes, score)

    def sources(config: TrainConfig) -> ClipSources:
        return clip_sources(setup.store, training, classes, config, setup.sample_rate_hz)

    result = train(setup, classes, sources, validate, start, directory)
    counts = {
        "n_recordings": n_trained_on(setup, training),
        "n_validation_recordings": len(validated),
    }
    metrics = {**counts, **result.figures, "epoch": result.epoch}
    return TrainingResult(result.history, metrics, validate.scores)


def train(
    setup: TrainingSetup,
    classes: ClassList,
    sources: Callable[[TrainConfig], ClipSources],
    validate: Validation,
    start: Start,
    directory: Path,
) -> FitResult:
    """Trains a network through all phases and writes it.

    Args:
        setup: What all trainings need alike.
        classes: Of the model.
        sources: Gives the clips of a phase by its settings.
        validate: Gives figures of a model.
        start: Where the weights come from.
        directory: The model folder to write.

    Raises:
        ConfigError: The clips of a phase are too short for the front end.
        ModelError: The network does not take them, or cannot start from those weights.
        SamplingError: A phase has no clips, or a batch no room for them.
    """
    model = build_model(setup.spec(classes), setup.seed)
    started_from = start.apply(model)
    _rehearse(model, setup)
    plan = FitPlan(
        model=model,
        phases=[_phase(setup, config, sources(config)) for config in setup.phases],
        seed=setup.seed,
        work_dir=setup.work_dir,
        validate=validate,
        on_metrics=setup.on_metrics,
    )
    result = fit(plan)
    card = make_card(result.model.spec, started_from, setup.params, setup.data)
    save_model(result.model, directory, card)
    return result


def leave_untrained(
    setup: TrainingSetup, classes: ClassList, start: Start, directory: Path
) -> TrainingResult:
    """Writes the network as it starts; that its card has no training settings says so.

    Args:
        setup: What all trainings need alike.
        classes: Of the model.
        start: Where the weights come from.
        directory: The model folder to write.

    Raises:
        ModelError: The network cannot start from those weights.
        SystemExit: 0, in all processes of a launcher but the first.
    """
    leave_to_first_process()
    model = build_model(setup.spec(classes), setup.seed)
    card = make_card(model.spec, start.apply(model), training={}, data=setup.data)
    save_model(model, directory, card)
    _LOG.info("%s is the network as it starts, from %s", directory, card.started_from)
    history = pd.DataFrame(columns=["epoch", "val_loss"])
    return TrainingResult(history, {"n_recordings": 0}, no_scores(classes))


def _rehearse(model: BirdModel, setup: TrainingSetup) -> None:
    """Shows the network a silent clip of each length: what it cannot take is said at once.

    It would be said by the first validation else, or by a later phase: hours of training later.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, model.spec.window_samples))
        for n_samples in {setup.clip_samples(phase) for phase in setup.phases}:
            model.features(model.images(torch.zeros(1, n_samples)))
    model.train(was_training)


def _phase(setup: TrainingSetup, config: TrainConfig, sources: ClipSources) -> Phase:
    n_samples = setup.clip_samples(config)
    return Phase(config, TrainingBatches(setup.store, sources, config, n_samples, setup.seed))


def n_trained_on(setup: TrainingSetup, recordings: pd.DataFrame) -> int:
    """Returns how many of `recordings` are rated well enough for any of the phases."""
    least = min(config.min_rating for config in setup.phases)
    return len(rated_recordings(recordings, least))


def no_scores(classes: ClassList) -> pd.DataFrame:
    """Returns a table of window scores without rows."""
    return empty_table(window_scores_schema(classes))
