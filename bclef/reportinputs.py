"""What a run has left behind, read for its report: metrics, curves, tables, the exported model.

Everything but the recordings may be absent: a report of half a run says what is missing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bclef.frontend import FrontEndConfig
from bclef.rejections import read_rejections
from bclef.tables import TableError, read_json, read_table

RECORDINGS_NEEDS = {
    "recording_id": "string",
    "source": "string",
    "role": "string",
    "recordist": "string?",
    "licence": "string?",
    "annotated": "bool",
}
CLASSES_NEEDS = {
    "label": "string",
    "scientific_name": "string",
    "common_name": "string?",
    "target": "bool",
}
FEATURE_INDEX_NEEDS = {"recording_id": "string", "role": "string", "n_samples": "int64"}
PER_CLASS_NEEDS = {
    "label": "string",
    "n_train_recordings": "int64",
    "n_positive_windows": "int64",
    "roc_auc": "float64?",
    "teacher_roc_auc": "float64?",
    "oof_roc_auc": "float64?",
}
WINDOWS_NEEDS = {
    "recording_id": "string",
    "start_s": "float64",
    "end_s": "float64",
    "truth": "list[string]",
}

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportInputs:
    """What a report may show; None or an absent key is a thing that this run has not made."""

    recordings: pd.DataFrame
    """recording_id, source, role, recordist, licence, annotated."""
    classes: pd.DataFrame
    """label, scientific_name, common_name of the target classes."""
    rejections: pd.DataFrame
    """recording_id, stage, reason of all that was taken out so far."""
    index: pd.DataFrame | None
    """recording_id, role, n_samples of the feature store."""
    per_class: pd.DataFrame | None
    """Scores of each class."""
    windows: pd.DataFrame | None
    """Windows with truth and scores, whose spectrograms are shown."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Metrics file of each stage (`evaluate`, `pseudo_label/1`), as a JSON tree."""
    curves: Mapping[str, pd.DataFrame]
    """Learning curve of each training (`pretrain`, `finetune/0`): epoch and measures."""
    label_masses: Mapping[str, pd.DataFrame]
    """label and label_mass of each round of pseudo-labelling (`pseudo_label/1`)."""
    model: Mapping[str, Any] | None
    """model.json of the exported model."""
    features_dir: Path
    """The feature store."""
    front_end: FrontEndConfig
    """How spectrograms are drawn."""
    sample_rate_hz: int
    """Of the feature store."""


def read_report_inputs(root: Path, front_end: FrontEndConfig, sample_rate_hz: int) -> ReportInputs:
    """Returns what the pipeline in folder `root` has made so far.

    Raises:
        TableError: No recordings or classes, or a table that is not what it should be.
    """
    data = root / "data"
    windows = _scored(data / "evaluation/windows.parquet")
    if windows is None or windows.empty:
        windows = _scored(data / "evaluation/clips.parquet")
    classes = read_table(data / "classes.parquet", CLASSES_NEEDS)
    model = root / "models/export/model.json"
    plots = _plots(root / "plots")
    return ReportInputs(
        recordings=read_table(data / "recordings.parquet", RECORDINGS_NEEDS),
        classes=classes[classes["target"]].reset_index(drop=True),
        rejections=read_rejections(data).rows,
        index=_optional(data / "features/index.parquet", FEATURE_INDEX_NEEDS),
        per_class=_optional(data / "evaluation/per_class.parquet", PER_CLASS_NEEDS),
        windows=windows,
        metrics=read_metrics(root),
        curves={name: points for name, points in plots.items() if "epoch" in points},
        label_masses={name: points for name, points in plots.items() if "label_mass" in points},
        model=read_json(model) if model.exists() else None,
        features_dir=data / "features",
        front_end=front_end,
        sample_rate_hz=sample_rate_hz,
    )


def read_metrics(root: Path) -> dict[str, dict[str, Any]]:
    """Returns the metrics files in `root`/metrics by name without suffix, such as `finetune/0`.

    Raises:
        TableError: A file is not a JSON object.
    """
    folder = root / "metrics"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): read_json(path)
        for path in sorted(folder.rglob("*.json"))
    }


def _optional(path: Path, needed: Mapping[str, str]) -> pd.DataFrame | None:
    return read_table(path, needed) if path.exists() else None


def _scored(path: Path) -> pd.DataFrame | None:
    return read_table(path, WINDOWS_NEEDS, others="float32") if path.exists() else None


def _plots(folder: Path) -> dict[str, pd.DataFrame]:
    """Points to plot by name; a training or round that was passed over has none and is left out."""
    plots = {}
    for path in sorted(folder.rglob("*.csv")):
        try:
            points = pd.read_csv(path)
        except pd.errors.EmptyDataError:
            _LOG.info("%s is empty: that training was passed over", path)
            continue
        except pd.errors.ParserError as error:
            raise TableError(f"{path}: not a CSV table: {error}; rerun its stage") from error
        if len(points):
            plots[path.relative_to(folder).with_suffix("").as_posix()] = points
    return plots
