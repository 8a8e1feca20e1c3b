"""The stand-in for Xeno-canto: replies to searches, its record, and its command line."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from click.testing import CliRunner

from tests.plain_client import MERULA, Asker, one_species
from tests.xeno_canto_server import CALM, Faults, Trouble, World, make_world, serve
from tests.xeno_canto_server.__main__ import main
from tests.xeno_canto_server.faults import with_setting

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]


@pytest.fixture(name="ask")
def asker() -> Iterator[Asker]:
    with requests.Session() as session:
        yield Asker(session)


# The reply to a search.


def test_the_envelope_has_counts_as_strings_and_pages_as_integers(ask: Asker) -> None:
    with serve(make_world(1, 3, 5), CALM) as server:
        reply = ask.search(server)
        server.set_faults(replace(CALM, counts="int"))
        assert ask.search(server).json()["numRecordings"] == 15
    assert reply.headers["Content-Type"] == "application/json"
    envelope = reply.json()
    rows = envelope.pop("recordings")
    assert envelope == {"numRecordings": "15", "numSpecies": "3", "page": 1, "numPages": 1}
    assert len(rows) == 15
    assert all(isinstance(row["id"], str) for row in rows)


@pytest.mark.parametrize(
    ("n_found", "per_page", "n_pages", "last"),
    [(0, 100, 1, 0), (200, 100, 3, 0), (421, 50, 9, 21), (99, 100, 1, 99), (100, 100, 2, 0)],
)
def test_pages_are_one_too_many_on_exact_multiples(
    ask: Asker, n_found: int, per_page: int, n_pages: int, last: int
) -> None:
    world = one_species(n_found)
    with serve(world, CALM) as server:
        replies, ids = ask.walk(server, f'sp:"{MERULA.lower()}"', per_page)
    assert {reply["numPages"] for reply in replies} == {n_pages}
    assert {reply["numRecordings"] for reply in replies} == {str(n_found)}
    assert [reply["page"] for reply in replies] == list(range(1, n_pages + 1))
    assert len(replies[-1]["recordings"]) == last
    assert ids == [item.number for item in reversed(world.recordings)]  # newest first


def test_a_page_holds_a_hundred_rows_unless_asked_otherwise(ask: Asker) -> None:
    with serve(one_species(101), CALM) as server:
        assert len(ask.search(server).json()["recordings"]) == 100
        for asked, got in ((1, 50), (50, 50), (500, 101), (501, 101), ("x", 50)):
            assert len(ask.search(server, per_page=asked).json()["recordings"]) == got
        assert ask.search(server, page=7).json()["page"] == 2
        server.set_faults(replace(CALM, out_of_range="refuse"))
        statuses = {per_page: ask.search(server, per_page=per_page).status_code
                    for per_page in (1, 49, 50, 500, 501)}  # fmt: skip
        assert statuses == {1: 400, 49: 400, 50: 200, 500: 200, 501: 400}
        assert ask.search(server, page=3).status_code == 400


def test_a_plain_row_has_the_fields_of_the_reference(ask: Asker) -> None:
    fields = (
        "id gen sp ssp grp en rec cnt loc lat lon alt type sex stage method url file file-name "
        "sono osci lic q length time date uploaded also rmk animal-seen playback-used temp regnr "
        "auto dvc mic smp annotation-set"
    )
    with serve(one_species(1), CALM) as server:
        [row] = ask.search(server).json()["recordings"]
        assert row["file"] == f"{server.base_url}/{row['id']}/download"
    assert list(row) == fields.split()
    assert (row["gen"], row["sp"], row["length"], row["temp"]) == ("Turdus", "merula", "0:01", None)
    assert row["lic"].startswith("https://creativecommons.org/licenses/by-nc-")


@pytest.mark.parametrize("asked", [{}, {"key": ""}, {"key": "local"}, {"key": "LOCAL-KEY"}])
def test_without_the_key_the_search_is_401(asked: dict[str, str], ask: Asker) -> None:
    with serve(one_species(), CALM) as server:
        url = f"{server.base_url}/api/3/recordings"
        reply = ask.get(url, {"query": "grp:birds"} | asked)
        server.set_faults(replace(CALM, error_shape="nested"))
        nested = ask.get(url, {"query": "grp:birds"} | asked).json()
    assert reply.status_code == 401
    assert reply.json() == {
        "error": "client_error",
        "message": "Missing or invalid 'key' parameter. Visit https://xeno-canto.org/account to "
        "retrieve your API key.",
    }
    assert nested["error"]["message"] == reply.json()["message"]


def test_nobody_needs_a_key_where_there_is_none(ask: Asker) -> None:
    with serve(one_species(), CALM, keys=()) as server:
        assert ask.search(server, key=None).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "turdus",
        "sp:turdus merula",
        'sp:"turdus merula',
        "sp:",
        'sp:""',
        "sp:a+grp:birds",
        "q: A",
        'q:"A"grp:1',
    ],
)
def test_free_text_is_400(ask: Asker, query: str) -> None:
    with serve(one_species(), CALM) as server:
        reply = ask.search(server, query)
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("Xeno-canto API v3 only accepts queries using tags.")


def test_no_query_is_400_in_either_shape(ask: Asker) -> None:
    with serve(one_species(), CALM) as server:
        for query in (None, "", "  "):
            assert ask.search(server, query).json()["message"] == "No query specified"
        server.set_faults(replace(CALM, error_shape="nested"))
        reply = ask.search(server, "")
    assert reply.status_code == 400
    assert reply.json() == {"error": {"code": "missing_parameter", "message": "No query specified"}}


def test_api_v2_is_a_404_page(ask: Asker) -> None:
    with serve(one_species(), CALM) as server:
        reply = ask.get(f"{server.base_url}/api/2/recordings?query=turdus")
    assert (reply.status_code, reply.content[:6]) == (404, b"<html>")


# What is on record.


def test_everything_asked_is_on_record_as_it_came(ask: Asker) -> None:
    with serve(one_species(1), CALM) as server:
        ask.search(server, 'sp:"turdus merula"', key="secret/ä")
        time.sleep(0.05)
        ask.audio(server, server.world.recordings[0].number)
        kinds = [request.kind for request in server.requests]
        assert kinds == ["search", "redirect", "file"]
        [asked] = server.of_kind("search")
        assert asked.path == "/api/3/recordings"
        assert asked.status == 401
        assert "secret%2F%C3%A4" in asked.query
        assert asked.parameters["key"] == "secret/ä"
        assert asked.headers["User-Agent"].startswith("python-requests")
        assert 0.05 <= server.shortest_gap_s("search", "redirect") < 5
        assert server.shortest_gap_s() < 0.05
        assert server.shortest_gap_s("search") == float("inf")
        assert len({request.client for request in server.requests}) == 1
        assert not server.overlaps()


def test_two_requests_at_once_are_told_from_two_in_turn(ask: Asker) -> None:
    faults = with_setting(replace(CALM, stall_s=0.2), "search_stall_first=1")
    with serve(one_species(1), faults) as server:
        url = f"{server.base_url}/api/3/recordings"
        asked = {"query": "grp:birds", "key": "local-key"}
        with requests.get(url, params=asked, stream=True, timeout=5):
            ask.search(server)
            assert server.overlaps()


def test_the_log_does_not_tell_the_key(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), serve(one_species(1), CALM) as server:
        ask.search(server, key="tell-nobody")
        ask.search(server)
    assert "/api/3/recordings?query=grp%3Abirds&key=..." in caplog.text
    assert "tell-nobody" not in caplog.text
    assert "local-key" not in caplog.text


def test_a_failure_of_the_server_itself_is_not_passed_over(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.xeno_canto_server.handler.search_reply", lambda *_: 1 / 0, raising=True
    )
    with (
        pytest.raises(RuntimeError, match="ZeroDivisionError"),
        serve(one_species(1), CALM) as server,
        pytest.raises(requests.ConnectionError),
    ):
        ask.search(server)


# Settings and the command line.


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("503_every=7", Faults(trouble=(Trouble("503", every=7),))),
        ("file_reset_first=2", Faults(trouble=(Trouble("reset", on="file", first=2),))),
        ("500_first_try=true", Faults(trouble=(Trouble("500", first_try=True),))),
        ("hops=3", Faults(hops=3)),
        ("shift=insert", Faults(shift="insert")),
        ("ranges=false", Faults(ranges=False)),
        ("restricted_share=0.5", Faults(restricted_share=0.5)),
        ("max_per_s=4", Faults(max_per_s=4)),
        ("retry_after=none", Faults(retry_after=None)),
        ("odd_kinds=int_id,zero_day", Faults(odd_kinds=("int_id", "zero_day"))),
        ("redirect_to=http://a.example/?b=c", Faults(redirect_to="http://a.example/?b=c")),
    ],
)
def test_a_setting_turns_one_switch(setting: str, expected: Faults) -> None:
    assert with_setting(Faults(), setting) == expected


@pytest.mark.parametrize(
    "setting",
    ["nothing=1", "trouble=1", "hops=x", "ranges=2", "shift=up", "odd_kinds=x", "600_every=1"],
)
def test_a_setting_that_says_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        with_setting(Faults(), setting)


def test_the_command_says_where_it_listens_and_how_to_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.xeno_canto_server.__main__.wait_for_ever", interrupt)
    arguments = ["--port", "0", "--species", MERULA, "--species", "Parus major",
                 "--recordings", "3", "--fault", "503_every=7", "--key", "a key"]  # fmt: skip
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 0
    base_url = re.search(r"http://127\.0\.0\.1:\d+", ended.output)
    assert base_url
    assert (
        "XC_API_KEY='a key' dvc exp run $(python -m bclef.recipe xeno-canto) "
        f"-S xeno_canto.base_url={base_url[0]} "
        "-S xeno_canto.search_interval_s=0 -S xeno_canto.file_interval_s=0 "
        """-S 'xeno_canto.species=["Turdus merula", "Parus major"]'"""
    ) in ended.output
    refused = CliRunner().invoke(main, ["--fault", "hops=many"])
    assert refused.exit_code == 1
    refused = CliRunner().invoke(main, ["--fault", "banana=1"])
    for switch in ("hops", "503_every=7", "file_reset_first=2", "first_try", "truncated"):
        assert switch in refused.output


def test_the_command_grows_a_world_by_what_is_uploaded_today(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = []

    @contextlib.contextmanager
    def keep(world: World, *_: object) -> Iterator[SimpleNamespace]:
        served.append(world)
        yield SimpleNamespace(base_url="http://127.0.0.1:1", world=world)

    monkeypatch.setattr("tests.xeno_canto_server.__main__.serve", keep)
    monkeypatch.setattr("tests.xeno_canto_server.__main__.wait_for_ever", lambda: None)
    for more in ([], ["--grown", "2"]):
        arguments = ["--species", MERULA, "--recordings", "3", *more]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    small, grown = served
    assert grown.recordings[: len(small.recordings)] == small.recordings
    new = grown.recordings[len(small.recordings) :]
    assert [(item.species, item.take) for item in new] == [(MERULA, 3), (MERULA, 4)]
    assert all(datetime.now(UTC).date() - item.uploaded_on < timedelta(days=2) for item in new)


def test_a_port_that_is_taken_is_told_without_a_traceback() -> None:
    with serve(one_species(1), CALM) as server:
        port = server.base_url.rpartition(":")[2]
        refused = CliRunner().invoke(main, ["--port", port, "--recordings", "1"])
    assert refused.exit_code == 1
    assert refused.output == f"Error: port {port} is in use; give --port\n"


def test_it_was_written_from_the_description_alone() -> None:
    folder = Path(__file__).parent / "xeno_canto_server"
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    imported = set(re.findall(r"(?:from|import) (bclef\S*|requests|tenacity)", source))
    songs = ("ambience", "aviary", "birdsong", "scene")
    assert imported == {f"bclef.sources.{name}" for name in songs}
