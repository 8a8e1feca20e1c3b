"""Checkpoints of a training run: written whole or not at all, and refused when damaged."""

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bclef.tables import atomic_path

_LOG = logging.getLogger(__name__)
_NAME = "last"


class CheckpointError(Exception):
    """A checkpoint is damaged, so training can neither go on nor silently start over."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that take their name only once they are whole and on the disk."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,
    ) -> None:
        """Writes `checkpoint` to `path`."""
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


def checkpoint_callback(directory: Path) -> ModelCheckpoint:
    """Returns what keeps the checkpoint of the last epoch in `directory`."""
    return ModelCheckpoint(
        dirpath=directory,
        filename=_NAME,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def whole_checkpoint(directory: Path) -> Path | None:
    """Returns the checkpoint in `directory` to go on from, or None if there is none.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = directory / f"{_NAME}.ckpt"
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({error}); remove it to train from the start"
        ) from error
    _LOG.info("going on from %s", path)
    return path
