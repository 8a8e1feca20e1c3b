"""What every source of recordings offers: a listing, and the bytes of one recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

LISTED: Mapping[str, str] = {
    "recording_id": "string",
    "source": "string",
    "role": "string",
    "label": "string?",
    "scientific_name": "string?",
    "common_name": "string?",
    "taxon_class": "string?",
    "secondary_labels": "list[string]",
    "recordist": "string?",
    "group_id": "string?",
    "latitude_deg": "float64?",
    "longitude_deg": "float64?",
    "recorded_on": "string?",
    "rating": "float32?",
    "licence": "string?",
    "attribution": "string",
    "url": "string",
    "source_sha256": "string?",
    "duration_s": "float64?",
    "annotated": "bool",
    "fold": "int64?",
}
"""Columns of `Listing.recordings`."""
LISTED_ANNOTATIONS: Mapping[str, str] = {
    "recording_id": "string",
    "start_s": "float64",
    "label": "string",
    "end_s": "float64",
}
LISTED_REJECTED: Mapping[str, str] = {
    "recording_id": "string",
    "stage": "string",
    "reason": "string",
    "detail": "string",
}

_PANDAS = {
    "string": "string",
    "list[string]": "object",
    "float64": "float64",
    "float32": "float32",
    "bool": "bool",
    "int64": "Int64",
}


class SourceError(Exception):
    """A source cannot be listed at all: what it was pointed at is missing or unusable."""


class FetchError(Exception):
    """One recording cannot be had.

    Args:
        reason: one word for counting, such as `gone`.
        detail: what was found, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Listing:
    """All that a source knows before a recording is fetched."""

    recordings: pd.DataFrame
    """One row a recording, columns `LISTED`."""
    annotations: pd.DataFrame
    """One row a labelled stretch of an annotated soundscape, columns `LISTED_ANNOTATIONS`."""
    rejected: pd.DataFrame
    """One row a recording that the source itself refused, columns `LISTED_REJECTED`."""


class Source(Protocol):
    """A place that recordings come from. Sources are picklable."""

    @property
    def name(self) -> str:
        """The word for it in params and in the column `source`."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it is asked politely over one connection; others fan out over processes."""
        ...

    def list_recordings(self) -> Listing:
        """Returns everything that the source offers.

        Raises:
            SourceError: it cannot be listed.
        """
        ...

    def fetch(self, url: str, path: Path) -> None:
        """Writes the bytes of the recording at `url` to `path`.

        Raises:
            FetchError: it cannot be had.
        """
        ...


def listed_frame(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str] = LISTED
) -> pd.DataFrame:
    """Returns `rows` as a frame with the given columns and their dtypes; what a row lacks is null.

    Args:
        rows: one mapping a row.
        columns: `LISTED`, `LISTED_ANNOTATIONS` or `LISTED_REJECTED`.
    """
    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=_PANDAS[dtype.removesuffix("?")])
            for name, dtype in columns.items()
        }
    )
