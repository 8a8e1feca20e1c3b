"""How good the exported model is: on annotated soundscapes beside its teachers, and out of fold.

The first is what counts; the second says whether the networks beat a regression at all. What cannot
be computed (no annotated soundscapes, say) is left out and a note says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bclef.metrics import (
    Floats,
    Truth,
    per_class_average_precision,
    per_class_f1,
    per_class_roc_auc,
)
from bclef.outoffold import OutOfFold, out_of_fold
from bclef.soundscapes import (
    EvaluateConfig,
    PostprocessConfig,
    SoundscapeInputs,
    Soundscapes,
    score_soundscapes,
)
from bclef.store import Store
from bclef.tables import Schema, empty_table, write_table
from bclef.taxonomy import ClassList

PER_CLASS = Schema(
    "PER_CLASS",
    key=("label",),
    columns={
        "label": "string",
        "n_train_recordings": "int64",
        "n_positive_windows": "int64",
        "roc_auc": "float64?",
        "average_precision": "float64?",
        "f1": "float64?",
        "teacher_roc_auc": "float64?",
        "oof_roc_auc": "float64?",
        "baseline_roc_auc": "float64?",
    },
)
"""Scores of each class; null where a class has no positive (or no negative) row."""

WINDOWS = Schema(
    "WINDOWS",
    key=("recording_id", "start_s"),
    columns={
        "recording_id": "string",
        "start_s": "float64",
        "end_s": "float64",
        "truth": "list[string]",
    },
)
"""Windows with their true labels, less the class columns, which hold scores."""


@dataclass(frozen=True)
class EvaluationInputs:
    """What an evaluation reads."""

    model_dir: Path
    """The exported model."""
    features_dir: Path
    """The feature store."""
    classes: ClassList
    """Target classes."""
    annotations: pd.DataFrame
    """recording_id, start_s, end_s, label of each box."""
    splits: pd.DataFrame
    """recording_id, fold."""
    teacher_scores: Mapping[int, pd.DataFrame]
    """Window scores of the soundscapes by each fold's model."""
    oof_scores: Mapping[int, pd.DataFrame]
    """Window scores of each fold's clips by the model that has not seen them."""
    baseline_scores: pd.DataFrame
    """Clip scores of the regression, out of fold."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the tables behind them."""

    metrics: Mapping[str, object]
    """What the metrics file holds: nested figures, and `notes` on what could not be computed."""
    per_class: pd.DataFrame
    """See `PER_CLASS`."""
    windows: pd.DataFrame
    """Annotated windows under the exported model, see `WINDOWS`; empty where there are none."""
    clips: pd.DataFrame
    """Held-out clips as `WINDOWS`: the window with the highest score, the maxima of all windows."""

    def write(self, folder: Path, classes: ClassList) -> None:
        """Writes per_class.parquet, windows.parquet and clips.parquet into `folder`.

        Raises:
            TableError: A table is not what its schema says.
        """
        write_table(self.per_class, folder / "per_class.parquet", PER_CLASS)
        schema = WINDOWS.with_columns(dict.fromkeys(classes.labels, "float32"))
        write_table(self.windows, folder / "windows.parquet", schema)
        write_table(self.clips, folder / "clips.parquet", schema)

    def plot_points(self) -> pd.DataFrame:
        """Returns label and roc_auc of each class that has one, best first (for `dvc plots`)."""
        points = self.per_class[["label", "roc_auc"]].dropna()
        return points.sort_values(["roc_auc", "label"], ascending=[False, True], ignore_index=True)


def evaluate(
    inputs: EvaluationInputs, config: EvaluateConfig, smoothing: PostprocessConfig, seed: int
) -> Evaluation:
    """Returns the scores of the exported model, its teachers and the regression.

    Args:
        inputs: Model, store and tables.
        config: Grid, thresholds and intervals.
        smoothing: Applied to the exported model and to the teachers alike.
        seed: Of the bootstrap.

    Raises:
        EvaluationError: Scores lack windows, clips or classes.
    """
    heard = SoundscapeInputs(
        inputs.model_dir, inputs.annotations, inputs.teacher_scores, inputs.classes
    )
    with Store(inputs.features_dir) as store:
        index = store.index
        soundscapes = score_soundscapes(store, heard, config, smoothing)
    clips = out_of_fold(
        index, inputs.splits, inputs.oof_scores, inputs.baseline_scores, inputs.classes
    )
    return Evaluation(
        _metrics(inputs, soundscapes, clips, config, seed),
        _per_class(index, inputs.classes, config.threshold, soundscapes, clips),
        _windows(inputs.classes, soundscapes.scored() if soundscapes else None),
        _windows(inputs.classes, clips.scored() if clips else None),
    )


def _metrics(
    inputs: EvaluationInputs,
    soundscapes: Soundscapes | None,
    clips: OutOfFold | None,
    config: EvaluateConfig,
    seed: int,
) -> dict[str, object]:
    """Nested figures; `notes` says what is not among them and why."""
    metrics: dict[str, object] = {}
    notes: list[str] = []
    if soundscapes is None:
        notes.append("soundscape scores left out: the store holds no annotated soundscape")
    else:
        notes += soundscapes.notes
        for name, card in soundscapes.cards(config, seed).items():
            metrics[name] = card.figures
            notes += [f"{name}: {note}" for note in card.notes]
    if clips is None:
        notes.append(f"out-of-fold scores left out: {_why_no_clips(len(inputs.teacher_scores))}")
    else:
        metrics["oof"], reasons = clips.figures(config.n_replicates, seed)
        notes += reasons
    return {**metrics, "notes": notes}


def _why_no_clips(n_trained: int) -> str:
    """Why none of the `n_trained` folds scored a clip that its model had not trained on."""
    if not n_trained:
        return "no fold was trained"
    return (
        f"the {n_trained} fold models held no labelled clip out; with finetune.hold_out: false "
        "they train on all of them"
    )


def _per_class(
    index: pd.DataFrame,
    classes: ClassList,
    threshold: float,
    soundscapes: Soundscapes | None,
    clips: OutOfFold | None,
) -> pd.DataFrame:
    """Scores of each class, see `PER_CLASS`."""
    labels = list(classes.labels)
    counts = index.loc[index["role"] == "focal", "label"].value_counts()
    n_positive = np.zeros(len(labels), np.int64)
    scores: dict[str, Floats] = {}
    if soundscapes is not None:
        truth, student = soundscapes.truth, soundscapes.systems["soundscape"]
        n_positive = truth.sum(axis=0)
        scores["roc_auc"] = per_class_roc_auc(truth, student)
        scores["average_precision"] = per_class_average_precision(truth, student)
        scores["f1"] = per_class_f1(truth, student, threshold)
        if "teacher" in soundscapes.systems:
            scores["teacher_roc_auc"] = per_class_roc_auc(truth, soundscapes.systems["teacher"])
    if clips is not None:
        scores["oof_roc_auc"] = clips.per_class_roc_auc(clips.network)
        scores["baseline_roc_auc"] = clips.per_class_roc_auc(clips.baseline)
    table = pd.DataFrame({"label": pd.Series(labels, dtype="string")})
    table["n_train_recordings"] = counts.reindex(labels, fill_value=0).to_numpy(np.int64)
    table["n_positive_windows"] = n_positive
    missing = np.full(len(labels), np.nan)
    for name in list(PER_CLASS.columns)[len(table.columns) :]:
        table[name] = scores.get(name, missing)
    return table


def _windows(classes: ClassList, scored: tuple[pd.DataFrame, Truth, Floats] | None) -> pd.DataFrame:
    """Windows, truth and scores side by side, see `WINDOWS`; an empty table for None."""
    labels = list(classes.labels)
    if scored is None:
        return empty_table(WINDOWS.with_columns(dict.fromkeys(labels, "float32")))
    windows, truth, scores = scored[0].reset_index(drop=True), scored[1], scored[2]
    windows["truth"] = [[labels[c] for c in np.flatnonzero(row)] for row in truth]
    return pd.concat([windows, pd.DataFrame(scores.astype(np.float32), columns=labels)], axis=1)
