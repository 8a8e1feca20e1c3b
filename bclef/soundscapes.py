"""Annotated soundscapes under the exported model and its teachers.

The exported model hears the very samples that `predict` would hear, through the same torch-free
runtime; the teachers' scores were made by torch and are joined by recording and time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator
from tqdm import tqdm

from bclef.config import Section
from bclef.metrics import Floats, Metric, Truth, f1_macro, f1_micro, macro_roc_auc, padded_cmap
from bclef.postprocess import check_kernel, smooth_windows
from bclef.runtime import Predictor
from bclef.scorecards import EvaluationError, Scorecard, TruthTable
from bclef.store import Store
from bclef.taxonomy import ClassList
from bclef.truth import truth_windows, window_grid


class EvaluateConfig(Section):
    """Grid, thresholds and intervals (section `evaluate`)."""

    step_s: float = Field(gt=0)
    """From one annotated window to the next, in seconds; a window is as long as the part of its
    input that the model's scores are about."""
    min_overlap_s: float = Field(gt=0)
    """Least overlap of a box and a window that makes the window positive, in seconds."""
    threshold: float = Field(gt=0, lt=1)
    """Probability from which a species is called, for F1."""
    n_replicates: int = Field(ge=100)
    """Bootstrap replicates behind each 95 % interval."""


class PostprocessConfig(Section):
    """How window scores are smoothed before they are judged (section `postprocess`)."""

    kernel: tuple[float, ...] | None
    """Weights of a window and its neighbours in time, such as [0.25, 0.5, 0.25]; null for none."""

    @field_validator("kernel")
    @classmethod
    def _centred(cls, kernel: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if kernel is not None:
            check_kernel(kernel)
        return kernel


@dataclass(frozen=True)
class Soundscapes:
    """Annotated windows with the scores of each system, all in the order of `windows`."""

    windows: pd.DataFrame
    """recording_id, start_s, end_s, [N]."""
    truth: Truth
    """[N, C]."""
    systems: Mapping[str, Floats]
    """Scores [N, C] of `soundscape` (the exported model) and, where there are teachers, of
    `teacher` (their mean) and `first_model` (the lowest fold's alone)."""
    notes: tuple[str, ...]
    """What is wrong with the annotations."""

    def scored(self) -> tuple[pd.DataFrame, Truth, Floats]:
        """Returns windows, truth and the exported model's scores."""
        return self.windows, self.truth, self.systems["soundscape"]

    def cards(self, config: EvaluateConfig, seed: int) -> dict[str, Scorecard]:
        """Returns the card of each system, and of the exported model less the teacher."""
        metrics: list[Metric] = [
            macro_roc_auc,
            padded_cmap,
            f1_micro(config.threshold),
            f1_macro(config.threshold),
        ]
        ids = self.windows["recording_id"].to_numpy(dtype=object)
        table = TruthTable(self.truth, ids, config.n_replicates, seed)
        cards = {name: table.card(scores, metrics) for name, scores in self.systems.items()}
        student = cards["soundscape"]
        cards["soundscape"] = Scorecard({**student.figures, **table.counts()}, student.notes)
        if "teacher" in self.systems:
            cards["student_minus_teacher"] = table.difference(
                self.systems["soundscape"], self.systems["teacher"], metrics
            )
        return cards


@dataclass(frozen=True)
class SoundscapeInputs:
    """What the scores of soundscapes are made of."""

    model_dir: Path
    """The exported model."""
    annotations: pd.DataFrame
    """recording_id, start_s, end_s, label of each box."""
    teacher_scores: Mapping[int, pd.DataFrame]
    """Window scores of the soundscapes by each fold's model."""
    classes: ClassList
    """Order of the class columns."""


def score_soundscapes(
    store: Store, inputs: SoundscapeInputs, config: EvaluateConfig, smoothing: PostprocessConfig
) -> Soundscapes | None:
    """Returns the annotated soundscapes of `store` under every system; None when it holds none.

    Args:
        store: The waveforms.
        inputs: Model and tables.
        config: The grid and what counts as positive.
        smoothing: Applied to the exported model and to the teachers alike.

    Raises:
        EvaluationError: Scores lack windows or classes, or the step exceeds the window.
    """
    annotated = store.index[(store.index["role"] == "soundscape") & store.index["annotated"]]
    if annotated.empty:
        return None
    predictor = Predictor(inputs.model_dir)
    if config.step_s > predictor.scored_s:
        raise EvaluationError(
            f"evaluate.step_s: found {config.step_s}, expected at most the model's scored part of "
            f"{predictor.scored_s} s: windows must cover the recording"
        )
    n_samples = annotated.set_index("recording_id")["n_samples"].sort_index()
    grid = window_grid(n_samples, predictor.sample_rate_hz, predictor.scored_s, config.step_s)
    folds = sorted(k for k, table in inputs.teacher_scores.items() if not table.empty)
    student = _predicted(predictor, store, n_samples.index, config.step_s)
    tables = [student, *(inputs.teacher_scores[k] for k in folds)]
    labels = inputs.classes.labels
    scores = [
        _on_grid(smooth_windows(table, labels, smoothing.kernel), grid, labels) for table in tables
    ]
    systems = {"soundscape": scores[0]}
    if folds:
        systems |= {"teacher": np.mean(scores[1:], axis=0), "first_model": scores[1]}
    truth = truth_windows(grid, inputs.annotations, inputs.classes, config.min_overlap_s)
    ends_s = n_samples / predictor.sample_rate_hz
    return Soundscapes(grid, truth, systems, _outside(inputs.annotations, ends_s))


def _outside(annotations: pd.DataFrame, ends_s: pd.Series) -> tuple[str, ...]:
    """What is to be said of boxes that begin after `ends_s`, the end of their recording."""
    lost = annotations[annotations["start_s"] >= annotations["recording_id"].map(ends_s)]
    if lost.empty:
        return ()
    recording_id, start_s = lost[["recording_id", "start_s"]].iloc[0]
    return (
        f"{len(lost)} annotations begin after the end of their recording, "
        f"such as that at {start_s} s of {recording_id}",
    )


def _predicted(
    predictor: Predictor, store: Store, recording_ids: Iterable[str], step_s: float
) -> pd.DataFrame:
    """The exported model's window scores, from the waveforms of the store."""
    parts = []
    for recording_id in tqdm(recording_ids, "evaluate", unit="file"):
        wave = store.read(recording_id).astype(np.float32) / np.float32(32768)
        scores = predictor.predict_samples(wave, step_s)
        scores.insert(0, "recording_id", recording_id)
        parts.append(scores)
    return pd.concat(parts, ignore_index=True)


def _on_grid(
    table: pd.DataFrame, grid: pd.DataFrame, labels: tuple[str, ...]
) -> NDArray[np.float64]:
    """The scores of `table` at the windows of `grid`, [N, C], joined by id and millisecond."""
    if missing := sorted(set(labels) - set(table.columns)):
        raise EvaluationError(
            f"scores lack {len(missing)} of {len(labels)} classes, such as {missing[0]}: score "
            "with models of the same class list"
        )
    keyed, wanted = (
        frame.assign(start_ms=(frame["start_s"] * 1000).round().astype("int64"))
        for frame in (table, grid)
    )
    keys = ["recording_id", "start_ms"]
    joined = wanted[keys].merge(
        keyed[[*keys, *labels]], on=keys, how="left", validate="one_to_one", indicator=True
    )
    if absent := int((joined["_merge"] != "both").sum()):
        raise EvaluationError(
            f"{absent} of {len(grid)} annotated windows have no score: score the soundscapes with "
            "a step that divides evaluate.step_s"
        )
    return joined[list(labels)].to_numpy(dtype=np.float64)
