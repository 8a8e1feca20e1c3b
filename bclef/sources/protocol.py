"""What every source of recordings offers: a listing, and the bytes of one recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

LISTED: Mapping[str, str] = {
    "recording_id": "string",
    "source": "string",
    "collection": "string?",
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
    "page_url": "string?",
    "source_sha256": "string?",
    "duration_s": "float64?",
    "annotated": "bool",
    "fold": "int64?",
}
"""Columns of `Listing.recordings`.

`collection` is where a recording is at home, such as XC, whichever source listed it; `url` is what
`Source.fetch` understands, `page_url` where people can see it.
"""
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


UNAVAILABLE = "unavailable"
"""Reason of a `FetchError`: not to be had now, after several tries; it may be later."""


class SourceError(Exception):
    """A source cannot be listed at all: what it was pointed at is missing or unusable."""


class SourceStoppedError(Exception):
    """A source must not be asked any further now; what was had stays, and a later run goes on.

    It refuses this client, is too busy after several tries, or the run's requests are spent.
    """


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

    @classmethod
    def too_large(cls, n_bytes: int, max_bytes: int) -> "FetchError":
        """Returns the refusal of a file of so many bytes."""
        return cls("too_large", f"{n_bytes} bytes, more than fetch.max_bytes {max_bytes}")


@dataclass(frozen=True)
class Listing:
    """All that a source knows before a recording is fetched."""

    recordings: pd.DataFrame
    """One row a recording, columns `LISTED`."""
    annotations: pd.DataFrame
    """One row a labelled stretch of an annotated soundscape, columns `LISTED_ANNOTATIONS`."""
    rejected: pd.DataFrame
    """One row a recording that the source itself refused, columns `LISTED_REJECTED`."""
    classes: tuple[str, ...] | None = None
    """Labels that the source sets as its task, for which it need not have recordings; most set
    none."""


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

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Writes the bytes of the recording at `url` to `path`.

        Args:
            url: from the column `url` of the listing.
            path: where to. A remote source finds here what an earlier run left of this very
                recording, and goes on from there.
            max_bytes: what is larger is refused as soon as that is known.

        Raises:
            FetchError: it cannot be had.
            SourceStoppedError: nothing more can be had now.
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
