"""Folders of the store: one process at a time adds to one, and a fault of the disk is told."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, Timeout

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The disk does not let a folder of the store be read or written."""


def hold(lock: BaseFileLock, what: str) -> None:
    """Takes `lock`, if need be after waiting for the process that has it.

    Args:
        lock: The lock.
        what: What the other process is doing, for the log.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("another process is %s; waiting until it is done", what)
        lock.acquire()


@contextmanager
def faults_told(folder: Path) -> Iterator[None]:
    """Tells what the disk refuses the body.

    Raises:
        StoreError: An OSError left the body.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be read or written ({error}); make room, or give this user the "
            "right to write there, and run again: what is there stays"
        ) from error
