"""The score that every network has to beat: logistic regression on a clip's mean mel spectrum.

A clip is its log-mel means and standard deviations per band, nothing more: no time, no context. A
network that cannot beat this on the same folds has learnt the level of a few bands.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bclef.config import Section
from bclef.frontend import FrontEndConfig, log_mel
from bclef.parallel import run_all
from bclef.store import Store
from bclef.tables import Schema
from bclef.taxonomy import ClassList

BASELINE_SCORES = Schema(
    "BASELINE_SCORES", key=("recording_id",), columns={"recording_id": "string"}
)
"""Out-of-fold clip scores, less their class columns (float32)."""

_CLIPS_PER_TASK = 16
"""Clips that a worker takes at a time: opening the store costs as much as one clip."""


class BaselineConfig(Section):
    """The regression and what it hears (section `baseline`)."""

    window_s: float = Field(gt=0)
    """Length of the pieces whose spectra are averaged, in seconds."""
    max_windows: int = Field(gt=0)
    """Pieces of one clip at most, spread evenly over it."""
    inverse_penalty: float = Field(gt=0)
    """C of the regression: smaller means smoother."""
    max_iterations: int = Field(gt=0)
    """Steps of the solver at most."""


@dataclass(frozen=True)
class ClipReader:
    """Where clips lie and how their spectra are taken."""

    directory: Path
    """The feature store."""
    sample_rate_hz: int
    """Its sample rate."""
    front_end: FrontEndConfig
    """The spectrogram, as the networks see it."""
    config: BaselineConfig
    """Pieces of each clip."""

    def statistics(self, recording_ids: Sequence[str]) -> NDArray[np.float32]:
        """Returns mean and standard deviation per mel band of each clip, float32 [N, 2M]."""
        with Store(self.directory) as store:
            return np.stack([self._statistics(store.read(name)) for name in recording_ids])

    def _statistics(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Mean and standard deviation per band of one clip, [2M]."""
        n_window_samples = round(self.config.window_s * self.sample_rate_hz)
        if len(samples) < n_window_samples:
            # Repeated, because padding would mix silence into the spectrum.
            samples = np.resize(samples, n_window_samples)
        n_windows = min(self.config.max_windows, len(samples) // n_window_samples)
        firsts = np.linspace(0, len(samples) - n_window_samples, n_windows).astype(int)
        wave = np.stack([samples[first : first + n_window_samples] for first in firsts])
        images = log_mel(
            wave.astype(np.float32) / 32768, self.front_end, self.sample_rate_hz, np.float32
        )
        mel = images[:, 0]  # The other channels are made of the first.
        axes = (0, 2)  # [windows, M, F] -> [M]
        return np.concatenate([mel.mean(axis=axes), mel.std(axis=axes)]).astype(np.float32)


def clip_statistics(
    reader: ClipReader, recording_ids: Sequence[str], pool: Executor
) -> NDArray[np.float32]:
    """Returns mean and standard deviation per mel band of each of `recording_ids`, [N, 2M].

    Raises:
        RuntimeError: A worker died.
    """
    tasks = [
        tuple(recording_ids[first : first + _CLIPS_PER_TASK])
        for first in range(0, len(recording_ids), _CLIPS_PER_TASK)
    ]
    parts = []
    for outcome in run_all(
        reader.statistics, tasks, pool, describe="baseline", unit=f"{_CLIPS_PER_TASK} clips"
    ):
        if outcome.value is None:
            raise RuntimeError(
                f"a worker died over the clips {outcome.item[0]} to {outcome.item[-1]}, most "
                "likely for lack of memory: set BCLEF_WORKERS to a smaller number"
            )
        parts.append(outcome.value)
    return np.concatenate(parts)


def validated_clips(index: pd.DataFrame, splits: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Returns the focal clips of `classes` with the fold of each (null: always trained on).

    Args:
        index: recording_id, role, label, secondary_labels of the feature store.
        splits: recording_id, fold.
        classes: Which primary labels count.

    Returns:
        recording_id, label, secondary_labels, fold; sorted by recording_id.
    """
    focal = index[(index["role"] == "focal") & index["label"].isin(list(classes.labels))]
    columns = ["recording_id", "label", "secondary_labels"]
    folds = splits[["recording_id", "fold"]]
    clips = focal[columns].merge(folds, on="recording_id", validate="one_to_one")
    return clips.sort_values("recording_id", ignore_index=True)


def out_of_fold_scores(
    clips: pd.DataFrame,
    statistics: NDArray[np.float32],
    classes: ClassList,
    config: BaselineConfig,
) -> pd.DataFrame:
    """Returns the probabilities of each clip under the regression that has not seen its fold.

    Args:
        clips: label and fold of each clip, as from `validated_clips`.
        statistics: Of the same clips in the same order, [N, 2M].
        classes: Order of the score columns; a class without a training clip scores 0.
        config: The regression.

    Returns:
        recording_id and one float32 per class, the clips that have a fold.
    """
    scores = np.zeros((len(clips), len(classes)), dtype=np.float32)
    for fold in sorted(clips["fold"].dropna().unique()):
        held_out = (clips["fold"] == fold).fillna(False).to_numpy(dtype=bool)
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=config.inverse_penalty, max_iter=config.max_iterations),
        )
        model.fit(statistics[~held_out], clips["label"].to_numpy(dtype=str)[~held_out])
        columns = [classes.position(label) for label in model.classes_]
        scores[np.ix_(held_out, columns)] = model.predict_proba(statistics[held_out])
    table = pd.DataFrame(scores, columns=list(classes.labels))
    table.insert(0, "recording_id", clips["recording_id"].astype("string"))
    return table[clips["fold"].notna()].reset_index(drop=True)
