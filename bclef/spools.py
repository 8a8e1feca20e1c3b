"""Reading the spools that stages write: what is new in each, and whether its stage still lives."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bclef.tables import TableError, read_json, write_json
from bclef.tracking import Status, is_locked

__all__ = [
    "Artifact",
    "End",
    "Header",
    "Metrics",
    "Model",
    "Progress",
    "Record",
    "SpoolError",
    "SpoolFile",
]

# On another machine a lock proves nothing; three days without a word do.
_ABANDONED_S = 3 * 86400


class SpoolError(Exception):
    """A spool is broken, or holds what MLflow will never take."""


@dataclass(frozen=True)
class Header:
    """The first line of a spool."""

    id: str
    """Name of the spool, and of its run for ever."""
    t: int
    """When the run started, in milliseconds since the epoch."""
    stage: str
    """Stage with item, such as `finetune@0`."""
    pipeline: str
    """Key of the pipeline execution."""
    host: str
    """Machine of the stage."""
    tags: Mapping[str, str]
    """Whatever else it says of the run's origin."""
    params: Mapping[str, str]
    """Dotted keys and values."""


@dataclass(frozen=True)
class Metrics:
    """Numbers of one step."""

    t: int
    """When, in milliseconds since the epoch."""
    step: int
    """Step, such as an epoch."""
    values: Mapping[str, float]
    """Names and numbers."""
    is_summary: bool
    """Whether they are final, and so the pipeline's too."""


@dataclass(frozen=True)
class Artifact:
    """A file."""

    path: str
    """Place of its copy, relative to the spool's copies."""


@dataclass(frozen=True)
class Model:
    """An export folder."""

    path: str
    """Place of its copy, relative to the spool's copies."""


@dataclass(frozen=True)
class End:
    """How the run ended."""

    t: int
    """When, in milliseconds since the epoch."""
    status: Status
    """As MLflow names it."""
    error: str | None
    """What ended it, unless it finished."""


Record = Metrics | Artifact | Model | End


@dataclass
class Progress:
    """How much of a spool has arrived; written only after it has."""

    n_bytes: int = 0
    """Length of the part that was shipped."""
    run: str | None = None
    """MLflow's id of the stage's run."""
    has_params: bool = False
    """Whether the run has its params."""


class SpoolFile:
    """One spool on disk, with its progress, its copies of artifacts and its fate."""

    def __init__(self, path: Path) -> None:
        """Looks at the spool `path` but reads nothing yet."""
        self.path = path
        self.copies = path.with_suffix("")
        self._state = path.with_suffix(".state")
        self.progress = self._read_progress()

    def is_live(self) -> bool:
        """Returns whether the stage may still write."""
        if is_locked(self.path):
            return True
        is_silent = time.time() - self.path.stat().st_mtime > _ABANDONED_S
        return not is_silent and self.read_header().host != socket.gethostname()

    def has_news(self) -> bool:
        """Returns whether there are bytes that were not shipped yet."""
        return self.path.stat().st_size > self.progress.n_bytes

    def read_header(self) -> Header:
        """Returns the first line.

        Raises:
            SpoolError: It is no start record.
        """
        with self.path.open("rb") as file, _understood(self.path):
            record = json.loads(file.readline())
            known = {key: record.pop(key) for key in ("id", "t", "stage", "pipeline", "host")}
            params = dict(record.pop("params"))
            del record["k"]
            tags = {key: str(value) for key, value in record.items() if value is not None}
            return Header(**known, tags=tags, params=params)

    def read_news(self) -> tuple[list[Record], int]:
        """Returns the records of the complete lines after what was shipped, and where they end.

        What follows the last newline is still being written, or never will be.

        Raises:
            SpoolError: A line is no record.
        """
        with self.path.open("rb") as file:
            file.seek(self.progress.n_bytes)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        with _understood(self.path):
            records = [_record(json.loads(line)) for line in complete.splitlines()]
        return [record for record in records if record], self.progress.n_bytes + len(complete)

    def save_progress(self) -> None:
        """Writes down what has arrived."""
        write_json(self._state, asdict(self.progress))

    def forget_progress(self) -> None:
        """Makes the next attempt begin from the first line."""
        self._state.unlink(missing_ok=True)

    def retire(self, place: str, reason: str | None = None) -> None:
        """Moves the spool to the folder `place` beside it, and tells there the `reason`."""
        directory = self.path.parent / place
        directory.mkdir(exist_ok=True)
        if reason is None:
            shutil.rmtree(self.copies, ignore_errors=True)
        else:
            (directory / f"{self.path.stem}.reason.txt").write_text(reason + "\n")
            if self.copies.exists():
                self.copies.rename(directory / self.copies.name)
        self.path.rename(directory / self.path.name)
        self.forget_progress()

    def _read_progress(self) -> Progress:
        if not self._state.exists():
            return Progress()
        try:
            return Progress(**read_json(self._state))
        except (TableError, TypeError):  # replaying from the start does no harm
            return Progress()


def _record(line: Mapping[str, Any]) -> Record | None:
    """Returns the record in a parsed line; None for the header, which is read apart."""
    match line["k"]:
        case "start":
            return None
        case "m":
            values = {str(key): float(value) for key, value in line["v"].items()}
            return Metrics(int(line["t"]), int(line["step"]), values, "summary" in line)
        case "a":
            return Artifact(str(line["p"]))
        case "model":
            return Model(str(line["p"]))
        case "end":
            return End(int(line["t"]), line["status"], line["error"])
        case other:
            raise ValueError(f"unknown kind of record {other!r}")


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turns whatever a line of `path` that is no record causes into a SpoolError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpoolError(f"{path}: a line is not a record of a run: {error!r}") from error
