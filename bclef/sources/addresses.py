"""Which addresses a client may ask: those of its home host, and of further hosts by name.

Addresses come from replies, so they are text of strangers. They are brought to one plain form
first, and what two parsers might read in two ways is refused.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from bclef.sources.protocol import FetchError, SourceError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PLACE = re.compile(
    r"(?P<host>[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
# What an address may hold unquoted; a percent sign begins something that is quoted already.
_PLAIN = "%/:=&?~+!$,;'@()*[]#"


class _Parts(NamedTuple):
    scheme: str
    host: str
    port: int | None
    """None is the default one of the scheme."""


class AllowedHosts:
    """The hosts that one client may ask."""

    def __init__(self, home: str, others: Collection[str]) -> None:
        """Takes the address of the home host, and the names of further ones.

        Args:
            home: Such as a `base_url`. The host is met with and without `www.` and at this port
                only; `localhost`, `127.0.0.1` and `::1` are one.
            others: Met at the default ports only.

        Raises:
            SourceError: `home` is no address over http or https.
        """
        try:
            self._home = _parts(home)
        except ValueError as error:
            raise SourceError(f"{home!r} is no address of a server: {error}") from error
        self._others = frozenset(name.lower() for name in others)

    @property
    def name(self) -> str:
        """The home host, the same however it is written, and its port where that is unusual."""
        host = _plain_host(self._home.host)
        return host if self._home.port is None else f"{host}:{self._home.port}"

    def first(self, url: str) -> str:
        """Returns `url` in plain form; one of a home over https is asked over https.

        Raises:
            FetchError: `bad_url`: it is not of these hosts.
        """
        return self._checked(quote(url.strip().partition("#")[0], safe=_PLAIN), "bad_url")

    def next(self, url: str, location: str) -> str:
        """Returns where a redirect leads to, in plain form.

        Args:
            url: What was asked, in plain form.
            location: Header of the reply, one character a byte.

        Raises:
            FetchError: `bad_redirect`: it leads away from these hosts.
        """
        plain = quote(location.strip().encode("latin-1", "replace"), safe=_PLAIN)
        try:
            target = urljoin(url, plain)
        except ValueError:  # half an IPv6 address
            target = plain
        return self._checked(target.partition("#")[0], "bad_redirect")

    def _checked(self, url: str, reason: str) -> str:
        try:
            parts = _parts(url)
        except ValueError as error:
            raise FetchError(reason, f"{shown(url)} was not asked: {error}") from error
        if _plain_host(parts.host) == _plain_host(self._home.host):
            is_allowed = parts.port == self._home.port
            if is_allowed and self._home.scheme == "https" and parts.scheme == "http":
                return f"https{url.partition(':')[1]}{url.partition(':')[2]}"
        else:
            is_allowed = parts.host in self._others and parts.port is None
        if not is_allowed:
            allowed = ", ".join([self.name, *sorted(self._others)])
            raise FetchError(reason, f"{shown(url)} was not asked: the hosts allowed are {allowed}")
        return url


def is_loopback(url: str) -> bool:
    """Returns whether the host of `url` is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """Returns `url` for messages: without its query and user, which may hold a key.

    >>> shown("https://xeno-canto.org/api/3/recordings?query=sp:merula&key=secret")
    'https://xeno-canto.org/api/3/recordings'
    """
    place = url.partition("#")[0].partition("?")[0]
    return re.sub(r"//[^/]*@", "//", place)


def _plain_host(host: str) -> str:
    return "localhost" if host in _LOOPBACK else host.removeprefix("www.")


def _parts(url: str) -> _Parts:
    """Returns scheme, host and port of `url`.

    Raises:
        ValueError: It is none of http or https, names a user, or has no plain host.
    """
    scheme, colon, rest = url.partition("://")
    scheme = scheme.lower()
    if not colon or scheme not in _DEFAULT_PORTS:
        raise ValueError("expected http:// or https://")
    found = _PLACE.fullmatch(re.split(r"[/?#]", rest, maxsplit=1)[0].lower())
    if found is None or int(found["port"] or 1) > 65535:
        raise ValueError("expected a host of the form name or name:port, and no user")
    port = int(found["port"]) if found["port"] else None
    return _Parts(scheme, found["host"], None if port == _DEFAULT_PORTS[scheme] else port)
