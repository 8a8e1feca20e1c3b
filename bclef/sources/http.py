"""A polite HTTP client: one connection, pauses, patience within limits, and no secret let out.

It asks and follows redirects. Where requests may go is said in `addresses`, when they may leave in
`pacing`, how often one is tried again in `patience`, and what is done with the bytes of a file in
`downloads`.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Self
from urllib.parse import quote, urlencode

import requests

from bclef.sources.addresses import AllowedHosts, shown
from bclef.sources.downloads import Part
from bclef.sources.hiding import Hider
from bclef.sources.pacing import SYSTEM_CLOCK, Clock, Pacer
from bclef.sources.patience import HttpConfig, HttpStatusError, Patience
from bclef.sources.protocol import FetchError, SourceError
from bclef.sources.replies import AskAgainError, Haste, parsed, quietly, read_body

__all__ = ["HttpConfig", "HttpStatusError", "PoliteClient"]

_MAX_HOPS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_RANGE_ANSWERS = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_MAX_REPLY_BYTES = 64 << 20
_MAX_WORDS_BYTES = 64 << 10
_AS_IT_IS = {"Accept-Encoding": "identity"}


class PoliteClient:
    """Asks one server, one request at a time.

    Redirects are followed by hand, and each hop and each retry is a request like any other: it
    waits its turn and counts. From the first request on no other process talks to the server until
    `close`, or the end of this process.
    """

    def __init__(
        self,
        config: HttpConfig,
        home: str,
        cache_root: Path,
        also_allowed: Collection[str] = (),
        max_requests: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Takes whom to ask, and how; nothing is asked yet.

        Args:
            config: Patience, and who asks.
            home: Address on the server, such as its `base_url`.
            cache_root: Folder of the lock files, one a server.
            also_allowed: Names of further hosts that files and redirects may be on.
            max_requests: Requests in all; None for no limit.
            clock: Tells the time.

        Raises:
            SourceError: `home` is no address over http or https.
        """
        self._timeout_s, self._clock = config.timeout_s, clock
        self._hosts = AllowedHosts(home, also_allowed)
        self._pacer = Pacer(self._hosts.name, cache_root, max_requests, clock)
        self._hider = Hider()
        self._patience = Patience(config, self._hosts.name, self._hider, clock)
        self._session = _Session()
        self._session.headers["User-Agent"] = _user_agent(config.contact)
        self._session.auth = _no_login

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and lets other processes talk to the server."""
        self._session.close()
        self._pacer.close()
        self._hider.forget()

    def keep_secret(self, secrets: Mapping[str, str]) -> None:
        """Shows and keeps the values of `secrets` nowhere, even if nothing is asked with them."""
        self._hider.learn(secrets)

    def get_json(
        self,
        url: str,
        params: Mapping[str, str | int],
        *,
        interval_s: float,
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, object]:
        """Returns the JSON object that `url` answers with.

        Args:
            url: Address without a query.
            params: The query.
            interval_s: Least time between the last answer and this request.
            secrets: Parameters that are asked with too, but shown nowhere.

        Raises:
            HttpStatusError: The server answers that it will not, with another 4xx.
            SourceError: It answers with something else than an object, or leads elsewhere.
            SourceStoppedError: It refuses this client, is too busy after all tries, or the
                requests are spent.
        """
        self._hider.learn(secrets)
        query = urlencode({**params, **secrets}, quote_via=quote)
        try:
            return self._patience.until_answered(
                lambda: self._ask_json(f"{url}?{query}", interval_s)
            )
        except FetchError as error:
            said = error.detail
        raise SourceError(f"{self._hosts.name}: {said}")

    def download(self, url: str, path: Path, max_bytes: int, *, interval_s: float) -> None:
        """Writes the file at `url` to `path`, going on from what an earlier call left there.

        Beside it stands `<path>.json`, which says what the bytes are part of; both are the
        caller's to remove.

        Args:
            url: Address of the file.
            path: Where to; after a failure the bytes so far.
            max_bytes: What is larger is refused as soon as that is known.
            interval_s: Least time between the last answer and this request.

        Raises:
            FetchError: `bad_url`, `bad_redirect`, `gone`, `not_audio`, `too_large`, `short_body`,
                `http_<status>`, or `unavailable`: no answer, or one of 5xx but 503, to all tries.
            SourceStoppedError: As for `get_json`.
        """
        self._pacer.hold()  # first: another process may be adding to this very file
        self._patience.until_answered(
            lambda: self._ask_file(url, path, max_bytes, interval_s), is_file=True
        )

    def _ask_json(self, url: str, interval_s: float) -> dict[str, object]:
        headers = {"Accept": "application/json"}
        with self._open(self._hosts.first(url), interval_s, headers) as response:
            body = read_body(response, _MAX_REPLY_BYTES, self._haste())
        if body is None:
            raise SourceError(f"{self._hosts.name}: a reply of over {_MAX_REPLY_BYTES >> 20} MiB")
        status, tree = response.status_code, parsed(body)
        self._patience.check(response, tree)
        words = f"{self._hosts.name}: {self._patience.words(status, tree)}"
        if not 200 <= status < 300:
            reply = self._hider.hide_in(tree)
            raise HttpStatusError(words, status, reply if isinstance(reply, dict) else None)
        if tree is None:
            raise AskAgainError(f"{self._patience.words(status, None)}, but no JSON")
        if not isinstance(tree, dict):
            raise SourceError(f"{words}, but a JSON {type(tree).__name__}, expected an object")
        return {key: self._hider.hide_long_in(value) for key, value in tree.items()}

    def _ask_file(self, url: str, path: Path, max_bytes: int, interval_s: float) -> None:
        part = Part(path, self._hosts.first(url), max_bytes, self._hider)
        if part.is_whole():
            return
        if missing := part.range_headers():
            with self._open(part.url, interval_s, {**_AS_IT_IS, **missing}) as response:
                if response.status_code not in _RANGE_ANSWERS:
                    self._take(part, response)
                    return
                if part.is_continued_by(response):
                    part.append(response, self._haste())
                    return
            part.discard()
        with self._open(part.url, interval_s, _AS_IT_IS) as response:
            self._take(part, response)

    def _take(self, part: Part, response: requests.Response) -> None:
        """Writes the body of a 200 in place of what is there; all else is an error."""
        status = response.status_code
        if status == HTTPStatus.OK:
            part.begin(response, self._haste())
            return
        tree = parsed(read_body(response, _MAX_WORDS_BYTES, self._haste()) or b"")
        self._patience.check(response, tree)
        reason = "gone" if status in _GONE else f"http_{status}"
        raise FetchError(reason, self._patience.words(status, tree))

    def _open(self, url: str, interval_s: float, headers: Mapping[str, str]) -> requests.Response:
        """Returns the answer at the end of the redirects; its body has not come yet."""
        for _ in range(1 + _MAX_HOPS):
            with self._pacer.turn(interval_s):
                response = quietly(partial(self._send, url, headers))
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or location is None:
                return response
            if "Content-Length" in response.headers:
                # Read to its end, the server is done with it and the connection can be used again;
                # one that states no length may leave us waiting for an end.
                with suppress(AskAgainError):
                    read_body(response, _MAX_WORDS_BYTES, self._haste())
            response.close()
            url = self._hosts.next(url, location)
        raise FetchError(
            "bad_redirect", f"more than {_MAX_HOPS} redirects, the last to {shown(url)}"
        )

    def _haste(self) -> Haste:
        return Haste(self._timeout_s, self._clock)

    def _send(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        return self._session.get(
            url,
            headers=dict(headers),
            stream=True,
            allow_redirects=False,
            timeout=self._timeout_s,
        )


class _Session(requests.Session):
    """A session that leaves redirects to its client."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Returns None: else the whole body of a redirect is read, and its address followed up."""


def _user_agent(contact: str | None) -> str:
    try:
        own = f"bclef/{version('bclef')}"
    except PackageNotFoundError:  # a checkout that is not installed
        own = "bclef"
    return f"{own} ({contact})" if contact else own


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leaves a request as it is; without a login of its own a session sends that of ~/.netrc."""
    return request
