"""Every recording that a run took out: at which stage, by which rule, and what was found.

Three tables hold the parts: `rejected` those of the metadata stage, `files` those that could not be
fetched, `clips` those that could not be used and the copies of others. Here they are one. A table
may be older than that of the recordings: of its rows only those of present recordings count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bclef.tables import read_table

RECORDINGS_NEEDS = {"recording_id": "string", "source": "string"}
REJECTED_NEEDS = {
    "recording_id": "string",
    "source": "string",
    "stage": "string",
    "reason": "string",
    "detail": "string",
}
FILES_NEEDS = {"recording_id": "string", "error": "string?", "detail": "string?"}
CLIPS_NEEDS = {
    "recording_id": "string",
    "duplicate_of": "string?",
    "duplicate_kind": "string?",
    "error": "string?",
    "detail": "string?",
}

STAGES = ("metadata", "fetch", "resample", "features")
"""Where recordings are taken out, in order; copies are found by resample, left out by features."""
_TABLES = {"metadata": "rejected", "fetch": "files", "resample": "clips"}
_COLUMNS = list(REJECTED_NEEDS)
_SAID = [name for name in _COLUMNS if name != "source"]
_OF_FETCH = (
    r"http_\d+|gone|short_body|too_large|bad_url|bad_redirect|unreadable|changed|other_bytes|"
    "unknown"
)
"""Reasons that resample itself does not give: a table of clips repeats those of its files."""


@dataclass(frozen=True)
class Rejections:
    """What was taken out so far."""

    rows: pd.DataFrame
    """Columns of REJECTED, all strings, in the order of `STAGES`, then of ids."""
    not_run: tuple[str, ...]
    """Stages whose tables are not there yet."""
    outdated: tuple[str, ...]
    """Stages whose tables lack recordings, since the metadata stage has run again."""


def read_rejections(data: Path) -> Rejections:
    """Returns what the tables in the folder `data` say of recordings that were taken out.

    Raises:
        TableError: No table of recordings, or a table that is not what it should be.
    """
    recordings = read_table(data / "recordings.parquet", RECORDINGS_NEEDS)
    needs = {"rejected": REJECTED_NEEDS, "files": FILES_NEEDS, "clips": CLIPS_NEEDS}
    paths = {name: data / f"{name}.parquet" for name in needs}
    tables = {name: read_table(path, needs[name]) for name, path in paths.items() if path.exists()}
    not_run = tuple(stage for stage, name in _TABLES.items() if name not in tables)
    outdated = tuple(
        stage
        for stage, name in _TABLES.items()
        if name != "rejected"
        and name in tables
        and not recordings["recording_id"].isin(tables[name]["recording_id"]).all()
    )
    return Rejections(all_rejections(recordings, tables), not_run, outdated)


def all_rejections(recordings: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns all that was taken out, in the columns of REJECTED.

    Args:
        recordings: recording_id and source.
        tables: `rejected`, `files` and `clips` with the columns needed of them, as far as there.
    """
    parts = [pd.DataFrame(columns=_COLUMNS, dtype="string")]
    if (rejected := tables.get("rejected")) is not None:
        parts.append(rejected[_COLUMNS])
    unfetched = pd.Series(dtype="string")
    if (files := tables.get("files")) is not None:
        failures = _failures(_present(files, recordings), "fetch")
        parts.append(failures)
        unfetched = failures["recording_id"]
    if (clips := tables.get("clips")) is not None:
        # Clips repeats what was never fetched, which stands under fetch already.
        clips = _present(clips, recordings)
        failures = _failures(clips[~clips["recording_id"].isin(unfetched)], "resample")
        is_of_fetch = failures["reason"].str.fullmatch(_OF_FETCH)
        parts.append(failures.assign(stage=failures["stage"].mask(is_of_fetch, "fetch")))
        parts.append(_copies(clips))
    rows = pd.concat(parts, ignore_index=True)
    source = rows["recording_id"].map(recordings.set_index("recording_id")["source"])
    rows["source"] = rows["source"].fillna(source)
    order = rows["stage"].map({stage: place for place, stage in enumerate(STAGES)})
    rows = rows.assign(order=order).sort_values(["order", "recording_id", "reason", "detail"])
    return rows[_COLUMNS].reset_index(drop=True)


def _present(table: pd.DataFrame, recordings: pd.DataFrame) -> pd.DataFrame:
    return table[table["recording_id"].isin(recordings["recording_id"])]


def _failures(table: pd.DataFrame, stage: str) -> pd.DataFrame:
    failed = table[table["error"].notna()].rename(columns={"error": "reason"})
    return failed.assign(stage=stage, detail=failed["detail"].fillna(""))[_SAID]


def _copies(clips: pd.DataFrame) -> pd.DataFrame:
    copies = clips[clips["duplicate_of"].notna()]
    reason = "duplicate_" + copies["duplicate_kind"]
    detail = "the same sound as " + copies["duplicate_of"] + ", which is kept"
    return copies.assign(stage="features", reason=reason, detail=detail)[_SAID]
