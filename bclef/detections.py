"""What `bclef predict` says of each recording: detections, and one row for every file.

A recording that cannot be read is a row with a reason. Both tables are written as they grow, so
their size is not bounded by memory, and take their names only when they are whole.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from bclef.audio import DecodeError, Wave, decode_blocks
from bclef.runtime import Predictor, ScoreError
from bclef.tables import atomic_path

DETECTIONS = pa.schema(
    [
        ("recording", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),
        ("scientific_name", pa.string()),
        ("confidence", pa.float32()),
    ]
)
"""One row per window and class above the threshold; by recording, window, falling confidence."""

SCANNED = pa.schema(
    [
        ("recording", pa.string()),
        ("n_windows", pa.int64()),
        ("duration_s", pa.float64()),
        ("n_detections", pa.int64()),
        ("max_confidence", pa.float32()),
        ("error", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One row per file: what was found in it, or why it could not be read."""

SUFFIXES = (".csv", ".parquet")
"""Kinds of tables that can be written."""

_WRITTEN_DECIMALS = 6
"""Decimals of numbers in CSV; times are exact to a millionth of a second."""


@dataclass(frozen=True)
class ScanJob:
    """One file to scan, and how."""

    path: Path
    """The file."""
    model_dir: Path
    """Export folder."""
    threshold: float
    """Least confidence of a detection, 0 to 1."""
    step_s: float | None
    """From one window to the next; None for windows side by side."""
    n_threads: int | None
    """Threads of one calculation; None for one per core."""


@dataclass(frozen=True)
class Scan:
    """What came of one file."""

    detections: pd.DataFrame
    """Rows of `DETECTIONS`."""
    row: dict[str, object]
    """The file's row of `SCANNED`."""


def scan_file(job: ScanJob) -> Scan:
    """Returns the detections in one file, or the reason why there can be none.

    Raises:
        ExportError: The model folder cannot be used.
        ValueError: A step that leaves gaps.
    """
    predictor = _predictor(job.model_dir, job.n_threads)
    try:
        if not job.path.is_file():
            raise DecodeError("missing", "no such file, or none that holds bytes")
        return _scan(predictor, job)
    except DecodeError as error:
        return failed(job.path, error.reason, error.detail)
    except ScoreError as error:
        return failed(job.path, "corrupt", str(error))
    except OSError as error:
        return failed(job.path, "unreadable", error.strerror or str(error))


def failed(path: Path, error: str, detail: str) -> Scan:
    """Returns the scan of a file that cannot be read."""
    row: dict[str, object] = dict.fromkeys(SCANNED.names)
    row |= {"recording": shown(path), "error": error, "detail": detail}
    return Scan(_detections([]), row)


def shown(path: Path) -> str:
    r"""Returns `path` as text; bytes that are no UTF-8 become escapes such as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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


def scanned_path(output: Path) -> Path:
    """Returns the path of the table of files beside a table of detections.

    >>> scanned_path(Path("out/birds.csv")).as_posix()
    'out/birds.files.csv'
    """
    return output.with_name(f"{output.stem}.files{output.suffix}")


@contextmanager
def scan_writer(output: Path) -> Iterator[Callable[[Scan], None]]:
    """Gives a function that adds a scan to the tables `output` and `scanned_path(output)`.

    Args:
        output: Table of detections, `.csv` or `.parquet`.

    Raises:
        ValueError: Another suffix.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"{output}: found suffix {output.suffix!r}, expected one of {SUFFIXES}")
    with ExitStack() as stack:
        add_files = stack.enter_context(_table_writer(scanned_path(output), SCANNED))
        add_detections = stack.enter_context(_table_writer(output, DETECTIONS))

        def add(scan: Scan) -> None:
            add_detections(scan.detections)
            add_files(pd.DataFrame([scan.row], dtype=object))

        yield add


@lru_cache(maxsize=1)
def _predictor(directory: Path, n_threads: int | None) -> Predictor:
    return Predictor(directory, n_threads=n_threads)


def _scan(predictor: Predictor, job: ScanJob) -> Scan:
    n_samples = 0

    def counted() -> Iterator[Wave]:
        nonlocal n_samples
        for block in decode_blocks(job.path, predictor.sample_rate_hz):
            n_samples += len(block)
            yield block

    n_windows, max_confidence, parts = 0, 0.0, []
    for start_s, scores in predictor.score_blocks(counted(), job.step_s):
        n_windows += len(scores)
        max_confidence = max(max_confidence, float(scores.max()))
        window, position = np.nonzero(scores >= job.threshold)
        confidence = scores[window, position]
        order = np.lexsort((position, -confidence, window))
        parts.append((start_s[window], position, confidence, order))
    duration_s = n_samples / predictor.sample_rate_hz
    frames = [
        pd.DataFrame(
            {
                "recording": shown(job.path),
                "start_s": first_s[order],
                "end_s": np.minimum(first_s + predictor.window_s, duration_s)[order],
                "label": np.array(predictor.labels, dtype=object)[position[order]],
                "scientific_name": np.array(predictor.scientific_names, object)[position[order]],
                "confidence": confidence[order],
            }
        )
        for first_s, position, confidence, order in parts
    ]
    detections = _detections(frames)
    row: dict[str, object] = {
        "recording": shown(job.path),
        "n_windows": n_windows,
        "duration_s": duration_s,
        "n_detections": len(detections),
        "max_confidence": max_confidence,
        "error": None,
        "detail": None,
    }
    return Scan(detections, row)
