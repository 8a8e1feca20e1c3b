"""What the report says about data: what was lost and held, pseudo-labels, windows to look at.

Plain values that the template lays out; what this run cannot tell is absent, and the template says
why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bclef.rejections import STAGES

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Loss:
    """Recordings that a stage lost for one reason."""

    stage: str
    """Where."""
    reason: str
    """Why."""
    n_recordings: int
    """How many."""


def losses(rejections: pd.DataFrame) -> list[Loss]:
    """Returns how many recordings were lost at each stage for each reason, most first.

    Args:
        rejections: Columns stage and reason, a row for each that was taken out.
    """
    counted = rejections.groupby(["stage", "reason"]).size().reset_index(name="n")
    told = [Loss(*row) for row in counted.itertuples(index=False)]
    order = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(
        told,
        key=lambda loss: (order.get(loss.stage, len(order)), -loss.n_recordings, loss.reason),
    )


def holdings(index: pd.DataFrame | None, sample_rate_hz: int) -> list[tuple[str, int, float]]:
    """Returns (role, recordings, hours) of what the feature store holds."""
    if index is None:
        return []
    return [
        (str(role), len(n_samples), float(n_samples.sum() / sample_rate_hz / 3600))
        for role, n_samples in index.groupby("role")["n_samples"]
    ]


@dataclass(frozen=True)
class Round:
    """One round of pseudo-labelling."""

    name: str
    """Its number."""
    n_kept: int
    """Windows kept."""
    share_kept: float
    """Of the windows offered."""
    mass: float
    """Sum of all soft labels."""
    mass_per_window: float
    """Mean sum of a window's soft labels."""
    top: tuple[tuple[str, float], ...]
    """The classes with the most mass, and their share of it."""


def rounds(metrics: Mapping[str, Tree], label_masses: Mapping[str, pd.DataFrame]) -> list[Round]:
    """Returns the rounds of pseudo-labelling that ran.

    Args:
        metrics: Metrics by stage, such as `pseudo_label/1`.
        label_masses: label and label_mass of each class, by the same names.
    """
    told = []
    for key, tree in metrics.items():
        stage, _, item = key.partition("/")
        if stage != "pseudo_label" or "n_windows_kept" not in tree:
            continue
        mass = float(tree["label_mass"])
        masses = label_masses.get(key, pd.DataFrame(columns=["label", "label_mass"]))
        by_class = masses.sort_values(["label_mass", "label"], ascending=[False, True])
        top = tuple(
            (label, part / mass) for label, part in by_class[:5].itertuples(index=False) if part > 0
        )
        told.append(
            Round(
                item, int(tree["n_windows_kept"]), tree["share_kept"], mass,
                tree["label_mass_per_window"], top,
            )
        )  # fmt: skip
    return told


def chosen_windows(
    windows: pd.DataFrame, n_each: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the best and the worst recognised windows, one of a recording at most.

    A window is the better, the further its lowest true class lies above its highest false one.

    Args:
        windows: recording_id, start_s, end_s, truth, then one column per class.
        n_each: How many of each kind at most; windows without a bird are passed over.

    Returns:
        For each window recording_id, start_s, end_s, truth, top: [(label, probability)], margin.
    """
    labels = np.array(windows.columns[4:])
    scores = windows[list(labels)].to_numpy(dtype=float)
    truth = np.array([np.isin(labels, true) for true in windows["truth"]]).reshape(scores.shape)
    lowest_true = np.where(truth, scores, np.inf).min(axis=1, initial=np.inf)
    highest_false = np.where(truth, -np.inf, scores).max(axis=1, initial=-np.inf)
    margin = lowest_true - highest_false
    ranked = [row for row in np.argsort(-margin, kind="stable") if np.isfinite(margin[row])]
    best = _first_of_each(windows, ranked, set(), n_each)
    worst = _first_of_each(
        windows, ranked[::-1], {windows["recording_id"][r] for r in best}, n_each
    )

    def told(row: int) -> dict[str, Any]:
        top = np.argsort(-scores[row], kind="stable")[:3]
        return {
            **{name: windows[name].iloc[row] for name in windows.columns[:4]},
            "top": [(str(labels[c]), float(scores[row, c]), bool(truth[row, c])) for c in top],
            "margin": float(margin[row]),
        }

    return [told(row) for row in best], [told(row) for row in worst]


def _first_of_each(
    windows: pd.DataFrame, ranked: Sequence[int], taken: set[str], n_most: int
) -> list[int]:
    """The first `n_most` of `ranked` rows whose recordings are not taken, one of each."""
    rows: list[int] = []
    seen = set(taken)
    for row in ranked:
        recording_id = windows["recording_id"].iloc[row]
        if recording_id not in seen and len(rows) < n_most:
            seen.add(recording_id)
            rows.append(int(row))
    return rows


def leaves(tree: Tree, prefix: str = "") -> list[tuple[str, str]]:
    """Returns (dotted name, text) of each value in a JSON `tree`, in order of names."""
    told: list[tuple[str, str]] = []
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            told += leaves(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            told.append((prefix + key, f"{value:.4g}"))
        else:
            told.append((prefix + key, f"{value:,}" if type(value) is int else str(value)))
    return told
