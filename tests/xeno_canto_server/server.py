"""The running server as a test sees it: switches, world, and a record of what was asked."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.xeno_canto_server.faults import Faults
from tests.xeno_canto_server.handler import HttpServer, Record, Request
from tests.xeno_canto_server.rows import Shapes
from tests.xeno_canto_server.stock import Stock
from tests.xeno_canto_server.world import World


class Server:
    """A running server. Lists may be read at any time and emptied between two runs of a client."""

    def __init__(self, world: World, faults: Faults, keys: Sequence[str], port: int = 0) -> None:
        record = Record(Stock(world, faults, keys))
        self.stock = record.stock
        self.requests: list[Request] = record.requests
        """Everything that was asked, in order."""
        self.transfers = record.transfers
        """By XC number: how often a file was sent to its last byte, in one go or from a part on."""
        self.errors = record.errors
        """What went wrong in the server itself."""
        self._http = HttpServer(record, port)
        self.base_url = record.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._closing = record.closing
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    @property
    def faults(self) -> Faults:
        """The switches as they are."""
        return self.stock.faults

    @property
    def world(self) -> World:
        """What the server holds."""
        return self.stock.world

    @property
    def shapes(self) -> Shapes:
        """Which recordings are restricted, removed or odd."""
        return self.stock.shapes

    @property
    def notes(self) -> list[str]:
        """What is odd about the queries so far: tags that are ignored, values that are none."""
        return self.stock.notes

    def set_faults(self, faults: Faults) -> None:
        """Sets the switches; `dataclasses.replace(server.faults, hops=2)` changes one of them."""
        self.stock.open(self.stock.world, faults)

    def publish(self, world: World) -> None:
        """Replaces the world, say by `server.world.grown(...)`."""
        self.stock.open(world, self.stock.faults)

    def of_kind(self, kind: str) -> list[Request]:
        """Returns the requests that were a `search`, a `redirect`, a `file` or `other`."""
        return [request for request in self.requests if request.kind == kind]

    def shortest_gap_s(self, *kinds: str) -> float:
        """Returns the shortest time between the beginnings of two such requests; all if none named.

        Infinite when there were fewer than two.
        """
        times_s = [r.started_s for r in self.requests if not kinds or r.kind in kinds]
        return min((later - earlier for earlier, later in pairwise(times_s)), default=float("inf"))

    def overlaps(self) -> bool:
        """Whether a request came before the one before it had been answered."""
        return any(
            earlier.ended_s is None or earlier.ended_s > later.started_s
            for earlier, later in pairwise(self.requests)
        )

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection and waits for its thread."""
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()


@contextlib.contextmanager
def serve(
    world: World,
    faults: Faults | None = None,
    keys: Sequence[str] = ("local-key",),
    port: int = 0,
) -> Iterator[Server]:
    """Runs a server on this machine.

    Args:
        world: what it holds.
        faults: the switches; null sets the defaults.
        keys: what opens the search; empty lets everybody in.
        port: 0 takes any free one.

    Raises:
        RuntimeError: the server itself failed in one of its threads.
    """
    server = Server(world, faults or Faults(), keys, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
    if server.errors:
        raise RuntimeError(f"the server failed: {server.errors[0]}")
