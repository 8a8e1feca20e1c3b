"""The fetch stage: every recording's bytes into the audio store, asked for once and no more.

Local sources fan out over processes; a remote one gets one request at a time, and its pauses are
its own business. When it must not be asked any further the stage ends, and a later run goes on
from there. A recording that cannot be had is a row with a reason; the stage writes the table first
and then asks `check_failures` whether there are too many of them.
"""

import csv
import errno
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import pandas as pd
from filelock import FileLock
from pydantic import Field
from tqdm import tqdm

from bclef.config import Section
from bclef.failures import excess_failures
from bclef.parallel import progress_bar, run_all
from bclef.rawfiles import RawFile, Stored, remove_left_behind, safe_name
from bclef.sources.protocol import UNAVAILABLE, FetchError, Source, SourceStoppedError
from bclef.sources.storefolders import StoreError, faults_told, hold
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

_MOST_IN_ROW = 3
"""So many files in a row that are unavailable mean that the source is."""
_CREDITS = ["recording_id", "scientific_name", "recordist", "licence", "attribution", "url"]


class StoreFullError(StoreError):
    """The disk of the audio store has no room left."""


class FetchFailedError(Exception):
    """More recordings could not be had than the run accepts."""


class FetchConfig(Section):
    """Section `fetch`: what the fetch stage accepts."""

    max_failed_share: float = Field(ge=0, le=1)
    """Largest share of recordings that may fail, 0 to 1, before the stage does."""
    max_bytes: int = Field(gt=0)
    """Largest file that is kept, in bytes."""
    ask_again_after_days: int = Field(ge=0)
    """For so many days a file that a remote source has no more is not asked for again; 0 asks
    every time."""


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
        StoreError: The disk is full, or may not be written; what was fetched until then stays.
        SourceStoppedError: A remote source must not be asked any further; so does this.
    """
    rows: list[dict[str, object]] = []
    for name, listed in recordings.groupby("source"):
        folder = store_root / "raw" / safe_name(str(name))
        raw_files = [
            RawFile(recording_id, url, None if pd.isna(sha256) else sha256, folder)
            for recording_id, url, sha256 in zip(
                listed["recording_id"], listed["url"], listed["source_sha256"], strict=True
            )
        ]
        raw_files.sort(key=lambda raw: raw.recording_id)
        with faults_told(folder):
            remove_left_behind(folder)
            results = _fetch_all(raw_files, sources[str(name)], config, pool)
        rows += [
            {"recording_id": raw.recording_id, **_facts(result, store_root)}
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
            "again, or after fetch.ask_again_after_days for what a remote source has no more:\n"
            f"{reasons}"
        )


def write_attribution(recordings: pd.DataFrame, files: pd.DataFrame, path: Path) -> None:
    """Writes the credits of all fetched recordings to the CSV file at `path`, sorted by id.

    Column `url` is the page where people see the recording, where there is one.

    Args:
        recordings: Columns recording_id, scientific_name, recordist, licence, attribution, url and
            page_url.
        files: Columns recording_id and path.
        path: The CSV file, UTF-8.
    """
    fetched = files.loc[files["path"].notna(), "recording_id"]
    credits_ = recordings[recordings["recording_id"].isin(fetched)].sort_values("recording_id")
    credits_ = credits_.assign(url=credits_["page_url"].fillna(credits_["url"]))
    with atomic_path(path) as temporary:
        # Quoted throughout: a bare carriage return in an address would end the row for a reader.
        credits_[_CREDITS].to_csv(
            temporary, index=False, lineterminator="\n", quoting=csv.QUOTE_ALL
        )


def _fetch_all(
    raw_files: list[RawFile], source: Source, config: FetchConfig, pool: Executor
) -> dict[RawFile, Stored | _Failure]:
    """Returns what there is of each file, after asking for what the store does not hold."""
    results = {raw: raw.stored() or _remembered(raw, config) for raw in raw_files}
    missing = [raw for raw, result in results.items() if result is None]
    there = {raw: result for raw, result in results.items() if result is not None}
    if source.is_remote:
        for raw, result in there.items():
            if isinstance(result, Stored):
                raw.forget_part()
        if missing:
            _OneByOne(source, config.max_bytes, there).fetch(missing)
        return there
    fetch = partial(_fetch, source=source, max_bytes=config.max_bytes)
    killed = _Failure("worker_died", "the process that fetched it was killed")
    for outcome in run_all(fetch, missing, pool, describe=f"fetch {source.name}"):
        there[outcome.item] = outcome.value or killed
    return there


@dataclass
class _OneByOne:
    """Asks a remote source for files, one at a time."""

    source: Source
    max_bytes: int
    there: dict[RawFile, Stored | _Failure]
    """What there is of each file; `fetch` adds to it."""
    n_bytes: int = 0
    """What came."""

    def fetch(self, missing: list[RawFile]) -> None:
        """Adds what becomes of each file that is missing, of which there is one at least.

        A file that is unavailable is put off: the others come first, then it is asked for once
        more. So is one at which an earlier run was stopped.

        Raises:
            SourceStoppedError: With how much of it there is.
        """
        folder = missing[0].folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        hold(lock, f"fetching the files of {self.source.name}")
        try:
            self._fetch(missing)
        finally:
            lock.release()

    def _fetch(self, missing: list[RawFile]) -> None:
        late = [raw for raw in missing if raw.was_put_off]
        n_all = len(self.there) + len(missing)
        with progress_bar(n_all, f"fetch {self.source.name}", "file", len(self.there)) as bar:
            try:
                put_off = self._ask(bar, [raw for raw in missing if not raw.was_put_off])
                for raw in [*put_off, *late]:
                    self._take(bar, raw, self._found(raw))
            except SourceStoppedError as error:
                n_stored = sum(isinstance(result, Stored) for result in self.there.values())
                raise SourceStoppedError(
                    f"{error}\n{n_stored} of {n_all} recordings of {self.source.name} are in the "
                    "store; run again to fetch the others"
                ) from error

    def _ask(self, bar: "tqdm[NoReturn]", files: list[RawFile]) -> list[RawFile]:
        """Returns the files that are to be asked for once more, after asking for all.

        Raises:
            SourceStoppedError: So many in a row are unavailable that it is not because of them.
        """
        put_off: list[RawFile] = []
        n_in_row = 0
        for raw in files:
            found = self._found(raw)
            if isinstance(found, Stored) or found.error != UNAVAILABLE:
                self._take(bar, raw, found)
                n_in_row = 0
                continue
            put_off.append(raw)
            n_in_row += 1
            if n_in_row == _MOST_IN_ROW:
                raise SourceStoppedError(f"{found.detail}, and so for {n_in_row} files in a row")
        return put_off

    def _found(self, raw: RawFile) -> Stored | _Failure:
        # A run beside this one, which this one has waited for, may have fetched it.
        return raw.stored() or _fetch(raw, self.source, self.max_bytes)

    def _take(self, bar: "tqdm[NoReturn]", raw: RawFile, found: Stored | _Failure) -> None:
        self.there[raw] = found
        self.n_bytes += found.n_bytes if isinstance(found, Stored) else 0
        bar.set_postfix_str(f"{self.n_bytes / 1e6:.1f} MB", refresh=False)
        bar.update()


def _remembered(raw: RawFile, config: FetchConfig) -> _Failure | None:
    """Returns that a remote source had a file no more when it was asked lately, else None."""
    detail = raw.gone(config.ask_again_after_days)
    return None if detail is None else _Failure("gone", detail)


def _fetch(raw: RawFile, source: Source, max_bytes: int) -> Stored | _Failure:
    try:
        return raw.fetch(source, max_bytes)
    except (FetchError, OSError) as error:
        if any(_is_full(cause) for cause in (error, error.__cause__)):
            raise StoreFullError(
                f"{raw.folder}: no room left on its disk, found out at {raw.recording_id}; make "
                "room and run again, what is fetched stays (of a remote file also the first part)"
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
