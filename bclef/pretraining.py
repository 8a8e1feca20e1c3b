"""Pretraining: one model of all recordings that no fold validates, for trainings to start from."""

import logging
from pathlib import Path

from pydantic import Field

from bclef.config import ConfigError, Section
from bclef.faults import nearest
from bclef.holdout import hold_out_groups
from bclef.modelfiles import CARD_FILE
from bclef.taxonomy import ClassList
from bclef.trainings import AFRESH, Start, TrainingResult, leave_untrained, train_on_clips
from bclef.trainingsetup import TrainingSetup

_LOG = logging.getLogger(__name__)


class PretrainConfig(Section):
    """Pretraining's own settings (section `pretrain`, beside overrides of `train`)."""

    start_from: str | None
    """Model folder below weights/ that pretraining starts from; null for timm's weights or random
    ones."""
    start_with_head: bool
    """Whether the head of that model is taken over too, its classes matched by label."""
    min_recordings: int | None = Field(ge=1)
    """With fewer recordings that no fold validates, nothing is pretrained; null: nothing is."""
    validation_share: float = Field(ge=0, lt=1)
    """Share of the recordings, by whole groups, that pretraining is validated on."""


def start_folder(config: PretrainConfig, weights: Path) -> Path | None:
    """Returns the model folder that pretraining starts from, if there is one.

    Args:
        config: Names the folder.
        weights: Folder of such model folders.

    Raises:
        ConfigError: There is no such model folder.
    """
    if config.start_from is None:
        return None
    known = [card.parent.relative_to(weights).as_posix() for card in weights.rglob(CARD_FILE)]
    if config.start_from not in known:
        raise ConfigError(
            f"params.yaml: pretrain.start_from: no model folder {config.start_from!r} in "
            f"{weights}/, {nearest(config.start_from, known)}; copy one there, "
            f"or `bclef backbone MODEL -o {weights / 'NAME'}`"
        )
    return weights / config.start_from


def pretrain(
    setup: TrainingSetup,
    classes: ClassList,
    config: PretrainConfig,
    start: Path | None,
    directory: Path,
) -> TrainingResult:
    """Writes a model trained on the recordings of no fold, over the species heard there.

    Where there are too few of them, `directory` gets the network as it starts, over `classes`.

    Args:
        setup: What all trainings need alike.
        classes: The target species.
        config: Pretraining's own settings.
        start: From `start_folder`.
        directory: The model folder to write.

    Raises:
        ScoreError: As `train_on_clips`.
        ConfigError: As `train_on_clips`.
        ModelError: As `train_on_clips`.
        SamplingError: As `train_on_clips`.
    """
    index, splits = setup.store.index, setup.splits
    free = index[index["recording_id"].isin(splits.loc[splits["fold"].isna(), "recording_id"])]
    begin = AFRESH if start is None else Start(start, config.start_with_head)
    if config.min_recordings is None or len(free) < config.min_recordings:
        _LOG.log(
            logging.INFO if config.min_recordings is None else logging.WARNING,
            "nothing pretrained: %d recordings are in no fold, and pretrain.min_recordings is %s",
            len(free), config.min_recordings or "null",
        )  # fmt: skip
        return leave_untrained(setup, classes, begin, directory)
    heard = ClassList(tuple(sorted(set(free["label"].dropna()))))
    recordings = setup.recordings(heard)
    recordings = recordings[recordings["fold"].isna()]
    held_out = recordings["recording_id"].isin(
        hold_out_groups(recordings, config.validation_share, setup.seed)
    )
    parts = (recordings[~held_out], recordings[held_out])
    return train_on_clips(setup, heard, parts, begin, directory)
