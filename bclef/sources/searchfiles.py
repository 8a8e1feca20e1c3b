"""The files of searches: JSON lines that are whole, or whose whole lines count.

What was damaged, or written by something else, counts as absent.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from bclef.tables import atomic_path

_log = logging.getLogger(__name__)

_NO_SENSE = (KeyError, TypeError, ValueError, RecursionError)
"""What reading a file raises that was damaged, or written by something else."""
_PART_LASTS = timedelta(days=1)
"""An unfinished search older than that is begun anew: what it saw has moved under its pages."""


@dataclass(frozen=True)
class Page:
    """One reply to a search."""

    rows: Sequence[object]
    """The recordings or observations as received: any JSON."""
    note: Mapping[str, int | None]
    """Where the search stands after this page, for whoever walks through it.

    Of the last page, `n_missing` above 0 says that fewer rows came than were announced.
    """


@dataclass(frozen=True)
class Finished:
    """A search that was walked to its end."""

    asked_at: datetime
    """When the latest search began."""
    whole_at: datetime | None
    """When the latest search for everything began; None where rows are missing."""
    rows: Mapping[str, object]
    """Each row by its `row_key`."""


@dataclass(frozen=True)
class PartSearch:
    """A search that is still going on."""

    asked_at: datetime
    """When it began."""
    since: date | None
    """From which day on it asks; None: for all."""
    pages: list[Page]


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


def is_younger(then: datetime, now: datetime, limit: timedelta) -> bool:
    """Returns whether `then` is less than `limit` ago; what is still to come is not."""
    return timedelta(0) <= now - then < limit


def read_finished(path: Path, query: str) -> Finished | None:
    """Returns the finished search at `path`; None, with a word in the log, where it is broken."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            rows = [json.loads(line) for line in file]
        asked_at, whole = _time(header["asked_at"]), header["whole_at"]
        whole_at = None if whole is None else _time(whole)
        stated = (header["query"], header["n_rows"])
    except FileNotFoundError:
        return None
    except _NO_SENSE as error:
        _log.warning("%s: no search can be read from it (%r); it is asked anew", path, error)
        return None
    if stated != (query, len(rows)):
        _log.warning("%s: found %d rows, expected %s; it is asked anew", path, len(rows), stated)
        return None
    return Finished(asked_at, whole_at, {row_key(row): row for row in rows})


def write_finished(path: Path, query: str, finished: Finished) -> None:
    """Writes a finished search to `path`, whole or not at all."""
    header = {
        "query": query,
        "asked_at": finished.asked_at.isoformat(),
        "whole_at": finished.whole_at.isoformat() if finished.whole_at else None,
        "n_rows": len(finished.rows),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for line in (header, *finished.rows.values()):
            file.write(_line(line))


def go_on(path: Path, query: str, begun: PartSearch) -> PartSearch:
    """Returns the unfinished search at `path`, or `begun`, which then stands there.

    A last line that was torn by a kill is cut off. A part is gone on with only if it is young, and
    asks for what `begun` does or for everything.
    """
    part, n_bytes = _read_part(path, query)
    is_usable = (
        part is not None
        and is_younger(part.asked_at, begun.asked_at, _PART_LASTS)
        and part.since in (None, begun.since)
    )
    if part is not None and is_usable:
        if part.pages:
            _log.info("going on after %d pages of %s", len(part.pages), query)
        with path.open("r+b") as file:
            file.truncate(n_bytes)
        return part
    since = begun.since.isoformat() if begun.since else None
    with path.open("wb") as file:
        append(file, {"query": query, "asked_at": begun.asked_at.isoformat(), "since": since})
    return begun


def _read_part(path: Path, query: str) -> tuple[PartSearch | None, int]:
    """Returns the unfinished search at `path`, if any, and the bytes of its whole lines."""
    part: PartSearch | None = None
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
                    part = PartSearch(_time(tree["asked_at"]), since, [])
                else:
                    part.pages.append(_read_page(tree))
                n_bytes += len(line)
    except FileNotFoundError:
        pass
    except _NO_SENSE as error:
        _log.warning("%s: broken after %d bytes (%r)", path, n_bytes, error)
    return part, n_bytes


def _read_page(tree: Mapping[str, object]) -> Page:
    """Returns the page that a line of a part holds.

    Raises:
        ValueError: It holds none; so does TypeError.
    """
    rows, note = tree["rows"], tree["note"]
    if not isinstance(rows, list) or not isinstance(note, dict):
        raise TypeError("no page")
    if any(type(value) not in (int, type(None)) for value in note.values()):
        raise ValueError("a note with other values than whole numbers")
    return Page(rows, note)


def append(file: BinaryIO, tree: Mapping[str, object]) -> None:
    """Writes `tree` as a line that is on disk when this returns."""
    file.write(_line(tree))
    file.flush()
    os.fsync(file.fileno())


def _line(tree: object) -> bytes:
    # ASCII only: a server may send half a surrogate pair, which UTF-8 cannot hold.
    return json.dumps(tree).encode("ascii") + b"\n"


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if not 1970 < time.year < 9000:  # beyond that no day can be added or taken away
        raise ValueError(f"found the time {text}")
    return time.astimezone(UTC)
