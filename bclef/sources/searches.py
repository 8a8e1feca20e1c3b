"""Searches of remote sources on disk: asked once, then only for what is new, and whole at times.

A finished search is one file of JSON lines: a header, then the rows just as they were received, so
that a better reader of rows needs no new search. The pages of a search that is still going on stand
in a `.part` file beside it, where a killed one goes on. Neither ever holds a key: what a cache sees
is the text of the question without it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

from filelock import FileLock, Timeout

from bclef.tables import atomic_path

_log = logging.getLogger(__name__)

_OVERLAP = timedelta(days=1)
"""An update asks from so long before the last search on: days begin elsewhere at other hours."""
_PART_LASTS = timedelta(days=1)
"""An unfinished search older than that is begun anew: what it saw has moved under its pages."""


@dataclass(frozen=True)
class Page:
    """One reply to a search."""

    rows: Sequence[object]
    """The recordings or observations as received: any JSON."""
    note: Mapping[str, int | None]
    """Where the search stands after this page, for whoever walks through it."""


Walk: TypeAlias = Callable[[date | None, Sequence[Page]], Iterator[Page]]
"""Gives the further pages of a search: of what is new since a day (None: of all), after the pages
that an earlier run had already."""


@dataclass(frozen=True)
class _Finished:
    asked_at: datetime
    """When the latest search began."""
    whole_at: datetime
    """When the latest search for everything began."""
    rows: Mapping[str, object]
    """Each row by its `row_key`."""


@dataclass(frozen=True)
class _Part:
    asked_at: datetime
    since: date | None
    pages: list[Page]


class SearchCache:
    """The searches of one source at one address; one process at a time has it open.

    Args:
        folder: Where the files are; made when it is missing.
        home: Address of the server that is asked: another one has other answers.
        update_after_hours: A search younger than that is not asked at all.
        refresh_after_days: One whose last whole asking is older is asked in whole again, so that
            rows which the server has withdrawn vanish here too.
        clock: Tells the time, with its zone.
    """

    def __init__(
        self,
        folder: Path,
        home: str,
        update_after_hours: float,
        refresh_after_days: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._home = home
        self._update_after = timedelta(hours=update_after_hours)
        self._refresh_after = timedelta(days=refresh_after_days)
        self._clock = clock
        self._lock = FileLock(folder / ".lock")

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            _log.info("%s: another process is searching; waiting for it", self._folder)
            self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def rows(self, query: str, walk: Walk) -> list[object]:
        """Returns all rows that answer `query`, each id once, asking for what is not known yet.

        Args:
            query: What is asked, in full but for the key.
            walk: Asks the server.
        """
        path = self._folder / f"{search_digest(self._home, query)}.jsonl"
        now = self._clock()
        last = _read_finished(path, query)
        if last and _is_younger(last.asked_at, now, self._update_after):
            return list(last.rows.values())
        if last and not _is_younger(last.whole_at, now, self._refresh_after):
            last = None
        since = (last.asked_at - _OVERLAP).date() if last else None
        part_path = path.with_suffix(".part")
        part = _go_on(part_path, query, _Part(now, since, []))
        with part_path.open("ab") as file:
            for page in walk(part.since, part.pages):
                part.pages.append(page)
                _append(file, {"rows": page.rows, "note": page.note})
        known = last.rows if last and part.since else {}
        found = {row_key(row): row for page in part.pages for row in page.rows}
        whole_at = last.whole_at if last and part.since else part.asked_at
        finished = _Finished(part.asked_at, whole_at, {**known, **found})
        _write_finished(path, query, finished)
        part_path.unlink()
        return list(finished.rows.values())


def search_digest(home: str, query: str) -> str:
    """Returns 16 hex digits that name the search for `query` at `home`."""
    return hashlib.sha256(f"{home}\n{query}".encode()).hexdigest()[:16]


def row_key(row: object) -> str:
    """Returns what a row is told apart by: its `id`, or a digest of all that it says.

    >>> row_key({"id": 42, "gen": "Turdus"}) == row_key({"id": "42"})
    True
    """
    stated = row.get("id") if isinstance(row, Mapping) else None
    if isinstance(stated, str | int) and not isinstance(stated, bool) and str(stated).strip():
        return str(stated).strip()
    text = json.dumps(row, sort_keys=True)
    return f"without id {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _is_younger(then: datetime, now: datetime, limit: timedelta) -> bool:
    """Returns whether `then` is less than `limit` ago; what is still to come is not."""
    return timedelta(0) <= now - then < limit


def _read_finished(path: Path, query: str) -> _Finished | None:
    """Returns the finished search at `path`; None, with a word in the log, where it is broken."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            rows = [json.loads(line) for line in file]
        asked_at, whole_at = _time(header["asked_at"]), _time(header["whole_at"])
        stated = (header["query"], header["n_rows"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("%s: no search can be read from it (%r); it is asked anew", path, error)
        return None
    if stated != (query, len(rows)):
        _log.warning("%s: found %d rows, expected %s; it is asked anew", path, len(rows), stated)
        return None
    return _Finished(asked_at, whole_at, {row_key(row): row for row in rows})


def _write_finished(path: Path, query: str, finished: _Finished) -> None:
    header = {
        "query": query,
        "asked_at": finished.asked_at.isoformat(),
        "whole_at": finished.whole_at.isoformat(),
        "n_rows": len(finished.rows),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for line in (header, *finished.rows.values()):
            file.write(_line(line))


def _go_on(path: Path, query: str, begun: _Part) -> _Part:
    """Returns the unfinished search at `path`, or `begun`, which then stands there.

    A last line that was torn by a kill is cut off. A part is gone on with only if it is young, and
    asks for what `begun` does or for everything.
    """
    part, n_bytes = _read_part(path, query)
    is_usable = (
        part is not None
        and _is_younger(part.asked_at, begun.asked_at, _PART_LASTS)
        and part.since in (None, begun.since)
    )
    if part is not None and is_usable:
        _log.info("going on after %d pages of %s", len(part.pages), query)
        with path.open("r+b") as file:
            file.truncate(n_bytes)
        return part
    since = begun.since.isoformat() if begun.since else None
    with path.open("wb") as file:
        _append(file, {"query": query, "asked_at": begun.asked_at.isoformat(), "since": since})
    return begun


def _read_part(path: Path, query: str) -> tuple[_Part | None, int]:
    """Returns the unfinished search at `path`, if any, and the bytes of its whole lines."""
    part: _Part | None = None
    n_bytes = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                tree = json.loads(line)
                if part is None:
                    if tree["query"] != query:
                        break
                    since = date.fromisoformat(tree["since"]) if tree["since"] else None
                    part = _Part(_time(tree["asked_at"]), since, [])
                else:
                    part.pages.append(Page(list(tree["rows"]), dict(tree["note"])))
                n_bytes += len(line)
    except FileNotFoundError:
        pass
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("%s: broken after %d bytes (%s)", path, n_bytes, error)
    return part, n_bytes


def _append(file: BinaryIO, tree: Mapping[str, object]) -> None:
    """Writes `tree` as a line that is on disk when this returns."""
    file.write(_line(tree))
    file.flush()
    os.fsync(file.fileno())


def _line(tree: object) -> bytes:
    # ASCII only: a server may send half a surrogate pair, which UTF-8 cannot hold.
    return json.dumps(tree).encode("ascii") + b"\n"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
