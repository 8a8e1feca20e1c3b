from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from bclef.sources.addresses import AllowedHosts, shown
from bclef.sources.http import PoliteClient
from bclef.sources.protocol import FetchError, SourceError
from tests.fault_server import HTTP, FaultServer, Reply, serving

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


@pytest.fixture
def client(site: FaultServer, tmp_path: Path) -> Iterator[PoliteClient]:
    with PoliteClient(HTTP, site.home, tmp_path, clock=site.hand_clock.clock()) as polite:
        yield polite


def ask(client: PoliteClient, site: FaultServer, path: str = "/api") -> object:
    return client.get_json(site.home + path, {"q": "a b"}, interval_s=1.0)


@pytest.mark.parametrize("n_hops", [1, 2, 3, 5])
def test_redirects_are_followed(n_hops: int, client: PoliteClient, site: FaultServer) -> None:
    for hop in range(n_hops):
        there = f"/api{hop + 1}" if hop % 2 else f"http://localhost:{site.port}/api{hop + 1}"
        site.say(f"/api{hop}", Reply(b"", 302, {"Location": there}))
    site.say(f"/api{n_hops}", Reply(b'{"n": 1}'))
    assert ask(client, site, "/api0") == {"n": 1}
    assert len(site.asked) == n_hops + 1


ELSEWHERE = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/a",
    "data:application/json,{}",
    "http://example.org/api",
    "//example.org/api",
    "http://127.0.0.1:9/api",
    "http://127.0.0.1/api",
    "https://127.0.0.1/api",
    "http://me:password@127.0.0.1:{port}/api",
    "http://example.org\\@127.0.0.1:{port}/api",
    "http://127.0.0.1:{port}\\@example.org/api",
    "http://127.0.0.1:{port}@example.org/api",
    "http://127.0.0.1:{port}.example.org/api",
    "http://127.0.0.1:99999/api",
    "http://[::1/api",
    "http://127.1:{port}/api",
    "http://0.0.0.0:{port}/api",
]


@pytest.mark.parametrize("location", ELSEWHERE)
def test_a_redirect_elsewhere_is_not_followed(
    location: str, client: PoliteClient, site: FaultServer, tmp_path: Path
) -> None:
    target = location.replace("{port}", str(site.port))
    url = site.say("/api", Reply(b"", 302, {"Location": target}))
    with pytest.raises(SourceError, match="was not asked"):
        ask(client, site)
    with pytest.raises(FetchError, match="bad_redirect") as error:
        client.download(url, tmp_path / "a", 100, interval_s=0)
    assert "password" not in str(error.value)
    assert len(site.asked) == 2


@pytest.mark.parametrize("url", ELSEWHERE)
def test_an_address_elsewhere_is_not_asked(
    url: str, client: PoliteClient, site: FaultServer, tmp_path: Path
) -> None:
    target = url.replace("{port}", str(site.port))
    with pytest.raises(FetchError, match="bad_url"):
        client.download(target, tmp_path / "a", 100, interval_s=0)
    with pytest.raises(SourceError, match="was not asked"):
        client.get_json(target, {}, interval_s=0)
    assert not site.asked


def test_a_loop_of_redirects_ends(client: PoliteClient, site: FaultServer, tmp_path: Path) -> None:
    url = site.say("/api", Reply(b"", 302, {"Location": "/api"}))
    with pytest.raises(SourceError, match="more than 5 redirects"):
        ask(client, site)
    with pytest.raises(FetchError, match="bad_redirect: more than 5"):
        client.download(url, tmp_path / "a", 100, interval_s=0)
    assert len(site.asked) == 12


def test_a_redirect_to_a_name_of_strangers_making_is_quoted(
    client: PoliteClient, site: FaultServer, tmp_path: Path
) -> None:
    there = "/sounds/XC1-\u00e9t\u00e9 \u9ce5.mp3"
    url = site.say("/1/download", Reply(b"", 302, {"Location": there.encode().decode("latin-1")}))
    site.say(quote(there), Reply(b"ID3"))
    client.download(url, tmp_path / "a", 100, interval_s=0)
    assert (tmp_path / "a").read_bytes() == b"ID3"


HOME = "https://xeno-canto.org/api/3"


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://xeno-canto.org/1", "https://xeno-canto.org/1"),
        ("HTTPS://WWW.Xeno-Canto.org:443/1#x", "HTTPS://WWW.Xeno-Canto.org:443/1"),
        ("http://xeno-canto.org/1", "https://xeno-canto.org/1"),
        ("http://static.example.org/1", "http://static.example.org/1"),
        ("https://static.example.org/a b", "https://static.example.org/a%20b"),
        ("https://static.example.org/a%20b\n", "https://static.example.org/a%20b"),
    ],
)
def test_home_is_met_with_and_without_www_and_never_less_safely(url: str, asked: str) -> None:
    assert AllowedHosts(HOME, ["Static.example.org"]).first(url) == asked


@pytest.mark.parametrize(
    "url",
    [
        "https://xeno-canto.org:8443/1",
        "https://api.xeno-canto.org/1",
        "https://xeno-canto.org.example.org/1",
        "https://static.example.org:8443/1",
        "https://www.static.example.org/1",
        "https://localhost/1",
        "//xeno-canto.org/1",
        "",
    ],
)
def test_other_hosts_and_ports_are_refused(url: str) -> None:
    with pytest.raises(FetchError, match="bad_url"):
        AllowedHosts(HOME, ["static.example.org"]).first(url)


@pytest.mark.parametrize("home", ["", "xeno-canto.org", "ftp://xeno-canto.org", "http://a@b/"])
def test_a_home_that_is_no_address_is_refused(home: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no address of a server"):
        PoliteClient(HTTP, home, tmp_path)


def test_addresses_are_shown_without_query_and_user() -> None:
    assert shown("http://me:pass@host/a?key=1#b") == "http://host/a"
