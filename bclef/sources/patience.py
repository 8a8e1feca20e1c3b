"""How long a client puts up with a server, and what it says when it gives up.

Whatever leaves here is free of secrets: texts are cleaned, and no exception that holds an address
becomes the cause or context of another.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import requests
from pydantic import Field
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from bclef.config import Section
from bclef.sources.hiding import Hider
from bclef.sources.pacing import Clock
from bclef.sources.protocol import UNAVAILABLE, FetchError, SourceError, SourceStoppedError
from bclef.sources.replies import (
    AskAgainError,
    BodyBrokenError,
    pause_asked_s,
    status_words,
    time_words,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

_REFUSALS = {
    401: "check the key",
    403: "it may have blocked this client: wait for a day, or ask its people",
}
_TOLD_CHARS = 1000
_PASSING = (408, 425, 429)
_BUSY = (429, 503)
_GOES_ON = "what was had stays, and a later run goes on from there"


class HttpConfig(Section):
    """Section `http`: how patient a client is, and who it says it is."""

    contact: str | None = Field(pattern=r"^[\x20-\x7e]+$")
    """E-mail or web address of who runs this, for the User-Agent; printable ASCII, or null."""
    timeout_s: float = Field(gt=0, le=600)
    """Longest wait for a connection, and between two bytes, in seconds.

    A reply as a whole may take ten times as long; a file any time, but after the first `timeout_s`
    on average no less than 1,000 bytes a second.
    """
    max_attempts: int = Field(ge=1, le=20)
    """Tries of one request in all."""
    backoff_s: float = Field(ge=0, le=600)
    """Pause before the second try in seconds; doubles with each further one, with jitter."""
    longest_wait_s: float = Field(ge=0, le=86_400)
    """Longest pause in seconds. A server that asks for a longer one is left alone."""


class HttpStatusError(SourceError):
    """The server answered that it will not do what was asked, such as 400 or 404."""

    def __init__(self, message: str, status: int, reply: dict[str, object] | None) -> None:
        super().__init__(message, status, reply)
        self.status = status
        self.reply = reply

    def __str__(self) -> str:
        return str(self.args[0])


class Patience:
    """The patience of one client with one server."""

    def __init__(self, config: HttpConfig, host: str, hider: Hider, clock: Clock) -> None:
        """Takes its limits, the name of the server, what not to say, and the time."""
        self._config, self._host, self._hider, self._clock = config, host, hider, clock

    def until_answered(self, ask: Callable[[], T], is_file: bool = False) -> T:
        """Returns what `ask` returns, if need be after several tries; errors hold no secrets.

        Args:
            ask: Makes one try.
            is_file: Whether it is one of many files, of which others may be had.

        Raises:
            FetchError: `short_body`, or `unavailable`: this file cannot be had now.
            SourceStoppedError: Nothing can be had now.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self._config.max_attempts),
            wait=self._pause_s,
            retry=retry_if_exception_type(AskAgainError),
            before_sleep=self._tell,
            sleep=self._clock.sleep,
            reraise=True,
        )
        failure: Exception
        try:
            return retrying(ask)
        except BodyBrokenError as error:
            failure = FetchError("short_body", self._after_tries(error))
        except AskAgainError as error:
            said = self._after_tries(error)
            is_one = is_file and not error.is_busy
            failure = (
                FetchError(UNAVAILABLE, said)
                if is_one
                else SourceStoppedError(f"{said}; {_GOES_ON}")
            )
        except FetchError as error:
            failure = FetchError(error.reason, self._told(error.detail))
        # Out here it has no context, in which a secret might stand. Other errors are words already.
        raise failure

    def check(self, response: requests.Response, tree: object) -> None:
        """Refuses an answer that says not to ask, or not now.

        Raises:
            SourceStoppedError: It says so for long.
            AskAgainError: It may pass.
        """
        status = response.status_code
        words = self.words(status, tree)
        if status in _REFUSALS:
            raise SourceStoppedError(
                f"{self._host} refuses: {words}; {_REFUSALS[status]}; {_GOES_ON}"
            )
        if status not in _PASSING and status < 500:
            return
        now_s = self._clock.wall_s()
        pause_s = pause_asked_s(response.headers.get("Retry-After"), now_s)
        if pause_s is not None and pause_s > self._config.longest_wait_s:
            raise SourceStoppedError(
                f"{self._host}: {words}, not to be asked before {time_words(now_s + pause_s)}, "
                f"longer than http.longest_wait_s = {self._config.longest_wait_s:g}; {_GOES_ON}"
            )
        raise AskAgainError(words, pause_s, status in _BUSY)

    def words(self, status: int, tree: object) -> str:
        """Returns a status and the server's own words in `tree`, without secrets."""
        return status_words(status, self._hider.hide_in(tree))

    def _pause_s(self, state: RetryCallState) -> float:
        """Returns the pause before the next try: exponential with jitter, or longer if asked."""
        backoff_s, longest_s = self._config.backoff_s, self._config.longest_wait_s
        grows = wait_exponential(backoff_s, longest_s) + wait_random(0, backoff_s)
        fault = state.outcome.exception() if state.outcome else None
        asked_s = fault.pause_s if isinstance(fault, AskAgainError) else None
        return max(min(grows(state), longest_s), asked_s or 0.0)

    def _tell(self, state: RetryCallState) -> None:
        said = self._told(state.outcome.exception() if state.outcome else None)
        log.warning("%s: %s; asking again in %.0f s", self._host, said, state.upcoming_sleep)

    def _after_tries(self, error: AskAgainError) -> str:
        return f"{self._host}: {self._told(error)}, after {self._config.max_attempts} tries"

    def _told(self, said: object) -> str:
        """Returns what may be told of it; it is cut only where no half of a secret can be left."""
        return self._hider.hide(str(said))[:_TOLD_CHARS]
