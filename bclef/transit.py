"""How batches come from worker processes: how many of them there are, and what travels how.

Torch sends every tensor through a file of shared memory, which for the many small ones of a batch
costs more than their content and may use up a process's open files. So only the large ones do; the
others travel by value, as one string.
"""

import ctypes
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import BaseContext

import numpy as np
import torch
from torch import Tensor

ENVIRONMENT = "BCLEF_LOADER_WORKERS"
"""Environment variable with the number of processes that read batches; 0: the one that trains."""

_MOST_WORKERS = 8
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Settings of the GNU C library: how much freed memory it keeps, and what it asks for apart."""

_KEPT_BYTES = 2**30
_LARGEST_BLOCKS_BYTES = (2**30, 2**25)
"""Sizes from which memory may be asked for apart; older libraries refuse more than the last."""

_SHARED_BYTES = 2**16
"""Tensors of at least so many bytes go through shared memory."""


class TransitError(Exception):
    """The environment asks for no number of workers."""


def n_workers(n_ranks: int) -> int:
    """Returns the number of worker processes for each of `n_ranks` processes that train together.

    Without an accelerator there are none: the processor then trains, and reading for it in another
    process costs what it saves (bench/loader.py).

    Raises:
        TransitError: The environment variable is no number from 0.
    """
    wanted = os.environ.get(ENVIRONMENT)
    if wanted is not None:
        if not wanted.isdecimal():
            raise TransitError(f"{ENVIRONMENT}={wanted!r}: expected a number of processes, from 0")
        return int(wanted)
    if not torch.cuda.is_available():
        return 0
    n_local = min(n_ranks, torch.cuda.device_count())  # others are on other machines
    # Containers give a process fewer cores than the machine has.
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, n_cores // n_local - 1))


def stayed(batch: object) -> object:
    """Returns `batch`, which need not travel, as it is."""
    return batch


def keep_memory() -> None:
    """Makes the C library keep the memory of one batch for the next, where it can be told to.

    It would give it back after each step and have the system clear it anew, page by page, which on
    a CPU takes a tenth of the step. This holds until the process ends.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        for size_bytes in _LARGEST_BLOCKS_BYTES:
            if library.mallopt(_M_MMAP_THRESHOLD, size_bytes):
                break


def worker_context() -> BaseContext:
    """Returns the way in which workers are started.

    Forking a process with threads, such as torch's, may leave locks held for ever. So workers are
    forked off a server without any, which imports what they need once for all.
    """
    if sys.platform == "win32":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["bclef.dataset"])
    return context


class Sent:
    """A batch that arrives as itself when it has been pickled on the way.

    Args:
        batch: A NamedTuple of tensors, numbers, strings and further tuples.
    """

    def __init__(self, batch: object) -> None:
        self._batch = batch

    def __reduce__(self) -> tuple[object, ...]:
        large: list[Tensor] = []
        return _arrived, (pickle.dumps(_packed(self._batch, large)), large)


@dataclass(frozen=True)
class _Large:
    """Stands for a tensor that travels on its own."""

    number: int


def _packed(part: object, large: list[Tensor]) -> object:
    if isinstance(part, Tensor):
        if part.nbytes < _SHARED_BYTES:
            return part.numpy()
        large.append(part)
        return _Large(len(large) - 1)
    return _rebuilt(part, lambda each: _packed(each, large))


def _unpacked(part: object, large: list[Tensor]) -> object:
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part)
    if isinstance(part, _Large):
        return large[part.number]
    return _rebuilt(part, lambda each: _unpacked(each, large))


def _rebuilt(part: object, change: Callable[[object], object]) -> object:
    """A tuple of any kind with its entries changed; all else as it is."""
    if not isinstance(part, tuple):
        return part
    parts = tuple(change(each) for each in part)
    make = getattr(part, "_make", tuple)  # of a NamedTuple
    return make(parts)


def _arrived(packed: bytes, large: list[Tensor]) -> object:
    return _unpacked(pickle.loads(packed), large)  # noqa: S301 - from our own worker
