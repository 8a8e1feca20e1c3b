import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bclef.sources.downloads import discard_part
from bclef.sources.http import PoliteClient
from bclef.sources.protocol import FetchError, SourceStoppedError
from tests.fault_server import ETAG, HTTP, FaultServer, Reply, serving

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]

SONG = b"OggS" + bytes(range(256)) * 400
HALF = 60_000
HTML = b"\n <!doctype html><html></html>"
DATE = {"Last-Modified": "Fri, 01 Jan 2021 00:00:00 GMT", "Accept-Ranges": "bytes"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


@pytest.fixture
def client(site: FaultServer, tmp_path: Path) -> Iterator[PoliteClient]:
    with PoliteClient(HTTP, site.home, tmp_path, clock=site.hand_clock.clock()) as polite:
        yield polite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".song.part"


def get(client: PoliteClient, url: str, path: Path, max_bytes: int = 1 << 20) -> bytes:
    client.download(url, path, max_bytes, interval_s=1.0)
    return path.read_bytes()


def facts_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def broken_off(client: PoliteClient, site: FaultServer, path: Path, headers: object = ETAG) -> str:
    """Leaves the first half of the song at `path`, as a killed run does; returns its address."""
    assert isinstance(headers, dict)
    url = site.say("/a.ogg", Reply(SONG, headers=headers, breaks_after=HALF), Reply(b"", 403))
    with pytest.raises(SourceStoppedError):
        get(client, url, path)
    assert path.read_bytes() == SONG[:HALF]
    site.asked.clear()
    return url


# What is taken, and what is refused.


@pytest.mark.parametrize(
    "stated",
    [
        "audio/mpeg",
        "Audio/OGG; codecs=opus",
        "video/mp4",
        "application/octet-stream",
        "application/ogg",
        "application/x-unheard-of",
        "binary/octet-stream",
        "",
        None,
    ],
)
def test_audio_is_taken_just_as_it_comes(
    stated: str | None, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(SONG, headers={"Content-Type": stated}))
    assert get(client, url, path) == SONG
    [asked] = site.asked
    assert asked.headers["Accept-Encoding"] == "identity"
    assert "Range" not in asked.headers


@pytest.mark.parametrize(
    "stated",
    [
        "text/html; charset=UTF-8",
        "TEXT/PLAIN",
        "image/png",
        "application/json",
        "application/problem+json",
        "application/xhtml+xml",
        "multipart/byteranges; boundary=x",
    ],
)
def test_what_says_that_it_is_something_else_is_refused(
    stated: str, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(SONG, headers={"Content-Type": stated}))
    with pytest.raises(FetchError, match="not_audio"):
        get(client, url, path)
    assert not path.exists()
    assert len(site.asked) == 1


@pytest.mark.parametrize("body", [HTML, b"\xef\xbb\xbf" + HTML, b" " * 40_000 + HTML, b"<"])
def test_a_web_page_under_the_name_of_audio_is_refused(
    body: bytes, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(body, headers={"Content-Type": "audio/ogg"}))
    with pytest.raises(FetchError, match="not_audio: begins with <"):
        get(client, url, path)


def test_audio_may_hold_the_sign_that_web_pages_begin_with(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    body = b"OggS" + b"<" * 100_000
    assert get(client, site.say("/a.ogg", Reply(body)), path) == body


@pytest.mark.parametrize(("status", "reason"), [(404, "gone"), (410, "gone"), (418, "http_418")])
def test_a_file_that_is_not_given_is_told_by_its_status(
    status: int, reason: str, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    with pytest.raises(FetchError) as error:
        get(client, site.say("/a.ogg", Reply(HTML, status)), path)
    assert error.value.reason == reason
    assert f"HTTP {status}" in error.value.detail
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [204, 206, 300, 304, 416])
def test_an_answer_without_sense_is_refused(
    status: int, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(b"", status, {"Content-Range": "bytes 0-3/4"}))
    with pytest.raises(FetchError, match=f"http_{status}"):
        get(client, url, path)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_stops_at_once(
    status: int, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(b'{"error": "x", "message": "go away"}', status))
    with pytest.raises(SourceStoppedError, match="go away"):
        get(client, url, path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_pass_is_asked_for_again_and_stops_the_source_in_the_end(
    status: int, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    busy = Reply(HTML, status, {"Content-Type": "text/html"})
    assert get(client, site.say("/a.ogg", busy, busy, Reply(SONG)), path) == SONG
    with pytest.raises(SourceStoppedError, match="after 3 tries"):
        get(client, site.say("/b.ogg", busy), path)
    assert len(site.asked) == 6


@pytest.mark.parametrize("reply", [Reply(HTML, 500), Reply(b"", resets=True, breaks_after=0)])
def test_one_file_that_cannot_be_had_now_does_not_stop_the_source(
    reply: Reply, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    if reply.resets:
        reply = replace(reply, status=502)
    with pytest.raises(FetchError, match=r"unavailable: .*after 3 tries"):
        get(client, site.say("/b.ogg", reply), path)
    assert len(site.asked) == 3


@pytest.mark.parametrize(
    "body", [b'{"error": "x"}', b" [1]", "<html>".encode("utf-16"), "\ufeff<p>".encode("utf-16-be")]
)
def test_words_under_the_name_of_audio_are_refused(
    body: bytes, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(body, headers={"Content-Type": "audio/ogg"}))
    with pytest.raises(FetchError, match="not_audio"):
        get(client, url, path)


def test_a_validator_with_the_key_in_it_is_not_kept(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    client.keep_secret({"key": "s3cret/key"})
    url = site.say("/a.ogg", Reply(SONG, headers={**ETAG, "ETag": '"s3cret%2Fkey"'}))
    get(client, url, path)
    assert json.loads(facts_of(path).read_text())["validator"] is None


def test_a_file_over_the_limit_is_refused_before_its_body(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    sent: list[int] = []
    reply = Reply(b"x" * 1001, before_end=lambda: sent.append(1))
    with pytest.raises(FetchError, match=r"too_large: 1001 bytes, more than fetch\.max_bytes 1000"):
        get(client, site.say("/a.ogg", reply), path, max_bytes=1000)
    assert not path.exists()
    assert get(client, site.say("/b.ogg", Reply(b"x" * 1000)), path, max_bytes=1000)


@pytest.mark.parametrize("header", [None, "many", "-1"])
def test_a_body_of_unknown_length_is_cut_off_at_the_limit(
    header: str | None, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    reply = Reply(b"x" * 4_000_000, headers={"Content-Length": header})
    with pytest.raises(FetchError, match="too_large"):
        get(client, site.say("/a.ogg", reply), path, max_bytes=50_000)
    assert path.stat().st_size <= 50_000
    assert len(site.asked) == 1


def test_a_body_of_unknown_length_is_taken_to_its_end(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(SONG, headers={"Content-Length": None}))
    assert get(client, url, path) == SONG
    assert get(client, url, path) == SONG
    assert len(site.asked) == 1


# Bodies that break off.


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("headers", [ETAG, DATE, {"Accept-Ranges": "bytes"}])
def test_a_body_that_breaks_off_is_gone_on_with_from_there(
    headers: dict[str, str | None],
    resets: bool,
    client: PoliteClient,
    site: FaultServer,
    path: Path,
) -> None:
    broken = Reply(SONG, headers=headers, breaks_after=HALF, resets=resets)
    url = site.say("/a.ogg", broken, Reply(SONG, headers=headers))
    assert get(client, url, path) == SONG
    first, second = site.asked
    assert "Range" not in first.headers
    if not resets:  # a reset may throw away what was sent last
        assert second.headers["Range"] == f"bytes={HALF}-"
    validator = headers.get("ETag") or headers.get("Last-Modified")
    if "Range" in second.headers:
        assert second.headers.get("If-Range") == validator


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"weak"'},
        {"Content-Encoding": "br", "Accept-Ranges": "bytes"},
    ],
)
def test_without_a_word_that_it_is_the_same_file_it_starts_anew(
    headers: dict[str, str | None], client: PoliteClient, site: FaultServer, path: Path
) -> None:
    whole = Reply(SONG, headers={name: headers[name] for name in headers if "Enc" not in name})
    url = site.say("/a.ogg", Reply(SONG, headers=headers, breaks_after=HALF), whole)
    assert get(client, url, path) == SONG
    assert site.ranges == [None, None]


def test_a_body_that_always_breaks_off_is_short_in_the_end(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(SONG, headers=ETAG, breaks_after=1000))
    with pytest.raises(FetchError, match=r"short_body: .*after 3 tries"):
        get(client, url, path)
    assert path.read_bytes() == SONG[:3000]
    assert site.ranges == [None, "bytes=1000-", "bytes=2000-"]


def test_a_length_that_lies_upwards_is_a_short_body(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/a.ogg", Reply(SONG, headers={"Content-Length": str(len(SONG) + 1)}))
    with pytest.raises(FetchError, match="short_body"):
        get(client, url, path)


def test_bytes_beyond_the_stated_length_do_not_get_into_the_next_answer(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    lie = {"Content-Length": "4", "Connection": "keep-alive"}
    assert get(client, site.say("/a.ogg", Reply(SONG, headers=lie)), path) == b"OggS"
    assert get(client, site.say("/b.ogg", Reply(SONG)), path) == SONG


# From one run to the next.


def test_a_later_run_asks_only_for_what_is_missing(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    site.say("/a.ogg", Reply(SONG, headers=ETAG))
    assert get(client, url, path) == SONG
    assert site.ranges == [f"bytes={HALF}-"]


def test_a_part_that_is_whole_is_not_asked_for(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    path.write_bytes(SONG)
    assert get(client, url, path) == SONG
    assert not site.asked


def test_a_file_known_to_be_over_the_limit_is_not_asked_for(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    with pytest.raises(FetchError, match="too_large"):
        get(client, url, path, max_bytes=HALF + 1)
    assert not site.asked


def test_range_is_asked_for_at_the_end_of_redirects_too(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = site.say("/1/download", Reply(b"", 302, {"Location": "/a.ogg"}))
    broken = Reply(SONG, headers=ETAG, breaks_after=HALF)
    site.say("/a.ogg", broken, Reply(SONG, headers=ETAG))
    assert get(client, url, path) == SONG
    assert site.ranges == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]


OTHER = b"OggS" + b"another" * 9000
CHANGED = {
    "200, as the tag does not fit": Reply(OTHER, headers={**ETAG, "ETag": '"two"'}),
    "200, as ranges are not given": Reply(OTHER),
    "another start": Reply(b"x", 206, {"Content-Range": f"bytes 0-0/{len(SONG)}"}),
    "another total": Reply(b"x", 206, {"Content-Range": f"bytes {HALF}-{HALF}/{HALF + 1}"}),
    "another tag": Reply(
        SONG[HALF:],
        206,
        {"Content-Range": f"bytes {HALF}-{len(SONG) - 1}/{len(SONG)}", "ETag": '"two"'},
    ),
    "packed": Reply(
        SONG[HALF:],
        206,
        {
            "Content-Range": f"bytes {HALF}-{len(SONG) - 1}/{len(SONG)}",
            "Content-Encoding": "x-unheard-of",
        },
    ),
    "no range": Reply(b"x", 206),
    "garbage": Reply(b"x", 206, {"Content-Range": "bytes \u00b2-\u00b3/9"}),
    "416": Reply(b"", 416, {"Content-Range": f"bytes */{HALF - 1}"}),
}


@pytest.mark.parametrize("answer", CHANGED)
@pytest.mark.parametrize("headers", [ETAG, {"Accept-Ranges": "bytes"}])
def test_an_answer_about_another_file_starts_anew(
    answer: str,
    headers: dict[str, str | None],
    client: PoliteClient,
    site: FaultServer,
    path: Path,
) -> None:
    url = broken_off(client, site, path, headers)
    reply = CHANGED[answer]
    if reply.status == 200 and "ETag" not in headers:
        reply = Reply(OTHER)
    site.say("/a.ogg", reply, Reply(OTHER))
    assert get(client, url, path) == OTHER
    assert site.asked[0].headers["Range"] == f"bytes={HALF}-"
    assert site.ranges[1:] == ([] if reply.status == 200 else [None])
    assert json.loads(facts_of(path).read_text())["n_total_bytes"] == len(OTHER)


def test_a_shorter_piece_than_was_asked_for_is_gone_on_from(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    piece = {"Content-Range": f"bytes {HALF}-{HALF + 9}/{len(SONG)}"}
    site.say("/a.ogg", Reply(SONG[HALF : HALF + 10], 206, piece), Reply(SONG, headers=ETAG))
    assert get(client, url, path) == SONG
    assert site.ranges == [f"bytes={HALF}-", f"bytes={HALF + 10}-"]


def test_more_than_the_rest_of_the_file_starts_anew(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    longer = {"Content-Range": f"bytes {HALF}-{len(SONG) - 1}/{len(SONG)}"}
    site.say("/a.ogg", Reply(SONG, 206, longer), Reply(OTHER))
    assert get(client, url, path) == OTHER


GOOD = {"url": "{url}", "validator": '"one"', "n_total_bytes": len(SONG), "takes_ranges": True}
TORN = {
    "absent": None,
    "empty": "",
    "torn": '{"url": "http',
    "no object": "[]",
    "nested": "[" * 100_000,
    "another url": json.dumps({**GOOD, "url": "http://127.0.0.1/b.ogg"}),
    "no url": json.dumps({name: GOOD[name] for name in GOOD if name != "url"}),
    "a header in the tag": json.dumps({**GOOD, "validator": '"one"\r\nHost: evil'}),
    "a tag beyond reason": json.dumps({**GOOD, "validator": "x" * 5000}),
    "a length in words": json.dumps({**GOOD, "n_total_bytes": "9"}),
    "a length below zero": json.dumps({**GOOD, "n_total_bytes": -9}),
    "a length below what is there": json.dumps({**GOOD, "n_total_bytes": HALF - 1}),
    "a length that is no number": json.dumps({**GOOD, "n_total_bytes": float("nan")}),
    "a stranger": json.dumps({**GOOD, "path": "/etc/passwd"}),
    "binary": "\x00\udcff",
}


@pytest.mark.parametrize("fault", TORN)
def test_a_part_of_which_nothing_sound_is_known_starts_anew(
    fault: str, client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    text = TORN[fault]
    if text is None:
        facts_of(path).unlink()
    else:
        content = text.replace("{url}", url).encode("utf-8", "surrogateescape")
        facts_of(path).write_bytes(content)
    site.say("/a.ogg", Reply(OTHER))
    assert get(client, url, path) == OTHER
    assert site.ranges == [None]


def test_sound_facts_of_the_same_form_are_used(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    facts_of(path).write_text(json.dumps(GOOD).replace("{url}", url))
    site.say("/a.ogg", Reply(SONG, headers=ETAG))
    get(client, url, path)
    assert site.ranges == [f"bytes={HALF}-"]


def test_a_refused_answer_does_not_touch_the_part(
    client: PoliteClient, site: FaultServer, path: Path
) -> None:
    url = broken_off(client, site, path)
    site.say("/a.ogg", Reply(HTML, 200, {"Content-Type": "text/html"}))
    with pytest.raises(FetchError, match="not_audio"):
        get(client, url, path)
    assert path.read_bytes() == SONG[:HALF]


def test_a_full_disk_is_no_fault_of_the_network(
    client: PoliteClient, site: FaultServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("bclef.sources.downloads.write_json", full)
    with pytest.raises(OSError, match="full"):
        get(client, site.say("/a.ogg", Reply(SONG)), path)
    assert len(site.asked) == 1


def test_discarding_removes_both_files_and_does_not_mind_their_absence(path: Path) -> None:
    path.write_bytes(b"")
    facts_of(path).write_text("")
    for _ in range(2):
        discard_part(path)
        assert not list(path.parent.iterdir())
