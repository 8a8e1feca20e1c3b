"""The normal forms of what recordists and sources state: text, dates, places, ratings, licences.

What cannot be read for certain becomes null, and a licence `unknown`, never a guess at something
freer. What a licence permits is not decided here: params list the forms that a run accepts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

OpenLicence = Literal[
    "CC0", "CC-BY", "CC-BY-SA", "CC-BY-NC", "CC-BY-NC-SA", "CC-BY-ND", "CC-BY-NC-ND"
]
"""The forms of known licences, without their version."""
Licence = Literal[OpenLicence, "unknown"]
"""The same and what is none of them."""

_VERBATIM = ("url", "page_url", "source_sha256")
"""Text that names a thing outside, where another Unicode form would name nothing."""
_WORDS = {
    "attribution": "by",
    "non-commercial": "nc",
    "noncommercial": "nc",
    "share-alike": "sa",
    "sharealike": "sa",
    "no-derivatives": "nd",
    "noderivatives": "nd",
    "no-derivs": "nd",
    "noderivs": "nd",
}
_RESERVATIONS = {"all", "but", "except", "no", "non", "not"}
"""Words that make of a licence something else, such as `not CC0`."""
_CC0 = re.compile(r"(?:^|-)(?:cc-?0|publicdomain-zero|creative-commons-zero)(?:-|$)|^pd$")
_CC_BY = re.compile(
    r"(?:^|-)(?:cc|creative-commons|creativecommons-org-licen[cs]es)"
    r"-(by(?:-nc)?(?:-(?:sa|nd))?)(?:-(\d)-(\d))?(?=-|$)"
)


def clean_text(texts: pd.Series) -> pd.Series:
    """Returns `texts` in NFC without white space around them; empty ones are null."""
    cleaned = texts.astype("string").str.normalize("NFC").str.strip()
    return cleaned.mask(cleaned == "")


def iso_dates(texts: pd.Series) -> pd.Series:
    """Returns the day of each ISO date or time, or its year or month where the rest is zeros.

    `2015-06-23T07:40` gives `2015-06-23` and `1998-06-00` gives `1998-06`; what is no date is null.
    """
    parts = texts.astype("string").str.extract(
        r"^(?P<year>\d{4})(?:-(?P<month>\d\d))?(?:-(?P<day>\d\d))?(?:[T ].*)?$"
    )
    parts = parts.mask(parts.isin(["0000", "00"]))
    month = parts["year"] + "-" + parts["month"]
    day = month + "-" + parts["day"]
    # A 31st of June is a slip of the pen in an otherwise good date, and no date at all here.
    first_days = day.fillna(month + "-01").fillna(parts["year"] + "-01-01")
    is_date = pd.to_datetime(first_days, format="%Y-%m-%d", errors="coerce").notna()
    return day.fillna(month).fillna(parts["year"]).where(is_date)


def within(numbers: pd.Series, low: float, high: float) -> pd.Series:
    """Returns `numbers` with null in place of what is not in `low` to `high`, both included."""
    return numbers.where(numbers.between(low, high), np.nan)


def licence_form(text: str | None) -> str:
    """Returns the normal form of the licence that `text` states, with its version where stated.

    >>> licence_form("//creativecommons.org/licenses/by-nc-sa/4.0/")
    'CC-BY-NC-SA-4.0'
    >>> licence_form("see LICENCE.md")
    'unknown'
    """
    words = re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-")
    for word, code in _WORDS.items():
        words = words.replace(word, code)
    if not _RESERVATIONS.isdisjoint(words.split("-")):
        return "unknown"
    found = _CC_BY.search(words)
    if found is None:
        return "CC0" if _CC0.search(words) else "unknown"
    conditions = {"nc", "sa", "nd", "cc0"} & set(words.split("-"))
    if not conditions <= set(found[1].split("-")):
        # "CC BY 4.0, no derivatives", or two licences to choose from: a condition would be lost.
        return "unknown"
    version = f"-{found[2]}.{found[3]}" if found[2] else ""
    return f"CC-{found[1].upper()}{version}"


def without_version(form: str) -> str:
    """Returns the licence form `form` without its version.

    >>> without_version("CC-BY-4.0")
    'CC-BY'
    """
    return re.sub(r"-\d\.\d$", "", form)


def in_one_form(listed: Sequence[pd.DataFrame], columns: Mapping[str, str]) -> pd.DataFrame:
    """Returns the rows of all `listed` frames of recordings in one form, index 0..n-1.

    Args:
        listed: What each source lists; columns that it lacks are null.
        columns: The columns to return and their dtypes, as in a schema; those of RECORDINGS first.
    """
    recordings = pd.concat([typed(rows, columns) for rows in listed], ignore_index=True)
    for column, dtype in columns.items():
        if dtype.startswith("string") and column not in _VERBATIM:
            recordings[column] = clean_text(recordings[column])
    latitude_deg = within(recordings["latitude_deg"], -90, 90)
    longitude_deg = within(recordings["longitude_deg"], -180, 180)
    # Half a place is none: where one number is nonsense the other is not to be trusted.
    recordings["latitude_deg"] = latitude_deg.where(longitude_deg.notna())
    recordings["longitude_deg"] = longitude_deg.where(latitude_deg.notna())
    recordings["recorded_on"] = iso_dates(recordings["recorded_on"])
    recordings["rating"] = within(recordings["rating"], 0, 5)
    forms = {text: licence_form(text) for text in recordings["licence"].dropna().unique()}
    recordings["licence"] = recordings["licence"].map(forms).astype("string").fillna("unknown")
    return recordings


def typed(rows: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Returns the named `columns` of `rows`, each in its one dtype so that frames go together.

    Args:
        rows: Any frame; columns that it lacks are null.
        columns: Dtype of each column, as in a schema.
    """
    dtypes = {"string": "string", "int64": "Int64", "list[string]": "object"}
    plain = {column: dtype.removesuffix("?") for column, dtype in columns.items()}
    return rows.reindex(columns=list(columns)).astype(
        {column: dtypes.get(dtype, dtype) for column, dtype in plain.items()}
    )
