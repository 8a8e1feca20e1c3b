"""A server on this machine that answers as it is told, and a clock that it shares with a client."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd

from bclef.archive import FetchConfig, fetch_recordings
from bclef.sources.http import HttpConfig, PoliteClient
from bclef.sources.pacing import Clock
from bclef.sources.protocol import Listing

HTTP = HttpConfig(
    contact="me@example.org", timeout_s=5.0, max_attempts=3, backoff_s=2.0, longest_wait_s=60.0
)
ETAG = {"ETag": '"one"', "Accept-Ranges": "bytes"}


class HandClock:
    """A clock that goes on only when someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.slept_s: list[float] = []
        self.wall_is_off_s = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept_s.append(seconds)
        self.now_s += seconds

    def clock(self) -> Clock:
        return Clock(
            lambda: self.now_s - 1_799_999_000.0,
            lambda: self.now_s + self.wall_is_off_s,
            self.sleep,
        )


@dataclass(frozen=True)
class Reply:
    """What the server answers once; `None` for Content-Length leaves it out."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    breaks_after: int | None = None
    """Bytes of the body after which the connection ends."""
    resets: bool = False
    """Whether it ends with a reset."""
    before_end: Callable[[], None] | None = None
    """Called when the bytes are sent, before the connection ends."""
    byte_every_s: float = 0.0
    """Time between two bytes of the body; at 0 all are sent at once."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    at_s: float


@dataclass
class FaultServer:
    """Replies in order to each path; the last one of a path is given again and again."""

    port: int
    hand_clock: HandClock = field(default_factory=HandClock)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    @property
    def ranges(self) -> list[str | None]:
        return [asked.headers.get("Range") for asked in self.asked]

    def say(self, path: str, *replies: Reply) -> str:
        """Makes `path` answer so; returns its address."""
        self.replies[path] = list(replies)
        return self.home + path


def part_of(reply: Reply, asked: dict[str, str]) -> Reply:
    """Returns the part of a whole reply that is asked for, where its validator agrees."""
    found = re.fullmatch(r"bytes=(\d+)-", asked.get("Range", ""))
    wanted = asked.get("If-Range")
    known = (reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
    is_whole = reply.headers.get("Accept-Ranges") != "bytes" or reply.status != 200
    if found is None or is_whole or (wanted is not None and wanted not in known):
        return reply
    first, total = int(found[1]), len(reply.body)
    headers = {**reply.headers, "Content-Range": f"bytes {first}-{total - 1}/{total}"}
    return Reply(reply.body[first:], 206, headers, reply.breaks_after, reply.resets)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Says nothing: clients that hang up are what is tested here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: FaultServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        headers = dict(self.headers.items())
        self.site.asked.append(Asked(self.path, headers, self.site.hand_clock.now_s))
        replies = self.site.replies.get(self.path.partition("?")[0], [Reply(status=404)])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.answer(part_of(reply, headers))

    def answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), "Connection": "close", **reply.headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        body = reply.body[: reply.breaks_after]
        n_at_once = 1 if reply.byte_every_s else max(1, len(body))
        for first in range(0, len(body), n_at_once):
            self.wfile.write(body[first : first + n_at_once])
            self.wfile.flush()
            time.sleep(reply.byte_every_s)
        if reply.before_end:
            reply.before_end()
        if reply.resets:
            now = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            self.connection.close()
        self.close_connection = True


@contextmanager
def serving() -> Iterator[FaultServer]:
    """Gives a server that listens until the end."""
    handler = type("Handler", (_Handler,), {})
    with _Listener(("127.0.0.1", 0), handler) as listener:
        handler.site = site = FaultServer(listener.server_address[1])  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            listener.shutdown()
            thread.join()


@dataclass(frozen=True)
class FaultSource:
    """A remote source whose files are those of a `FaultServer`."""

    home: str
    cache_root: Path
    secret: str = ""

    @property
    def name(self) -> str:
        return "faults"

    @property
    def is_remote(self) -> bool:
        return True

    @cached_property
    def client(self) -> PoliteClient:
        client = PoliteClient(HTTP, self.home, self.cache_root, clock=HandClock().clock())
        client.keep_secret({"key": self.secret})
        return client

    def list_recordings(self) -> Listing:
        raise NotImplementedError

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        self.client.download(url, path, max_bytes, interval_s=1.0)


def fetch_files(
    home: str,
    root: Path,
    names: list[str],
    *,
    ask_again_after_days: int = 30,
    secret: str = "",
) -> pd.DataFrame:
    """Returns the files table after fetching `names` from the server into a store at `root`."""
    recordings = pd.DataFrame(
        {
            "recording_id": pd.Series(names, dtype="string"),
            "source": "faults",
            "url": [f"{home}/{name}" for name in names],
            "source_sha256": pd.Series([None] * len(names), dtype="string"),
        }
    )
    config = FetchConfig(
        max_failed_share=0.5, max_bytes=1 << 20, ask_again_after_days=ask_again_after_days
    )
    source = FaultSource(home, root / "searches", secret)
    try:
        return fetch_recordings(recordings, {"faults": source}, root, config, Executor())
    finally:
        source.client.close()
