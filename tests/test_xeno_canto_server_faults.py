"""The stand-in for Xeno-canto: files, and every way in which an answer can go wrong."""

import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import pytest
import requests
from urllib3.exceptions import HTTPError

from tests.plain_client import Asker, one_species
from tests.xeno_canto_server import CALM, Server, Trouble, serve
from tests.xeno_canto_server.faults import with_setting

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]

ONLY = one_species(1).recordings[0].number
"""The number of the first recording of a species, however many there are."""


@pytest.fixture(name="ask")
def asker() -> Iterator[Asker]:
    with requests.Session() as session:
        yield Asker(session)


# Rows that shift between pages.


def test_a_duplicate_takes_the_place_of_a_row_on_the_first_walk_only(ask: Asker) -> None:
    with serve(one_species(120), replace(CALM, shift="duplicate")) as server:
        (replies, ids), (_, again) = ask.walk(server), ask.walk(server)
    assert len(ids) == int(replies[0]["numRecordings"]) == 120
    assert ids[49] == ids[50]
    assert len(set(ids)) == 119
    assert len(set(again)) == 120


def test_a_row_uploaded_meanwhile_brings_one_again(ask: Asker) -> None:
    with serve(one_species(120), replace(CALM, shift="insert")) as server:
        (replies, ids), (_, again) = ask.walk(server), ask.walk(server)
    assert [reply["numRecordings"] for reply in replies] == ["119", "120", "120"]
    assert ids[49] == ids[50]
    assert set(again) - set(ids) == {again[0]}
    assert len(again) == 120


def test_a_row_withdrawn_meanwhile_hides_one(ask: Asker) -> None:
    with serve(one_species(120), replace(CALM, shift="remove")) as server:
        (replies, ids), (_, again) = ask.walk(server), ask.walk(server)
        assert ask.audio(server, ids[0]).status_code == 404
    assert [reply["numRecordings"] for reply in replies] == ["120", "119", "119"]
    assert len(ids) == len(set(ids)) == 119 - 1 + 1 - 1 + 1  # one gone is in it, one is passed over
    assert set(again) - set(ids) == {again[49]}
    assert set(ids) - set(again) == {ids[0]}


# Files.


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_a_file_lies_behind_so_many_redirects(ask: Asker, hops: int) -> None:
    world = one_species(2)
    number = world.recordings[0].number
    with serve(world, replace(CALM, hops=hops)) as server:
        replies = ask.chain(f"{server.base_url}/{number}/download")
        kinds = [request.kind for request in server.requests]
        if hops:
            path = urlsplit(replies[-1].url).path
            assert path.startswith("/sounds/uploaded/EXAMPLEKEY/")
            assert unquote(path).endswith(f"XC{number}-Merula Turdus.wav")
        assert kinds == ["redirect"] * hops + ["file"]
        assert server.transfers == {number: 1}
    assert [reply.status_code for reply in replies] == [302] * hops + [200]
    assert int(replies[-1].headers["Content-Length"]) == len(replies[-1].content)
    assert replies[-1].headers["Content-Type"] == "audio/x-wav"


def test_redirects_can_be_relative_or_lead_elsewhere(ask: Asker) -> None:
    with serve(one_species(1), replace(CALM, relative_redirects=True)) as server:
        url = f"{server.base_url}/{ONLY}/download"
        assert ask.get(url).headers["Location"].startswith("/sounds/uploaded/")
        server.set_faults(replace(CALM, hops=0, redirect_to="http://other.example/x"))
        assert ask.get(url).headers["Location"] == "http://other.example/x"


def test_a_part_of_a_file_can_be_asked_for(ask: Asker) -> None:
    with serve(one_species(1), replace(CALM, hops=0)) as server:
        url = f"{server.base_url}/{ONLY}/download"
        whole = ask.get(url)
        tag = whole.headers["ETag"]
        part = ask.get(url, headers={"Range": "bytes=1000-", "If-Range": tag})
        assert (part.status_code, part.content) == (206, whole.content[1000:])
        n_bytes = len(whole.content)
        assert part.headers["Content-Range"] == f"bytes 1000-{n_bytes - 1}/{n_bytes}"
        assert part.headers["ETag"] == tag
        assert server.transfers == {ONLY: 2}
        assert ask.get(url, headers={"Range": "bytes=5-9"}).content == whole.content[5:10]
        beyond = ask.get(url, headers={"Range": f"bytes={n_bytes}-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{n_bytes}")
        other = ask.get(url, headers={"Range": "bytes=1000-", "If-Range": '"other"'})
        assert (other.status_code, other.content) == (200, whole.content)

        server.set_faults(replace(server.faults, edition=1))
        changed = ask.get(url, headers={"Range": "bytes=1000-", "If-Range": tag})
        assert changed.status_code == 200
        assert changed.content != whole.content
        assert changed.headers["ETag"] != tag
        server.set_faults(replace(server.faults, ranges=False, etag=False))
        plain = ask.get(url, headers={"Range": "bytes=1000-"})
        assert plain.status_code == 200
        assert not {"ETag", "Accept-Ranges"} & set(plain.headers)


def test_a_file_may_come_without_length_or_under_another_type(ask: Asker) -> None:
    faults = replace(CALM, hops=0, content_length=False, content_type="video/mp4")
    with serve(one_species(1), faults) as server:
        reply = ask.audio(server, ONLY)
        assert server.transfers == {ONLY: 1}
    assert "Content-Length" not in reply.headers
    assert reply.headers["Content-Type"] == "video/mp4"
    assert reply.content[:4] == b"RIFF"


# Trouble.


def statuses(ask: Asker, server: Server, n: int) -> list[int]:
    return [ask.search(server).status_code for _ in range(n)]


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (Trouble("503", every=3), [200, 200, 503, 200, 200, 503]),
        (Trouble("500", first=2), [500, 500, 200, 200, 200, 200]),
        (Trouble("403", after=4), [200, 200, 200, 200, 403, 403]),
        (Trouble("500", first_try=True), [500, 200, 200, 200, 200, 200]),
        (Trouble("503", on="file", every=1), [200] * 6),
        (Trouble("401", on="search", every=1), [401] * 6),
    ],
)
def test_trouble_comes_when_it_should(ask: Asker, trouble: Trouble, expected: list[int]) -> None:
    with serve(one_species(), replace(CALM, trouble=(trouble,))) as server:
        assert statuses(ask, server, 6) == expected
        assert [request.status for request in server.requests] == expected


def test_statuses_come_with_their_bodies_and_waits(ask: Asker) -> None:
    faults = replace(CALM, retry_after="7", retry_after_503=None)
    replies = {}
    with serve(one_species()) as server:
        for answer in ("503", "429", "500", "401", "403", "400", "404", "html"):
            trouble = Trouble(answer, every=1)
            server.set_faults(replace(faults, trouble=(trouble,)))
            replies[answer] = ask.search(server)
        server.set_faults(replace(server.faults, trouble=(Trouble("503", first=1),),
                                  retry_after_503="Wed, 21 Oct 2026 07:28:00 GMT"))  # fmt: skip
        dated = ask.search(server)
    assert replies.pop("html").status_code == 200
    for answer, reply in replies.items():
        assert reply.status_code == int(answer)
        is_json = reply.headers["Content-Type"] == "application/json"
        assert is_json == (answer in ("500", "401", "400"))
        assert is_json or reply.content.startswith(b"<html>")
    assert replies["429"].headers["Retry-After"] == "7"
    assert "Retry-After" not in replies["503"].headers
    assert dated.headers["Retry-After"].startswith("Wed")


def test_a_file_can_be_a_page_with_status_200(ask: Asker) -> None:
    with serve(one_species(1), replace(CALM, trouble=(Trouble("html", on="file", first=1),))) as s:
        assert ask.audio(s, ONLY).content.startswith(b"<html>")
        assert not s.transfers
        assert ask.audio(s, ONLY).content.startswith(b"RIFF")


@pytest.mark.parametrize("answer", ["truncated", "reset"])
def test_a_file_breaks_off_and_is_whole_the_next_time(ask: Asker, answer: str) -> None:
    faults = with_setting(replace(CALM, hops=0), f"file_{answer}_first=1")
    with serve(one_species(1), faults) as server:
        url = f"{server.base_url}/{ONLY}/download"
        got: list[bytes] = []
        with requests.get(url, stream=True, timeout=10) as reply:
            n_stated = int(reply.headers["Content-Length"])
            with pytest.raises(HTTPError, match="reset" if answer == "reset" else "bytes read"):
                got.extend(reply.raw.stream(100))
        n_expected = {"truncated": n_stated // 2, "reset": 1000}[answer]
        assert 0 < sum(map(len, got)) <= n_expected
        assert not server.transfers
        assert len(ask.get(url).content) == n_stated
        assert server.transfers == {ONLY: 1}
        assert [request.n_bytes for request in server.requests] == [n_expected, n_stated]


def test_an_answer_can_stop_half_way(ask: Asker) -> None:
    faults = with_setting(replace(CALM, stall_s=0.3), "search_stall_first=1")
    with serve(one_species(), faults) as server:
        started_s = time.monotonic()
        assert ask.search(server).json()["numRecordings"] == "8"
        assert time.monotonic() - started_s >= 0.3


def test_a_stalled_client_does_not_keep_the_server_from_stopping() -> None:
    faults = with_setting(replace(CALM, stall_s=60.0), "search_stall_every=1")
    started_s = time.monotonic()
    with (
        serve(one_species(), faults) as server,
        pytest.raises(requests.RequestException),
    ):
        requests.get(
            f"{server.base_url}/api/3/recordings",
            params={"query": "grp:birds", "key": "local-key"},
            timeout=0.2,
        )
    assert time.monotonic() - started_s < 10


def test_a_burst_is_blocked_for_a_while(ask: Asker) -> None:
    faults = replace(CALM, max_per_s=4, blocked_s=0.4, blocked_status="429", retry_after="2")
    with serve(one_species(), faults) as server:
        assert statuses(ask, server, 7) == [200] * 4 + [429] * 3
        time.sleep(1.1)
        assert statuses(ask, server, 2) == [200, 200]
