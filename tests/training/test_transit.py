"""Batches on their way from worker processes: same type, same values, few files."""

import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from bclef.transit import _M_MMAP_THRESHOLD, Sent, TransitError, keep_memory, n_workers


class Inner(NamedTuple):
    rows: Tensor
    kind: str


class Outer(NamedTuple):
    wave: Tensor
    parts: tuple[Inner, ...]
    n_kept: int
    total: float


def sent(batch: Outer) -> Outer:
    arrived = pickle.loads(ForkingPickler.dumps(Sent(batch)))  # noqa: S301 - our own bytes
    assert isinstance(arrived, Outer)
    return arrived


def test_batch_arrives_as_it_was_sent() -> None:
    inner = (Inner(torch.arange(3), "white"), Inner(torch.zeros(0, 5), "pink"))
    batch = Outer(torch.arange(2**16, dtype=torch.int16), inner, 4, 0.5)
    arrived = sent(batch)
    assert torch.equal(arrived.wave, batch.wave)
    assert isinstance(arrived.parts, tuple)
    for part, expected in zip(arrived.parts, inner, strict=True):
        assert isinstance(part, Inner)
        assert part.kind == expected.kind
        torch.testing.assert_close(part.rows, expected.rows, rtol=0, atol=0)
    assert arrived[2:] == (4, 0.5)
    arrived.parts[0].rows[0] = 9  # what was sent may be changed


def test_only_large_tensors_go_through_shared_memory() -> None:
    batch = Outer(torch.zeros(2**16, dtype=torch.int16), (Inner(torch.zeros(99), "w"),), 1, 1.0)
    sent(batch)
    assert batch.wave.is_shared()
    assert not batch.parts[0].rows.is_shared()


def test_environment_sets_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLEF_LOADER_WORKERS", "3")
    assert n_workers(1) == 3
    monkeypatch.setenv("BCLEF_LOADER_WORKERS", "many")
    with pytest.raises(TransitError, match="'many': expected a number of processes"):
        n_workers(1)


def test_accelerators_get_workers_of_the_cores_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BCLEF_LOADER_WORKERS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12))
    assert n_workers(1) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [n_workers(n_ranks) for n_ranks in (1, 2, 4, 16)] == [8, 5, 2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the GNU C library")
def test_memory_of_one_batch_serves_the_next() -> None:
    """Else the system clears it page by page each time; in a process of its own, as it stays so.

    By itself the library learns from what is freed, and may then keep it or not.
    """
    program = """
import ctypes, resource, torch, sys
from bclef.transit import _M_MMAP_THRESHOLD, keep_memory
ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**17)  # as it begins, and it learns no more
if sys.argv[1] == "kept": keep_memory()
def step(): [torch.full((6 * 2**20,), 1.0) for _ in range(8)]
for _ in range(5): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = [sys.executable, "-c", program]
    n_faults = [int(subprocess.check_output([*told, how])) for how in ("kept", "given back")]
    assert n_faults[0] < n_faults[1] / 4


@pytest.mark.skipif(sys.platform != "linux", reason="asks the GNU C library")
@pytest.mark.parametrize("most_bytes", [2**30, 2**25])
def test_library_is_asked_for_the_largest_blocks_that_it_keeps(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    """Some refuse more than 32 MiB, and would then give back all from 128 KiB."""
    taken: dict[int, int] = {}

    def mallopt(setting: int, value: int) -> int:
        if setting == _M_MMAP_THRESHOLD and value > most_bytes:
            return 0
        taken[setting] = value
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_memory()
    assert taken[_M_MMAP_THRESHOLD] == most_bytes
