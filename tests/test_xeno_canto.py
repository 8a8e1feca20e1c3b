"""The source of Xeno-canto against the local stand-in: all of it, once, and not a request more."""

import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import soundfile
from filelock import FileLock

from bclef.sources.http import HttpConfig
from bclef.sources.protocol import FetchError, Listing, SourceError, SourceStoppedError
from bclef.sources.searches import Page
from bclef.sources.xeno_canto import XenoCantoConfig, XenoCantoSource
from bclef.sources.xeno_canto_paging import walk_pages
from bclef.taxonomy import Synonyms
from tests.xeno_canto_server import CALM, Faults, Server, Trouble, World, make_world, serve

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]

KEY = "local-key"
SPECIES = ("Turdus merula", "Parus major", "Pica pica")
HTTP = HttpConfig(contact=None, timeout_s=5, max_attempts=3, backoff_s=0.01, longest_wait_s=2)
SETTINGS: dict[str, Any] = dict.fromkeys(XenoCantoConfig.model_fields) | {
    "keep_questioned": False,
    "per_page": 500,
    "search_interval_s": 0,
    "file_interval_s": 0,
    "update_after_hours": 12,
    "refresh_after_days": 30,
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XC_API_KEY", KEY)


@pytest.fixture(scope="module")
def world() -> World:
    """The acceptance: 1,203 recordings of three species, 600 of one and 500 of another."""
    return make_world(species=SPECIES, recordings=dict(zip(SPECIES, (600, 500, 103), strict=True)))


@pytest.fixture(scope="module")
def small_world() -> World:
    return make_world(species=SPECIES, recordings=10, strays=2)


def source(
    url: str, folder: Path, synonyms: Mapping[str, str] | None = None, **settings: object
) -> XenoCantoSource:
    tree = SETTINGS | {"base_url": url} | settings
    config = XenoCantoConfig.from_tree(tree, "params.yaml", "xeno_canto")
    return XenoCantoSource(config, HTTP, folder / "searches", Synonyms(synonyms or {}))


def listed(server: Server, folder: Path, **settings: object) -> Listing:
    return source(server.base_url, folder, **settings).list_recordings()


def ids(listing: Listing) -> list[str]:
    return list(listing.recordings["recording_id"])


def reasons(listing: Listing) -> Counter[str]:
    return Counter(listing.rejected["reason"])


def all_ids(world: World) -> list[str]:
    return sorted(f"XC{recording.number}" for recording in world.recordings)


# every page, every recording, once


@pytest.mark.parametrize("shift", ["none", "duplicate", "insert", "remove"])
@pytest.mark.parametrize("per_species", [True, False])
def test_1203_recordings_of_three_species_all_arrive_once(
    world: World, shift: Any, per_species: bool, tmp_path: Path
) -> None:
    asked = {"species": list(SPECIES)} if per_species else {"area": "america"}
    with serve(world, replace(CALM, shift=shift)) as server:
        found = ids(listed(server, tmp_path, **asked))
        expected = [
            f"XC{item.number}" for item in world.recordings if per_species or item.area == "america"
        ]
        assert found == sorted(expected)
        searches = server.of_kind("search")
        assert not server.notes
    # 600, 500 and 103 at 500 a page are 2, 2 (the last one is empty) and 1 pages.
    if per_species:
        assert len(searches) == 5 if shift == "none" else len(searches) > 5
    assert {request.parameters["per_page"] for request in searches} == {"500"}
    assert not server.overlaps()


def test_same_world_gives_the_same_tables(world: World, tmp_path: Path) -> None:
    with serve(world, Faults(counts="int")) as server:
        first = listed(server, tmp_path / "a", species=list(SPECIES), per_page=50)
        second = listed(server, tmp_path / "b", species=list(reversed(SPECIES)))
    assert first.recordings.equals(second.recordings)
    assert first.rejected.equals(second.rejected)


def test_odd_and_restricted_rows_are_listed_or_rejected_and_none_is_lost(
    world: World, tmp_path: Path
) -> None:
    with serve(world, Faults()) as server:
        listing = listed(server, tmp_path, species=list(SPECIES))
        restricted = sorted(f"XC{number}" for number in server.shapes.restricted)
    assert len(restricted) == 24
    assert reasons(listing) == {"restricted": 24}
    assert sorted(listing.rejected["recording_id"]) == restricted
    assert sorted([*ids(listing), *restricted]) == all_ids(world)
    rows = listing.recordings
    assert set(rows["source"]) == {"xeno_canto"}
    assert set(rows["collection"]) == {"XC"}
    assert rows["label"].isna().all()
    assert set(rows["scientific_name"]) == set(SPECIES)
    assert rows["url"].str.startswith(server.base_url).all()
    assert rows["attribution"].str.contains(r"XC\d{7,9}, ").all()
    assert "A. O'R & B" in set(rows["recordist"])
    assert 3723.0 in set(rows["duration_s"])


def test_a_removed_row_makes_the_search_be_walked_again(world: World, tmp_path: Path) -> None:
    # Between pages 1 and 2 the first row goes, so the one at the head of page 2 slips to page 1.
    with serve(world, replace(CALM, shift="remove")) as server:
        listed(server, tmp_path, species=["Turdus merula"])
        pages = [request.parameters["page"] for request in server.of_kind("search")]
    assert pages == ["1", "2", "1", "2"]


# politeness of searching


def test_second_listing_asks_nothing_and_needs_no_key(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(small_world, CALM) as server:
        first = listed(server, tmp_path, species=list(SPECIES))
        n_requests = len(server.requests)
        monkeypatch.delenv("XC_API_KEY")
        second = listed(server, tmp_path, species=list(SPECIES))
        assert len(server.requests) == n_requests == 3
    assert second.recordings.equals(first.recordings)


def test_later_listing_asks_only_for_what_is_new(small_world: World, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    with serve(small_world, CALM) as server:
        settings = {"species": ["Pica pica"], "update_after_hours": 0}
        assert len(ids(listed(server, tmp_path, **settings))) == 10
        server.publish(small_world.grown(3, today))
        assert len(ids(listed(server, tmp_path, **settings))) == 13
        asked = [request.parameters["query"] for request in server.of_kind("search")]
    assert asked[0] == 'sp:"pica pica"'
    assert asked[1] in {
        f'sp:"pica pica" since:{today - timedelta(days=n)}' for n in (1, 2)
    }  # 2: midnight has passed meanwhile


def test_search_that_was_stopped_goes_on_at_its_page(world: World, tmp_path: Path) -> None:
    blocked = replace(CALM, trouble=(Trouble("503", on="search", after=3),))
    with serve(world, blocked) as server:
        with pytest.raises(SourceStoppedError):
            listed(server, tmp_path, species=["Turdus merula"], per_page=50)
        server.requests.clear()
        server.set_faults(CALM)
        assert len(ids(listed(server, tmp_path, species=["Turdus merula"], per_page=50))) == 600
        pages = [request.parameters["page"] for request in server.of_kind("search")]
    assert pages == [str(number) for number in range(4, 14)]


def test_spent_requests_stop_the_listing_and_the_next_run_ends_it(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, CALM) as server:
        with pytest.raises(SourceStoppedError, match="max_requests"):
            listed(server, tmp_path, species=list(SPECIES), max_requests=2)
        assert len(ids(listed(server, tmp_path, species=list(SPECIES), max_requests=2))) == 30
        assert len(server.requests) == 3


def test_key_is_in_no_file_log_or_message(
    small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    key = "s3cret/key+of me"
    monkeypatch.setenv("XC_API_KEY", key)
    said = []
    with caplog.at_level(logging.DEBUG), serve(small_world, CALM, keys=[key]) as server:
        listed(server, tmp_path, species=["Pica pica"])
        assert all(request.parameters["key"] == key for request in server.of_kind("search"))
        for answer in ("401", "403", "400", "404", "429", "503", "500", "html", "reset"):
            trouble = Trouble(answer, on="search", after=0)  # type: ignore[arg-type]
            server.set_faults(replace(CALM, trouble=(trouble,), retry_after="0"))
            with pytest.raises((SourceError, SourceStoppedError)) as caught:
                listed(server, tmp_path, species=["Parus major"])
            said.append(repr(caught.value) + str(caught.value))
        pickled = pickle.dumps(source(server.base_url, tmp_path, species=["Pica pica"]))
    said += [caplog.text, *capfd.readouterr(), pickled.decode("latin-1")]
    said += [path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    for form in ("s3cret", "key+of", "key%2Bof"):
        assert not [text for text in said if form in text]


def test_missing_key_says_where_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XC_API_KEY")
    asked = source(
        "https://xeno-canto.org", tmp_path, species=["Pica pica"], search_interval_s=1,
        file_interval_s=4,
    )  # fmt: skip
    with pytest.raises(SourceError, match=r"XC_API_KEY.*https://xeno-canto.org/account"):
        asked.list_recordings()


def test_server_on_this_machine_is_asked_without_a_key(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XC_API_KEY")
    with serve(small_world, CALM, keys=[]) as server:
        assert len(ids(listed(server, tmp_path, species=list(SPECIES)))) == 30
        assert "key" not in server.requests[0].parameters


# what is asked for


def test_country_alone_gives_every_species_and_its_soundscapes(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, CALM) as server:
        listing = listed(server, tmp_path, country="Brazil")
    rows = listing.recordings
    expected = [item for item in small_world.recordings if item.country == "Brazil"]
    mysteries = [item for item in expected if item.genus == "Mystery"]
    assert len(rows) == len(expected) - len(mysteries)
    assert reasons(listing)["unidentified"] == len(mysteries)
    soundscapes = rows[rows["role"] == "soundscape"]
    assert len(soundscapes) == sum(item.genus == "Sonus" for item in expected) > 0
    assert soundscapes["scientific_name"].isna().all()
    assert set(rows["scientific_name"].dropna()) == set(SPECIES)


def test_species_is_found_under_its_synonym(small_world: World, tmp_path: Path) -> None:
    with serve(small_world, CALM) as server:
        asked = source(
            server.base_url, tmp_path, {"Merula vulgaris": "Turdus merula"},
            species=["Merula vulgaris"],
        )  # fmt: skip
        listing = asked.list_recordings()
    assert len(ids(listing)) == 10
    assert listing.rejected.empty


def test_species_without_recordings_is_a_row_with_advice_and_a_warning(
    small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(small_world, CALM) as server:
        listing = listed(server, tmp_path, species=["Pica pica", "Pica pcia"])
        (warning,) = [said for said in caplog.records if said.levelname == "WARNING"]
        assert "nothing came of Pica pcia" in warning.getMessage()
        assert "taxonomy/synonyms.csv" in warning.getMessage()
        (row,) = listing.rejected.to_dict("records")
        assert (row["recording_id"], row["reason"]) == ("xeno_canto/Pica pcia", "none_found")
        assert "taxonomy/synonyms.csv" in row["detail"]
        with pytest.raises(SourceError, match=r"has no recording.*pica pcia"):
            listed(server, tmp_path, species=["Pica pcia"])


def test_country_that_begins_like_another_one_is_checked_on_the_reply(tmp_path: Path) -> None:
    world = make_world(species=1, recordings=12)
    countries = ("Niger", "Nigeria", "Norway")
    recordings = tuple(
        replace(item, country=countries[place % 2]) for place, item in enumerate(world.recordings)
    )
    with serve(replace(world, recordings=recordings), CALM) as server:
        listing = listed(server, tmp_path, country="Niger")
        with pytest.raises(
            SourceError, match="12 recordings came that do not fit, the first: country"
        ):
            listed(server, tmp_path, country="Nig")
    assert len(ids(listing)) == 6
    assert reasons(listing) == {"outside_query": 6}
    assert set(listing.rejected["detail"]) == {"country Nigeria; asked for Niger"}


def test_recording_that_one_search_found_in_vain_is_listed_by_the_other(tmp_path: Path) -> None:
    world = make_world(species=["Parus major", "Parusella minor"], recordings=5)
    with serve(world, CALM) as server:
        listing = listed(server, tmp_path, species=["Parus", "Parusella"])
        alone = listed(server, tmp_path, species=["Parus"])
    assert (len(ids(listing)), reasons(listing)) == (10, {})
    assert (len(ids(alone)), reasons(alone)) == (5, {"outside_query": 5})


def test_filters_ask_for_what_the_server_knows_and_check_what_it_does_not(
    world: World, tmp_path: Path
) -> None:
    settings = {
        "species": ["Turdus merula"], "quality_min": "B", "licences": ["CC-BY-NC-SA"],
        "year_min": 2014, "year_max": 2018, "types": ["song"],
    }  # fmt: skip
    with serve(world, CALM) as server:
        listing = listed(server, tmp_path, **settings)
        assert not server.notes
    expected = [
        f"XC{item.number}"
        for item in world.of("Turdus merula")
        if item.quality in ("A", "B")
        and item.licence.startswith("by-nc-sa")
        and 2014 <= item.recorded_on.year <= 2018
        and "song" in item.sound_type.split(", ")
    ]
    assert 20 < len(expected) < 200
    assert ids(listing) == sorted(expected)
    assert listing.rejected.empty


def test_background_species_become_secondary_labels_and_cost_half_a_star(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, CALM) as server:
        rows = listed(server, tmp_path, species=list(SPECIES)).recordings.set_index("recording_id")
    stars = dict(zip("ABCDE", (5, 4, 3, 2, 1), strict=True))
    for item in small_world.recordings:
        if item.species not in SPECIES:
            continue
        row = rows.loc[f"XC{item.number}"]
        assert row["secondary_labels"] == list(item.background)
        expected = stars.get(item.quality)
        if expected is None:
            assert row["rating"] != row["rating"]  # null
        else:
            assert row["rating"] == expected - (0.5 if item.background else 0)


# errors


@pytest.mark.parametrize("shape", ["flat", "nested"])
def test_words_of_the_server_reach_the_user(small_world: World, tmp_path: Path, shape: Any) -> None:
    with serve(small_world, replace(CALM, error_shape=shape), keys=["another"]) as server:
        with pytest.raises(SourceStoppedError, match="Missing or invalid 'key' parameter"):
            listed(server, tmp_path, species=list(SPECIES))
        assert len(server.requests) == 1


def test_odd_query_of_the_server_is_an_answer(small_world: World, tmp_path: Path) -> None:
    trouble = Trouble("400", on="search", after=0)
    with serve(small_world, replace(CALM, trouble=(trouble,))) as server:
        with pytest.raises(SourceError, match="not understood"):
            listed(server, tmp_path, species=list(SPECIES))
        assert len(server.requests) == 1


def test_old_address_of_the_api_is_not_found(small_world: World, tmp_path: Path) -> None:
    with (
        serve(small_world, CALM) as server,
        pytest.raises(SourceError, match="404") as caught,
    ):
        listed(server, tmp_path, base_url=f"{server.base_url}/v2", species=["Pica pica"])
    said = str(caught.value)
    assert said.endswith("/v2/api/3/recordings, see xeno_canto.base_url")
    assert KEY not in said


def test_dead_port_is_named_with_the_param_it_comes_from(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, CALM) as server:
        base_url = server.base_url
    with pytest.raises(SourceStoppedError) as caught:
        source(base_url, tmp_path, species=["Pica pica"]).list_recordings()
    assert f"{base_url}/api/3/recordings, see xeno_canto.base_url" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "said"), [(None, "XC_API_KEY is not set"), ("hunter2", "XC_API_KEY was refused")]
)
def test_key_that_is_missing_or_wrong_is_named_and_never_told(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, said: str
) -> None:
    monkeypatch.delenv("XC_API_KEY")
    if key:
        monkeypatch.setenv("XC_API_KEY", key)
    with (
        serve(small_world, CALM) as server,
        pytest.raises(SourceStoppedError, match=said) as caught,
    ):
        listed(server, tmp_path, species=["Pica pica"])
    assert "hunter2" not in str(caught.value)


def test_nothing_found_speaks_of_what_was_asked(small_world: World, tmp_path: Path) -> None:
    with serve(small_world, CALM) as server:
        with pytest.raises(SourceError, match=r"none came at all.*xeno_canto\.country") as caught:
            listed(server, tmp_path, country="Bolvia")
        assert "species" not in str(caught.value)
        with pytest.raises(SourceError, match=r"xeno_canto\.species.*xeno_canto\.area"):
            listed(server, tmp_path, species=["Pica pcia"], area="asia")


@pytest.mark.parametrize("answer", ["503", "429", "500", "html", "reset"])
def test_passing_trouble_is_waited_out(small_world: World, tmp_path: Path, answer: Any) -> None:
    trouble = Trouble(answer, on="search", first_try=True)
    with serve(small_world, replace(CALM, trouble=(trouble,), retry_after="0")) as server:
        assert len(ids(listed(server, tmp_path, species=list(SPECIES)))) == 30


def test_page_that_is_refused_because_it_is_no_more_ends_the_walk(tmp_path: Path) -> None:
    world = make_world(species=["Pica pica"], recordings=100)
    trouble = Trouble("404", on="search", after=2)
    with serve(world, replace(CALM, trouble=(trouble,))) as server:
        assert len(ids(listed(server, tmp_path, species=["Pica pica"], per_page=50))) == 100
        assert len(server.requests) == 3


# files


def test_thirty_recordings_are_listed_and_fetched_by_a_pickled_source(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, Faults(restricted_share=0.1, removed_share=0.1)) as server:
        first = source(server.base_url, tmp_path, species=list(SPECIES))
        rows = first.list_recordings().recordings
        removed = {f"XC{number}" for number in server.shapes.removed}
        asked = pickle.loads(pickle.dumps(first))  # noqa: S301  our own bytes
        assert asked.config == first.config
        failed = {}
        for recording_id, url in zip(rows["recording_id"], rows["url"], strict=True):
            try:
                asked.fetch(url, tmp_path / recording_id, 10**7)
            except FetchError as error:
                failed[recording_id] = error.reason
                continue
            assert soundfile.info(tmp_path / recording_id).frames > 0
        files = server.of_kind("redirect") + server.of_kind("file")
        assert not [request for request in files if "key" in request.query]
        assert not server.overlaps()
    assert failed == dict.fromkeys(removed & set(rows["recording_id"]), "gone")
    assert len(failed) > 0


def test_listing_lets_go_of_the_site_and_fetching_takes_it_again(
    small_world: World, tmp_path: Path
) -> None:
    with serve(small_world, CALM) as server:
        asked = source(server.base_url, tmp_path, species=["Pica pica"])
        for number in range(2):
            url = asked.list_recordings().recordings["url"].iloc[0]
            for lock in (tmp_path / "searches").rglob("*.lock"):
                with FileLock(lock, timeout=0):  # as another process would take it
                    pass
            asked.fetch(url, tmp_path / f"{number}.wav", 10**7)
    assert asked.is_remote
    assert (tmp_path / "0.wav").read_bytes() == (tmp_path / "1.wav").read_bytes()


def test_pauses_between_searches_are_kept(small_world: World, tmp_path: Path) -> None:
    with serve(small_world, CALM) as server:
        listed(server, tmp_path, species=list(SPECIES), search_interval_s=0.15)
        assert server.shortest_gap_s("search") >= 0.14


# paging against servers that no stand-in would be


class Pages:
    """A server that replies by a function of the page's number, and counts."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.asked = reply, 0

    def __call__(self, number: int) -> Mapping[str, object]:
        self.asked += 1
        found: dict[str, object] = self.reply(number)
        return found

    def walk(self, had: Sequence[Page] = ()) -> Iterator[Page]:
        return walk_pages(self, had, 50, "search")


def rows(first: int, last: int) -> list[object]:
    return [{"id": str(number)} for number in range(first, last)]


@pytest.mark.parametrize(
    ("reply", "most"),
    [
        (lambda n: {"numRecordings": "100", "numPages": n + 1, "recordings": rows(0, 50)}, 14),
        (lambda n: {"numRecordings": 90, "numPages": n + 1,
                    "recordings": rows(50 * n, 50 * n + 50)}, 12),
        (lambda n: {"numRecordings": 50 * n + 99, "numPages": n + 2,
                    "recordings": rows(50 * n, 50 * n + 50)}, 3 * 13),
        (lambda n: {"numPages": n + 1, "recordings": rows(0, 50)}, 2),
        (lambda n: {"numRecordings": "10", "numPages": 9, "recordings": []}, 2),
    ],
    ids=["same page", "endless", "growing", "no numbers", "empty"],
)  # fmt: skip
def test_runaway_server_is_bounded(reply: Any, most: int) -> None:
    server = Pages(reply)
    assert len(list(server.walk())) == server.asked <= most


def test_search_that_stays_short_is_told_and_walked_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Pages(lambda n: {"numRecordings": "12", "numPages": 1, "recordings": rows(0, 9)})
    list(server.walk())
    assert server.asked == 2
    assert "9 recordings came, 12 were announced" in caplog.text


def test_third_walk_is_the_last() -> None:
    walks = iter(range(100))
    server = Pages(
        lambda n: {"numRecordings": "999", "numPages": 1, "recordings": rows(0, 9 + next(walks))}
    )
    assert len(list(server.walk())) == 3


def test_without_numbers_pages_end_with_an_empty_one() -> None:
    server = Pages(lambda n: {"recordings": rows(50 * n, 50 * n + 50) if n < 4 else []})
    assert [len(page.rows) for page in server.walk()] == [50, 50, 50, 0]


def test_walk_goes_on_after_any_page_as_if_it_had_not_stopped() -> None:
    def reply(number: int) -> dict[str, object]:
        first = 50 * number
        return {"numRecordings": "140", "numPages": 3, "recordings": rows(first, first + 45)}

    whole = list(Pages(reply).walk())
    for n_had in range(len(whole) + 1):
        had = [Page(page.rows, json.loads(json.dumps(page.note))) for page in whole[:n_had]]
        assert [*had, *Pages(reply).walk(had)] == whole


def test_page_that_is_missing_in_every_walk_is_told_to_the_cache() -> None:
    def reply(number: int) -> dict[str, object]:
        there = {
            "numRecordings": "220",
            "numPages": 5,
            "recordings": rows(50 * number, 50 * number + 50),
        }
        return {"recordings": []} if number == 3 else there

    *_, last = Pages(reply).walk()
    assert last.note["n_missing"] == 120


def test_short_search_is_asked_in_whole_by_the_next_run(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = XenoCantoSource._reply

    def torn(self: XenoCantoSource, text: str, number: int) -> Mapping[str, object]:
        reply = dict(plain(self, text, number))
        return reply | {"recordings": list(reply["recordings"])[:4]}  # type: ignore[call-overload]

    with serve(small_world, CALM) as server:
        with monkeypatch.context() as patch:
            patch.setattr(XenoCantoSource, "_reply", torn)
            assert len(ids(listed(server, tmp_path, species=[SPECIES[0]]))) == 4
        assert len(ids(listed(server, tmp_path, species=[SPECIES[0]]))) == 10
        n_asked = len(server.of_kind("search"))
        assert len(ids(listed(server, tmp_path, species=[SPECIES[0]]))) == 10
        assert len(server.of_kind("search")) == n_asked


def test_second_walk_ends_where_it_brings_what_it_has_brought() -> None:
    server = Pages(
        lambda n: {"numRecordings": "999999", "numPages": 9999, "recordings": rows(0, 50)}
    )
    assert len(list(server.walk())) == 4


def test_a_search_is_bounded_in_all_its_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bclef.sources.xeno_canto_paging._MOST_PAGES", 30)
    new = iter(range(10**6))
    server = Pages(
        lambda n: {"numRecordings": "9999", "numPages": 20, "recordings": [{"id": next(new)}]}
    )
    assert len(list(server.walk())) == 30


@pytest.mark.parametrize(
    "note", [{}, {"per_page": 50}, {"page": None}, {"walk": None, "n_own": None}]
)
def test_notes_of_another_kind_begin_anew(note: Any) -> None:
    server = Pages(lambda n: {"numRecordings": "60", "numPages": 2, "recordings": rows(0, 50)})
    first = next(server.walk())
    note = first.note | note if len(note) == 2 or "page" in note else note
    again = list(server.walk([Page(first.rows, note)]))
    assert again[0] == first


def test_other_number_per_page_begins_anew() -> None:
    server = Pages(lambda n: {"numRecordings": "1", "numPages": 1, "recordings": rows(0, 1)})
    (page,) = server.walk()
    assert len(list(walk_pages(server, [page], 100, "search"))) == 1


def test_reply_without_a_place_for_recordings_is_refused() -> None:
    with pytest.raises(SourceError, match="found a reply with error, message, expected"):
        list(Pages(lambda n: {"error": "x", "message": "y"}).walk())
