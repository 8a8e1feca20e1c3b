"""Figures of a model on recordings that it was not trained on, for the history of a training run.

The honest scores of the pipeline are those of `evaluation`, on annotated soundscapes. These here
tell whether a run learns, and which epoch was best.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bclef.crops import WaveStore
from bclef.inference import ScoreConfig, score_listed, score_recordings
from bclef.metrics import UndefinedScoreError, clip_maxima, macro_roc_auc, top1
from bclef.models import BirdModel
from bclef.tables import empty_table
from bclef.taxonomy import ClassList
from bclef.windowscores import window_scores_schema

_LEAST_PROBABILITY = 1e-6


class ClipValidation:
    """Scores whole labelled recordings; a recording's score is the maximum over its windows.

    Args:
        store: The recordings.
        recordings: Rows of the feature index that are scored; with none there are no figures.
        classes: Of the model. Main and background species both count as present.
        config: Step and batch.
    """

    def __init__(
        self, store: WaveStore, recordings: pd.DataFrame, classes: ClassList, config: ScoreConfig
    ) -> None:
        self.scores = empty_table(window_scores_schema(classes))
        self._store = store
        self._classes = classes
        self._config = config
        self._ids: list[str] = recordings["recording_id"].tolist()
        heard = zip(recordings["label"], recordings["secondary_labels"], strict=True)
        present = [{label, *secondary} for label, secondary in heard]
        truth = classes.targets(present, ignore_unknown=True)
        self._truth = pd.DataFrame(truth, self._ids, list(classes.labels))

    def __call__(self, model: BirdModel) -> dict[str, float]:
        """Returns `val_loss`, and `val_macro_roc_auc` and `val_top1` where they are defined.

        The window scores behind them are then in `scores`, which has no rows before.
        """
        if not self._ids:
            return {}
        self.scores = score_recordings(model, self._store, self._ids, self._config)
        clips = clip_maxima(self.scores, self._classes.labels)
        truth = self._truth.loc[clips["recording_id"]].to_numpy()
        found = clips[list(self._classes.labels)].to_numpy()
        figures = {"val_loss": binary_cross_entropy(found, truth)}
        for metric in (macro_roc_auc, top1):
            try:
                figures[f"val_{metric.name}"] = metric(truth, found)
            except UndefinedScoreError:
                continue  # too few recordings: a figure that does not exist is not reported
        return figures


class AgreementValidation:
    """Compares a student with the soft labels of windows that it did not train on.

    This is agreement with the teachers, not truth.

    Args:
        store: The recordings.
        windows: Pseudo labels: recording_id, start_s, one column per class; maybe no rows.
        classes: Of the model.
        batch_size: Windows that are scored at once.
    """

    def __init__(
        self, store: WaveStore, windows: pd.DataFrame, classes: ClassList, batch_size: int
    ) -> None:
        self._store = store
        self._windows = windows
        self._soft = windows[list(classes.labels)].to_numpy(np.float64)
        self._batch_size = batch_size

    def __call__(self, model: BirdModel) -> dict[str, float]:
        """Returns `val_loss`, the cross-entropy, and `val_mean_difference` of probabilities."""
        if self._windows.empty:
            return {}
        scores = score_listed(model, self._store, self._windows, self._batch_size)
        return {
            "val_loss": binary_cross_entropy(scores, self._soft),
            "val_mean_difference": float(np.abs(scores - self._soft).mean()),
        }


def binary_cross_entropy(
    probabilities: NDArray[np.floating], targets: NDArray[np.floating]
) -> float:
    """Returns the mean binary cross-entropy; probabilities are clipped to 1e-6 from 0 and 1."""
    p = np.clip(probabilities.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean())
