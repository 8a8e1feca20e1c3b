"""The three executors behind `bclef.parallel`: this process, local processes, a Dask cluster.

Each tells a dead worker (segmentation fault, out of memory) as `BrokenExecutor` on the futures it
took along, and is usable again afterwards.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import ref

from bclef.redaction import redact

__all__ = ["ClusterError", "InProcessPool", "Pool", "dask_pool", "local_pool"]

R = TypeVar("R")
P = ParamSpec("P")

# Each worker is one core's worth of work; a BLAS with threads of its own would fight the others.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_CONNECT_TIMEOUT_S = 30
_RECOUNT_WORKERS_S = 10


class ClusterError(Exception):
    """The Dask cluster that was asked for cannot be used."""


class Pool(Executor):
    """An executor that knows its size, outlives its workers and can be stopped at once."""

    @property
    def n_workers(self) -> int:
        """How many calls run at the same time; 0 when the caller itself runs them."""
        raise NotImplementedError

    def stop(self) -> None:
        """Gives up all work without waiting for it."""
        self.shutdown(wait=False, cancel_futures=True)


class InProcessPool(Pool):
    """Runs each call where it is submitted: for debuggers, and for work too small to send."""

    @property
    def n_workers(self) -> int:
        """Always 0."""
        return 0

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Returns a future that is done."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 an executor hands every error to its future
            future.set_exception(error)
        return future


@contextmanager
def local_pool(n_workers: int) -> Iterator[Pool]:
    """Yields a pool of `n_workers` processes on this machine, each limited to one BLAS thread."""
    pool = _LocalPool(n_workers)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def dask_pool(address: str) -> Iterator[Pool]:
    """Yields a pool over the workers of the Dask scheduler at `address`.

    Raises:
        ClusterError: `distributed` is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client  # noqa: PLC0415 optional extra
    except ImportError as error:
        raise ClusterError(
            f"a Dask cluster was asked for ({redact(address)}) but the package 'distributed' "
            "is not installed; install bclef[cluster], or unset BCLEF_DASK_ADDRESS"
        ) from error
    try:
        asyncio.run(_knock(address))
        connect: Callable[..., AbstractContextManager[_Cluster]] = Client
        client = connect(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    # TypeError is what a TLS address without certificates gives.
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {redact(address)!r}: {redact(str(error), address)}; "
            "expected the address that 'dask scheduler' prints, such as tcp://10.0.0.1:8786"
        ) from None  # its text, and that of its own causes, has the password of the address
    with client as cluster:
        yield _DaskPool(cluster, address)


async def _knock(address: str) -> None:
    """Connects once; a client that cannot is a minute in closing, and says so in a traceback."""
    from distributed import Security  # noqa: PLC0415 optional extra
    from distributed.comm.core import connect  # noqa: PLC0415 optional extra

    security: Callable[[], Any] = Security
    dial: Callable[..., Awaitable[Any]] = connect
    arguments = security().get_connection_args("client")
    comm = await dial(address, timeout=_CONNECT_TIMEOUT_S, **arguments)
    await comm.close()


class _LocalPool(Pool):
    """A process pool that is built anew when a worker has died.

    Workers hold the reading end of a pipe whose only writing end is here. When that closes, by
    `stop` or because this process was killed in whatever way, they end themselves.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        # A plain fork would copy locks held by other threads; Windows has no fork server.
        self._context = get_context("spawn" if sys.platform == "win32" else "forkserver")
        self._reader, self._writer = Pipe(duplex=False)
        _start_fork_server()
        self._processes = self._build()

    @property
    def n_workers(self) -> int:
        return self._n_workers

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        try:
            return self._processes.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            self._processes.shutdown()
            self._processes = self._build()
            return self._processes.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._processes.shutdown(wait=wait, cancel_futures=cancel_futures)

    def stop(self) -> None:
        self._writer.close()
        super().stop()

    def close(self) -> None:
        """Closes the pipe, which ends workers that `shutdown` has not ended."""
        self._writer.close()
        self._reader.close()

    def _build(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._n_workers, self._context, initializer=_start_worker, initargs=(self._reader,)
        )


def _start_fork_server() -> None:
    """Starts it with the thread limits that a BLAS reads once, when it is first imported."""
    if sys.platform != "win32":
        from multiprocessing import forkserver  # noqa: PLC0415 does not exist on Windows

        before = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(_ONE_THREAD)
        forkserver.ensure_running()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(parent: Connection) -> None:
    """Makes this process end with its parent, and leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ONE_THREAD)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    parent.poll(None)  # nothing is ever sent, so this returns when the other end has closed
    os._exit(1)


class _Cluster(Protocol):
    """What is used of the untyped `distributed.Client`."""

    def get_executor(self, *, pure: bool) -> Executor: ...

    def nthreads(self) -> Mapping[str, int]: ...


class _DaskPool(Pool):
    """Dask's executor, with its ways of losing work told in the terms of `concurrent.futures`."""

    def __init__(self, cluster: _Cluster, address: str) -> None:
        self._cluster = cluster
        self._address = redact(address)
        # Pure tasks with equal arguments would be one task, and a dead one never tried again.
        self._executor = cluster.get_executor(pure=False)
        self._n_workers = 0
        self._counted_s = -float(_RECOUNT_WORKERS_S)

    @property
    def n_workers(self) -> int:
        # A cluster may grow, but to ask the scheduler for each item would double the traffic.
        if time.monotonic() - self._counted_s >= _RECOUNT_WORKERS_S:
            self._n_workers = max(1, sum(self._cluster.nthreads().values()))
            self._counted_s = time.monotonic()
        return self._n_workers

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        inner = self._executor.submit(fn, *args, **kwargs)
        outer: Future[R] = Future()
        inner.add_done_callback(partial(self._hand_on, outer))
        # Weak, because the scheduler keeps a result for as long as its future lives, and two
        # futures that hold each other would live until the next garbage collection.
        outer.add_done_callback(partial(_cancel, ref(inner)))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait=wait and not cancel_futures)

    def _hand_on(self, outer: Future[R], inner: Future[R]) -> None:
        from distributed import KilledWorker  # noqa: PLC0415 optional extra

        if not outer.set_running_or_notify_cancel():
            return
        if inner.cancelled():
            outer.set_exception(ClusterError(f"the Dask scheduler at {self._address} went away"))
        elif (error := inner.exception()) is None:
            outer.set_result(inner.result())
        elif isinstance(error, KilledWorker):
            outer.set_exception(BrokenExecutor(str(error)))
        else:
            outer.set_exception(error)


def _cancel(inner: ref[Future[R]], outer: Future[R]) -> None:
    future = inner()
    if future is not None and outer.cancelled():
        future.cancel()
