"""Clips scored by the model that has not seen their fold, networks beside the regression.

A clip's score is the maximum over its windows. Figures are means over folds, because models of
different folds need not share a scale; pooled figures stand beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bclef.metrics import (
    Floats,
    Truth,
    UndefinedScoreError,
    clip_maxima,
    defined_mean,
    fold_mean,
    macro_roc_auc,
    padded_cmap,
    per_class_roc_auc,
    top1,
)
from bclef.scorecards import EvaluationError, Tree, TruthTable
from bclef.taxonomy import ClassList
from bclef.truth import clip_truth

METRICS = (macro_roc_auc, padded_cmap, top1)
"""What is measured out of fold."""


@dataclass(frozen=True)
class OutOfFold:
    """Held-out clips with their truth and the scores of network and regression, in one order."""

    windows: pd.DataFrame
    """recording_id of each clip, start_s and end_s of its window with the highest score, [N]."""
    folds: NDArray[np.int64]
    """Fold that held each clip out, [N]."""
    truth: Truth
    """[N, C]."""
    network: Floats
    """[N, C]."""
    baseline: Floats
    """[N, C]."""

    def figures(self, n_replicates: int, seed: int) -> tuple[Tree, tuple[str, ...]]:
        """Returns the figures of network, regression and their difference, and what is missing."""
        ids = self.windows["recording_id"].to_numpy(dtype=object)
        table = TruthTable(self.truth, ids, n_replicates, seed)
        means = [fold_mean(metric, self.folds) for metric in METRICS]
        counts = table.counts()
        tree: dict[str, float | Tree] = {
            "n_clips": counts["n_recordings"],
            "n_classes_scored": counts["n_classes_scored"],
            "n_folds": len(np.unique(self.folds)),
        }
        notes: set[str] = set()
        for name, scores in (("network", self.network), ("baseline", self.baseline)):
            mean, pooled = table.card(scores, means), table.card(scores, METRICS)
            by_fold = self._by_fold(scores)
            tree[name] = {**mean.figures, "pooled": pooled.figures, "fold": by_fold}
            notes |= {f"oof.{name}: {note}" for note in (*mean.notes, *pooled.notes)}
        tree["network_minus_baseline"] = table.difference(
            self.network, self.baseline, means
        ).figures
        return tree, tuple(sorted(notes))

    def scored(self) -> tuple[pd.DataFrame, Truth, Floats]:
        """Returns windows, truth and the network's scores."""
        return self.windows, self.truth, self.network

    def per_class_roc_auc(self, scores: Floats) -> Floats:
        """Returns the mean over folds of each class's ROC-AUC, [C]; NaN where none defines it."""
        members = [self.folds == fold for fold in np.unique(self.folds)]
        values = [per_class_roc_auc(self.truth[m], scores[m]) for m in members]
        return defined_mean(np.stack(values, axis=1))

    def _by_fold(self, scores: Floats) -> dict[str, Tree]:
        """{fold: {metric: score}}, as far as defined."""
        figures: dict[str, Tree] = {}
        for fold in np.unique(self.folds):
            rows, values = self.folds == fold, dict[str, float]()
            for metric in METRICS:
                try:
                    values[metric.name] = metric(self.truth[rows], scores[rows])
                except UndefinedScoreError:
                    continue
            figures[str(fold)] = values
        return figures


def out_of_fold(
    index: pd.DataFrame,
    splits: pd.DataFrame,
    oof_scores: Mapping[int, pd.DataFrame],
    baseline_scores: pd.DataFrame,
    classes: ClassList,
) -> OutOfFold | None:
    """Returns the held-out clips with their scores; None when no fold scored any.

    None did where models train on all recordings (finetune.hold_out: false).

    Args:
        index: recording_id, label, secondary_labels of the feature store.
        splits: recording_id, fold.
        oof_scores: Window scores of each fold's held-out clips, as far as folds were trained.
        baseline_scores: recording_id and one column per class.
        classes: Order of the class columns.

    Raises:
        EvaluationError: A fold's model scored a clip of another fold, or a clip has no row in
            `index` or `baseline_scores`.
    """
    fold_of = splits.set_index("recording_id")["fold"]
    parts = []
    for fold, window_scores in sorted(oof_scores.items()):
        if window_scores.empty:  # that fold was passed over, or its model held nothing out
            continue
        clips = _clips(window_scores, list(classes.labels))
        elsewhere = fold_of.reindex(clips["recording_id"]).ne(fold).fillna(True)
        strangers = clips["recording_id"][elsewhere.to_numpy(dtype=bool)]
        if len(strangers):
            raise EvaluationError(
                f"the model of fold {fold} scored {len(strangers)} clips that it did not hold out, "
                f"such as {strangers.iloc[0]}: such scores would be flattered"
            )
        parts.append(clips.assign(held_out_fold=fold))
    if not parts:
        return None
    network = pd.concat(parts, ignore_index=True)
    ids = network["recording_id"]
    labels = list(classes.labels)
    return OutOfFold(
        windows=network[["recording_id", "start_s", "end_s"]],
        folds=network["held_out_fold"].to_numpy(dtype=np.int64),
        truth=clip_truth(_rows(index, ids, "the feature index"), classes),
        network=network[labels].to_numpy(dtype=np.float64),
        baseline=_rows(baseline_scores, ids, "the baseline")[labels].to_numpy(dtype=np.float64),
    )


def _clips(window_scores: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """A row per clip: the maxima of its windows, and which window held the highest of them."""
    ordered = window_scores.sort_values(["recording_id", "start_s"], ignore_index=True)
    loudest = ordered[labels].max(axis=1).groupby(ordered["recording_id"]).idxmax()
    windows = ordered.loc[loudest, ["recording_id", "start_s", "end_s"]]
    return windows.merge(clip_maxima(ordered, labels), on="recording_id", validate="one_to_one")


def _rows(table: pd.DataFrame, ids: pd.Series, where: str) -> pd.DataFrame:
    """The row of `table` of each of `ids`, in their order."""
    found = table.set_index("recording_id")
    if missing := sorted(set(ids) - set(found.index)):
        raise EvaluationError(
            f"{len(missing)} out-of-fold clips are not in {where}, such as {missing[0]}: both must "
            "come from the same splits"
        )
    return found.loc[ids]
