"""One `Executor` for every fan-out: local processes, this process, or a Dask cluster.

Where the work runs is a matter of the machine, not of the result: it is taken from arguments or
environment variables and never from params.yaml, so that it cannot decide whether a stage reruns.
Politeness towards a server (one connection, pauses) is the business of the source that fetches.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from tqdm import tqdm

from bclef.pools import InProcessPool, Pool, dask_pool, local_pool

__all__ = ["Outcome", "executor", "progress_bar", "run_all"]

T = TypeVar("T")
R = TypeVar("R")

# Enough that no worker waits for its next item, few enough that a death leaves few suspects.
_IN_FLIGHT_PER_WORKER = 2
# Finished results that may wait for a slow earlier item before no more work is handed out.
_AHEAD_PER_WORKER = 64


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one item of `run_all`."""

    item: T
    """The item as it was given."""
    value: R | None
    """What the function returned; None when `died`."""
    died: bool
    """Whether the process that worked on this item died of it."""


@contextmanager
def executor(*, n_workers: int | None = None, address: str | None = None) -> Iterator[Executor]:
    """Yields an executor and ends its workers on leaving; at once, if an exception leaves.

    A script that uses the local pool needs the usual `if __name__ == "__main__":` guard, because
    workers import the main module again.

    Args:
        n_workers: Processes on this machine, 0 for none but this one; by default the environment
            variable BCLEF_WORKERS, else one for each core that this process may use.
        address: Dask scheduler such as `tcp://10.0.0.1:8786`; by default, and unless `n_workers`
            is given, the environment variable BCLEF_DASK_ADDRESS.

    Raises:
        ClusterError: `distributed` is not installed, or no scheduler answers at `address`.
        ValueError: `n_workers` or BCLEF_WORKERS is not a whole number >= 0.
    """
    with _choose(n_workers, address) as pool:
        left_by_itself = False
        try:
            yield pool
            left_by_itself = True
        finally:
            if left_by_itself:
                pool.shutdown()
            else:
                pool.stop()


@contextmanager
def requested_executor() -> Iterator[Executor | None]:
    """Yields the executor that the environment asks for, or None where it asks for none.

    For work that keeps all cores of one process busy by itself, as torch does.

    Raises:
        ClusterError: As `executor`.
        ValueError: As `executor`.
    """
    if os.environ.get("BCLEF_DASK_ADDRESS") or os.environ.get("BCLEF_WORKERS"):
        with executor() as pool:
            yield pool
    else:
        yield None


def progress_bar(n_all: int, describe: str, unit: str, n_done: int = 0) -> tqdm[NoReturn]:
    """Returns a bar on stderr with rate and time left; a log file gets a line every ten seconds.

    There is none where there is nothing to do.

    Args:
        n_all: What it counts to.
        describe: Its label.
        unit: What it counts.
        n_done: How many were done before.
    """
    every_s = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=n_all, initial=n_done, desc=describe, unit=unit, mininterval=every_s,
        disable=n_all == 0,
    )  # fmt: skip


def run_all(
    fn: Callable[[T], R],
    items: Sequence[T],
    pool: Executor,
    *,
    describe: str,
    unit: str = "file",
) -> Iterator[Outcome[T, R]]:
    """Yields the outcome of `fn(item)` for each item, in the order of `items`.

    A worker that dies costs only the item it died of. All that were in flight with it are suspects
    and are tried again one at a time; the one that kills alone is given up. A Dask scheduler by
    itself tries a killer on four workers each time: set its `allowed-failures` to 0.

    Args:
        fn: A top-level function of one argument; what it raises is raised here.
        items: Handed out a few per worker at a time, so a million of them do not queue at once.
        pool: From `executor`, or any other executor.
        describe: Label of the progress bar on stderr.
        unit: What the bar counts.
    """
    batch = _Batch(fn, items, pool)
    with progress_bar(len(items), describe, unit) as bar:
        try:
            for index in range(len(items)):
                while index not in batch.done:
                    bar.update(batch.advance())
                batch.n_taken = index + 1
                yield batch.done.pop(index)
        finally:
            batch.cancel()


class _Batch(Generic[T, R]):
    """The book-keeping of one `run_all`: every index is ahead, pending, suspect, done or taken."""

    def __init__(self, fn: Callable[[T], R], items: Sequence[T], pool: Executor) -> None:
        self.done: dict[int, Outcome[T, R]] = {}
        self.n_taken = 0
        self._fn = fn
        self._items = items
        self._pool = pool
        self._n_handed_out = 0
        self._pending: dict[Future[R], int] = {}
        self._suspects: deque[int] = deque()

    def advance(self) -> int:
        """Returns how many items finished: hands out what may run, then waits for the next."""
        n_done = len(self.done)
        alone = bool(self._suspects) and not self._pending
        if alone:
            self._hand_out(self._suspects.popleft())
        elif not self._suspects:
            self._fill()
        finished = wait(self._pending, return_when=FIRST_COMPLETED).done
        for future in sorted(finished, key=self._pending.__getitem__):
            self._collect(future, alone=alone)
        return len(self.done) - n_done

    def cancel(self) -> None:
        for future in self._pending:
            future.cancel()

    def _fill(self) -> None:
        n_workers = self._pool.n_workers if isinstance(self._pool, Pool) else _n_cores()
        n_in_flight = max(1, _IN_FLIGHT_PER_WORKER * n_workers)
        end = min(len(self._items), self.n_taken + max(1, _AHEAD_PER_WORKER * n_workers))
        while len(self._pending) < n_in_flight and self._n_handed_out < end:
            self._hand_out(self._n_handed_out)
            self._n_handed_out += 1

    def _hand_out(self, index: int) -> None:
        self._pending[self._pool.submit(self._fn, self._items[index])] = index

    def _collect(self, future: Future[R], *, alone: bool) -> None:
        index = self._pending.pop(future)
        item = self._items[index]
        try:
            self.done[index] = Outcome(item, future.result(), died=False)
        except BrokenExecutor:
            if alone:
                self.done[index] = Outcome(item, None, died=True)
            else:
                self._suspects.append(index)


def _choose(n_workers: int | None, address: str | None) -> AbstractContextManager[Pool]:
    """Returns the pool that arguments, then environment variables, then the machine ask for."""
    if address is None and n_workers is None:
        address = os.environ.get("BCLEF_DASK_ADDRESS")
    if address:
        return dask_pool(address)
    if n_workers is None:
        n_workers = _environment_workers()
    if n_workers < 0:
        raise ValueError(f"n_workers is {n_workers}; expected 0 (no processes) or more")
    return local_pool(n_workers) if n_workers else nullcontext(InProcessPool())


def _environment_workers() -> int:
    text = os.environ.get("BCLEF_WORKERS") or str(_n_cores())
    if not text.isdecimal():
        raise ValueError(f"BCLEF_WORKERS is {text!r}; expected a whole number, 0 or more")
    return int(text)


def _n_cores() -> int:
    # Containers and batch systems give a process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
