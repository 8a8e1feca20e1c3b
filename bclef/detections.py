"""Tables of `bclef predict`: detections, and one row for every file.

Both are written as they grow, so their size is not bounded by memory, and take their names only
when they are whole.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

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
"""One row per window and class above the threshold; by recording, window, falling confidence.

A window runs from start_s to end_s; what the network heard around it is not part of it.
"""

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

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Scan:
    """What came of one file."""

    detections: pa.Table
    """Rows of `DETECTIONS`."""
    summary: pa.Table
    """The one row of `SCANNED`."""

    @property
    def duration_s(self) -> float | None:
        """Length of the recording; None when it could not be read."""
        duration_s: float | None = self.summary["duration_s"][0].as_py()
        return duration_s


def failed(path: Path, error: str, detail: str) -> Scan:
    """Returns the scan of a file that cannot be read."""
    row = {"recording": shown(path), "error": error, "detail": detail}
    return Scan(DETECTIONS.empty_table(), pa.Table.from_pylist([row], schema=SCANNED))


def shown(path: Path) -> str:
    r"""Returns `path` as text; bytes that are no UTF-8 become escapes such as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
    with (
        _open_table(scanned_path(output), SCANNED) as files,
        _open_table(output, DETECTIONS) as detections,
    ):

        def add(scan: Scan) -> None:
            detections.add(scan.detections)
            files.add(scan.summary)

        yield add


class _Buffer:
    """Holds rows back until there are enough of them for one efficient write."""

    def __init__(self, writer: parquet.ParquetWriter | csv.CSVWriter) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []
        self._n_rows = 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._n_rows += len(rows)
        if self._n_rows >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._n_rows = [], 0


@contextmanager
def _open_table(path: Path, schema: pa.Schema) -> Iterator[_Buffer]:
    kind = parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter
    with atomic_path(path) as temporary, kind(temporary, schema) as writer:
        buffer = _Buffer(writer)
        yield buffer
        buffer.flush()
