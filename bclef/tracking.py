"""What a stage tells about its run: one JSON object a line, appended to a spool file.

Nothing here imports mlflow, opens a connection or waits for one. `bclef.shipping`, in a process of
its own, replays the spools of `$DVC_ROOT/.mlspool` into MLflow. BCLEF_TRACKING chooses: `off`
records nothing, `spool` leaves shipping to `bclef track`, `live` (the default) also starts a
follower that ships while stages run.

A stage holds a lock on its spool for as long as it lives, so the shipper can tell a dead stage
from a silent one without trusting process ids, which containers and later processes reuse.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Literal

from bclef.provenance import provenance
from bclef.redaction import redact, redact_bytes

__all__ = [
    "FOLLOW_LOCK",
    "SPOOL_DIRECTORY",
    "Spool",
    "Status",
    "WorkspaceError",
    "clean_name",
    "find_dvc_root",
    "is_locked",
    "open_spool",
]

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
Scalar = str | float | bool | None

SPOOL_DIRECTORY = ".mlspool"
FOLLOW_LOCK = "follow.lock"
# An artifact is something to look at; what is larger is data, and DVC keeps that.
_MAX_ARTIFACT_BYTES = 32_000_000
# The longest that MLflow takes whole.
_MAX_NAME_CHARACTERS, _MAX_VALUE_CHARACTERS = 250, 6000


class WorkspaceError(Exception):
    """The place that something was started in is not a workspace of this pipeline."""


def find_dvc_root(start: Path) -> Path:
    """Returns the main workspace: DVC_ROOT, which holds in experiments too, else up from `start`.

    Raises:
        WorkspaceError: No directory from `start` upwards holds `.dvc`.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    for directory in (start.resolve(), *start.resolve().parents):
        if (directory / ".dvc").is_dir():
            return directory
    raise WorkspaceError(
        f"no directory from {start} upwards holds .dvc; expected to be inside a DVC workspace: "
        "change to it, or set DVC_ROOT"
    )


class Spool:
    """The record of one run. A spool that cannot be written says so once and then does nothing."""

    def __init__(self, identity: str, directory: Path, file: FileIO | None) -> None:
        """Records into `file`, or nowhere if that is None; use `open_spool`."""
        self.identity = identity
        self._copies = directory / identity
        self._file = file
        self._recording = file is not None

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Records numbers of one step, such as an epoch."""
        self._write("m", step=step, v={clean_name(key): float(v) for key, v in values.items()})

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Records final numbers, which the run of the whole pipeline shows too."""
        cleaned = {clean_name(key): float(value) for key, value in values.items()}
        self._write("m", step=0, v=cleaned, summary=True)

    def log_artifact(self, path: Path) -> None:
        """Records a copy of a file, or of each file in a folder, of at most 32 MB.

        The copy keeps its place relative to the working directory. Secrets are blotted out of it.
        """
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            n_bytes = file.stat().st_size
            if n_bytes > _MAX_ARTIFACT_BYTES:
                log.warning("%s has %d bytes and is not tracked: too large", file, n_bytes)
                continue
            full, here = file.absolute(), Path.cwd()
            place = full.relative_to(here) if full.is_relative_to(here) else Path(full.name)
            copied = f"artifacts/{redact(place.as_posix())}"
            self._copy(file, copied)
            self._write("a", p=copied)

    def log_model(self, directory: Path) -> None:
        """Records a copy of the files in an export folder, to be logged and registered."""
        for file in sorted(path for path in directory.iterdir() if path.is_file()):
            self._copy(file, f"model/{file.name}")
        self._write("model", p="model")

    def close(self, status: Status, error: str | None = None) -> None:
        """Records the end of the run, with the message of what ended it, and lets the spool go."""
        self._write("end", status=status, error=error)
        self._recording = False
        if self._file is not None:
            self._file.close()

    def _copy(self, source: Path, place: str) -> None:
        if not self._recording:
            return
        target = self._copies / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(redact_bytes(source.read_bytes()))
        except OSError as error:
            self._give_up(error)

    def _write(self, kind: str, **fields: object) -> None:
        if not self._recording or self._file is None:
            return
        try:
            self._file.write(_line(kind, fields))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # The file stays open, and its lock held: the stage itself is well.
        log.warning("this run is no longer tracked: %s", error)
        self._recording = False


def open_spool(dvc_root: Path, *, root: Path, stage: str, params: Mapping[str, Scalar]) -> Spool:
    """Returns the spool of a run that starts now.

    Args:
        dvc_root: The main workspace, which holds the spools.
        root: The workspace that the stage runs in.
        stage: Name with item, such as `finetune@0`.
        params: Flattened to dotted keys.

    Raises:
        ValueError: BCLEF_TRACKING is none of its choices.
    """
    mode = os.environ.get("BCLEF_TRACKING", "live")
    if mode not in {"off", "spool", "live"}:
        raise ValueError(f"BCLEF_TRACKING is {mode!r}; expected off, spool or live")
    identity, directory = uuid.uuid4().hex, dvc_root / SPOOL_DIRECTORY
    if mode == "off":
        return Spool(identity, directory, None)
    header = {
        "id": identity,
        "stage": stage,
        **asdict(provenance(root)),
        "params": {clean_name(key): str(value) for key, value in params.items()},
    }
    try:
        spool = Spool(identity, directory, _create(directory, identity, _line("start", header)))
        if mode == "live":
            _ensure_follower(dvc_root)
    except OSError as error:
        log.warning("this run is not tracked: %s", error)
        return Spool(identity, directory, None)
    return spool


def is_locked(path: Path) -> bool:
    """Returns whether a process of this machine holds the lock on the file `path`."""
    with path.open("rb") as file:
        try:
            # Shared, so that two who ask at once do not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def clean_name(name: str) -> str:
    """Returns `name` as MLflow takes it for a param or metric.

    >>> clean_name("fold@0/a[1],b")
    'fold_0/a_1__b'
    """
    parts = re.sub(r"[^\w\-. /:]", "_", redact(name)).split("/")
    name = "/".join(part for part in parts if part.strip() not in {"", ".", ".."})
    return name[:_MAX_NAME_CHARACTERS] or "_"


def _create(directory: Path, identity: str, header: bytes) -> FileIO:
    """Returns the new spool, locked and begun before it appears under its name.

    A shipper that saw it earlier would take it for that of a dead stage, or for a broken one.
    """
    directory.mkdir(exist_ok=True)
    hidden = directory / f".{identity}.tmp"
    file = FileIO(hidden, "ab")  # without a buffer: a line survives SIGKILL
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(header)
    hidden.rename(directory / f"{identity}.jsonl")
    return file


def _line(kind: str, fields: Mapping[str, object]) -> bytes:
    record = {"k": kind, "t": time.time_ns() // 1_000_000, **fields}
    return json.dumps(_redacted(record)).encode() + b"\n"


def _redacted(tree: object) -> object:
    """Returns `tree` with secrets blotted out of its strings, and those cut to MLflow's limit."""
    if isinstance(tree, str):
        return redact(tree)[:_MAX_VALUE_CHARACTERS]
    if isinstance(tree, Mapping):
        return {key: _redacted(value) for key, value in tree.items()}
    return tree


def _ensure_follower(dvc_root: Path) -> None:
    """Starts the one process that ships the spools of `dvc_root`, unless it runs or cannot.

    The spool stands before this is called, and the follower looks again after it has let its lock
    go: so no spool falls between an old follower and a new one.
    """
    lock = dvc_root / SPOOL_DIRECTORY / FOLLOW_LOCK
    lock.touch()
    if is_locked(lock) or importlib.util.find_spec("mlflow") is None:
        return
    # In an experiment this package stands in a temporary workspace that vanishes before the
    # follower ends, so the main workspace comes first. `-P` leaves the current one out.
    places = [str(dvc_root), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    output = str(dvc_root / SPOOL_DIRECTORY / "follow.log")
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "bclef.shipping", "--follow"],
        os.environ
        | {"DVC_ROOT": str(dvc_root), "PYTHONPATH": os.pathsep.join(filter(None, places))},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
