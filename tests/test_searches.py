"""Searches on disk: nothing is asked twice, nothing is lost, and nothing stays for ever."""

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from bclef.sources.searches import Page, SearchCache, row_key, search_digest
from bclef.sources.storefolders import StoreError

HOME = "https://sounds.example"
QUERY = 'sp:"turdus merula" q:A'
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Site:
    """A site with so many rows, and its clock."""

    def __init__(self, folder: Path, n_rows: int = 5) -> None:
        self.folder = folder
        self.now = NOON
        self.rows: list[object] = [{"id": str(number)} for number in range(n_rows)]
        self.asked: list[tuple[date | None, int]] = []
        """Day and first row of each page that was asked for."""
        self.dies_after: int | None = None
        self.n_missing = 0

    def walk(self, since: date | None, had: Sequence[Page]) -> Iterator[Page]:
        first = had[-1].note["next"] if had else 0
        for place in range(first or 0, len(self.rows), 2):
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked.append((since, place))
            yield Page(
                self.rows[place : place + 2], {"next": place + 2, "n_missing": self.n_missing}
            )

    def search(
        self, update_after_hours: float = 12, refresh_after_days: float = 30
    ) -> list[object]:
        cache = SearchCache(
            self.folder, HOME, update_after_hours, refresh_after_days, lambda: self.now
        )
        with cache:
            return cache.rows(QUERY, self.walk)

    @property
    def file(self) -> Path:
        return self.folder / f"{search_digest(HOME, QUERY)}.jsonl"

    @property
    def part(self) -> Path:
        return self.file.with_suffix(".part")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "searches")


def ids(rows: Sequence[object]) -> list[str]:
    return [row_key(row) for row in rows]


def test_a_young_search_is_not_asked_again(site: Site) -> None:
    first = site.search()
    site.now += timedelta(hours=11, minutes=59)
    assert site.search() == first == site.rows
    assert site.asked == [(None, 0), (None, 2), (None, 4)]


def test_an_older_search_is_asked_for_what_is_new_from_the_day_before_on(site: Site) -> None:
    site.search()
    site.now += timedelta(days=2)
    site.asked.clear()
    site.rows = [{"id": "9"}, {"id": "3", "q": "B"}]
    rows = site.search()
    assert site.asked == [(date(2026, 11, 20), 0)]
    assert rows == [{"id": "0"}, {"id": "1"}, {"id": "2"}, {"id": "3", "q": "B"}, {"id": "4"},
                    {"id": "9"}]  # fmt: skip
    assert not site.part.exists()
    # The next update begins where this one did, not where the first search did.
    site.now += timedelta(days=2)
    site.asked.clear()
    site.search()
    assert site.asked == [(date(2026, 11, 22), 0)]


def test_updates_do_not_put_off_the_day_when_all_is_asked_again(site: Site) -> None:
    site.search()
    for _ in range(14):
        site.now += timedelta(days=2)
        site.search()
    site.rows = site.rows[1:]
    assert ids(site.search(update_after_hours=0)) == ["0", "1", "2", "3", "4"]
    site.now += timedelta(days=2)
    site.asked.clear()
    assert ids(site.search()) == ["1", "2", "3", "4"]
    assert site.asked[0][0] is None


def test_what_came_and_what_is_new_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site.search()
    site.search()
    site.now += timedelta(days=2)
    site.rows = [{"id": "9"}, {"id": "3"}]
    site.search()
    assert caplog.messages == [
        f"{QUERY}: 5 rows came, 5 of them new",
        f"{QUERY}: 5 rows of an earlier search, which is young",
        f"{QUERY}: 2 rows came, 1 of them new",
    ]


def test_a_search_that_stopped_before_its_first_page_is_not_gone_on_with(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.dies_after = 0
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.dies_after = None
    assert site.search() == site.rows
    assert "going on" not in caplog.text


def test_a_killed_search_goes_on_where_it_was(site: Site) -> None:
    site.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        site.search()
    assert not site.file.exists()
    site.dies_after = None
    site.now += timedelta(hours=1)
    assert site.search() == site.rows
    assert site.asked == [(None, 0), (None, 2), (None, 4)]
    # What was uploaded while it was asked belongs to the next update: it counts from its beginning.
    assert json.loads(site.file.read_bytes().split(b"\n")[0])["asked_at"] == NOON.isoformat()


@pytest.mark.parametrize("n_torn", [1, 10, 30])
def test_a_line_torn_by_a_kill_costs_its_page_only(site: Site, n_torn: int) -> None:
    site.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.part.write_bytes(site.part.read_bytes()[:-n_torn])
    site.dies_after = 3  # and killed again: the torn line must not stay in the middle
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.dies_after = None
    assert site.search() == site.rows
    assert [place for _, place in site.asked] == [0, 2, 2, 4]


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"null\n", b'{"query": 3}\n', b"\xff\n"])
def test_a_broken_part_is_begun_anew(site: Site, content: bytes) -> None:
    site.folder.mkdir()
    site.part.write_bytes(content)
    assert site.search() == site.rows
    assert site.search() == site.rows
    assert len(site.asked) == 3


def test_an_old_part_is_begun_anew(site: Site) -> None:
    site.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.dies_after = None
    site.now += timedelta(days=2)
    site.search()
    assert [place for _, place in site.asked] == [0, 0, 2, 4]


def test_a_killed_update_goes_on_as_an_update(site: Site) -> None:
    site.search()
    site.now += timedelta(days=2)
    site.rows = [{"id": str(number)} for number in range(10, 15)]
    site.asked.clear()
    site.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.dies_after = None
    assert ids(site.search()) == [*"01234", *map(str, range(10, 15))]
    assert site.asked == [(date(2026, 11, 20), place) for place in (0, 2, 4)]


def test_a_killed_update_is_not_taken_for_a_whole_search(site: Site) -> None:
    site.search()
    site.now += timedelta(days=2)
    site.dies_after = len(site.asked) + 1
    with pytest.raises(KeyboardInterrupt):
        site.search()
    site.dies_after = None
    site.asked.clear()
    site.search(refresh_after_days=1)
    assert site.asked == [(None, 0), (None, 2), (None, 4)]


@pytest.mark.parametrize("damage", ["header", "row", "short", "query", "empty", "naive"])
def test_a_broken_file_is_reported_and_asked_anew(
    site: Site, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.search()
    lines = site.file.read_bytes().splitlines(keepends=True)
    damaged = {
        "header": [b"{}\n", *lines[1:]],
        "row": [*lines[:-1], lines[-1][:5]],
        "short": lines[:-1],
        "query": [lines[0].replace(b"merula", b"pilaris"), *lines[1:]],
        "empty": [],
        "naive": [lines[0].replace(b"2026-11", b"twenty"), *lines[1:]],
    }
    site.file.write_bytes(b"".join(damaged[damage]))
    with caplog.at_level(logging.WARNING):
        assert site.search() == site.rows
    assert site.file.name in caplog.text
    assert len(site.asked) == 6


def test_a_search_from_the_future_is_asked_anew(site: Site) -> None:
    site.search()
    site.now -= timedelta(days=400)
    site.search()
    assert len(site.asked) == 6


def test_a_search_that_came_out_short_is_used_but_asked_again_in_whole(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.search()
    site.now += timedelta(days=31)
    everything, site.rows, site.n_missing = site.rows, [{"id": "9"}], 4
    assert ids(site.search()) == [*"01234", "9"]
    assert "4 rows are missing; the next run asks for all again" in caplog.text
    site.asked.clear()
    site.rows, site.n_missing = everything[:4], 0
    assert ids(site.search()) == [*"0123"]
    assert site.asked == [(None, 0), (None, 2)]
    assert ids(site.search()) == [*"0123"]
    assert len(site.asked) == 2


def test_a_clock_that_was_set_back_costs_no_rows(site: Site) -> None:
    site.search()
    site.now += timedelta(days=20)
    site.search()  # an update, at a time that turns out to be wrong
    site.now -= timedelta(days=15)
    site.asked.clear()
    site.search()
    assert site.asked[0] == (date(2026, 11, 20), 0)


@pytest.mark.parametrize(
    "header",
    [
        {"asked_at": "0001-01-01T00:00:00+00:00"},
        {"whole_at": "9999-12-31T23:59:59-23:00"},
        {"asked_at": 5},
    ],
)
def test_a_header_with_times_beyond_sense_is_reported_and_asked_anew(
    header: dict[str, object], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.search()
    first, *others = site.file.read_bytes().splitlines(keepends=True)
    line = json.dumps(json.loads(first) | header).encode() + b"\n"
    site.file.write_bytes(b"".join([line, *others]))
    site.now += timedelta(days=2)
    assert site.search() == site.rows
    assert site.file.name in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"rows": "abc", "note": {}}',
        b'{"rows": {"a": 1}, "note": {}}',
        b'{"rows": [], "note": {"next": "x"}}',
        b'{"rows": [], "note": [1]}',
    ],
)
def test_a_part_with_a_line_of_another_kind_goes_on_before_it(
    line: bytes, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        site.search()
    with site.part.open("ab") as file:
        file.write(line + b"\n")
    site.dies_after = None
    assert site.search() == site.rows
    assert [place for _, place in site.asked] == [0, 2, 4]
    assert site.part.name in caplog.text


def test_a_deep_file_is_asked_anew(site: Site) -> None:
    site.search()
    with site.file.open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    assert site.search() == site.rows


@pytest.mark.parametrize("name", ["append", "write_finished"])
def test_a_full_disk_is_told(site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"bclef.sources.searches.{name}", refuse)
    with pytest.raises(StoreError, match=r"searches: cannot be .*No space left.*make room"):
        site.search()


def test_where_nothing_can_be_written_a_young_search_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.search()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert site.search() == site.rows
    site.now += timedelta(days=2)
    with pytest.raises(StoreError, match=r"searches: cannot be .*Read-only file system"):
        site.search()
    assert len(site.asked) == 3


def test_other_server_and_other_query_are_other_searches(site: Site) -> None:
    assert len({search_digest(home, q) for home in "ab" for q in ("a", "b", "b\na")}) == 6
    site.search()
    with SearchCache(site.folder, HOME, 12, 30, lambda: site.now) as cache:
        cache.rows("q:B", site.walk)
    assert len(site.asked) == 6


def test_newer_row_of_an_id_wins_and_rows_without_id_count_once(site: Site) -> None:
    site.rows = [
        {"id": 1, "q": "C"},
        {"gen": "Turdus"},
        {"id": "1", "q": "A"},
        {"gen": "Turdus"},
        7,
    ]
    assert site.search() == [{"id": "1", "q": "A"}, {"gen": "Turdus"}, 7]


@given(st.lists(JSON, max_size=6))
def test_any_json_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object]
) -> None:
    site = Site(tmp_path_factory.mktemp("searches"))
    site.rows = rows
    first = site.search()
    assert {row_key(row) for row in first} == {row_key(row) for row in rows}
    assert site.search() == first


def test_half_a_surrogate_pair_comes_back_as_it_was(site: Site) -> None:
    site.rows = [{"id": "1", "rec": "\ud83d"}]
    site.search()
    assert site.search() == [{"id": "1", "rec": "\ud83d"}]
    assert len(site.asked) == 1


def test_a_second_search_waits_for_the_first(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    entered: list[str] = []

    def enter(name: str) -> None:
        with SearchCache(site.folder, HOME, 12, 30):
            entered.append(name)

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        with SearchCache(site.folder, HOME, 12, 30):
            waiting = pool.submit(enter, "second")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            entered.append("first")
        waiting.result(timeout=30)
    assert entered == ["first", "second"]
    assert "another process is searching in" in caplog.text
