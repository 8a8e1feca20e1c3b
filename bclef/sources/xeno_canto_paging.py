"""Through the pages of one search of Xeno-canto until every recording was seen.

The result set may shift while it is walked: an id comes on two pages and another on none. Page
numbers may promise one page too many, which is then empty. So the ids that were seen are counted
against the number stated, and a search that came out short is walked again, within bounds that no
server can move.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from bclef.sources.protocol import SourceError
from bclef.sources.searches import Page, row_key
from bclef.sources.xeno_canto_reply import count, rows_of

_log = logging.getLogger(__name__)

_MOST_WALKS = 3
_MOST_PAGES = 20_000
"""Bound of a search, all walks together: more than a million recordings at 50 a page."""
_MAY_BE_UNKNOWN = {"n_recordings", "n_pages"}
_NOTE = _MAY_BE_UNKNOWN | {
    "walk", "page", "per_page", "n_own", "n_new_in_walk", "n_missing", "most_pages"
}  # fmt: skip
"""What the note of a page holds."""
_TOLD_EVERY = 10
"""A line in the log for so many pages."""
_MORE_PAGES = 10
"""How many pages a search may have beyond those that its first reply stands for."""


def walk_pages(
    ask: Callable[[int], Mapping[str, object]], had: Sequence[Page], per_page: int, what: str
) -> Iterator[Page]:
    """Yields the pages of a search after those that an earlier run `had`.

    Args:
        ask: Returns the reply for a page, from 1 on; empty where there is no such page any more.
        had: The first pages of this search, as yielded before.
        per_page: Recordings that one page is asked to have.
        what: Says what is searched for, in messages.

    Raises:
        SourceError: A reply holds no list of recordings.
    """
    # The numbers of pages before a note of another kind mean other pages, or nothing.
    had = [*takewhile(lambda page: _is_note(page.note, per_page), reversed(had))][::-1]
    seen = {row_key(row) for page in had for row in page.rows}
    note = had[-1].note if had else None
    walked = [page for page in had if note and page.note["walk"] == note["walk"]]
    of_walk = {row_key(row) for page in walked for row in page.rows}
    n_asked = len(had)
    while n_asked < _MOST_PAGES and (place := _next_place(note, len(seen))):
        if place[1] == 1:
            of_walk = set()
        page = _page(ask(place[1]), place, note, (seen, of_walk), what)
        n_asked += 1
        note = {**page.note, "per_page": per_page}
        if place[1] % _TOLD_EVERY == 0:
            _log.info("%s: page %d of %s", what, place[1], note["n_pages"] or "an unknown number")
        yield Page(page.rows, note)
    n_stated = note["n_recordings"] if note else None
    if n_stated is not None and len(seen) < n_stated:
        _log.warning("%s: %d recordings came, %d were announced", what, len(seen), n_stated)


def _is_note(note: Mapping[str, int | None], per_page: int) -> bool:
    """Returns whether `note` is of a page of a walk with so many recordings a page."""
    numbers = [value for name, value in note.items() if name not in _MAY_BE_UNKNOWN]
    return note.keys() == _NOTE and None not in numbers and note["per_page"] == per_page


def _next_place(note: Mapping[str, int | None] | None, n_seen: int) -> tuple[int, int] | None:
    """Returns the number of the walk and of the page to ask for; None at the end.

    Args:
        note: Of the last page; None before the first.
        n_seen: Recordings seen so far, in all walks.
    """
    if note is None:
        return 1, 1
    walk, number = note["walk"] or 1, note["page"] or 1
    # A server that gives the same page for every number must not be asked for ever.
    if note["n_own"] and number < min(note["n_pages"] or _MOST_PAGES, note["most_pages"] or 1):
        return walk, number + 1
    is_short = note["n_recordings"] is not None and n_seen < note["n_recordings"]
    # A second walk that brought nothing shows that it is the number which is wrong.
    is_hopeful = walk == 1 or note["n_new_in_walk"]
    return (walk + 1, 1) if is_short and is_hopeful and walk < _MOST_WALKS else None


def _page(
    reply: Mapping[str, object],
    place: tuple[int, int],
    last: Mapping[str, int | None] | None,
    seen: tuple[set[str], set[str]],
    what: str,
) -> Page:
    """Returns what came, with where the search stands, and adds its recordings to both `seen`.

    Args:
        reply: What came.
        place: Numbers of the walk and of the page.
        last: Note of the page before; None before the first.
        seen: Recordings of all walks, and of this one.
        what: Says what is searched for.
    """
    rows = rows_of(reply)
    if rows is None:
        fields = ", ".join(sorted(reply)) or "nothing"
        raise SourceError(f"{what}: found a reply with {fields:.200}, expected `recordings`")
    walk, number = place
    before = last if last and number > 1 else None
    n_recordings, n_pages = count(reply.get("numRecordings")), count(reply.get("numPages"))
    if last and last["n_recordings"] is not None and (before or n_recordings is None):
        # A number that sank is that of a set which moved up under the pages.
        n_recordings = max(last["n_recordings"], n_recordings or 0)
    n_new, n_own = (_add(ids, map(row_key, rows)) for ids in seen)
    return Page(
        rows,
        {
            "walk": walk,
            "page": number,
            "n_own": n_own,
            "n_new_in_walk": n_new + ((before["n_new_in_walk"] or 0) if before else 0),
            "n_recordings": n_recordings,
            "n_missing": max(0, (n_recordings or 0) - len(seen[0])),
            "n_pages": n_pages,
            "most_pages": before["most_pages"] if before else _most_pages(n_recordings, len(rows)),
        },
    )


def _add(ids: set[str], others: Iterable[str]) -> int:
    """Returns how many of `others` were not in `ids`, where they are then."""
    n_before = len(ids)
    ids.update(others)
    return len(ids) - n_before


def _most_pages(n_recordings: int | None, n_rows: int) -> int:
    """Returns how many pages a walk may have whose first page has `n_rows`."""
    if n_recordings is None:
        return _MOST_PAGES
    return min(_MOST_PAGES, -(-n_recordings // max(n_rows, 1)) + _MORE_PAGES)
