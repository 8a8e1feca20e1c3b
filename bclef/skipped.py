"""Folds and rounds that the params pass over: DVC wants their outs, so these say why."""

import logging
import shutil
from pathlib import Path

from bclef.tables import atomic_dir

_LOG = logging.getLogger(__name__)
_MARK = "SKIPPED"


def write_skipped(directory: Path, reason: str) -> None:
    """Makes `directory` a folder that holds nothing but the `reason` why."""
    _LOG.info("nothing to do for %s: %s", directory, reason)
    with atomic_dir(directory) as folder:
        (folder / _MARK).write_text(reason + "\n", encoding="utf-8")


def carry_on(previous: Path, directory: Path) -> None:
    """Makes `directory` a copy of the folder `previous`, the last one that was worked for."""
    _LOG.info("nothing to do for %s: it is %s, carried on", directory, previous)
    with atomic_dir(directory) as folder:
        shutil.copytree(previous, folder, dirs_exist_ok=True)


def is_skipped(directory: Path) -> bool:
    """Returns whether `directory` was passed over."""
    return (directory / _MARK).exists()


def worked_folders(parent: Path) -> list[Path]:
    """Returns the folders in `parent` that were not passed over, sorted by name."""
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not is_skipped(entry))
