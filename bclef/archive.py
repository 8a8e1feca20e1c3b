"""The fetch stage: every recording's bytes into the audio store, asked for once and no more.

Local sources fan out over processes; a remote one gets one request at a time, and its pauses are
its own business. A recording that cannot be had is a row with a reason; the stage writes the table
first and then asks `check_failures` whether there are too many of them.
"""

import errno
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from pydantic import Field
from tqdm import tqdm

from bclef.config import Section
from bclef.failures import excess_failures
from bclef.parallel import run_all
from bclef.rawfiles import RawFile, Stored, remove_left_behind, safe_name
from bclef.sources.protocol import FetchError, Source
from bclef.tables import Schema, atomic_path

FILES = Schema(
    name="files",
    key=("recording_id",),
    columns={
        "recording_id": "string",
        "path": "string?",
        "n_bytes": "int64?",
        "sha256": "string?",
        "error": "string?",
        "detail": "string?",
    },
)
"""`path` is relative to the store; a recording that could not be had has an `error` instead."""

_CREDITS = ["recording_id", "scientific_name", "recordist", "licence", "attribution", "url"]


class StoreFullError(Exception):
    """The disk of the audio store has no room left."""


class FetchFailedError(Exception):
    """More recordings could not be had than the run accepts."""


class FetchConfig(Section):
    """Section `fetch`: what the fetch stage accepts."""

    max_failed_share: float = Field(ge=0, le=1)
    """Largest share of recordings that may fail, 0 to 1, before the stage does."""
    max_bytes: int = Field(gt=0)
    """Largest file that is kept, in bytes."""


@dataclass(frozen=True)
class _Failure:
    """Why a recording has no file."""

    error: str
    detail: str


def fetch_recordings(
    recordings: pd.DataFrame,
    sources: Mapping[str, Source],
    store_root: Path,
    config: FetchConfig,
    pool: Executor,
) -> pd.DataFrame:
    """Returns the files table of `recordings`, after fetching what the store does not hold whole.

    Args:
        recordings: Columns recording_id, source, url and source_sha256.
        sources: The source of each name in column `source`.
        store_root: Folder of the audio store; files go to `raw/<source>/`.
        config: Limits of one file; the share of failures is for `check_failures`.
        pool: Runs the fetches of sources that are not remote.

    Raises:
        StoreFullError: The disk is full; what was fetched until then stays.
    """
    rows: list[dict[str, object]] = []
    for name, listed in recordings.groupby("source"):
        folder = store_root / "raw" / safe_name(str(name))
        remove_left_behind(folder)
        raw_files = [
            RawFile(recording_id, url, None if pd.isna(sha256) else sha256, folder)
            for recording_id, url, sha256 in zip(
                listed["recording_id"], listed["url"], listed["source_sha256"], strict=True
            )
        ]
        results = {raw: raw.stored() for raw in raw_files}
        missing = [raw for raw, stored in results.items() if stored is None]
        found = _fetch_all(missing, sources[str(name)], config.max_bytes, pool)
        rows += [
            {"recording_id": raw.recording_id, **_facts(result or found[raw], store_root)}
            for raw, result in results.items()
        ]
    files = pd.DataFrame(rows, columns=list(FILES.columns)).sort_values("recording_id")
    dtypes = {column: "Int64" if column == "n_bytes" else "string" for column in FILES.columns}
    return files.astype(dtypes).reset_index(drop=True)


def fetch_counts(files: pd.DataFrame) -> dict[str, object]:
    """Returns how many files there are, their bytes, and the failures per reason."""
    failures = files["error"].value_counts()
    return {
        "n_files": int(files["path"].notna().sum()),
        "n_bytes": int(files["n_bytes"].sum()),
        "failed": {str(reason): int(n) for reason, n in failures.items()},
    }


def check_failures(files: pd.DataFrame, config: FetchConfig) -> None:
    """Refuses a files table with too many failures; to be asked after the table is written.

    Raises:
        FetchFailedError: With the number and an example of each reason.
    """
    failed = files[files["error"].notna()]
    if reasons := excess_failures(failed, len(files), config.max_failed_share):
        raise FetchFailedError(
            f"{len(failed)} of {len(files)} recordings could not be fetched, more than "
            f"fetch.max_failed_share = {config.max_failed_share:g} allows; run again to ask "
            f"again:\n{reasons}"
        )


def write_attribution(recordings: pd.DataFrame, files: pd.DataFrame, path: Path) -> None:
    """Writes the credits of all fetched recordings to the CSV file at `path`, sorted by id.

    Args:
        recordings: Columns recording_id, scientific_name, recordist, licence, attribution, url.
        files: Columns recording_id and path.
        path: The CSV file, UTF-8.
    """
    fetched = files.loc[files["path"].notna(), "recording_id"]
    credits_ = recordings.loc[recordings["recording_id"].isin(fetched), _CREDITS]
    with atomic_path(path) as temporary:
        credits_.sort_values("recording_id").to_csv(temporary, index=False, lineterminator="\n")


def _fetch_all(
    missing: list[RawFile], source: Source, max_bytes: int, pool: Executor
) -> dict[RawFile, Stored | _Failure]:
    """Returns what became of each file that has to be asked for."""
    fetch = partial(_fetch, source=source, max_bytes=max_bytes)
    describe = f"fetch {source.name}"
    if source.is_remote:
        return {raw: fetch(raw) for raw in tqdm(missing, desc=describe, unit="file")}
    killed = _Failure("worker_died", "the process that fetched it was killed")
    return {
        outcome.item: outcome.value or killed
        for outcome in run_all(fetch, missing, pool, describe=describe)
    }


def _fetch(raw: RawFile, source: Source, max_bytes: int) -> Stored | _Failure:
    try:
        return raw.fetch(source, max_bytes)
    except (FetchError, OSError) as error:
        if any(_is_full(cause) for cause in (error, error.__cause__)):
            raise StoreFullError(
                f"{raw.folder}: no room left on its disk, found out at {raw.recording_id}; make "
                "room and run again, what is fetched stays"
            ) from error
        if isinstance(error, OSError):
            raise
        return _Failure(error.reason, error.detail)


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _facts(result: Stored | _Failure, store_root: Path) -> dict[str, object]:
    """Returns the columns of a row of the files table but its id."""
    if isinstance(result, _Failure):
        return {"error": result.error, "detail": result.detail}
    path = result.path.relative_to(store_root).as_posix()
    return {"path": path, "n_bytes": result.n_bytes, "sha256": result.sha256}
