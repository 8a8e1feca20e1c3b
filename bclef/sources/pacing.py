"""When a request may leave: one process a host, a pause between any two, and so many in all."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bclef.sources.protocol import SourceStoppedError
from bclef.sources.storefolders import hold


@dataclass(frozen=True)
class Clock:
    """Where a client has the time from."""

    monotonic_s: Callable[[], float] = time.monotonic
    """Seconds since some moment; never goes back."""
    wall_s: Callable[[], float] = time.time
    """Seconds since 1970, as the files of other processes have it."""
    sleep: Callable[[float], None] = time.sleep
    """Waits for so many seconds."""


SYSTEM_CLOCK = Clock()
"""The time of this machine."""


class Pacer:
    """Lets one request through at a time, not sooner than politeness allows.

    The moment of the last request is kept in the time stamp of a file, so that a run which begins
    right after another one ended pauses too.
    """

    def __init__(
        self, host: str, folder: Path, max_requests: int | None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Takes what one client may do.

        Args:
            host: Name and port of the home host.
            folder: Of the lock files.
            max_requests: Requests that may leave in all; None for no limit.
            clock: Tells the time.
        """
        name = re.sub(r"[^a-z0-9.-]", "_", host)
        self._host, self._folder, self._clock = host, folder, clock
        self._stamp = folder / f".{name}.asked"
        # One process may have several clients of a host: within it the lock counts.
        self._lock = FileLock(folder / f".{name}.lock", thread_local=False, is_singleton=True)
        self._is_held = False
        self._left = max_requests
        self._last_s: float | None = None

    def hold(self) -> None:
        """Makes sure that no other process talks to the host, if need be by waiting for its end."""
        if self._is_held:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        hold(self._lock, f"asking {self._host}")
        self._is_held = True

    @contextmanager
    def turn(self, interval_s: float) -> Iterator[None]:
        """Waits until a request may leave, counts it, and lets the body make it.

        Args:
            interval_s: Least time from the answer to the last request until this one leaves: the
                server, too, then sees no less between any two.

        Raises:
            SourceStoppedError: All requests are spent.
        """
        self.hold()
        if self._left == 0:
            raise SourceStoppedError(
                f"{self._host}: all requests that max_requests allows to one run are spent; run "
                "again to go on from here"
            )
        while (pause_s := self._pause_s(interval_s)) > 0:
            self._clock.sleep(pause_s)
        self._left = None if self._left is None else self._left - 1
        self._remember()
        try:
            yield
        finally:
            self._remember()

    def close(self) -> None:
        """Lets other processes talk to the host."""
        if self._is_held:
            self._lock.release()
            self._is_held = False

    def _remember(self) -> None:
        """Notes that the host was busy with a request until now."""
        self._last_s = self._clock.monotonic_s()
        self._stamp.touch()
        wall_s = self._clock.wall_s()
        os.utime(self._stamp, (wall_s, wall_s))

    def _pause_s(self, interval_s: float) -> float:
        """Returns how long to wait still; 0 or less is now."""
        own_s = 0.0
        if self._last_s is not None:
            own_s = self._last_s + interval_s - self._clock.monotonic_s()
        try:
            since_s = self._clock.wall_s() - self._stamp.stat().st_mtime
        except FileNotFoundError:
            return own_s
        # A wall clock may be set back: that must not make this wait for ever.
        is_recent = -1 < since_s < interval_s
        return max(own_s, interval_s - since_s) if is_recent else own_s
