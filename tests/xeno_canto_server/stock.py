"""What a running server knows: its world, its switches, and what they have already done."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from tests.xeno_canto_server.faults import Faults, Trouble
from tests.xeno_canto_server.rows import Shapes, deal_shapes
from tests.xeno_canto_server.sounds import render
from tests.xeno_canto_server.world import Recording, World


class Stock:
    """The state that requests share. Every request holds `lock` while its answer is made."""

    def __init__(self, world: World, faults: Faults, keys: Sequence[str]) -> None:
        self.lock = threading.RLock()
        self.keys = frozenset(keys)
        """What opens the search; nothing is needed where there is none."""
        self.notes: list[str] = []
        """What is odd about the client's queries; each thing once."""
        self.withdrawn: set[int] = set()
        self._audio: dict[tuple[int, str, int], bytes] = {}
        self.open(world, faults)

    def open(self, world: World, faults: Faults) -> None:
        """Sets the world and the switches; what the switches had counted begins anew."""
        with self.lock:
            self.world = world
            self.faults = faults
            self.shapes: Shapes = deal_shapes(world, faults)
            self._by_number = {item.number: item for item in world.recordings}
            self._walks: Counter[tuple[str, int]] = Counter()
            self._shrunk: set[tuple[str, int]] = set()
            self._counts: Counter[int] = Counter()
            self._tried: set[tuple[int, str]] = set()
            self._recent_s: deque[float] = deque()
            self._blocked_until_s = 0.0

    @property
    def n_hops(self) -> int:
        """Redirects before the audio."""
        return max(self.faults.hops, 1 if self.faults.redirect_to else 0)

    def note(self, notes: Iterable[str]) -> None:
        """Keeps what is odd about a query."""
        self.notes += [note for note in notes if note not in self.notes]

    def obtainable(self, number: int) -> Recording | None:
        """Returns the recording with this number unless its audio cannot be had."""
        hidden = {*self.withdrawn, *self.shapes.removed, *self.shapes.restricted}
        return None if number in hidden else self._by_number.get(number)

    def audio(self, recording: Recording, container: str) -> bytes:
        """Returns the bytes of a file; they are rendered once."""
        key = (recording.number, container, self.faults.edition)
        if key not in self._audio:
            self._audio[key] = render(self.world, recording, container, self.faults.edition)
        return self._audio[key]

    def trouble(self, kind: str, address: str) -> Trouble | None:
        """Counts a request; returns the trouble that it gets.

        Args:
            kind: `search`, `redirect`, `file` or `other`.
            address: path and query.
        """
        if self._is_blocked():
            return Trouble(self.faults.blocked_status)
        hits = [
            trouble
            for place, trouble in enumerate(self.faults.trouble)
            if trouble.on in (kind, "any") and self._hits(place, trouble, address)
        ]
        return hits[0] if hits else None

    def _is_blocked(self) -> bool:
        """Whether the request made now falls into a burst or the block that follows one."""
        now_s = time.monotonic()
        self._recent_s.append(now_s)
        while self._recent_s[0] <= now_s - 1.0:
            self._recent_s.popleft()
        limit = self.faults.max_per_s
        if limit is not None and len(self._recent_s) > limit:
            self._blocked_until_s = now_s + self.faults.blocked_s
        return now_s < self._blocked_until_s

    def _hits(self, place: int, trouble: Trouble, address: str) -> bool:
        self._counts[place] += 1
        count = self._counts[place]
        is_new = (place, address) not in self._tried
        self._tried.add((place, address))
        return (
            (trouble.every > 0 and count % trouble.every == 0)
            or count <= trouble.first
            or (trouble.after is not None and count > trouble.after)
            or (trouble.first_try and is_new)
        )

    def shifted(
        self, found: list[Recording], query: str, page: int, per_page: int
    ) -> list[Recording]:
        """Returns what `found` is at this moment of the walk through the pages of `query`."""
        walk = (query, per_page)
        self._walks[walk] += page == 1
        if self._walks[walk] != 1 or len(found) <= per_page:
            return found
        if self.faults.shift == "insert" and page == 1:
            return found[1:]
        if self.faults.shift == "remove" and page > 1 and walk not in self._shrunk:
            self._shrunk.add(walk)
            self.withdrawn.add(found[0].number)
            return found[1:]
        return found

    def repeats(self, query: str, per_page: int) -> bool:
        """Whether page 2 begins with the end of page 1."""
        return self.faults.shift == "duplicate" and self._walks[query, per_page] == 1
