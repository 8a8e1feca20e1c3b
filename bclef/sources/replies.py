"""What a server said: in words for messages, as JSON, and how long it asks to be left alone."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

import requests
import urllib3

from bclef.sources.pacing import Clock

T = TypeVar("T")

_PIECE_BYTES = 1 << 16
_WORDS_CHARS = 300
_LONGEST_PAUSE_S = 1e9  # that is never, and a date that can still be written
_MOST_DIGITS = 300
_REPLY_TIMEOUTS = 10
_LEAST_BYTES_PER_S = 1000


class AskAgainError(Exception):
    """A fault that may pass by itself.

    Args:
        said: what happened.
        pause_s: how long the server asks to be left alone, or None.
        is_busy: whether it is the server that says so, and not of this one request.
    """

    def __init__(self, said: str, pause_s: float | None = None, is_busy: bool = False) -> None:
        super().__init__(said)
        self.pause_s = pause_s
        self.is_busy = is_busy


class BodyBrokenError(AskAgainError):
    """A body ended before its time; the bytes that came can be used."""


class Haste:
    """How long one body may take: servers, too, can send a byte now and then for ever."""

    def __init__(self, timeout_s: float, clock: Clock) -> None:
        """Begins to count.

        Args:
            timeout_s: Longest wait between two bytes.
            clock: Tells the time.
        """
        self._timeout_s, self._clock, self._since_s = timeout_s, clock, clock.monotonic_s()

    def fault_of_reply(self, n_bytes: int) -> str | None:
        """Returns what is wrong with a reply of which so many bytes came, or None."""
        took_s = self._clock.monotonic_s() - self._since_s
        is_slow = took_s > _REPLY_TIMEOUTS * self._timeout_s
        return f"not whole after {took_s:.0f} s, {n_bytes} bytes came" if is_slow else None

    def fault_of_file(self, n_bytes: int) -> str | None:
        """Returns what is wrong with a file of which so many bytes came, or None."""
        took_s = self._clock.monotonic_s() - self._since_s
        is_slow = took_s > self._timeout_s and n_bytes < took_s * _LEAST_BYTES_PER_S
        least = f"fewer than {_LEAST_BYTES_PER_S} a second"
        return f"{n_bytes} bytes came in {took_s:.0f} s, {least}" if is_slow else None


def quietly(call: Callable[[], T], fault: type[AskAgainError] = AskAgainError) -> T:
    """Returns what `call` returns, and nothing of an exception of the HTTP libraries but words.

    Raises:
        AskAgainError: Of the type `fault`, for an exception of the HTTP libraries. That one holds
            the address with its secrets, so it must not become the context of this one.
    """
    try:
        return call()
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        said = _root_words(error)
    raise fault(said)


def chunks(
    response: requests.Response,
    is_slow: Callable[[int], str | None],
    fault: type[AskAgainError] = AskAgainError,
) -> Iterator[bytes]:
    """Yields the body piece by piece, as it comes.

    Args:
        response: Of which the headers came.
        is_slow: Says of so many bytes what is wrong if they took too long, see `Haste`.
        fault: What to raise.

    Raises:
        AskAgainError: Of the type `fault`: it breaks off, or takes too long.
    """
    n_bytes = 0
    # `iter_content` waits for whole pieces, and loses what it has when the connection breaks.
    while piece := quietly(lambda: response.raw.read1(_PIECE_BYTES, decode_content=True), fault):
        yield piece
        n_bytes += len(piece)
        if said := is_slow(n_bytes):
            raise fault(said)


def read_body(response: requests.Response, max_bytes: int, haste: Haste) -> bytes | None:
    """Returns the whole body, or None where it is larger than `max_bytes`.

    Raises:
        AskAgainError: It breaks off, or takes too long.
    """
    body = bytearray()
    for piece in chunks(response, haste.fault_of_reply):
        body += piece
        if len(body) > max_bytes:
            return None
    return bytes(body)


def parsed(body: bytes) -> object:
    """Returns the JSON value in `body`, or None where it holds none.

    Whole numbers of more digits than any use has are left as text.
    """
    try:
        return json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None


def status_words(status: int, tree: object = None) -> str:
    """Returns a status with its meaning, and the server's own words where `tree` holds some.

    >>> status_words(401, {"error": "client_error", "message": "Missing key"})
    'HTTP 401 Unauthorized (client_error: Missing key)'
    >>> status_words(400, {"error": {"code": "missing_parameter", "message": "No query"}})
    'HTTP 400 Bad Request (missing_parameter: No query)'
    """
    meaning = HTTPStatus(status).phrase if status in set(HTTPStatus) else "of no known meaning"
    words = f"HTTP {status} {meaning}"
    own = _own_words(tree)
    return f"{words} ({own})" if own else words


def pause_asked_s(header: str | None, wall_s: float) -> float | None:
    """Returns how long the header Retry-After asks to wait, at least 0, or None if it does not.

    Args:
        header: Seconds or a date, or None.
        wall_s: The time now, in seconds since 1970.

    >>> pause_asked_s("120", 0), pause_asked_s("Thu, 01 Jan 1970 00:01:00 GMT", 45)
    (120.0, 15.0)
    """
    if header is None:
        return None
    if re.fullmatch(r"[0-9]+", header.strip()):
        return min(float(header), _LONGEST_PAUSE_S)
    try:
        until = parsedate_to_datetime(header)
        until_s = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, until_s - wall_s), _LONGEST_PAUSE_S)


def time_words(wall_s: float) -> str:
    """Returns a moment as people read it, in UTC.

    >>> time_words(0)
    '1970-01-01 00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(wall_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _own_words(tree: object) -> str:
    """Returns what an error reply says: both shapes of Xeno-canto, or any text under those keys."""
    if not isinstance(tree, dict):
        return ""
    error = tree.get("error")
    nested = error if isinstance(error, dict) else {}
    found = [nested.get("code", error), nested.get("message", tree.get("message"))]
    texts = [text for text in found if isinstance(text, str) and text.strip()]
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", ": ".join(texts)).strip()[
        :_WORDS_CHARS
    ]


def _root_words(error: BaseException) -> str:
    """Returns type and text of what an exception of the HTTP libraries goes back to."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {error}"
