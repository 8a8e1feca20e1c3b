"""Ships the spools of stages into MLflow: one parent run per pipeline, a child run per stage.

`python -m bclef.shipping` ships what there is; with `--follow` it goes on while stages live, and is
what `bclef.tracking` starts. It is safe to repeat and safe to kill: runs are found by their tags,
an equal metric or param is stored once, and progress is written down only after it was made. A
spool that ended moves to `done/`, one that MLflow will never take to `bad/`, its reason beside it.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from bclef.redaction import redact
from bclef.spools import Artifact, End, Metrics, Model, SpoolError, SpoolFile
from bclef.tracking import FOLLOW_LOCK, SPOOL_DIRECTORY, WorkspaceError, find_dvc_root, is_locked

if TYPE_CHECKING:
    from bclef.ledger import Ledger

__all__ = ["ShipReport", "follow", "ship"]

log = logging.getLogger(__name__)

Fate = Literal["shipped", "kept", "bad"]

_NICENESS = 10
_FOLLOW_EVERY_S, _FOLLOW_AT_LEAST_EVERY_S = 3.0, 60.0
_IDLE_S = 20.0
# MLflow's own: 7 retries and 120 s, after which a dead server has cost 4 minutes, and for each
# run two lines with its address.
_MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class ShipReport:
    """What became of the spools that were waiting."""

    shipped: int
    """Complete and in MLflow."""
    kept: int
    """Still being written, or not taken this time; nothing of them is lost."""
    bad: int
    """Moved to `bad/`, with the reason beside them."""
    reason: str | None
    """Why spools of ended runs were kept, if any were."""


def ship(dvc_root: Path, *, wait_s: float) -> ShipReport:
    """Returns what became of the spools under `dvc_root` after trying to ship each.

    They go to MLFLOW_TRACKING_URI, or else to `dvc_root`/mlflow.db and `dvc_root`/mlruns. Trouble
    with MLflow is told in the report, not raised.

    Args:
        dvc_root: The main workspace.
        wait_s: How long to wait for another process that is shipping.
    """
    directory = dvc_root / SPOOL_DIRECTORY
    n_waiting = sum(1 for _ in directory.glob("*.jsonl"))
    if n_waiting == 0:
        return ShipReport(shipped=0, kept=0, bad=0, reason=None)
    with _held(directory / ".lock", wait_s) as held:
        if not held:
            return ShipReport(0, n_waiting, 0, f"another process is shipping {directory}")
        # About in the order in which they ran.
        paths = sorted(directory.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return _ship_all([SpoolFile(path) for path in paths], dvc_root)


def follow(dvc_root: Path) -> None:
    """Ships every few seconds, until no stage has lived for a while; returns if another does."""
    directory = dvc_root / SPOOL_DIRECTORY
    while True:
        with _held(directory / FOLLOW_LOCK, 0) as held:
            if not held:
                return
            _follow_until_idle(dvc_root)
        # A stage that began before the lock was let go saw it held, and relies on this process.
        if not _any_live(directory):
            return


def _follow_until_idle(dvc_root: Path) -> None:
    last_live_s = time.monotonic()
    pause_s = _FOLLOW_EVERY_S
    last_reason: str | None = None
    is_idle = False
    while not is_idle:
        if _any_live(dvc_root / SPOOL_DIRECTORY):
            last_live_s = time.monotonic()
        is_idle = time.monotonic() - last_live_s >= _IDLE_S
        # Shipped once more after no stage was seen to live: the last lines of the last one.
        reason = ship(dvc_root, wait_s=pause_s).reason
        if reason and reason != last_reason:
            log.warning("spools are kept: %s", reason)
        last_reason = reason
        pause_s = min(2 * pause_s, _FOLLOW_AT_LEAST_EVERY_S) if reason else _FOLLOW_EVERY_S
        time.sleep(0 if is_idle else min(pause_s, _IDLE_S))


def _any_live(directory: Path) -> bool:
    return any(is_locked(path) for path in directory.glob("*.jsonl"))


@contextmanager
def _held(lock: Path, wait_s: float) -> Iterator[bool]:
    """Yields whether the exclusive lock on the file `lock` was had within `wait_s` seconds."""
    with lock.open("a") as file:
        end_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return


def _ship_all(spools: list[SpoolFile], dvc_root: Path) -> ShipReport:
    """Ships each spool for itself; gives up early only when MLflow itself fails."""
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Not before the lock is held and there is something to ship: see there.
    from bclef.ledger import Ledger, RunError, ServerError, translated  # noqa: PLC0415

    fates: Counter[Fate] = Counter()
    reason: str | None = None
    try:
        with translated():
            ledger = Ledger(_uri(dvc_root), dvc_root / "mlruns")
        for spool in spools:
            try:
                with translated():
                    fates[_ship_one(spool, ledger)] += 1
            except SpoolError as error:
                log.warning("%s is put aside in bad/: %s", spool.path.name, error)
                spool.retire("bad", str(error))
                fates["bad"] += 1
            except RunError as error:
                spool.forget_progress()
                reason = f"{spool.path.name}: {error}"
    except (ServerError, SpoolError, RunError) as error:
        reason = f"{redact(_uri(dvc_root))}: {error}"
    n_kept = len(spools) - fates["shipped"] - fates["bad"]
    return ShipReport(fates["shipped"], n_kept, fates["bad"], reason)


def _ship_one(spool: SpoolFile, ledger: Ledger) -> Fate:
    """Returns what became of one spool; progress is saved after each part that has arrived."""
    is_live = spool.is_live()  # asked before reading: what a dead stage wrote is there by now
    header, progress = spool.read_header(), spool.progress
    if is_live and not spool.has_news():
        return "kept"
    progress.run, pipeline = ledger.begin(header, progress.run)
    if not progress.has_params:
        ledger.log_params(header, progress.run, pipeline)
        progress.has_params = True
    records, n_bytes = spool.read_news()
    metrics = [record for record in records if isinstance(record, Metrics)]
    ledger.log_metrics(header.stage, metrics, progress.run, pipeline)
    for record in records:
        if isinstance(record, Artifact):
            place = PurePosixPath(record.path).relative_to("artifacts").parent
            ledger.log_artifact(progress.run, spool.copies / record.path, str(place))
        elif isinstance(record, Model):
            ledger.log_model(progress.run, spool.copies / record.path)
    end = next((record for record in records if isinstance(record, End)), None)
    if end is None and is_live:
        progress.n_bytes = n_bytes
        spool.save_progress()
        return "kept"
    died_ms = spool.path.stat().st_mtime_ns // 1_000_000
    ledger.end(end or End(died_ms, "KILLED", None), progress.run, pipeline)
    spool.retire("done")
    return "shipped"


def _uri(dvc_root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{dvc_root / 'mlflow.db'}"


def main() -> int:
    """Returns 1 if spools of ended runs could not be shipped, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bclef.shipping", description=__doc__)
    parser.add_argument("--follow", action="store_true", help="go on while stages live")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("bclef").setLevel(logging.INFO)
    try:
        dvc_root = find_dvc_root(Path.cwd())
    except WorkspaceError as error:
        parser.error(str(error))
    if arguments.follow:
        os.nice(_NICENESS)
        os.chdir(dvc_root)
        follow(dvc_root)
        return 0
    report = ship(dvc_root, wait_s=_FOLLOW_AT_LEAST_EVERY_S)
    log.info("%d runs shipped, %d kept, %d bad", report.shipped, report.kept, report.bad)
    if report.reason:
        log.warning("kept: %s", report.reason)
    return 1 if report.reason else 0


if __name__ == "__main__":
    sys.exit(main())
