"""The end of processes that train together: nobody is killed who is not done, all leave at once."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bclef.launching import _launched, processes

UNTIL_ITS_INPUT_ENDS = "import signal, sys; signal.alarm(30); sys.stdin.read()"
"""A process that ends well when it is told to, and badly if nobody does."""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """What a launcher has started beside this process."""
    started = subprocess.Popen(
        [sys.executable, "-c", UNTIL_ITS_INPUT_ENDS], stdin=subprocess.PIPE, text=True
    )
    with started:
        yield started
        started.kill()


@pytest.fixture
def leave(child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without others, which tells the child when this process gives it up."""
    is_there = [True]

    def give_up() -> None:
        is_there[0] = False
        if child.poll() is None and child.stdin is not None:
            child.stdin.close()

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: is_there[0])
    monkeypatch.setattr("torch.distributed.destroy_process_group", give_up)


def end(child: subprocess.Popen[str], how: Callable[[], None]) -> int:
    """The child's exit code after this process has left a training in that way."""
    strategy: Any = SimpleNamespace(launcher=SimpleNamespace(procs=[child]))
    fabric: Any = SimpleNamespace(launch=lambda: None)
    with _launched(strategy, fabric):
        how()
    return child.returncode


def leave_with(code: int) -> None:
    raise SystemExit(code)


@pytest.mark.usefixtures("leave")
def test_first_process_leaves_the_group_before_it_waits_for_the_others(
    child: subprocess.Popen[str],
) -> None:
    """Some backends hold each process there until all of a machine have come."""
    assert end(child, lambda: None) == 0


@pytest.mark.usefixtures("leave")
@pytest.mark.parametrize(
    ("code", "of_the_others"), [(0, 0), (143, -9)], ids=["is done", "was ended"]
)
def test_others_are_killed_by_a_process_that_is_ended_and_by_none_that_is_done(
    child: subprocess.Popen[str], code: int, of_the_others: int
) -> None:
    """The first process of a further machine is done when it leaves with 0."""
    with pytest.raises(SystemExit):
        end(child, lambda: leave_with(code))
    assert child.returncode == of_the_others


def test_only_what_lightning_says_of_its_processes_is_heard() -> None:
    names = ("lightning.fabric", "lightning.fabric.strategies.launchers.subprocess_script")
    fabric, launcher = map(logging.getLogger, names)
    before = fabric.level, launcher.level
    with processes(1, 1):
        assert launcher.isEnabledFor(logging.INFO)
        assert not fabric.isEnabledFor(logging.WARNING)
    assert (fabric.level, launcher.level) == before
