"""One execution of one pipeline stage: what surrounds the few lines of each script in stages/.

    with stage("finetune", item="0") as run:
        config = run.params.section(FinetuneConfig, "finetune")
        ...
        run.write_metrics({"fold0": scores})

It sees that two copies of a stage never work side by side (dvc killed alone leaves its stage
behind), that a stage ends with its dvc and cleanly on SIGTERM, and that the run is recorded. Where
several processes train together, all run the stage's script, and the first one alone does so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import pandas as pd

from bclef.config import ConfigError, Params
from bclef.lifetime import (
    TERMINATED,
    end_with_dvc,
    end_with_first_process,
    ends_on_sigterm,
    locked,
)
from bclef.ranks import is_first_process
from bclef.redaction import redact
from bclef.tables import atomic_path, read_json, write_json
from bclef.tracking import Spool, Status, WorkspaceError, find_dvc_root, open_spool

__all__ = ["StageRun", "stage"]

log = logging.getLogger(__name__)

_WORK = ".work"


@dataclass(frozen=True)
class StageRun:
    """A stage at work; made by `stage`."""

    name: str
    """Stage, as in `finetune`."""
    item: str | None
    """Fold or round of the stage, as in `0`."""
    root: Path
    """The workspace that the stage reads and writes; in an experiment maybe a temporary one."""
    dvc_root: Path
    """The main workspace, which keeps what outlives an experiment."""
    params: Params
    """What dvc.yaml declares for the stage."""
    spool: Spool
    """Where the run is recorded."""
    _held: ExitStack = field(default_factory=ExitStack)
    _work_dirs: list[Path] = field(default_factory=list)

    @property
    def store_root(self) -> Path:
        """The audio store, shared by all experiments."""
        return self.dvc_root / "data" / "store"

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Records numbers of one step, such as an epoch."""
        self.spool.log_metrics(values, step)

    def log_artifact(self, path: Path) -> None:
        """Records a copy of a small file."""
        self.spool.log_artifact(path)

    def log_model(self, directory: Path) -> None:
        """Records an export folder, to be logged and registered as an MLflow model."""
        self.spool.log_model(directory)

    def write_metrics(self, tree: Mapping[str, object]) -> None:
        """Writes `tree` to metrics/<stage>.json or metrics/<stage>/<item>.json.

        Its numbers are recorded too, under dotted names.
        """
        if not is_first_process():
            return
        write_json(self.root / "metrics" / f"{self._place()}.json", tree)
        self.spool.log_summary(dict(_numbers(tree)))

    def write_plot(self, points: pd.DataFrame) -> None:
        """Writes the rows that DVC plots, to plots/<stage>.csv or plots/<stage>/<item>.csv."""
        if not is_first_process():
            return
        with atomic_path(self.root / "plots" / f"{self._place()}.csv") as temporary:
            points.to_csv(temporary, index=False)

    def work_dir(self, *key_parts: str) -> Path:
        """Returns a directory for checkpoints, which a killed stage finds again when it is rerun.

        It is named by all that determines the result: the stage's code, its declared params and
        `key_parts`. It is locked until the stage ends, and removed when the stage has succeeded.

        Args:
            key_parts: What else matters, such as hashes of input tables.

        Raises:
            ConfigError: The `code` stage has not written the hash of this stage's code.
        """
        key = {"code": self._code(), "params": self.params.flat(), "parts": list(key_parts)}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        directory = self.dvc_root / _WORK / _file_name(self.name, self.item) / digest
        if directory in self._work_dirs or not is_first_process():
            return directory
        lock = directory.with_suffix(".lock")
        self._held.enter_context(locked(lock, f"the same {_label(self.name, self.item)}"))
        written = directory / "key.json"
        if written.exists() and read_json(written) != key:
            log.warning("%s is not of these params, data and code; it is not used", directory)
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(written, key)
        self._work_dirs.append(directory)
        return directory

    def remove_work_dirs(self) -> None:
        """Removes the checkpoints; done by itself when the stage succeeds."""
        while self._work_dirs:
            shutil.rmtree(self._work_dirs.pop(), ignore_errors=True)

    def _place(self) -> str:
        return f"{self.name}/{self.item}" if self.item else self.name

    def _code(self) -> str:
        path = self.root / "codehash" / f"{self.name}.txt"
        try:
            return path.read_text()
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: no such file; expected the hash of the stage's code: dvc repro code"
            ) from error


@contextmanager
def stage(name: str, item: str | None = None) -> Iterator[StageRun]:
    """Yields the run of stage `name`, alone in this workspace; records how it ended.

    An error of this project's own classes, such as ConfigError, or WorkspaceError when this is no
    DVC workspace, ends the process with code 1 and the message alone.

    Args:
        name: As in dvc.yaml.
        item: Value of the stage's matrix or foreach, such as a fold.

    Raises:
        SystemExit: 1 after such an error, 143 after SIGTERM.
    """
    is_first = is_first_process()
    _log_to_stderr(logging.INFO if is_first else logging.ERROR)
    with ends_on_sigterm(), ExitStack() as held:
        held.push(_report)
        if is_first:
            end_with_dvc()
        else:
            end_with_first_process()
        root = Path.cwd()
        if not (root / "dvc.yaml").exists():
            raise WorkspaceError(f"no dvc.yaml in {root}; expected to start in a workspace's root")
        if is_first:
            # In the workspace, not the main one: experiments share only their work directories.
            lock = root / _WORK / f"{_file_name(name, item)}.lock"
            held.enter_context(locked(lock, _label(name, item)))
        params = Params.for_stage(name, item, root)
        dvc_root = find_dvc_root(root)
        if not is_first:
            yield StageRun(name, item, root, dvc_root, params, Spool("", dvc_root, None), held)
            return
        spool = open_spool(dvc_root, root=root, stage=_label(name, item), params=params.flat())
        with ExitStack() as recorded:
            recorded.push(partial(_record_end, spool, time.monotonic()))
            run = StageRun(name, item, root, dvc_root, params, spool, held)
            yield run
        run.remove_work_dirs()


def _record_end(
    spool: Spool,
    began_s: float,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Closes `spool` with what a `with` block took and the way in which it ended."""
    del trace
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took_s = time.monotonic() - began_s
    spool.log_metrics({"resources.wall_s": took_s, "resources.peak_memory_mib": peak / unit})
    if kind is None or error is None:
        spool.close("FINISHED")
    else:
        spool.close(_status(error), f"{kind.__name__}: {error}")


def _status(error: BaseException) -> Status:
    code = error.code if isinstance(error, SystemExit) else 1
    if isinstance(error, KeyboardInterrupt) or code == TERMINATED:
        return "KILLED"
    return "FAILED" if code else "FINISHED"


def _report(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    """Turns an error of this project that ends a `with` block into its message and exit code 1.

    Such messages say what to do; forty lines of calls above them would hide that. Each module
    has its own error classes and they need no common base: they are known by their package.

    Raises:
        SystemExit: 1.
    """
    del trace
    if kind is not None and kind.__module__.partition(".")[0] == "bclef":
        log.error("%s", error)
        raise SystemExit(1) from error


def _numbers(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields (dotted name, number) of the leaves that are numbers."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _log_to_stderr(level: int) -> None:
    """Shows this project's messages from `level` and everyone else's from WARNING or that."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    for package in ("bclef", "stages"):
        logging.getLogger(package).setLevel(level)


def _label(name: str, item: str | None) -> str:
    return f"{name}@{item}" if item else name


def _file_name(name: str, item: str | None) -> str:
    return f"{name}-{item}" if item else name
