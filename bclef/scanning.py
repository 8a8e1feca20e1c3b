"""Scans recordings for species: many files, one row or more for each, whatever they are.

A recording that cannot be read is a row with a reason, and so is one that kills the process that
decodes it. `detections` holds the tables.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from bclef.audio import DecodeError, Wave, decode_blocks
from bclef.detections import DETECTIONS, SCANNED, Scan, failed, scan_writer, shown
from bclef.parallel import executor, run_all
from bclef.runtime import Predictor, ScoreError

_NO_SOUND = frozenset({"empty", "not_audio", "unsupported"})
"""Reasons for which a file is no recording, rather than one that failed."""


@dataclass(frozen=True)
class ScanOptions:
    """How to scan."""

    model_dir: Path
    """Export folder."""
    threshold: float
    """Least confidence of a detection, 0 to 1."""
    step_s: float | None
    """From one window to the next; None for scored parts side by side."""

    def check(self) -> None:
        """Refuses what would otherwise fail in every worker.

        Raises:
            ExportError: The model folder cannot be used.
            ValueError: A threshold that is none, or a step that leaves gaps or does not move on.
        """
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"found a threshold of {self.threshold}, expected 0 to 1")
        Predictor(self.model_dir, n_threads=1).step_samples(self.step_s)


@dataclass(frozen=True)
class ScanJob:
    """One file to scan."""

    path: Path
    """The file."""
    options: ScanOptions
    """How to scan it."""
    n_threads: int | None
    """Threads of one calculation; None for one per core."""


@dataclass(frozen=True)
class ScanTotals:
    """What a scan came to."""

    n_files: int
    """Files that have a row."""
    n_read: int
    """Files that could be read."""
    n_no_sound: int
    """Files that are no sound, or none of a kind that can be read."""
    sound_s: float
    """Length of these."""
    took_s: float
    """Time that the scan took."""

    @property
    def n_failed(self) -> int:
        """Files that may be sound and could not be read."""
        return self.n_files - self.n_read - self.n_no_sound


def scan_recordings(
    paths: Sequence[Path], options: ScanOptions, output: Path, n_workers: int | None = None
) -> ScanTotals:
    """Returns the totals of a scan, having written `output` and the table of files beside it.

    Args:
        paths: Files, each once.
        options: How to scan; see `ScanOptions.check`.
        output: Table of detections, `.csv` or `.parquet`.
        n_workers: Processes; None as `parallel.executor` has it, 0 for this one alone.

    Raises:
        ExportError: The model folder cannot be used.
        ValueError: Another suffix, or as `ScanOptions.check`.
        OSError: The tables cannot be written.
    """
    options.check()
    # A lone file has all cores to itself; of many, each has one.
    alone = len(paths) == 1
    jobs = [ScanJob(path, options, n_threads=None if alone else 1) for path in paths]
    n_workers = 1 if alone and n_workers is None else n_workers
    began_s, n_read, n_no_sound, sound_s = time.monotonic(), 0, 0, 0.0
    with scan_writer(output) as add, executor(n_workers=n_workers) as pool:
        for outcome in run_all(scan_file, jobs, pool, describe="predict"):
            path = outcome.item.path
            scan = outcome.value or failed(path, "crash", "a process died of decoding this file")
            add(scan)
            if scan.duration_s is not None:
                n_read, sound_s = n_read + 1, sound_s + scan.duration_s
            n_no_sound += scan.summary["error"][0].as_py() in _NO_SOUND
    return ScanTotals(len(paths), n_read, n_no_sound, sound_s, time.monotonic() - began_s)


def scan_file(job: ScanJob) -> Scan:
    """Returns the detections in one file, or the reason why there can be none.

    Raises:
        ExportError: The model folder cannot be used.
        ValueError: A step that leaves gaps.
    """
    predictor = _predictor(job.options.model_dir, job.n_threads)
    try:
        if not job.path.is_file():
            return failed(job.path, "missing", "no such file, or none that holds bytes")
        return _scan(predictor, job)
    except DecodeError as error:
        return failed(job.path, error.reason, error.detail)
    except ScoreError as error:
        return failed(job.path, "corrupt", str(error))
    except OSError as error:
        return failed(job.path, "unreadable", error.strerror or str(error))


def list_files(paths: Iterable[Path]) -> list[Path]:
    """Returns the files in `paths`, those of folders and their subfolders sorted, each once.

    Every file counts, whatever its name: what is no sound shall be told, not passed over. Links to
    folders are not followed, so a loop of them does no harm.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        inside = (Path(top) / name for top, _, names in os.walk(path) for name in names)
        found.update(dict.fromkeys(sorted(inside)))
    return list(found)


@lru_cache(maxsize=1)
def _predictor(directory: Path, n_threads: int | None) -> Predictor:
    return Predictor(directory, n_threads=n_threads)


def _scan(predictor: Predictor, job: ScanJob) -> Scan:
    meter = _Meter()
    blocks = meter.measured(decode_blocks(job.path, predictor.sample_rate_hz))
    n_windows, max_confidence, found = 0, 0.0, []
    for start_s, scores in predictor.score_blocks(blocks, job.options.step_s):
        n_windows += len(scores)
        max_confidence = max(max_confidence, float(scores.max()))
        window, position = np.nonzero(scores >= job.options.threshold)
        found.append((start_s[window], position, scores[window, position]))
    start_s, position, confidence = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((-confidence, start_s))
    duration_s = meter.n_samples / predictor.sample_rate_hz
    start_s, position = start_s[order], position[order]
    row = {
        "recording": shown(job.path),
        "n_windows": n_windows,
        "duration_s": duration_s,
        "n_detections": len(order),
        "max_confidence": max_confidence,
    }
    columns = {
        "recording": np.full(len(order), shown(job.path), dtype=object),
        "start_s": start_s,
        "end_s": np.minimum(start_s + predictor.scored_s, duration_s),
        "label": np.array(predictor.labels, dtype=object)[position],
        "scientific_name": np.array(predictor.scientific_names, dtype=object)[position],
        "confidence": confidence[order],
    }
    return Scan(pa.table(columns, schema=DETECTIONS), pa.Table.from_pylist([row], schema=SCANNED))


class _Meter:
    """Counts the samples that pass."""

    def __init__(self) -> None:
        self.n_samples = 0

    def measured(self, blocks: Iterable[Wave]) -> Iterator[Wave]:
        for block in blocks:
            self.n_samples += len(block)
            yield block
