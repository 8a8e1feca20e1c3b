"""Searches of remote sources on disk: asked once, then only for what is new, and whole at times.

A finished search is one file of JSON lines: a header, then the rows just as they were received, so
that a better reader of rows needs no new search. The pages of a search that is still going on stand
in a `.part` file beside it, where a killed one goes on. Neither ever holds a key: what a cache sees
is the text of the question without it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from filelock import FileLock

from bclef.sources.searchfiles import (
    Finished,
    Page,
    PartSearch,
    append,
    go_on,
    is_younger,
    read_finished,
    row_key,
    write_finished,
)
from bclef.sources.storefolders import faults_told, hold

__all__ = ["Page", "SearchCache", "Walk", "row_key", "search_digest"]

_log = logging.getLogger(__name__)

_OVERLAP = timedelta(days=1)
"""An update asks from so long before the last search on: days begin elsewhere at other hours."""


Walk: TypeAlias = Callable[[date | None, Sequence[Page]], Iterator[Page]]
"""Gives the further pages of a search: of what is new since a day (None: of all), after the pages
that an earlier run had already."""


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
        self._fault: OSError | None = None

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            hold(self._lock, f"searching in {self._folder}")
        except OSError as error:  # what is known can be read all the same
            self._fault = error
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

        Raises:
            StoreError: The disk does not let the search be read or written.
        """
        with faults_told(self._folder):
            return self._rows(query, walk)

    def _rows(self, query: str, walk: Walk) -> list[object]:
        path = self._folder / f"{search_digest(self._home, query)}.jsonl"
        now = self._clock()
        last = read_finished(path, query)
        is_whole = last is not None and last.whole_at is not None
        if last and is_whole and is_younger(last.asked_at, now, self._update_after):
            _log.info("%s: %d rows of an earlier search, which is young", query, len(last.rows))
            return list(last.rows.values())
        if self._fault:
            raise self._fault
        since = self._since(last, now)
        part_path = path.with_suffix(".part")
        part = go_on(part_path, query, PartSearch(now, since, []))
        with part_path.open("ab") as file:
            for page in walk(part.since, part.pages):
                part.pages.append(page)
                append(file, {"rows": page.rows, "note": page.note})
        n_missing = part.pages[-1].note.get("n_missing") or 0 if part.pages else 0
        # What a short search lacks may have been there before.
        known = last.rows if last and (part.since or n_missing) else {}
        found = {row_key(row): row for page in part.pages for row in page.rows}
        whole_at = last.whole_at if last and part.since else part.asked_at
        if n_missing:
            whole_at = None
            _log.warning(
                "%s: %d rows are missing; the next run asks for all again", query, n_missing
            )
        n_new = len(found.keys() - known.keys())
        _log.info("%s: %d rows came, %d of them new", query, len(found), n_new)
        finished = Finished(part.asked_at, whole_at, {**known, **found})
        write_finished(path, query, finished)
        part_path.unlink()
        return list(finished.rows.values())

    def _since(self, last: Finished | None, now: datetime) -> date | None:
        """Returns the day from which on rows may be new; None: all may be."""
        if not (last and last.whole_at and is_younger(last.whole_at, now, self._refresh_after)):
            return None
        # A clock that was set back since: when the latest search was is not known.
        asked_at = last.asked_at if last.asked_at <= now else last.whole_at
        return (asked_at - _OVERLAP).date()


def search_digest(home: str, query: str) -> str:
    """Returns 16 hex digits that name the search for `query` at `home`."""
    return hashlib.sha256(f"{home}\n{query}".encode()).hexdigest()[:16]
