"""The focal recordings of a competition: a row for each line of its table, or why there is none.

One bad number costs the number, never the recording. A recording that stands in the table twice,
under two labels, is two rows here; the metadata stage makes one of them that has both labels.
"""

import logging
import os
import posixpath
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote_from_bytes

import pandas as pd

from bclef.normal_forms import typed, within
from bclef.sources.competition_layouts import (
    SAMPLE,
    TAXONOMY,
    Competition,
    class_list,
    parse_list,
    read_text,
    stated,
    stated_label,
)
from bclef.sources.files import audio_sizes, plain_name
from bclef.sources.protocol import LISTED, LISTED_ANNOTATIONS, LISTED_REJECTED, Listing

_log = logging.getLogger(__name__)

_HOME_ID = r"/(?P<collection>XC|iNat|CSA)0*(?P<number>[0-9]+)\.[^./]+$"
"""A file name that tells the recording's home and its number there; zeros before it are none."""
_NAMES = ("scientific_name", "common_name", "class_name")
_NUMBERS = {"rating": (0, 5), "latitude": (-90, 90), "longitude": (-180, 180)}
_MOST_SHOWN = 5
SOURCE = "competition"


def list_focal(competition: Competition) -> Listing:
    """Returns the focal recordings of `competition`.

    Rejected are table rows without a label (`no_label`), of files that are not there (`missing`) or
    not in its folder (`outside`), files that no row names (`not_in_table`), and classes that have
    no focal recording (`no_focal_audio`).

    Raises:
        SourceError: no known layout, or a table that cannot be read.
    """
    layout = competition.layout
    table = read_text(competition.root / layout.tables[0], ("primary_label", "filename"))
    taxa = _taxa(competition.root)
    files = files_below(competition.root, layout.audio)
    placed = _placed(table, files, competition)
    is_kept = placed["reason"] == ""
    rows = _recordings(placed[is_kept], taxa, competition)
    stated_classes = _stated_classes(competition, taxa)
    dropped = placed[~is_kept]
    unlisted = pd.Series(sorted(files.keys() - set(placed["plain_path"])), dtype="string")
    rejected = [
        rejected_rows(dropped["recording_id"], dropped["reason"], dropped["detail"]),
        rejected_rows(
            recording_ids(unlisted, competition.name),
            "not_in_table",
            f"{competition.name}: no row of {layout.tables[0]} names " + unlisted,
        ),
        _classes_without_audio(stated_classes, competition, taxa, set(rows["label"])),
    ]
    return Listing(
        rows,
        typed(pd.DataFrame(), LISTED_ANNOTATIONS),
        pd.concat(rejected, ignore_index=True),
        tuple(stated_classes or sorted(rows["label"].unique())),
    )


def _placed(
    table: pd.DataFrame, files: Mapping[str, tuple[str, int]], competition: Competition
) -> pd.DataFrame:
    """Returns `table` with the id and file of each row, and why it cannot be used or "".

    Further columns: recording_id, plain_path (as in the keys of `files`), disk_path and n_bytes
    (null where there is no file), reason, detail.
    """
    layout = competition.layout
    labels, names = stated_label(table), table["filename"]
    if layout.names_are_bare:
        names = labels.fillna("") + "/" + names
    paths = (f"{layout.audio}/" + names).map(_normal_path)
    found = [files.get(path, (None, None)) for path in paths]
    is_inside = paths.str.startswith(f"{layout.audio}/") | (paths == layout.audio)
    is_outside = ~is_inside | table["filename"].str.startswith("/")
    reasons = pd.Series("", table.index, dtype="string").mask(~paths.isin(files.keys()), "missing")
    numbers = pd.Series(range(1, len(table) + 1), table.index).astype("string")
    return table.assign(
        recording_id=recording_ids(paths, competition.name),
        plain_path=paths,
        disk_path=pd.Series([path for path, _ in found], table.index, dtype="object"),
        n_bytes=pd.Series([n_bytes for _, n_bytes in found], table.index, dtype="float64"),
        reason=reasons.mask(is_outside, "outside").mask(labels.isna(), "no_label"),
        detail=f"{competition.name}/{layout.tables[0]} row " + numbers + ": " + paths,
    )


def _recordings(table: pd.DataFrame, taxa: pd.DataFrame, competition: Competition) -> pd.DataFrame:
    """Returns the recordings of the rows of `table` whose file is there."""
    labels, licences = stated_label(table), stated(table, "license")
    people = stated(table, "author")
    secondary = stated(table, "secondary_labels").fillna("")
    lists = {text: parse_list(text) for text in secondary.unique()}
    collections = table["plain_path"].astype("string").str.extract(_HOME_ID)["collection"]
    numbers = {
        column: _numbers(stated(table, column), low, high, competition.name)
        for column, (low, high) in _NUMBERS.items()
    }
    credit = people.fillna("unknown recordist") + ", " + table["recording_id"]
    names = {
        column: stated(table, column).fillna(labels.map(taxa[column]).astype("string"))
        for column in _NAMES
    }
    classes, of_all = names["class_name"], competition.layout.taxon_class
    columns = {
        "recording_id": table["recording_id"],
        "source": SOURCE,
        "collection": collections.fillna(stated(table, "collection")),
        "role": "focal",
        "label": labels,
        "scientific_name": names["scientific_name"],
        "common_name": names["common_name"],
        "taxon_class": classes.fillna(of_all) if of_all else classes,
        "secondary_labels": pd.Series([list(lists[text]) for text in secondary], table.index),
        "recordist": people,
        "latitude_deg": numbers["latitude"],
        "longitude_deg": numbers["longitude"],
        "recorded_on": stated(table, "date"),
        "rating": numbers["rating"],
        "licence": licences,
        "attribution": credit + ", " + licences.fillna("licence unknown"),
        "url": urls(table["disk_path"], table["n_bytes"], competition.name),
        "page_url": stated(table, "url"),
        "annotated": False,
    }
    return typed(pd.DataFrame(columns, table.index), LISTED).reset_index(drop=True)


def files_below(root: Path, folder: str) -> dict[str, tuple[str, int]]:
    """Returns path and bytes of each audio file in a folder of `root`, by its path in NFC.

    Paths are relative to `root`; the one given is as the disk has it.
    """
    sizes = audio_sizes(root / folder)
    return {_normal_path(f"{folder}/{name}"): (f"{folder}/{name}", sizes[name]) for name in sizes}


def _normal_path(path: str) -> str:
    """Returns a relative path without `.` and `..`, as tables and disk agree on it."""
    return plain_text(unicodedata.normalize("NFC", posixpath.normpath(path)))


def plain_text(path: str) -> str:
    """Returns `path`, with what cannot be printed or encoded written as `%` and digits."""
    # Almost every name is plain; to look at each letter takes seconds for 100,000 of them.
    return path if path.isascii() and path.isprintable() and "%" not in path else plain_name(path)


def recording_ids(paths: pd.Series, name: str) -> pd.Series:
    """Returns the id of the recording at each of `paths`, relative to the competition `name`."""
    found = paths.astype("string").str.extract(_HOME_ID)
    return (found["collection"] + found["number"]).fillna(
        f"{SOURCE}/{name}/" + paths.astype("string")
    )


def urls(paths: Iterable[str], sizes: Iterable[int], name: str) -> list[str]:
    """Returns what `CompetitionSource.fetch` understands; a file of another size has another url.

    Args:
        paths: relative to the competition's folder, as the disk has them.
        sizes: bytes of each file.
        name: of the competition.
    """
    start = f"{SOURCE}:{_quoted(name)}"
    return [
        f"{start}/{n_bytes:.0f}/{_quoted(path)}" for path, n_bytes in zip(paths, sizes, strict=True)
    ]


def _quoted(text: str) -> str:
    return quote_from_bytes(os.fsencode(text))


def rejected_rows(ids: pd.Series, reason: pd.Series | str, details: pd.Series) -> pd.DataFrame:
    """Returns rows of `Listing.rejected`; the arguments share their index."""
    columns = {"recording_id": ids, "stage": "metadata", "reason": reason, "detail": details}
    return typed(pd.DataFrame(columns, ids.index), LISTED_REJECTED)


def _numbers(texts: pd.Series, low: float, high: float, name: str) -> pd.Series:
    """Returns `texts` as numbers from `low` to `high`; others are null and logged once."""
    numbers = within(pd.to_numeric(texts, errors="coerce").astype("float64"), low, high)
    bad = texts[texts.notna() & numbers.isna()]
    if len(bad):
        _log.warning(
            "%s: column %s: %d values are unknown, as no numbers from %g to %g, such as %r",
            name, texts.name, len(bad), low, high, bad.iloc[0],
        )  # fmt: skip
    return numbers


def _taxa(root: Path) -> pd.DataFrame:
    """Returns scientific_name, common_name and class_name by label, without rows if not stated."""
    path = root / TAXONOMY
    table = read_text(path, ("primary_label",)) if path.is_file() else pd.DataFrame()
    labels = stated_label(table)
    taxa = pd.DataFrame({name: stated(table, name) for name in _NAMES}).set_axis(labels, axis=0)
    return taxa[~taxa.index.duplicated() & taxa.index.notna()]


def _stated_classes(competition: Competition, taxa: pd.DataFrame) -> list[str]:
    """Returns the classes that tables of `competition` name; none before 2023."""
    submitted = class_list(competition.root)
    if submitted is not None and len(taxa) and (apart := set(submitted) ^ set(taxa.index)):
        _log.warning(
            "%s: %s and %s differ in %d classes, such as %s; the former counts",
            competition.name, SAMPLE, TAXONOMY, len(apart), ", ".join(sorted(apart)[:_MOST_SHOWN]),
        )  # fmt: skip
    return submitted if submitted is not None else list(taxa.index)


def _classes_without_audio(
    classes: Iterable[str], competition: Competition, taxa: pd.DataFrame, labels: Collection[str]
) -> pd.DataFrame:
    """Returns the rejection of each of `classes` that is none of `labels`."""
    bare = pd.Series([label for label in classes if label not in labels], dtype="string")
    names = bare.map(taxa["scientific_name"]).astype("string").fillna(bare)
    return rejected_rows(
        f"{SOURCE}/{competition.name}/" + bare,
        "no_focal_audio",
        "a class of which this competition has no focal recording: " + names,
    )
