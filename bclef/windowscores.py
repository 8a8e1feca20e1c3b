"""Tables of window scores: what a model says about every few seconds of recordings.

Apart from `inference`, which makes them, because that needs torch and most readers do not.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bclef.tables import Schema, read_table
from bclef.taxonomy import ClassList

WINDOW_SCORES = Schema(
    "WINDOW_SCORES",
    key=("recording_id", "start_s"),
    columns={"recording_id": "string", "start_s": "float64", "end_s": "float64"},
)
"""Window scores, less their class columns: probabilities, float32, in class order."""


def window_scores_schema(labels: Iterable[str]) -> Schema:
    """Returns the schema of window scores with a column for each of `labels`."""
    return WINDOW_SCORES.with_columns(dict.fromkeys(labels, "float32"))


def read_fold_scores(folder: Path, classes: ClassList) -> dict[int, pd.DataFrame]:
    """Returns the window scores in `folder`/<fold>.parquet by fold.

    Raises:
        TableError: A table lacks a class.
    """
    schema = window_scores_schema(classes.labels)
    return {int(path.stem): read_table(path, schema) for path in sorted(folder.glob("*.parquet"))}
