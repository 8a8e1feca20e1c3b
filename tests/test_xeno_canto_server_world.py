"""The stand-in for Xeno-canto: what it holds, what queries find, and rows in odd shapes."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
import requests
import soundfile

from tests.plain_client import MERULA, Asker, one_species
from tests.xeno_canto_server import CALM, Faults, Recording, World, make_world, serve
from tests.xeno_canto_server.faults import ODD_KINDS
from tests.xeno_canto_server.rows import deal_shapes
from tests.xeno_canto_server.searching import QueryError, parse, search
from tests.xeno_canto_server.world import COUNTRIES, LICENCES

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]


@pytest.fixture(name="ask")
def asker() -> Iterator[Asker]:
    with requests.Session() as session:
        yield Asker(session)


# What a query finds.


def found(world: World, query: str) -> set[int]:
    return {n for n, item in enumerate(world.recordings) if search(query, False).finds(item)}


def where(world: World, keep: Callable[[Recording], object]) -> set[int]:
    return {n for n, item in enumerate(world.recordings) if keep(item)}


TRUE: dict[str, Callable[[Recording], object]] = {
    'sp:"turdus MERULA"': lambda r: r.species == MERULA,
    "sp:merula": lambda r: r.species == MERULA,
    "gen:tur": lambda r: r.genus == "Turdus",
    'gen:"=tur"': lambda r: False,
    'gen:"=turdus"': lambda r: r.genus == "Turdus",
    "grp:birds": lambda r: r.group == "birds",
    "grp:0": lambda r: r.group == "soundscape",
    "q:A": lambda r: r.quality == "A",
    'q:"<C"': lambda r: r.quality in "DE",
    'q:">C"': lambda r: r.quality in "AB",
    "lic:BY-NC-SA": lambda r: r.licence.startswith("by-nc-sa/"),
    "lic:PD": lambda r: r.licence == "zero/1.0",
    "since:2020-06-01": lambda r: r.uploaded_on >= date(2020, 6, 1),
    "nr:100000000-500000000": lambda r: 100_000_000 <= r.number <= 500_000_000,
    "nr:>9000010": lambda r: False,
    'cnt:"united states"': lambda r: r.country == "United States",
    "cnt:br": lambda r: r.country == "Brazil",
    "area:europe": lambda r: r.country == "Norway",
    "len:6-8": lambda r: 6 <= r.length_s <= 8,
    'len:"<7"': lambda r: r.length_s < 7,
    'len:">7"': lambda r: r.length_s > 7,
    "len:7": lambda r: 6.93 <= r.length_s <= 7.07,
    "year:2016": lambda r: r.recorded_on.year == 2016,
    'year:">2014" year:"<2017"': lambda r: 2014 < r.recorded_on.year < 2017,
    "year:2014-2016": lambda r: r.recorded_on.year == 2014,  # as on the real site
    "box:-25,-60,0,-40": lambda r: r.country == "Brazil",
    "type:call": lambda r: "call" in r.sound_type.split(", "),
    'also:"parus major"': lambda r: "Parus major" in r.background,
    "seen:yes": lambda r: True,
    "nosuchtag:1": lambda r: True,
    "q:F": lambda r: False,
    "sp:merula q:A cnt:Brazil": lambda r: (r.species, r.quality, r.country)
    == (MERULA, "A", "Brazil"),
}  # fmt: skip


@pytest.fixture(scope="module")
def rich_world() -> World:
    return make_world(3, [MERULA, "Parus major"], 200, audio="birds", strays=5)


@pytest.mark.parametrize("query", TRUE)
def test_a_query_finds_what_it_says(rich_world: World, query: str) -> None:
    expected = where(rich_world, TRUE[query])
    assert found(rich_world, query) == expected
    refuted = ('gen:"=tur"', "nr:>9000010", "q:F")
    assert bool(expected) == (query not in refuted)  # it says something about this world


def test_a_number_finds_its_recording(rich_world: World) -> None:
    assert found(rich_world, f"nr:{rich_world.recordings[7].number}") == {7}


def test_since_counts_days_back_from_today(rich_world: World) -> None:
    today = datetime.now(UTC).date()
    world = rich_world.grown(3, today)
    assert found(world, "since:1") == where(world, lambda r: r.uploaded_on == today)
    assert len(found(world, "since:1")) == 6
    assert found(world, "since:99999") == where(world, lambda r: True)


def test_values_may_stand_in_quotes_and_tags_repeat() -> None:
    assert parse(' sp:"turdus merula"  q:A q:">C" id?:no') == [
        ("sp", "turdus merula"), ("q", "A"), ("q", ">C"), ("id?", "no"),
    ]  # fmt: skip
    with pytest.raises(QueryError):
        parse("turdus")


def test_what_is_ignored_is_noted_once(ask: Asker) -> None:
    with serve(one_species(), CALM) as server:
        for _ in range(2):
            assert ask.search(server, "sp:merula alt:100 mic:x q:Z").status_code == 200
        assert len(server.notes) == 3
        server.set_faults(replace(CALM, unknown_tags="refuse"))
        assert ask.search(server, "mic:x").status_code == 200
        assert ask.search(server, "alt:100").status_code == 400


# Rows that are not plain.


def test_restricted_rows_come_in_three_shapes_without_audio(ask: Asker) -> None:
    with serve(one_species(30), replace(CALM, restricted_share=0.1)) as server:
        rows = {row["id"]: row for row in ask.search(server).json()["recordings"]}
        hidden = {str(number): rows[str(number)] for number in server.shapes.restricted}
        assert {row["file"] for row in hidden.values()} == {None, "", "restricted_species"}
        for row in hidden.values():
            for name in ("loc", "lat", "lon", "file-name"):
                assert row[name] == row["file"]
            assert not {"sono", "osci"} & set(row)
            assert ("_meta" in row) == (row["file"] != "")
            assert ask.audio(server, int(row["id"])).status_code == 404
        # They are left out of a box, even of the whole world.
        boxed = ask.search(server, "box:-90,-180,90,180").json()
        assert int(boxed["numRecordings"]) == 27


def test_removed_recordings_are_listed_but_gone(ask: Asker) -> None:
    with serve(one_species(20), replace(CALM, removed_share=0.1)) as server:
        assert len(server.shapes.removed) == 2
        assert ask.search(server).json()["numRecordings"] == "20"
        for number in server.shapes.removed:
            assert ask.audio(server, number).status_code == 404
            assert ask.get(f"{server.base_url}/{number}").status_code == 404
        assert sum(server.transfers.values()) == 0


def odd(ask: Asker, kind: str, n: int = 6) -> tuple[dict[str, Any], bytes]:
    """Returns the only odd row of a world and the beginning of its file."""
    with serve(one_species(n), replace(CALM, odd_rows=1, odd_kinds=(kind,))) as server:
        [number] = server.shapes.odd
        [row] = [r for r in ask.search(server).json()["recordings"] if int(r["id"]) == number]
        url = row["file"] if row["file"].startswith("http") else f"http:{row['file']}"
        reply = ask.chain(url)[-1]
        assert reply.status_code == 200
        sound, _ = soundfile.read(io.BytesIO(reply.content))
        assert len(sound) > 40_000
        return row, reply.content


EXPECTED_ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "int_id": lambda row: isinstance(row["id"], int) and isinstance(row["smp"], int),
    "null_fields": lambda row: row["lat"] is row["also"] is row["length"] is row["date"] is None,
    "missing_fields": lambda row: not {"lat", "also", "length", "q", "date"} & set(row),
    "extra_fields": lambda row: row["novelty"] and "set_name" in row["annotation-set"],
    "blank_also": lambda row: row["also"] == [""],
    "entities": lambda row: row["rec"] == "A. O&#039;R &amp; B",
    "double_entities": lambda row: "&amp;#039;" in row["loc"],
    "unicode": lambda row: "王小明" in row["rec"] and {"?", ":", '"'} <= set(row["file-name"]),
    "zero_date": lambda row: row["date"] == "0000-00-00",
    "zero_day": lambda row: re.fullmatch(r"20\d\d-\d\d-00", row["date"]),
    "long_length": lambda row: row["length"] == "1:02:03",
    "bad_length": lambda row: row["length"] == "about 10",
    "odd_time": lambda row: row["time"] == "07H00",
    "bad_latitude": lambda row: row["lat"] == "91.5",
    "no_licence": lambda row: row["lic"] is None,
    "slash_urls": lambda row: row["file"][:2] == row["url"][:2] == row["lic"][:2] == "//",
    "named_download": lambda row: "/download/XC" in row["file"],
    "upper_suffix": lambda row: row["file-name"].endswith(".WAV"),
    "no_suffix": lambda row: "." not in row["file-name"],
    "wrong_suffix": lambda row: row["file-name"].endswith(".mp3"),
    "hostile_name": lambda row: row["file-name"].startswith("../../../"),
}


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_row_is_odd_as_its_name_says_and_its_file_is_there(ask: Asker, kind: str) -> None:
    row, content = odd(ask, kind)
    assert EXPECTED_ODD[kind](row)
    assert content[:4] == (b"OggS" if kind == "wrong_suffix" else b"RIFF")


def test_a_long_recording_is_long_for_queries_too(ask: Asker) -> None:
    faults = replace(CALM, odd_rows=1, odd_kinds=("long_length",))
    with serve(one_species(), faults) as server:
        [row] = ask.search(server, 'len:">3600"').json()["recordings"]
    assert row["length"] == "1:02:03"


def test_the_defaults_have_every_shape_a_few_times(ask: Asker) -> None:
    with serve(one_species(300)) as server:
        assert Counter(server.shapes.odd.values()) == dict.fromkeys(ODD_KINDS, 2)
        assert Counter(server.shapes.restricted.values()) == dict.fromkeys(
            ("null", "empty", "word"), 2
        )
        assert len(server.shapes.removed) == 3
        shapes = server.shapes
        assert not set(shapes.odd) & set(shapes.restricted) & shapes.removed
        assert len(set(ask.walk(server, per_page=100)[1])) == 300


# The world.


def test_a_world_is_the_same_each_time_and_grows_without_changing() -> None:
    world = make_world(5, ["Parus major", MERULA], {"Parus major": 3, MERULA: 5}, strays=1)
    assert world == make_world(5, ["Parus major", MERULA], {"Parus major": 3, MERULA: 5}, strays=1)
    assert Counter(item.species for item in world.recordings) == {
        "Parus major": 3, MERULA: 5, "Mystery mystery": 1, "Sonus naturalis": 1,
    }  # fmt: skip
    grown = world.grown(2, date(2026, 11, 1))
    assert grown.recordings[:10] == world.recordings
    assert [item.take for item in grown.of(MERULA)[5:]] == [5, 6]
    assert len({item.number for item in grown.recordings}) == 14


def test_a_larger_world_keeps_the_recordings_and_shapes_of_the_smaller_one() -> None:
    small, large = make_world(1, 12, 20, strays=2), make_world(1, 12, 26, strays=2)
    assert set(small.recordings) < set(large.recordings)
    grown = small.grown(6, date(2026, 11, 1))
    assert {item.number for item in grown.recordings if item.species in grown.species} == {
        item.number for item in large.recordings if item.species in large.species
    }
    first, more = deal_shapes(small, Faults()), deal_shapes(large, Faults())
    assert first.restricted.items() <= more.restricted.items()
    assert first.removed <= more.removed
    assert first.odd.items() <= more.odd.items()


def test_other_worlds_have_other_numbers() -> None:
    worlds = [
        make_world(1, 3, 20),
        make_world(2, list(make_world(1, 3).species), 20),  # other songs of the same names
        make_world(1, list(reversed(make_world(1, 3).species)), 20),
        make_world(1, 3, 20, audio="birds"),
    ]
    numbers = [item.number for world in worlds for item in world.recordings]
    assert len(set(numbers)) == len(numbers) == 240
    assert all(len(str(number)) in (7, 8, 9) for number in numbers)


def test_a_world_has_the_mix_that_was_found_on_the_real_site(rich_world: World) -> None:
    n_rows = len(rich_world.recordings)
    nd = sum("nd" in item.licence for item in rich_world.recordings) / n_rows
    mp3 = sum(item.container == "mp3" for item in rich_world.recordings) / n_rows
    assert nd == pytest.approx(0.33, abs=0.08)
    assert mp3 == pytest.approx(0.65, abs=0.08)
    assert {item.licence for item in make_world(1, 5, 300).recordings} == set(LICENCES)
    assert {item.country for item in rich_world.recordings} == set(COUNTRIES)
    for species in (MERULA, "Parus major"):
        first = rich_world.of(species)
        assert len({item.recordist for item in first if item.take < 5}) == 5
    for item in rich_world.recordings:
        assert item.recorded_on < item.uploaded_on < date(2026, 1, 1)


@pytest.mark.parametrize("species", [["Turdus"], [MERULA, MERULA], 200])
def test_impossible_species_are_refused(species: list[str] | int) -> None:
    with pytest.raises(ValueError, match="species"):
        make_world(1, species)


@pytest.mark.slow
def test_birds_come_in_their_formats_and_keep_their_length(ask: Asker) -> None:
    world = make_world(2, [MERULA, "Parus major"], 12, audio="birds")
    first_of = {item.container: item for item in reversed(world.recordings)}
    assert {"mp3", "wav"} <= set(first_of)
    types = {"mp3": "audio/mpeg", "wav": "audio/x-wav", "flac": "audio/flac",
             "ogg": "application/octet-stream"}  # fmt: skip
    with serve(world, CALM) as server:
        for container, item in first_of.items():
            reply = ask.audio(server, item.number)
            assert reply.headers["Content-Type"] == types[container]
            sound, rate_hz = soundfile.read(io.BytesIO(reply.content))
            assert rate_hz == item.sample_rate_hz
            assert len(sound) / rate_hz == pytest.approx(item.length_s, abs=0.06)
            assert ask.audio(server, item.number).content == reply.content


def test_chirps_of_a_species_differ_but_alike(ask: Asker) -> None:
    world = make_world(2, 2, 3)
    with serve(world, CALM) as server:
        files = [ask.audio(server, item.number).content for item in world.recordings]
    assert len(set(files)) == 6
