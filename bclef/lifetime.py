"""How long a stage lives: it ends with its dvc and cleanly on SIGTERM, and it is alone."""

import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

_LOG = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""
_PR_SET_PDEATHSIG = 1


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Makes the first SIGTERM an orderly SystemExit, and the ones during it nothing.

    Raises:
        SystemExit: 143, on SIGTERM.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_dvc() -> None:
    """Asks Linux for a SIGTERM when dvc dies; a stage that was run by hand may outlive its shell.

    Raises:
        SystemExit: dvc was gone before the asking.
    """
    if "DVC_STAGE" in os.environ:
        _end_with_parent(signal.SIGTERM)


def end_with_first_process() -> None:
    """Asks Linux to end this process, which has nothing to put in order, with what started it.

    Raises:
        SystemExit: That was gone before the asking.
    """
    _end_with_parent(signal.SIGKILL)


def _end_with_parent(number: signal.Signals) -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        raise SystemExit(TERMINATED)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock `path`, waiting for whoever has it, with a message that says who.

    Args:
        path: The lock file.
        what: What that message says is at work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            _LOG.warning("%s is already at work as %s; waiting for its end", what, file.read())
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
