"""Checkpoints of a training run: written whole or not at all, and refused when damaged."""

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from bclef.tables import atomic_path

_LOG = logging.getLogger(__name__)
_NAME = "last.ckpt"


class CheckpointError(Exception):
    """A checkpoint is damaged, so training can neither go on nor silently start over."""


def write_checkpoint(directory: Path, state: Mapping[str, Any]) -> None:
    """Makes `state` the checkpoint in `directory`, once it is whole and on the disk.

    Args:
        directory: Made if it is not there.
        state: Tensors, numbers, strings, and lists and dictionaries of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_path(directory / _NAME) as temporary:
        torch.save(dict(state), temporary)


def read_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Returns the checkpoint in `directory`, on the CPU, or None if there is none.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = directory / _NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({error}); remove it to train from the start"
        ) from error
    _LOG.info("going on from %s", path)
    return state
