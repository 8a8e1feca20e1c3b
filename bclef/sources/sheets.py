"""CSV tables about audio files, as people write them: rows with a path, checked one by one."""

import csv
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bclef.sources.protocol import SourceError

_log = logging.getLogger(__name__)

_ALIASES = {
    "filename": "path",
    "license": "licence",
    "author": "recordist",
    "common": "common_name",
    "class_name": "taxon_class",
    "latitude": "latitude_deg",
    "longitude": "longitude_deg",
    "date": "recorded_on",
}
DETAIL_COLUMNS = (
    "label", "secondary_labels", "background_species", "scientific_name", "common_name",
    "taxon_class", "recordist", "licence", "fold", "group_id", "latitude_deg", "longitude_deg",
    "recorded_on", "rating", "duration_s",
)  # fmt: skip
"""What a table of recordings may say of a file beside its `path`."""
ANNOTATION_COLUMNS = ("start_s", "end_s", "label")


@dataclass(frozen=True)
class SheetRow:
    """One row of a table."""

    place: str
    """File and row, for messages."""
    path: Path
    """The file that the row is about: absolute, `..` resolved, links not followed."""
    is_inside: bool
    """Whether `path` lies under the table's folder."""
    values: Mapping[str, str]
    """What is stated, by column; empty fields are left out."""

    def number(self, column: str, low: float, high: float) -> float | None:
        """Returns the number in `column`, or None where it is empty.

        Raises:
            ValueError: it is no finite number from `low` to `high`.
        """
        text = self.values.get(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(
                f"{self.place}, column {column}: found {text!r}, expected a number "
                f"from {low:g} to {high:g}"
            )
        return value


def read_sheet(path: Path, columns: tuple[str, ...], required: tuple[str, ...]) -> list[SheetRow]:
    """Returns the rows of the CSV file at `path`; columns that nobody reads are logged once.

    Args:
        path: UTF-8, comma-separated, with a header that has `path` (or `filename`): relative to
            the folder of the table.
        columns: what else is read.
        required: columns that have to be there.

    Raises:
        SourceError: no such file, not CSV, a required column is missing or one stands twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [_ALIASES.get(name.strip(), name.strip()) for name in reader.fieldnames or []]
            _check_header(path, header, ("path", *required))
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 CSV: {error}") from error
    if unread := [name for name in header if name not in ("path", *columns)]:
        _log.info("%s: columns not read: %s", path, ", ".join(unread))
    return [_row(path, number, row, columns) for number, row in rows]


def _check_header(path: Path, header: list[str], required: tuple[str, ...]) -> None:
    if missing := [name for name in required if name not in header]:
        raise SourceError(
            f"{path}: no column {missing[0]!r}; found {', '.join(header) or 'an empty file'}"
        )
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise SourceError(f"{path}: column {twice[0]!r} stands twice (aliases count); keep one")


def _row(
    sheet: Path, number: int, row: Mapping[str | None, str | None], columns: tuple[str, ...]
) -> SheetRow:
    folder = os.path.abspath(sheet.parent)  # noqa: PTH100  Path.resolve would follow links
    target = os.path.normpath(os.path.join(folder, row["path"] or ""))  # noqa: PTH118  same reason
    stated = {name: (row.get(name) or "").strip() for name in columns}
    return SheetRow(
        place=f"{sheet} row ending at line {number}",
        path=Path(target),
        is_inside=target.startswith(folder.rstrip(os.sep) + os.sep),
        values={name: text for name, text in stated.items() if text},
    )


def split_names(text: str) -> list[str]:
    """Returns the names in `text`, separated by `;` or `|`, each once.

    >>> split_names("Parus major| Turdus merula;")
    ['Parus major', 'Turdus merula']
    """
    names = (name.strip() for name in text.replace("|", ";").split(";"))
    return list(dict.fromkeys(name for name in names if name))


NUMBERS: Mapping[str, tuple[Callable[[float], float | int], float, float]] = {
    "fold": (int, 0, 1000),
    "latitude_deg": (float, -90, 90),
    "longitude_deg": (float, -180, 180),
    "rating": (float, 0, 5),
    "duration_s": (float, 0, 1e7),
}
"""Kind, lowest and highest value of the columns that hold numbers."""


def stated_metadata(row: SheetRow) -> dict[str, object]:
    """Returns what `row` says of its file, by column of `protocol.LISTED`.

    Raises:
        ValueError: a number is none, or out of range.
    """
    stated: dict[str, object] = {}
    for column, text in row.values.items():
        if column in NUMBERS:
            kind, low, high = NUMBERS[column]
            value = row.number(column, low, high)
            stated[column] = None if value is None else kind(value)
        elif column not in ("secondary_labels", "background_species"):
            stated[column] = text
    behind = [row.values.get(name, "") for name in ("secondary_labels", "background_species")]
    if names := split_names(";".join(behind)):
        stated["secondary_labels"] = names
    return stated
