"""What became of everything that was listed, and what is worth a look, as plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bclef.rejections import STAGES, Rejections, read_rejections
from bclef.suspicion import read_suspects
from bclef.tables import read_table

RECORDINGS_NEEDS = {"recording_id": "string", "source": "string"}
WINDOW_SCORES_NEEDS = {"recording_id": "string"}

N_SUSPECTS = 20


@dataclass(frozen=True)
class DataView:
    """Tables to show of a workspace."""

    text: str
    """Counts and suspects, ASCII tables with a final newline."""
    rejected: pd.DataFrame
    """recording_id, source, stage, reason, detail of all that was taken out."""


def view_data(workspace: Path) -> DataView:
    """Returns what the stages that have run in `workspace` say of its recordings.

    Raises:
        TableError: The metadata stage has not run, or a table is not what it should be.
    """
    data = workspace / "data"
    recordings = read_table(data / "recordings.parquet", RECORDINGS_NEEDS)
    rejections = read_rejections(data)
    rows = rejections.rows
    # An id in the metadata stage's part may be kept all the same: it was listed twice.
    gone = set(rows.loc[rows["stage"] != STAGES[0], "recording_id"])
    suspects = read_suspects(data, gone, N_SUSPECTS)
    missing = [*_missing(data, recordings, rejections), *suspects.common]
    parts = [_counts(recordings, rejections, gone), *(["\n".join(missing)] if missing else [])]
    if suspects.rows.empty:
        parts.append("No recording that is kept looks suspicious.")
    else:
        heads = ("score", "recording", "source", "label", "why")
        columns = suspects.rows[["score", "recording_id", "source", "label", "reasons"]]
        lines = [
            (f"{score:.2f}", *("-" if pd.isna(text) else str(text) for text in texts))
            for score, *texts in columns.itertuples(index=False)
        ]
        parts.append("Most suspicious of those kept:\n" + aligned([heads, *lines], n_right=1))
    return DataView("\n\n".join(parts) + "\n", rows)


def aligned(rows: Sequence[Sequence[str]], n_right: int = 0) -> str:
    r"""Returns rows of text as columns, the first `n_right` of them flush right.

    Whatever cannot be printed is written as an escape, so a name from outside moves no cursor.

    >>> print(aligned([("n", "name"), ("10", "a\\x1b")], n_right=1))
     n  name
    10  a\x1b
    """
    plain = [[_printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    lines = []
    for row in plain:
        cells = [
            text.rjust(width) if place < n_right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _counts(recordings: pd.DataFrame, rejections: Rejections, gone: set[str]) -> str:
    """Returns the table of what was listed, taken out and kept, a column for each source."""
    out = rejections.rows
    kept = recordings.loc[~recordings["recording_id"].isin(list(gone)), "source"].value_counts()
    at_metadata = out.loc[out["stage"] == STAGES[0], "source"].value_counts()
    listed = recordings["source"].value_counts().add(at_metadata, fill_value=0)
    sources = sorted({*listed.index, *out["source"]})
    numbered = [("listed", "", listed)]
    for stage in [*STAGES, *sorted(set(out["stage"]) - set(STAGES))]:
        of_stage = out[out["stage"] == stage]
        for reason, of_reason in of_stage.groupby("reason"):
            numbered.append((stage, str(reason), of_reason["source"].value_counts()))
    numbered.append(("kept", "", kept))
    lines = [("all", *sources, "stage", "reason")]
    for stage, reason, per_source in numbered:
        numbers = [int(per_source.get(source, 0)) for source in sources]
        cells = [f"{number:,}" if number else "-" for number in (sum(numbers), *numbers)]
        lines.append((*cells, stage, reason))
    return aligned(lines, n_right=1 + len(sources))


def _missing(data: Path, recordings: pd.DataFrame, rejections: Rejections) -> list[str]:
    told = [f"Stage {stage} has not run here yet." for stage in rejections.not_run]
    told += [
        f"Stage {stage} has not run since stage metadata did." for stage in rejections.outdated
    ]
    folds = [read_table(path, WINDOW_SCORES_NEEDS) for path in (data / "oof").glob("*.parquet")]
    if not any(recordings["recording_id"].isin(fold["recording_id"]).any() for fold in folds):
        told.append(f"{_no_scores(folds)}: wrong labels are not looked for.")
    return told


def _no_scores(folds: Sequence[pd.DataFrame]) -> str:
    """Why no recording has a score by a model that has not heard it."""
    if not folds:
        return "No fold is trained yet"
    if all(fold.empty for fold in folds):
        return "No model has held a recording out (finetune.hold_out, folds)"
    return "No fold is trained on these recordings"
