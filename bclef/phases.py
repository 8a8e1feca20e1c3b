"""The three phases of training as one call each: tables and settings in, a model folder out.

`pretrain` makes a backbone from recordings that no fold validates, `finetune` one teacher per fold
with out-of-fold scores, `distill` a student of labelled and pseudo-labelled audio.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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
from bclef.inference import ScoreConfig, score_recordings
from bclef.modelfiles import load_backbone, make_card, save_model
from bclef.models import BirdModel, ModelConfig, ModelSpec, build_model, load_timm_weights
from bclef.taxonomy import ClassList
from bclef.training import FitPlan, FitResult, TrainConfig, fit
from bclef.validation import agreement_figures, clip_figures

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
    """Whether teachers start from the model of `pretrain`, else as `model.pretrained` says."""


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
class Workshop:
    """What all phases share."""

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
    """For checkpoints; it must be this phase's, and these settings' and data's, alone."""
    on_metrics: Callable[[Mapping[str, float], int], None]
    """Is told the figures of each epoch."""
    params: Mapping[str, Scalar]
    """Declared params, for the model card."""
    data: Mapping[str, str]
    """Hashes of the tables, for the model card."""


@dataclass(frozen=True)
class PhaseResult:
    """What a phase made besides its model folder."""

    history: pd.DataFrame
    """One row per epoch; no rows if nothing was trained."""
    metrics: dict[str, float | int | str]
    """Figures of the selected weights, with the counts behind them."""
    scores: pd.DataFrame | None = None
    """Window scores of the validated recordings, where the phase scores any."""
