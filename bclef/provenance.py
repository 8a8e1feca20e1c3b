"""Where a run comes from: its pipeline execution, experiment, revision, process and host."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Provenance", "provenance"]

_GIT_TIMEOUT_S = 2


@dataclass(frozen=True)
class Provenance:
    """What tells one run from another, besides what it computes."""

    pipeline: str
    """Key shared by all stages of one pipeline execution."""
    exp: str | None
    """Name of the DVC experiment, outside of one null."""
    git: str | None
    """Commit that the workspace started from, null outside of a repository."""
    dirty: bool
    """Whether the workspace differs from that commit."""
    host: str
    """Name of the machine."""
    pid: int
    """Process id on that machine."""
    pstart: int
    """When the process started, in the machine's own count."""
    cwd: str
    """The workspace, which in an experiment may be a temporary one."""


def provenance(root: Path) -> Provenance:
    """Returns where this process, a stage in the workspace `root`, comes from.

    The pipeline is BCLEF_PIPELINE_ID (a runner that starts a dvc process per stage sets it), else
    the experiment and its baseline, else the dvc process above this one, else this process.
    """
    exp = os.environ.get("DVC_EXP_NAME")
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    git, dirty = (baseline, True) if baseline else _revision(root)
    me = psutil.Process()
    started = _start_mark(me)
    key = os.environ.get("BCLEF_PIPELINE_ID")
    if not key and exp:
        key = f"{exp}@{(baseline or '')[:8]}"
    if not key:
        dvc = next((parent for parent in me.parents() if _is_dvc(parent)), None)
        key = f"repro-{dvc.pid}-{_start_mark(dvc)}" if dvc else f"manual-{me.pid}-{started}"
    return Provenance(
        # It becomes part of a search expression, where a quote would end it.
        pipeline=re.sub(r"[^\w@.:-]", "_", key),
        exp=exp,
        git=git,
        dirty=dirty,
        host=socket.gethostname(),
        pid=me.pid,
        pstart=started,
        cwd=str(root.resolve()),
    )


def _is_dvc(process: psutil.Process) -> bool:
    """Returns whether `process` is dvc, as a program of its own or run by a Python.

    Only base names count: "dvc" in a path or another argument means nothing.
    """
    try:
        arguments = process.cmdline()
    except psutil.Error:  # ended just now, or belongs to another user
        return False
    names = [Path(argument).name for argument in arguments[:3]]
    return "dvc" in names[:2] or names[1:] == ["-m", "dvc"]


def _start_mark(process: psutil.Process) -> int:
    """Returns a number that tells `process` from a later one with the same id.

    Linux counts ticks since boot. Elsewhere it is psutil's milliseconds since the epoch, which on
    Linux would move with the clock, so that two stages would disagree on their dvc process.
    """
    stat = Path(f"/proc/{process.pid}/stat")
    if stat.exists():
        # The name, in parentheses, may itself hold spaces; field 22 is the 20th after it.
        return int(stat.read_text().rpartition(")")[2].split()[19])
    return round(process.create_time() * 1000)


def _revision(root: Path) -> tuple[str | None, bool]:
    """Returns the commit of the repository around `root` and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or no commit yet
        return None, False
    return described.removesuffix("-dirty"), described.endswith("-dirty")
