"""Finds recordings that one person seems to have uploaded to several collections.

Ids and sound files differ between collections, and the sound may be cut or encoded anew; but who,
what and when are stated. This works on the listing alone, before anything is fetched; what it does
not find, the fingerprints of `duplicates` may.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import pandas as pd

_MOST_SECONDS_APART = 1.0
"""Stated lengths of one recording differ by rounding."""
_MOST_DEGREES_APART = 0.02
"""About 2 km: places are rounded, and pinned by hand."""

_NOBODY = frozenset(
    (
        "a", "anon", "anonim", "anonimo", "anonym", "anonyme", "anonymous", "author",
        "available", "desconhecido", "desconocido", "given", "inconnu", "known", "n", "na", "name",
        "named", "nan", "no", "nobody", "none", "not", "null", "observer", "onbekend", "person",
        "provided", "recorder", "recordist", "somebody", "someone", "specified", "stated",
        "unbekannt", "unknown", "unnamed", "unspecified", "user", "various",
    )
)  # fmt: skip
"""Words of which nothing but a placeholder is made, such as `Anonymous user` and `n/a`."""

_MEASURES = ("latitude_deg", "longitude_deg", "duration_s")


class _Row(NamedTuple):
    """A recording, in the order in which recordings are kept."""

    event: str
    """Recordist, label and day."""
    order: tuple[int, str, str]
    """Rank of the source, collection and id."""
    position: object
    latitude_deg: float
    longitude_deg: float
    duration_s: float


def same_events(recordings: pd.DataFrame, sources: Sequence[str]) -> pd.Series:
    """Returns for each row the id of the one that it repeats, string; null where it repeats none.

    Recordings of two collections are one when recordist (but for capitals, white space and Unicode
    form), label and full date are the same, and their lengths or their places are stated and agree,
    without the other against it. `Anonymous` and its like are no recordist. They are paired one to
    one, so that three in one collection and two in another leave three.

    Args:
        recordings: Columns recording_id, source, collection (null: the source), label, recordist,
            recorded_on, latitude_deg, longitude_deg and duration_s; unique index.
        sources: Names of the sources; a row of an earlier one stays.
    """
    repeats: dict[object, str] = {}
    for _, rows in groupby(sorted(_candidates(recordings, sources)), lambda row: row.event):
        kept: list[tuple[_Row, set[str]]] = []
        for row in rows:
            collection = row.order[1]
            for first, collections in kept:
                if collection not in collections and _agree(first, row):
                    collections.add(collection)
                    repeats[row.position] = first.order[2]
                    break
            else:
                kept.append((row, {collection}))
    return pd.Series(repeats, dtype="string").reindex(recordings.index)


def _candidates(recordings: pd.DataFrame, sources: Sequence[str]) -> Iterator[_Row]:
    """Yields the rows whose recordist, label and day are stated in more than one collection."""
    recordist = recordings["recordist"].str.normalize("NFKC").str.casefold()
    recordist = recordist.str.replace(r"\s+", " ", regex=True).str.strip()
    nobody = [name for name in recordist.dropna().unique() if not _is_person(name)]
    recordist = recordist.mask(recordist.isin(nobody))
    event = recordist + "\n" + recordings["label"] + "\n" + recordings["recorded_on"]
    is_day = recordings["recorded_on"].str.len() == len("2015-06-23")
    rows = recordings.assign(
        event=event, collection=recordings["collection"].fillna(recordings["source"])
    )[(event.notna() & is_day).fillna(False).astype(bool)]
    n_collections = rows.groupby("event")["collection"].transform("nunique")
    rows = rows[n_collections > 1]
    ranks = {name: rank for rank, name in enumerate(sources)}
    for position, source, *stated in zip(
        rows.index,
        *(rows[name] for name in ("source", "event", "collection", "recording_id", *_MEASURES)),
        strict=True,
    ):
        event, collection, recording_id, *measures = stated
        order = (ranks.get(source, len(ranks)), collection, recording_id)
        yield _Row(event, order, position, *measures)


def _is_person(name: str) -> bool:
    """Returns whether a recordist's name, in small letters, may be somebody's."""
    words = re.findall(r"[^\W_]+", name)
    return any(map(str.isalpha, name)) and not _NOBODY.issuperset(words)


def _agree(one: _Row, other: _Row) -> bool:
    """Returns whether length or place speaks for one recording, and neither against it."""
    length = abs(one.duration_s - other.duration_s)
    latitude_deg = abs(one.latitude_deg - other.latitude_deg)
    longitude_deg = abs(one.longitude_deg - other.longitude_deg)
    is_near = max(latitude_deg, min(longitude_deg, 360 - longitude_deg)) <= _MOST_DEGREES_APART
    evidence = []
    if not math.isnan(length):
        evidence.append(length <= _MOST_SECONDS_APART)
    if not math.isnan(latitude_deg + longitude_deg):
        evidence.append(is_near)
    return bool(evidence) and all(evidence)
