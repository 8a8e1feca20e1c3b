import itertools
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bclef.config import ConfigError
from bclef.sources.http import HttpConfig, HttpStatusError, PoliteClient
from bclef.sources.pacing import Pacer
from bclef.sources.protocol import FetchError, SourceError, SourceStoppedError
from bclef.sources.replies import pause_asked_s, time_words
from tests.fault_server import ETAG, HTTP, FaultServer, HandClock, Reply, serving

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]

KEY = "a/key+&x"
HTML = b"<html><title>503 Service Temporarily Unavailable</title></html>"
PAGE = {"Content-Type": "text/html"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


@pytest.fixture
def make_client(site: FaultServer, tmp_path: Path) -> Iterator[Callable[..., PoliteClient]]:
    made: list[PoliteClient] = []

    def make(home: str = "", max_requests: int | None = None) -> PoliteClient:
        clock = site.hand_clock.clock()
        made.append(PoliteClient(HTTP, home or site.home, tmp_path, (), max_requests, clock))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., PoliteClient]) -> PoliteClient:
    return make_client()


def ask(client: PoliteClient, site: FaultServer, path: str = "/api", **secrets: str) -> object:
    return client.get_json(site.home + path, {"q": "a b"}, interval_s=1.0, secrets=secrets)


def intervals_s(site: FaultServer) -> list[float]:
    times_s = [asked.at_s for asked in site.asked]
    return [later - sooner for sooner, later in itertools.pairwise(times_s)]


# What is asked, and what is answered.


def test_query_is_quoted_and_the_client_says_who_it_is(
    client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(b'{"n": "1"}'))
    assert ask(client, site, key=KEY) == {"n": "1"}
    [asked] = site.asked
    assert asked.path.startswith("/api?q=a%20b&key=")
    assert parse_qs(urlsplit(asked.path).query) == {"q": ["a b"], "key": [KEY]}
    assert asked.headers["User-Agent"].startswith("bclef")
    assert asked.headers["User-Agent"].endswith(" (me@example.org)")


def test_login_of_netrc_is_not_sent(
    client: PoliteClient, site: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden")
    monkeypatch.setenv("NETRC", str(netrc))
    site.say("/api", Reply())
    ask(client, site)
    assert "Authorization" not in site.asked[0].headers


FLAT = {"error": "client_error", "message": "Only tags,\nplease"}
NESTED = {"error": {"code": "client_error", "message": "Only tags,\nplease"}}


@pytest.mark.parametrize("reply", [FLAT, NESTED])
def test_a_400_is_told_in_the_words_of_either_error_shape(
    reply: dict[str, object], client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(json.dumps(reply).encode(), 400))
    with pytest.raises(HttpStatusError) as error:
        ask(client, site)
    assert error.value.status == 400
    assert error.value.reply == reply
    assert str(error.value).endswith("HTTP 400 Bad Request (client_error: Only tags, please)")
    assert len(site.asked) == 1


def test_a_404_with_a_page_is_told_by_its_status(client: PoliteClient, site: FaultServer) -> None:
    site.say("/api", Reply(HTML, 404, PAGE))
    with pytest.raises(HttpStatusError, match=r"HTTP 404 Not Found$") as error:
        ask(client, site)
    assert error.value.reply is None


@pytest.mark.parametrize("reply", [FLAT, NESTED])
@pytest.mark.parametrize(("status", "advice"), [(401, "check the key"), (403, "blocked")])
def test_a_refusal_stops_at_once_with_the_words_of_the_server(
    status: int, advice: str, reply: object, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(json.dumps(reply).encode(), status))
    with pytest.raises(SourceStoppedError, match=f"client_error: Only tags, please.*{advice}"):
        ask(client, site)
    assert len(site.asked) == 1


def test_a_refusal_with_a_page_is_told_by_its_status(
    client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(HTML, 403, PAGE))
    with pytest.raises(SourceStoppedError, match="HTTP 403 Forbidden;") as error:
        ask(client, site)
    assert "html" not in str(error.value)


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"1"])
def test_json_other_than_an_object_is_refused(
    body: bytes, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(body))
    with pytest.raises(SourceError, match="expected an object"):
        ask(client, site)


def test_a_reply_without_end_is_refused(
    client: PoliteClient, site: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bclef.sources.http._MAX_REPLY_BYTES", 2 << 20)
    site.say("/api", Reply(b'{"a": "' + b"x" * (3 << 20) + b'"}'))
    with pytest.raises(SourceError, match="over 2 MiB"):
        ask(client, site)


def test_json_nested_beyond_reason_ends_in_no_crash(
    client: PoliteClient, site: FaultServer
) -> None:
    for n_levels in (150, 100_000):
        site.say("/api", Reply(b'{"a":' + b"[" * n_levels + b"]" * n_levels + b"}"))
        try:
            assert "a" in client.get_json(site.home + "/api", {}, interval_s=0)
        except SourceStoppedError:
            assert n_levels == 100_000


# What may pass is asked for again.

PASSING = {
    "503 with a page": Reply(HTML, 503, PAGE),
    "500": Reply(json.dumps(NESTED).encode(), 500),
    "429": Reply(b"", 429),
    "a page with 200": Reply(HTML, 200, PAGE),
    "nothing": Reply(b""),
    "half of the JSON": Reply(b'{"n": '),
    "a body that breaks off": Reply(b'{"n": 1}', breaks_after=4),
    "a reset": Reply(b'{"n": 1}', breaks_after=4, resets=True),
    "a lying length": Reply(b'{"n": 1}', headers={"Content-Length": "4000"}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_for_again(
    fault: str, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", PASSING[fault], Reply(b'{"n": 1}'))
    assert ask(client, site) == {"n": 1}
    assert len(site.asked) == 2


@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_stops_the_source_after_all_tries(
    fault: str, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", PASSING[fault])
    with pytest.raises(SourceStoppedError, match=r"after 3 tries.*a later run goes on from there"):
        ask(client, site)
    assert len(site.asked) == 3


def test_a_server_that_falls_silent_is_asked_again(site: FaultServer, tmp_path: Path) -> None:
    is_over = threading.Event()
    silent = Reply(b'{"n": 1}', breaks_after=3, before_end=lambda: is_over.wait(30))
    url = site.say("/api", silent, Reply(b'{"n": 1}'))
    song = Reply(b"OggS" * 1000, headers=ETAG)
    site.say("/a.ogg", replace(song, breaks_after=2000, before_end=silent.before_end), song)
    hasty = HTTP.model_copy(update={"timeout_s": 0.2})
    with PoliteClient(hasty, site.home, tmp_path, clock=site.hand_clock.clock()) as client:
        assert client.get_json(url, {}, interval_s=0) == {"n": 1}
        client.download(f"{site.home}/a.ogg", tmp_path / "a", 9999, interval_s=0)
    is_over.set()
    assert (tmp_path / "a").read_bytes() == song.body
    assert site.ranges == [None, None, None, "bytes=2000-"]


def test_a_closed_port_stops_the_source(
    make_client: Callable[..., PoliteClient], site: FaultServer
) -> None:
    client = make_client("http://127.0.0.1:9")
    with pytest.raises(SourceStoppedError, match=r"ConnectionRefusedError.*after 3 tries"):
        client.get_json("http://127.0.0.1:9/api", {}, interval_s=1.0)
    assert len(site.hand_clock.slept_s) >= 2


def test_pauses_double_with_jitter_up_to_the_longest(site: FaultServer, tmp_path: Path) -> None:
    patient = HTTP.model_copy(update={"max_attempts": 8, "longest_wait_s": 20.0})
    site.say("/api", Reply(HTML, 503, PAGE))
    with (
        PoliteClient(patient, site.home, tmp_path, clock=site.hand_clock.clock()) as client,
        pytest.raises(SourceStoppedError),
    ):
        ask(client, site)
    pauses_s = site.hand_clock.slept_s
    assert len(pauses_s) == 7
    for n_tries, pause_s in enumerate(pauses_s):
        assert min(2.0 * 2**n_tries, 20.0) <= pause_s <= min(2.0 * 2**n_tries + 2.0, 20.0)
    assert len(set(pauses_s[:3])) == 3
    assert any(pause_s % 1 for pause_s in pauses_s[:3])


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", ["37", "Fri, 15 Jan 2027 08:00:37 GMT"])
def test_retry_after_is_waited_for(
    header: str, status: int, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(b"", status, {"Retry-After": header}), Reply())
    ask(client, site)
    assert intervals_s(site) == [37.0]


def test_retry_after_beyond_patience_stops_the_source_and_says_until_when(
    client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(b"", 429, {"Retry-After": "3600"}))
    with pytest.raises(SourceStoppedError, match=r"before 2027-01-15 09:00:00 UTC.*goes on"):
        ask(client, site)
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "header",
    [
        "soon",
        "",
        "-5",
        "Fri, 99 Foo 2027",
        "\u00b2",
        "Mon, 01 Jan 2027 00:00:00 +9999999",
    ],
)
def test_a_retry_after_without_sense_is_as_none(header: str) -> None:
    assert pause_asked_s(header, 0.0) is None


@pytest.mark.parametrize("header", ["9" * 10, "1" * 99, "1" * 5000])
def test_a_retry_after_of_many_digits_is_for_ever(header: str) -> None:
    assert pause_asked_s(header, 0.0) == 1e9


def test_a_page_with_one_number_of_many_digits_is_not_lost(
    client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply(b'{"a": ' + b"9" * 5000 + b', "b": -12}'))
    assert ask(client, site) == {"a": "9" * 5000, "b": -12}


@pytest.mark.slow
def test_a_body_that_drips_is_given_up(site: FaultServer, tmp_path: Path) -> None:
    hasty = HTTP.model_copy(update={"timeout_s": 0.1, "max_attempts": 1})
    url = site.say("/api", Reply(b'{"n": ' + b" " * 200 + b"1}", byte_every_s=0.03))
    with PoliteClient(hasty, site.home, tmp_path) as client:
        began_s = time.monotonic()
        with pytest.raises(SourceStoppedError, match=r"not whole after 1 s, [0-9]+ bytes came"):
            client.get_json(url, {}, interval_s=0)
        assert 1.0 < time.monotonic() - began_s < 3.0
        song = site.say("/a.ogg", Reply(b"OggS" * 100, byte_every_s=0.03))
        with pytest.raises(FetchError, match=r"short_body: .*fewer than 1000 a second"):
            client.download(song, tmp_path / "a", 9999, interval_s=0)


def test_a_retry_after_at_the_end_of_time_can_be_told() -> None:
    pause_s = pause_asked_s("Fri, 31 Dec 9999 23:59:59 -2359", 1.8e9)
    assert pause_s == 1e9
    assert time_words(1.8e9 + pause_s).startswith("2058")


# Politeness.


def test_no_two_requests_are_closer_than_the_interval_hops_and_retries_included(
    make_client: Callable[..., PoliteClient], site: FaultServer, tmp_path: Path
) -> None:
    site.say("/hop", Reply(b"", 302, {"Location": "/api"}))
    site.say("/api", Reply(HTML, 503, PAGE), Reply())
    site.say("/a.ogg", Reply(b"OggS", breaks_after=2), Reply(b"OggS"))
    client = make_client()
    client.get_json(site.home + "/hop", {}, interval_s=7.0)
    client.download(site.home + "/a.ogg", tmp_path / "a", 100, interval_s=9.0)
    assert site.paths == ["/hop", "/api", "/hop", "/api", "/a.ogg", "/a.ogg"]
    assert intervals_s(site) == [7.0, 7.0, 7.0, 9.0, 9.0]


def test_time_spent_elsewhere_counts_as_pause(client: PoliteClient, site: FaultServer) -> None:
    site.say("/api", Reply())
    ask(client, site)
    site.hand_clock.now_s += 0.75
    ask(client, site)
    assert site.hand_clock.slept_s == [0.25]


def test_a_run_right_after_another_pauses_too(
    make_client: Callable[..., PoliteClient], site: FaultServer
) -> None:
    site.say("/api", Reply())
    for _ in range(2):
        client = make_client()
        ask(client, site)
        client.close()
    assert intervals_s(site) == pytest.approx([1.0], abs=1e-5)


@pytest.mark.parametrize("is_off_s", [-86_400, 86_400])
def test_a_wall_clock_that_is_set_changes_nothing_for_one_client(
    is_off_s: float, client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply())
    ask(client, site)
    site.hand_clock.wall_is_off_s = is_off_s
    ask(client, site)
    assert intervals_s(site) == [1.0]


def test_a_wall_clock_set_back_does_not_stop_everything(
    make_client: Callable[..., PoliteClient], site: FaultServer
) -> None:
    site.say("/api", Reply())
    ask(make_client(), site)
    site.hand_clock.wall_is_off_s = -86_400
    ask(make_client(), site)
    assert sum(site.hand_clock.slept_s) <= 1.0


def test_every_request_counts_against_the_budget_and_none_leaves_beyond_it(
    make_client: Callable[..., PoliteClient], site: FaultServer
) -> None:
    site.say("/hop", Reply(b"", 302, {"Location": "/api"}))
    site.say("/api", Reply(HTML, 503, PAGE), Reply())
    client = make_client(max_requests=4)
    client.get_json(site.home + "/hop", {}, interval_s=1.0)
    with pytest.raises(SourceStoppedError, match="max_requests"):
        ask(client, site)
    assert len(site.asked) == 4


HOLDER = """
import sys
import threading
from pathlib import Path
from bclef.sources.pacing import Pacer
pacer = Pacer("host:1", Path(sys.argv[1]), None)
pacer.hold()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_talks_to_a_host_and_the_other_says_that_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        elsewhere = Pacer("other:1", tmp_path, None)
        elsewhere.hold()
        elsewhere.close()
        assert not caplog.records

        class EndHolder(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                holder.kill()

        logger, handler = logging.getLogger("bclef.sources.storefolders"), EndHolder()
        logger.addHandler(handler)
        pacer = Pacer("host:1", tmp_path, None)
        pacer.hold()
        logger.removeHandler(handler)
        pacer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "another process is asking host:1; waiting until it is done"
    ]


def test_two_clients_of_one_process_share_the_host(
    make_client: Callable[..., PoliteClient], site: FaultServer
) -> None:
    site.say("/api", Reply())
    ask(make_client(), site)
    ask(make_client(), site)
    assert len(site.asked) == 2
    assert intervals_s(site) == pytest.approx([1.0], abs=1e-5)


@pytest.mark.parametrize("contact", ["a\nHost: evil", "\u00e9", ""])
def test_a_contact_unfit_for_a_header_is_refused(contact: str) -> None:
    with pytest.raises(ConfigError, match="contact"):
        HttpConfig.from_tree({**HTTP.model_dump(), "contact": contact}, "params.yaml", "http")


def test_hand_clock_goes_on_by_sleep_only() -> None:
    hand = HandClock()
    clock = hand.clock()
    before_s = clock.monotonic_s()
    clock.sleep(2.5)
    assert clock.monotonic_s() - before_s == 2.5
