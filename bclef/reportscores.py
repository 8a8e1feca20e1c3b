"""What the report says about scores: systems, comparisons, classes and learning curves.

Plain values that the template lays out; what this run cannot tell is absent, and the template says
why.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bclef.figures import Axis, Chart, Line, axis, chart

Tree = Mapping[str, Any]

SYSTEMS = (
    ("first_model", "First model", "one fold, labelled clips only", ("first_model",)),
    ("teacher", "Fold ensemble", "mean of the folds' models", ("teacher",)),
    ("student", "Exported model", "what ships, in its own runtime", ("soundscape",)),
    ("baseline", "Regression", "means and deviations of mel bands", ("oof", "baseline")),
    ("network", "Networks", "each clip by the fold that has not seen it", ("oof", "network")),
)
"""Key, name, explanation and place in the metrics of all that is scored, in order of display."""

MEASURES = {
    "macro_roc_auc": "macro ROC-AUC",
    "padded_cmap": "padded cmAP",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "top1": "top-1",
}
"""Names of the metrics that are shown."""

_MEMBERS = {"finetune": "fold ", "distill": "round "}
"""What the models of a training are, before their number."""


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval, as far as known."""

    value: float
    """The figure."""
    low: float | None
    """Lower end."""
    high: float | None
    """Upper end."""

    @staticmethod
    def read(tree: Tree) -> "Estimate | None":
        """Returns the estimate in {value, low, high}, None without a value."""
        if "value" not in tree:
            return None
        return Estimate(tree["value"], tree.get("low"), tree.get("high"))

    def text(self) -> str:
        """Returns `0.873 [0.841, 0.902]`, without brackets where the interval is unknown."""
        value = f"{self.value:.3f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:.3f}, {self.high:.3f}]"

    def verdict(self, first: str, second: str) -> str:
        """Returns what a difference says: `first` better, worse, or not told apart."""
        if self.low is None or self.high is None:
            return f"no interval, so nothing is said about {first} against {second}"
        if self.low > 0:
            return f"{first} beat {second}"
        if self.high < 0:
            return f"{first} fell behind {second}"
        return f"{first} and {second} cannot be told apart on these recordings"


@dataclass(frozen=True)
class SystemScores:
    """One system and its figures."""

    key: str
    """Name for its colour."""
    name: str
    """What it is called."""
    says: str
    """What it is."""
    is_soundscape: bool
    """Scored on annotated soundscapes, not on held-out clips."""
    estimates: Mapping[str, Estimate]
    """By metric."""


def system_scores(evaluation: Tree) -> list[SystemScores]:
    """Returns the systems that `evaluation` (metrics/evaluate.json) scores."""
    found = []
    for key, name, says, place in SYSTEMS:
        tree: Tree = evaluation
        for step in place:
            tree = tree.get(step, {})
        estimates = {measure: Estimate.read(tree.get(measure, {})) for measure in MEASURES}
        known = {measure: estimate for measure, estimate in estimates.items() if estimate}
        if known:
            found.append(SystemScores(key, name, says, place[0] != "oof", known))
    return found


def score_axis(systems: Sequence[SystemScores]) -> Axis:
    """Returns the axis of macro ROC-AUC that holds every interval of `systems`."""
    shown = [s.estimates["macro_roc_auc"] for s in systems if "macro_roc_auc" in s.estimates]
    ends = [end for e in shown for end in (e.value, e.low, e.high) if end is not None]
    return axis([*ends, 1.0])


def comparisons(evaluation: Tree) -> list[tuple[str, Estimate, str]]:
    """Returns (title, difference, verdict) of each paired comparison of macro ROC-AUC."""
    oof = evaluation.get("oof", {})
    pairs = (
        (evaluation.get("student_minus_teacher", {}), "the exported model", "the fold ensemble"),
        (oof.get("network_minus_baseline", {}), "the networks", "the regression"),
    )
    found = []
    for tree, first, second in pairs:
        difference = Estimate.read(tree.get("macro_roc_auc", {}))
        if difference:
            title = f"{first} less {second}"
            found.append((title, difference, difference.verdict(first, second)))
    return found


@dataclass(frozen=True)
class ClassRow:
    """One class in the chart of classes."""

    name: str
    """Scientific name, with the common one in brackets."""
    label: str
    """Label."""
    n_train_recordings: int
    """Focal recordings."""
    n_positive_windows: int
    """Annotated windows with it."""
    value: float | None
    """ROC-AUC."""
    other: float | None
    """ROC-AUC of the fold ensemble."""


def class_rows(per_class: pd.DataFrame, classes: pd.DataFrame) -> tuple[str, list[ClassRow]] | None:
    """Returns which column is shown and a row per class, best first, unscored last.

    The exported model on soundscapes is shown, else the out-of-fold scores, else nothing (None).
    """
    shown = [name for name in ("roc_auc", "oof_roc_auc") if per_class[name].notna().any()]
    if not shown:
        return None
    rows = per_class.merge(classes, on="label", how="left", validate="one_to_one")
    rows = rows.sort_values([shown[0], "label"], ascending=[False, True], na_position="last")
    told = [
        ClassRow(
            name=_class_name(row),
            label=row["label"],
            n_train_recordings=row["n_train_recordings"],
            n_positive_windows=row["n_positive_windows"],
            value=_known(row[shown[0]]),
            other=_known(row["teacher_roc_auc"]) if shown[0] == "roc_auc" else None,
        )
        for row in rows.to_dict("records")
    ]
    return shown[0], told


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _class_name(row: Mapping[Hashable, Any]) -> str:
    """Scientific name with the common one in brackets, as far as known, else the label."""
    if pd.isna(row["scientific_name"]):
        return str(row["label"])
    common = "" if pd.isna(row["common_name"]) else f" ({row['common_name']})"
    return f"{row['scientific_name']}{common}"


def curve_charts(curves: Mapping[str, pd.DataFrame]) -> list[tuple[str, list[Chart]]]:
    """Returns for each phase of training its charts: losses, then scores, a colour per model."""
    phases: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    for name, curve in curves.items():
        phase, _, item = name.partition("/")
        phases.setdefault(phase, []).append((_MEMBERS.get(phase, "") + item, curve))
    told = []
    for phase in ("pretrain", "finetune", "distill"):
        members = phases.get(phase, [])
        drawn = [
            chart("loss", [*_lines(members, "train_loss"), *_lines(members, "val_loss")]),
            chart(MEASURES["macro_roc_auc"], list(_lines(members, "val_macro_roc_auc"))),
        ]
        if any(drawn):
            told.append((phase, [each for each in drawn if each]))
    return told


def _lines(members: Sequence[tuple[str, pd.DataFrame]], column: str) -> Iterator[Line]:
    """The curve of `column` of each member that has it; training is dashed, validation is not."""
    for number, (item, curve) in enumerate(members):
        if column not in curve:
            continue
        points = curve[["epoch", column]].dropna()
        kind = "training" if column.startswith("train") else "validation"
        name = f"{item} {kind}".strip()
        yield Line(name, [*points["epoch"]], [*points[column]], number % 5, kind == "training")
