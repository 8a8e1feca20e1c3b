import html
import io
import itertools
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

import pytest
import requests

from bclef.sources.hiding import Hider
from bclef.sources.http import PoliteClient
from bclef.sources.protocol import SourceError, SourceStoppedError
from bclef.sources.replies import AskAgainError, quietly
from tests.fault_server import HTTP, FaultServer, Reply, serving

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]

KEY = "s3cret/key+&x"
PAGE = {"Content-Type": "text/html"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


@pytest.fixture
def client(site: FaultServer, tmp_path: Path) -> Iterator[PoliteClient]:
    with PoliteClient(HTTP, site.home, tmp_path, clock=site.hand_clock.clock()) as polite:
        yield polite


def ask(client: PoliteClient, site: FaultServer, path: str = "/api", **secrets: str) -> object:
    return client.get_json(site.home + path, {"q": "a b"}, interval_s=1.0, secrets=secrets)


ECHO = {"error": "client_error", "message": f"bad key {KEY}, {quote(KEY, safe='')}"}
TELLING = {
    "400": Reply(json.dumps(ECHO).encode(), 400),
    "401": Reply(json.dumps(ECHO).encode(), 401),
    "500": Reply(json.dumps(ECHO).encode(), 500),
    "page": Reply(f"<a href='?key={quote(KEY)}'>".encode(), 200, PAGE),
    "cut": Reply(b"{}", breaks_after=1),
    "reset": Reply(b"{}", breaks_after=1, resets=True),
    "list": Reply(json.dumps([KEY]).encode()),
    "elsewhere": Reply(b"", 302, {"Location": f"http://e.org/{quote(KEY)}?key={quote(KEY)}"}),
    "loop": Reply(b"", 302, {"Location": f"/api?key={quote(KEY, safe='')}"}),
    "garbled": Reply(b"", headers={"Content-Encoding": "gzip", "Content-Length": "5"}),
}


def all_of(error: BaseException) -> str:
    """Returns whatever of an exception and its whole chain may be printed."""
    texts = ["".join(traceback.format_exception(error)), repr(error), str(vars(error))]
    linked = [cause for cause in (error.__cause__, error.__context__) if cause]
    return "\n".join([*texts, repr(error.args), *map(all_of, linked)])


@pytest.mark.parametrize("fault", [*TELLING, "closed port"])
@pytest.mark.parametrize("key", [KEY, "k"])
def test_the_key_is_in_no_exception_and_no_log(
    fault: str, key: str, site: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reply = TELLING.get(fault, Reply())
    site.say("/api", replace(reply, body=reply.body.replace(KEY.encode(), key.encode())))
    home = "http://127.0.0.1:9" if fault == "closed port" else site.home
    client = PoliteClient(HTTP, home, tmp_path, clock=site.hand_clock.clock())
    with client, pytest.raises((SourceError, SourceStoppedError)) as error:
        client.get_json(f"{home}/api", {}, interval_s=0, secrets={"key": key})
    shown_texts = all_of(error.value) + caplog.text + repr(client) + str(vars(client))
    if key == KEY:
        for form in (KEY, quote(KEY), quote(KEY, safe=""), quote(KEY).lower()):
            assert form not in shown_texts
    assert f"key={key}" not in shown_texts
    assert caplog.records


def test_an_exception_of_the_http_library_is_no_context_of_ours() -> None:
    def ask() -> None:
        raise requests.ConnectionError(f"http://host/?key={KEY}")

    with pytest.raises(AskAgainError) as error:
        quietly(ask)
    assert (error.value.__cause__, error.value.__context__) == (None, None)


def test_the_key_in_the_words_of_the_http_library_is_hidden(
    client: PoliteClient,
    site: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object, url: str, **__: object) -> None:
        raise requests.ConnectionError(f"cannot reach {url}")

    monkeypatch.setattr(requests.Session, "get", fail)
    with pytest.raises(SourceStoppedError) as error:
        ask(client, site, key=KEY)
    texts = all_of(error.value) + caplog.text
    assert texts.count("key=[hidden]") > 2
    assert quote(KEY, safe="") not in texts


@pytest.mark.parametrize("n_before", range(270, 300, 3))
def test_words_are_not_cut_within_the_key(
    n_before: int, client: PoliteClient, site: FaultServer
) -> None:
    reply = {"error": "x" * n_before + KEY}
    site.say("/api", Reply(json.dumps(reply).encode(), 401))
    with pytest.raises(SourceStoppedError) as error:
        ask(client, site, key=KEY)
    assert KEY[:5] not in str(error.value)


def test_debug_logs_of_the_http_library_show_requests_without_the_key(
    client: PoliteClient, site: FaultServer
) -> None:
    site.say("/api", Reply())
    stream = io.StringIO()
    logger, handler = logging.getLogger("urllib3.connectionpool"), logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        ask(client, site, key=KEY)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert "GET /api?q=a%20b&key=[hidden] HTTP/1.1" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    ["{}", "?key={}&", "{}{}"],
)
@pytest.mark.parametrize("key", ["k", "s3cret/key+&x y", "\u9ce5%2f", "a" * 500])
def test_a_secret_is_hidden_however_it_is_quoted(text: str, key: str) -> None:
    hider = Hider()
    hider.learn({"key": key})
    once = quote(key, safe="")
    for form in (key, once, once.lower(), quote(key), quote(once), key.replace("&", "&amp;")):
        found = hider.hide(text.replace("{}", form).replace("key=", "q="))
        assert found == text.replace("{}", "[hidden]").replace("key=", "q=")
    hider.forget()


def test_a_reply_kept_as_data_holds_no_key_but_keeps_its_words(
    client: PoliteClient, site: FaultServer
) -> None:
    reply = {"next": f"/api?key={quote(KEY)}", "en": "Monkey", "list": [{"a": KEY}]}
    site.say("/api", Reply(json.dumps(reply).encode()))
    assert ask(client, site, key=KEY) == {
        "next": "/api?key=[hidden]",
        "en": "Monkey",
        "list": [{"a": "[hidden]"}],
    }
    assert ask(client, site, key="k") == {
        "next": "/api?key=[hidden]",
        "en": "Monkey",
        "list": [{"a": "[hidden]"}],
    }


KEYS = ["0123abcd", "s3cret/key+&x y", "50%41 =a", "a+b%2fc", " k\tk ", "&amp;x"]


@pytest.mark.parametrize("key", KEYS)
def test_a_secret_is_hidden_in_any_mix_of_entities(key: str) -> None:
    hider = Hider()
    hider.learn({"key": key})
    quotes: list[Callable[[str], str]] = [
        lambda c: c,
        lambda c: f"&#{ord(c)};",
        lambda c: f"&#x{ord(c):X};",
        lambda c: f"&#x0{ord(c):x};",
        lambda c: f"&amp;#{ord(c)};",
        lambda c: f"&amp;amp;#x{ord(c):x};",
        lambda c: {"/": "&sol;", "+": "&plus;", "&": "&AMP;", "%": "&percnt;"}.get(c, c),
        lambda c: quote(quote(f"&#{ord(c)};", safe=""), safe=""),
        lambda c: quote(c, safe=""),
        html.escape,
    ]
    stated = key.strip()
    for one, other in itertools.product(quotes, quotes):
        mixed = "".join((one, other)[place % 2](c) for place, c in enumerate(stated))
        assert hider.hide(f"<{mixed}>") == "<[hidden]>"
    for form in (unquote(stated), unquote_plus(stated), "\n \t".join(stated.split())):
        assert hider.hide(f"<{form}>") == "<[hidden]>"
    hider.forget()


def test_hiding_takes_no_longer_for_text_that_is_meant_to_make_it() -> None:
    hider = Hider()
    hider.learn({"key": "ab cd&" * 10})
    began_s = time.process_time()
    for text in ("&" * 20_000, "&amp;" * 10_000, "%25" * 10_000, " " * 20_000, "ab cd&" * 5000):
        hider.hide(text)
    hider.forget()
    assert time.process_time() - began_s < 2.0
