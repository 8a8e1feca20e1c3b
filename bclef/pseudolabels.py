"""Soft labels for unlabelled soundscapes, made of what models say about them.

The fold ensemble's mean, mixed with the previous student, is thinned (floor), sharpened (power) and
bounded (mass cap). Tables are joined by recording and time, never by position. Annotated
soundscapes are the held-out truth: only the recordings that the caller names as unlabelled enter.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from bclef.config import Section
from bclef.tables import Schema
from bclef.taxonomy import ClassList

PSEUDO = Schema(
    "PSEUDO",
    key=("recording_id", "start_s"),
    columns={"recording_id": "string", "start_s": "float64", "weight": "float32"},
)
"""Pseudo labels, less their class columns: `weight` is a window's relative chance to be drawn."""


class PseudoLabelError(Exception):
    """The score tables do not describe the same windows, or hold no probabilities."""


class PseudoLabelConfig(Section):
    """How scores become soft labels (section `pseudo_label`)."""

    rounds: int = Field(ge=0, le=3)
    """Rounds of pseudo-labelling and distillation that run; later ones are passed over. dvc.yaml
    has three."""
    power: float = Field(gt=0, le=10)
    """Exponent g of y = p^g; above 1 it pushes low scores towards 0."""
    floor: float = Field(ge=0, lt=1)
    """Scores below it become 0 before the power is taken."""
    mass_cap: float | None = Field(gt=0)
    """Largest sum of a window's soft labels, beyond which they are scaled down; null for none."""
    min_confidence: float = Field(ge=0, le=1)
    """A window is kept when its highest score reaches this."""
    previous_weight: float = Field(ge=0, le=1)
    """Share of the previous round's student in the score; the fold ensemble's mean has the rest."""


@dataclass(frozen=True)
class PseudoLabels:
    """Soft labels of one round and what was left out to make them."""

    windows: pd.DataFrame
    """recording_id, start_s, weight (mean 1) and one float32 per class; see `PSEUDO`."""
    n_windows_scored: int
    """Unlabelled windows that were offered."""

    def mass_per_class(self) -> pd.DataFrame:
        """Returns label and label_mass, the sum of its soft labels, of each class in order."""
        mass = self.windows.drop(columns=list(PSEUDO.columns)).astype(np.float64).sum()
        return pd.DataFrame({"label": mass.index, "label_mass": mass.to_numpy()})

    def summary(self) -> dict[str, float]:
        """Returns the figures of the round: windows kept and their label mass."""
        mass = float(self.mass_per_class()["label_mass"].sum())
        n_kept = len(self.windows)
        return {
            "n_windows_scored": self.n_windows_scored,
            "n_windows_kept": n_kept,
            "n_recordings": int(self.windows["recording_id"].nunique()),
            "share_kept": n_kept / self.n_windows_scored if self.n_windows_scored else 0.0,
            "label_mass": mass,
            "label_mass_per_window": mass / n_kept if n_kept else 0.0,
        }


def make_pseudo_labels(
    teacher_scores: Sequence[pd.DataFrame],
    previous: pd.DataFrame | None,
    unlabelled_ids: Collection[str],
    classes: ClassList,
    config: PseudoLabelConfig,
) -> PseudoLabels:
    """Returns the soft labels of the windows of `unlabelled_ids`.

    Args:
        teacher_scores: Window scores of each fold's model: recording_id, start_s, and one column
            per class; probabilities. Other recordings in them are ignored.
        previous: Window scores of the previous round's student; None in the first round.
        unlabelled_ids: Soundscapes that may be used; annotated ones must not be among them.
        classes: Which columns, in which order.
        config: The transform.

    Raises:
        PseudoLabelError: A table lacks windows of the first one or of `unlabelled_ids`, or holds a
            value outside [0, 1].

    Source: floor and selection as VSydorskyy's 2025 second place, power as the 2025 first place,
        cap as the 2026 first place (there on the mixed-in chunk, here when the label is made).
    """
    tables = [*teacher_scores, *([] if previous is None else [previous])]
    windows, scores = _aligned(tables, unlabelled_ids, classes.labels)
    mean = scores[: len(teacher_scores)].mean(axis=0)
    if previous is not None:
        mean = (1 - config.previous_weight) * mean + config.previous_weight * scores[-1]
    soft = np.where(mean >= config.floor, mean, 0.0) ** config.power
    mass = soft.sum(axis=1)
    # A window without any label left would only teach silence under a weight of 0.
    kept = (mean.max(axis=1, initial=0) >= config.min_confidence) & (mass > 0)
    soft, mass = soft[kept], mass[kept]
    labelled = windows[kept].reset_index(drop=True)
    labelled["weight"] = (mass / mass.mean() if len(mass) else mass).astype(np.float32)
    if config.mass_cap is not None:
        soft *= np.minimum(1.0, config.mass_cap / mass)[:, None]
    columns = pd.DataFrame(soft.astype(np.float32), columns=list(classes.labels))
    return PseudoLabels(pd.concat([labelled, columns], axis=1), n_windows_scored=len(windows))


def _aligned(
    tables: Sequence[pd.DataFrame], unlabelled_ids: Collection[str], labels: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Windows (recording_id, start_s) in key order, and the scores of each table [K, N, C]."""
    if not tables:
        raise PseudoLabelError("no score table: pseudo-labels need at least one teacher's scores")
    keyed = [_keyed(table, unlabelled_ids) for table in tables]
    for position, other in enumerate(keyed[1:], start=1):
        if not other.index.equals(keyed[0].index):
            raise PseudoLabelError(
                f"score table {position} has {len(other)} windows and table 0 {len(keyed[0])}, or "
                "they start at other times: score all models over the same soundscapes and step"
            )
    missing = set(unlabelled_ids) - set(keyed[0]["recording_id"])
    if missing:
        raise PseudoLabelError(
            f"{len(missing)} of {len(unlabelled_ids)} unlabelled soundscapes have no scores, "
            f"such as {min(missing)}: run score_teachers again"
        )
    scores = np.stack([table[list(labels)].to_numpy(dtype=np.float64) for table in keyed])
    if not ((scores >= 0) & (scores <= 1)).all():
        raise PseudoLabelError(
            "the score tables hold values outside [0, 1]: expected probabilities"
        )
    return keyed[0][["recording_id", "start_s"]].reset_index(drop=True), scores


def _keyed(table: pd.DataFrame, unlabelled_ids: Collection[str]) -> pd.DataFrame:
    """The rows of `unlabelled_ids`, indexed and sorted by recording and millisecond."""
    rows = table[table["recording_id"].isin(list(unlabelled_ids))]
    start_ms = (rows["start_s"] * 1000).round().astype("int64")
    keys = pd.MultiIndex.from_arrays([rows["recording_id"], start_ms], names=["id", "start_ms"])
    return rows.set_axis(keys).sort_index()
