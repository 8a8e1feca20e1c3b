"""Sockets: reads requests, sends replies, and does to the line what the switches say."""

import contextlib
import logging
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.xeno_canto_server.faults import Trouble
from tests.xeno_canto_server.replies import (
    SEARCH_PATH,
    Reply,
    file_reply,
    hop_of,
    html,
    redirect,
    search_reply,
    trouble_reply,
)
from tests.xeno_canto_server.stock import Stock

_LOG = logging.getLogger(__name__)
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset."""
_BROKEN_OFF = ("truncated", "reset", "stall")
"""Answers that are the right ones, but do not come to their end, or not soon."""


@dataclass
class Request:
    """One request, as it came."""

    started_s: float
    """`time.monotonic` when its header had been read."""
    kind: str
    """`search`, `redirect`, `file` or `other`."""
    path: str
    query: str
    """As it was sent, key and all."""
    headers: Mapping[str, str]
    client: tuple[str, int]
    """Address and port: one connection has one."""
    status: int | None = None
    """Null until it is answered."""
    n_bytes: int = 0
    """Bytes of the body that were sent."""
    ended_s: float | None = None
    """When the last of them was handed over."""

    @property
    def parameters(self) -> dict[str, str]:
        """The query string, decoded."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass
class Record:
    """What the threads of a server share."""

    stock: Stock
    requests: list[Request] = field(default_factory=list)
    transfers: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    base_url: str = ""


class HttpServer(ThreadingHTTPServer):
    """Threads that end with the server."""

    daemon_threads = False
    request_queue_size = 32

    def __init__(self, record: Record, port: int) -> None:
        self.record = record
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET:
                self.close_request(request)  # an orderly end would send FIN before the reset
                return
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Ends connections that clients keep open."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):  # a client may go away at any time
            self.record.errors.append(repr(error))
            _LOG.error("a request failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """Sends what `replies` decide, through what `faults` do to the line."""

    protocol_version = "HTTP/1.1"
    server_version = "stand-in"
    disable_nagle_algorithm = True
    server: HttpServer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        record = self.server.record
        stock = record.stock
        request = Request(
            started_s=time.monotonic(),
            kind=_kind(address.path, stock),
            path=address.path,
            query=address.query,
            headers={name.title(): value for name, value in self.headers.items()},
            client=self.client_address,
        )
        with stock.lock:
            record.requests.append(request)
            trouble = stock.trouble(request.kind, self.path)
        if stock.faults.delay_s:
            record.closing.wait(stock.faults.delay_s)
        with stock.lock:
            reply = self._reply(request, trouble)
        request.status = reply.status
        self._send(reply, request, trouble.answer if trouble else "")
        _log(request)

    def _reply(self, request: Request, trouble: Trouble | None) -> Reply:
        record = self.server.record
        stock = record.stock
        if trouble and trouble.answer not in _BROKEN_OFF:
            return trouble_reply(stock.faults, trouble.answer)
        if request.path == SEARCH_PATH:
            return search_reply(stock, request.parameters, record.base_url)
        hop = hop_of(request.path, stock)
        if hop:
            number, recording = hop
            if number < stock.n_hops:
                return redirect(stock, number, recording, record.base_url)
            return file_reply(stock, recording, request.headers)
        page = re.fullmatch(r"/(\d+)", request.path)
        return html(200 if page and stock.obtainable(int(page[1])) else 404)

    def _send(self, reply: Reply, request: Request, answer: str) -> None:
        stated = self.server.record.stock.faults.content_length
        has_length = stated or reply.number is None or answer in _BROKEN_OFF
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        if has_length:
            self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.close_connection |= not has_length or answer in ("truncated", "reset")
        if self.close_connection:
            self.send_header("Connection", "close")
        if not reply.body:
            request.ended_s = time.monotonic()  # before the client can know
        self.end_headers()
        if answer in _BROKEN_OFF:
            self._break_off(reply, request, answer)
        else:
            self._finish(reply, request)

    def _break_off(self, reply: Reply, request: Request, answer: str) -> None:
        """Sends half of `reply`, or less, and what then becomes of the connection."""
        faults = self.server.record.stock.faults
        n_first = len(reply.body) // 2
        if answer == "reset":
            n_first = min(n_first, faults.reset_after_bytes)
        self.wfile.write(reply.body[:n_first])
        request.n_bytes = n_first
        if answer == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if answer == "stall":
            self.server.record.closing.wait(faults.stall_s)
            self._finish(reply, request)
        request.ended_s = time.monotonic()

    def _finish(self, reply: Reply, request: Request) -> None:
        """Sends the rest; all is on record before the client can know that it has everything."""
        rest = reply.body[request.n_bytes :]
        self.wfile.write(rest[:-1])
        request.n_bytes = len(reply.body)
        request.ended_s = time.monotonic()
        transfers = self.server.record.transfers
        transfers.update([] if reply.number is None else [reply.number])
        self.wfile.write(rest[-1:])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing; `_log` does, without the key."""


def _log(request: Request) -> None:
    shown = re.sub(r"(^|&)key=[^&]*", r"\1key=...", request.query)
    address = f"{request.path}?{shown}" if shown else request.path
    _LOG.info("%s %s, %d bytes", request.status, address, request.n_bytes)


def _kind(path: str, stock: Stock) -> str:
    if path == SEARCH_PATH:
        return "search"
    hop = hop_of(path, stock)
    if hop is None:
        return "redirect" if "/download" in path else "other"
    return "redirect" if hop[0] < stock.n_hops else "file"
