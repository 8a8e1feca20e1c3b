"""One recording as Xeno-canto's API replies with it, read whatever its shape is.

Any field may be null, empty, missing or of another type, fields have had other names, and unknown
ones come and go. What cannot be read is None; nothing that a reply may hold makes reading
raise.
"""

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import Self

from bclef.sources.anyjson import fields, printable

RESTRICTED = "restricted_species"
"""What stands for a file or a place that is kept back."""

_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d\d(?:\.\d{1,9})?)", re.ASCII)
_YEAR = re.compile(r"(\d{4})(?:-\d\d){0,2}", re.ASCII)
_ID = re.compile(r"[1-9]\d{0,17}", re.ASCII)
_COUNT = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True)
class Recording:
    """What a reply says of one recording; text is unescaped, and None where it says nothing."""

    number: str | None
    """Its number at Xeno-canto, without the XC."""
    genus: str | None
    epithet: str | None
    group: str | None
    """Group of animals, in small letters."""
    status: str | None
    """State of the identification, in small letters."""
    common_name: str | None
    """English name."""
    recordist: str | None
    country: str | None
    latitude_deg: float | None
    longitude_deg: float | None
    types: tuple[str, ...]
    """Types of sound, in small letters; several, or free text."""
    file: str | None
    """Address of the audio as stated; None where there is none, or it is kept back."""
    suffix: str
    """Suffix of the recordist's file, in small letters and with its dot, or empty."""
    licence: str | None
    quality: str | None
    """One of A to E; None is unrated."""
    duration_s: float | None
    recorded_on: str | None
    """As stated: ISO, with zeros for what is not known."""
    uploaded_on: date | None
    others: tuple[str, ...]
    """Scientific names of species in the background, each once."""

    @classmethod
    def read(cls, row: object) -> Self:
        """Returns what `row`, any JSON, says."""
        stated = fields(row)

        def word(*names: str) -> str | None:
            """Returns the text of the first of the fields `names` that has any."""
            return next((said for name in names if (said := _text(stated.get(name)))), None)

        file, quality, number = stated.get("file"), word("q"), word("id")
        return cls(
            number=number if number and _ID.fullmatch(number) else None,
            genus=word("gen"),
            epithet=word("sp"),
            group=_lower(word("grp", "group")),
            status=_lower(word("status")),
            common_name=word("en"),
            recordist=word("rec"),
            country=word("cnt"),
            latitude_deg=_number(word("lat")),
            longitude_deg=_number(word("lon", "lng")),
            types=_types(word("type")),
            file=_address(file) if isinstance(file, str) else None,
            suffix=PurePosixPath(word("file-name") or "").suffix.lower(),
            licence=word("lic"),
            quality=quality if quality in ("A", "B", "C", "D", "E") else None,
            duration_s=_duration_s(word("length")),
            recorded_on=word("date"),
            uploaded_on=_day(word("uploaded")),
            others=_names(stated.get("also")),
        )

    @property
    def scientific_name(self) -> str | None:
        """Genus and epithet, or None where one of them is missing."""
        return f"{self.genus} {self.epithet}" if self.genus and self.epithet else None

    @property
    def year(self) -> int | None:
        """Year of recording, or None."""
        found = _YEAR.fullmatch(self.recorded_on or "")
        return int(found[1]) or None if found else None


def rows_of(reply: Mapping[str, object]) -> list[object] | None:
    """Returns the recordings of a reply, or None where it has no place for them.

    Null is no recording; an object instead of a list is what PHP makes of a list with gaps.
    """
    found = reply.get("recordings", "missing")
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else ([] if found is None else None)


def count(value: object) -> int | None:
    """Returns the number that `value` is or spells, or None.

    >>> count("1203"), count(1203), count("many")
    (1203, 1203, None)
    """
    said = _text(value) or ""
    return int(said) if _COUNT.fullmatch(said) else None


def _text(value: object) -> str | None:
    """Returns `value` as one line of text, or None where it holds none.

    Entities are resolved twice, as names come escaped once more than is needed; half characters,
    which JSON can spell and no file can hold, become question marks.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, int) and abs(value) > 10**18:
        return None
    said = html.unescape(html.unescape(str(value)))
    return " ".join(printable(said).split()) or None


def _address(said: str) -> str | None:
    """Returns an address as stated, or None where there is none or it is kept back."""
    address = printable(said).strip()
    return address if address and address.lower() != RESTRICTED else None


def _lower(said: str | None) -> str | None:
    return said.lower() if said else None


def _number(said: str | None) -> float | None:
    try:
        number = float(said or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _duration_s(said: str | None) -> float | None:
    """Returns the seconds of `m:ss` or `h:mm:ss`."""
    found = _TIME.fullmatch(said or "")
    if found is None or float(found[3]) >= 60 or (found[1] and int(found[2]) >= 60):
        return None
    return 3600.0 * int(found[1] or 0) + 60.0 * int(found[2]) + float(found[3])


def _day(said: str | None) -> date | None:
    try:
        return date.fromisoformat((said or "")[:10])
    except ValueError:
        return None


def _types(said: str | None) -> tuple[str, ...]:
    parts = (part.strip() for part in (said or "").lower().split(","))
    return tuple(part for part in parts if part)


def _names(value: object) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(name for name in map(_text, listed) if name))
