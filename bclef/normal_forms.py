"""The normal forms of what recordists and sources state: text, dates, places, licences, names.

What cannot be read for certain becomes null, and a licence `unknown`, never a guess at something
freer. What a licence permits is not decided here: params list the forms that a run accepts.
"""

import re
import unicodedata
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
_BREAKS = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+"
"""Control characters, and what some reader takes for the end of a line."""

# A licence is read by a closed grammar: whatever it does not know makes the licence unknown.
_VERSION = r"(?P<version>(?:[1234][.-]0|2[.-][15]))"
_PORT = (
    "(?:ar|at|au|az|be|bg|br|ca|ch|cl|cn|co|cr|cz|de|dk|ec|ee|eg|es|fi|fr|ge|gr|gt|hk|hr|hu|ie|igo|"
    "il|in|it|jo|jp|kr|lu|mk|mt|mx|my|nl|nz|pe|ph|pl|pr|pt|ro|rs|scotland|se|sg|si|th|tw|ug|uk|us|"
    "ve|vn|za)"
)
"""Jurisdictions with licences of their own; Norway's `no` is none of them among words."""
_SITE = r"(?:(?:https?:)?//)?(?:www\.)?creativecommons\.org"
_PAGE = r"(?:/(?:legalcode|deed)(?:\.[a-z]{2,3}(?:[-_][a-z]{2,4})?)?)?/?"
_LICENSED = "(?:(?:-public)?-licen[cs]e)?"
_ATTRIBUTION = (
    re.compile(
        rf"{_SITE}/licen[cs]es/by(?P<nc>-nc)?(?:(?P<sa>-sa)|(?P<nd>-nd))?"
        rf"(?:/{_VERSION}(?:/(?:{_PORT}|no))?)?{_PAGE}"
    ),
    re.compile(
        # Of other licences than Creative Commons' none is called "Attribution" and a number.
        rf"(?:(?:cc|creative-commons)-(?:by|attribution)|attribution(?=.*[0-9]))"
        rf"(?P<nc>-nc|-non-?commercial)?(?:(?P<sa>-sa|-share-?alike)"
        rf"|(?P<nd>-nd|-no-?deriv(?:s|atives)|-no-derivative-works))?"
        rf"{_LICENSED}(?:-v?{_VERSION}(?:-(?:international|unported|generic|{_PORT}))?)?{_LICENSED}"
    ),
)
_ZERO = re.compile(
    rf"{_SITE}/publicdomain/zero(?:/1\.0)?{_PAGE}"
    r"|(?:(?:creative-commons-)?cc-?0|(?:cc|creative-commons)-zero)(?:-v?1[.-]0)?(?:-universal)?"
    r"(?:-public-domain-dedication|-licen[cs]e)?|pd"
)
_OPEN_WORDS = frozenset(
    (
        "aff", "agg", "cf", "complex", "gen", "group", "incertae", "indet", "ined", "near", "nr",
        "prox", "sedis", "sonotype", "sp", "spec", "species", "spp", "ssp", "stet", "subsp",
        "subspecies", "undescribed", "undetermined", "unidentified", "unknown", "unnamed",
    )
)  # fmt: skip
"""Words of open nomenclature: with one of them behind it, a genus is no species."""
_NO_GENUS = frozenset(
    (
        "indeterminate", "mixed", "mystery", "other", "possible", "probable", "several",
        "undescribed", "undetermined", "unidentifiable", "unidentified", "unknown",
        "unnamed", "unspecified", "various",
    )
)  # fmt: skip
"""First words of what is no name at all."""
_EPITHET = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_AND_IN_BRACKETS = re.compile(r"([^()]+?)\s*\(([^()]+)\)")


def clean_text(texts: pd.Series) -> pd.Series:
    """Returns `texts` in NFC, in one line and without white space around; empty ones are null.

    Control characters and separators of lines are a space, as tables outside may end a row there.
    """
    cleaned = texts.astype("string").str.normalize("NFC")
    cleaned = cleaned.str.replace(_BREAKS, " ", regex=True).str.strip()
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

    The whole text has to be an address, a code or a title of Creative Commons, or a title and the
    same again in brackets. One word more, and it is `unknown`.

    >>> licence_form("//creativecommons.org/licenses/by-nc-sa/4.0/")
    'CC-BY-NC-SA-4.0'
    >>> licence_form("CC BY 4.0, personal use only")
    'unknown'
    """
    stated = unicodedata.normalize("NFKC", text or "").strip().lower()
    if again := _AND_IN_BRACKETS.fullmatch(stated):
        forms = {_licence_form(part) for part in again.groups()}
        return forms.pop() if len(forms) == 1 else "unknown"
    return _licence_form(stated)


def _licence_form(stated: str) -> str:
    """Returns the normal form of one statement in small letters."""
    words = re.sub(r"[\s_-]+", "-", stated)
    if _ZERO.fullmatch(stated) or _ZERO.fullmatch(words):
        return "CC0"
    address, title = _ATTRIBUTION
    found = address.fullmatch(stated) or title.fullmatch(words)
    if found is None:
        return "unknown"
    conditions = "".join(f"-{code.upper()}" for code in ("nc", "sa", "nd") if found[code])
    version = found["version"]
    return f"CC-BY{conditions}" + (f"-{version[0]}.{version[-1]}" if version else "")


def names_one_species(name: str) -> bool:
    """Returns whether `name` may be that of one species: a genus, an epithet, nothing left open.

    >>> [names_one_species(name) for name in ("Parus major", "Parus cf. major", "Gryllus sp1")]
    [True, False, False]
    """
    genus, *others = name.casefold().split() or [""]
    return (
        bool(others and _EPITHET.fullmatch(others[0]))
        and genus not in _NO_GENUS
        and _OPEN_WORDS.isdisjoint(word.strip(".") for word in others)
    )


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
