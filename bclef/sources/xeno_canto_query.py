"""What to ask Xeno-canto for: the section `xeno_canto`, and its translation into tags.

Xeno-canto's API v3 takes tags only, such as `sp:"turdus merula" q:">C"`, joined by single spaces.
What it offers no tag for, or none that means quite this, is asked more widely; the reply is checked
against the section in any case, in `xeno_canto_rows`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from math import ceil, floor
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from bclef.config import Section
from bclef.normal_forms import OpenLicence
from bclef.sources.addresses import is_loopback
from bclef.sources.protocol import SourceError
from bclef.taxonomy import Synonyms, scientific_form

Area = Literal["africa", "america", "asia", "australia", "europe"]
Group = Literal["birds", "grasshoppers", "bats", "frogs", "land mammals", "soundscape"]
Quality = Literal["A", "B", "C", "D", "E"]
SoundType = Literal[
    "aberrant", "alarm call", "begging call", "call", "calling song", "courtship song",
    "dawn song", "distress call", "disturbance song", "drumming", "duet", "echolocation",
    "female song", "flight call", "flight song", "imitation", "nocturnal flight call",
    "rivalry song", "searching song", "social call", "song", "subsong",
]  # fmt: skip

_LEAST_SEARCH_INTERVAL_S = 1.0
_LEAST_FILE_INTERVAL_S = 2.0
_Q_VALUES: Mapping[Quality, str] = {"A": "A", "B": '">C"', "C": '">D"', "D": '">E"'}
"""Value of the tag `q` by the lowest quality; for E there is none that leaves out the unrated."""
_NAME = re.compile(r"[^\W\d_]+(?: [^\W\d_]+(?:-[^\W\d_]+)*)?")
_MAX_YEAR = 9999


class XenoCantoConfig(Section):
    """Section `xeno_canto`: what to ask for, and how politely; what is null is not asked for.

    One at least of `species`, `country`, `area` and `box` is needed. The key comes from the
    environment variable XC_API_KEY only.
    """

    base_url: str
    """Address of the site: https, or a server on this machine."""
    species: Annotated[tuple[str, ...], Field(min_length=1)] | None
    """Scientific names of species or genera; taxonomy/synonyms.csv adds their other names."""
    country: str | None
    """Country of the recordings, by the English name that Xeno-canto uses."""
    area: Area | None
    """Continent of the recordings."""
    box: tuple[float, float, float, float] | None
    """Least latitude, least longitude, greatest latitude, greatest longitude, in degrees."""
    group: Group | None
    """Group of animals, or soundscapes."""
    quality_min: Quality | None
    """Lowest quality, A is best; with one, unrated recordings are left out."""
    licences: Annotated[tuple[OpenLicence, ...], Field(min_length=1)] | None
    """Licences, without version, to take."""
    since: str | None
    """First day of uploading, as YYYY-MM-DD."""
    year_min: int | None = Field(ge=1900, le=_MAX_YEAR)
    """First year of recording."""
    year_max: int | None = Field(ge=1900, le=_MAX_YEAR)
    """Last year of recording."""
    length_min_s: float | None = Field(ge=0)
    """Shortest recording in seconds."""
    length_max_s: float | None = Field(gt=0)
    """Longest recording in seconds."""
    types: Annotated[tuple[SoundType, ...], Field(min_length=1)] | None
    """Types of sound, of which a recording states one at least."""
    keep_questioned: bool
    """Whether recordings are kept whose identification somebody questions."""
    per_page: int = Field(ge=50, le=500)
    """Recordings in one reply."""
    search_interval_s: float = Field(ge=0)
    """Shortest pause between two searches in seconds; 1 at least but on this machine."""
    file_interval_s: float = Field(ge=0)
    """Shortest pause between two files in seconds; 2 at least but on this machine."""
    max_requests: int | None = Field(ge=1)
    """Most requests of one stage, redirects among them; null for no limit."""
    update_after_hours: float = Field(ge=0)
    """A search that was done less long ago is taken from the disk; an older one asks for news."""
    refresh_after_days: float = Field(ge=0)
    """A search whose last whole asking is older is asked in whole again."""

    @field_validator("base_url")
    @classmethod
    def _is_site(cls, text: str) -> str:
        """Refuses what is no plain address, and what would show the key to the whole way."""
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"found {text!r}, expected an address such as https://xeno-canto.org")
        if parts.query or parts.fragment:
            raise ValueError(f"found {text!r}, expected an address without ? and #")
        if parts.scheme == "http" and not is_loopback(text):
            raise ValueError(f"found {text!r}; the key must travel encrypted: write https")
        return text.rstrip("/")

    @field_validator("species")
    @classmethod
    def _are_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not _NAME.fullmatch(scientific_form(name)):
                raise ValueError(
                    f"found {name!r}, expected a species such as 'Turdus merula' or a genus"
                )
        return names

    @field_validator("country")
    @classmethod
    def _is_quotable(cls, text: str | None) -> str | None:
        """Refuses what would end the quotes around it, or mean something at their beginning."""
        if text is not None and not re.fullmatch(r"[^\W\d_][^\"\\:<>=\x00-\x1f\x7f]*", text):
            raise ValueError(f"found {text!r}, expected the name of a country in letters")
        return text

    @field_validator("since")
    @classmethod
    def _is_day(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            raise ValueError(f"found {text!r}, expected a day as YYYY-MM-DD")
        if text is not None:
            date.fromisoformat(text)
        return text

    @field_validator("box")
    @classmethod
    def _is_box(
        cls, box: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        if box is None:
            return None
        south, west, north, east = box
        if not (-90 <= south < north <= 90 and -180 <= west < east <= 180):
            raise ValueError(
                f"found {list(box)}, expected [latitude, longitude, greater latitude, greater "
                "longitude]; one across 180 degrees has to be asked for in two runs"
            )
        return box

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for low, high in (("year_min", "year_max"), ("length_min_s", "length_max_s")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} {least:g} is above {high} {most:g}")
        paces = {
            "search_interval_s": (self.search_interval_s, _LEAST_SEARCH_INTERVAL_S),
            "file_interval_s": (self.file_interval_s, _LEAST_FILE_INTERVAL_S),
        }
        for name, (interval_s, least_s) in paces.items():
            if interval_s < least_s and not is_loopback(self.base_url):
                raise ValueError(
                    f"{name} {interval_s:g} is less than {least_s:g}; only a server on this "
                    f"machine may be asked faster, and {self.base_url} is none"
                )
        return self


@dataclass(frozen=True)
class Query:
    """One search."""

    name: str | None
    """Species or genus that is searched for; None for all."""
    asked_for: str | None
    """The name in `xeno_canto.species` that this is asked for: it, or a synonym of it."""
    tags: tuple[str, ...]
    """All tags but the day of uploading."""
    uploaded_since: date | None
    """First day of uploading that params ask for."""

    def text(self, since: date | None = None) -> str:
        """Returns the value of the parameter `query`.

        Args:
            since: Leaves out what was uploaded before that day; the later of the two days counts.
        """
        days = [day for day in (self.uploaded_since, since) if day is not None]
        return " ".join([*self.tags, *([f"since:{max(days).isoformat()}"] if days else [])])


def queries(config: XenoCantoConfig, synonyms: Synonyms) -> list[Query]:
    """Returns the searches that `config` stands for: one a name, or one in all without species.

    Xeno-canto follows another list of birds than most data do, so a species is searched for under
    every name that `synonyms` has for it.

    Raises:
        SourceError: The section would ask for the whole site.
    """
    if not (config.species or config.country or config.area or config.box):
        raise SourceError(
            "xeno_canto: species, country, area and box are all null, which asks for the whole "
            "site; give one at least"
        )
    since = date.fromisoformat(config.since) if config.since else None
    shared = tuple(_shared_tags(config))
    if config.species is None:
        return [Query(None, None, shared, since)]
    found: dict[str, Query] = {}
    for asked_for in config.species:
        for name in _names(asked_for, synonyms):
            tag = f'sp:"{name.lower()}"' if " " in name else f"gen:{name.lower()}"
            found.setdefault(name, Query(name, asked_for, (tag, *shared), since))
    return list(found.values())


def _names(asked_for: str, synonyms: Synonyms) -> list[str]:
    """Returns the names to search for; those of a table that are no plain species are left out."""
    name = scientific_form(asked_for)
    if " " not in name:
        return [name]
    same = (scientific_form(other) for other in synonyms.same_species(name))
    return list(dict.fromkeys([name, *(other for other in same if _NAME.fullmatch(other))]))


def _shared_tags(config: XenoCantoConfig) -> Iterator[str]:
    """Yields the tags of every search; spaces stand in quotes only."""
    if config.country:
        yield f'cnt:"{config.country}"'
    if config.area:
        yield f"area:{config.area}"
    if config.box:
        yield f"box:{','.join(map(_plain, config.box))}"
    if config.group:
        yield f'grp:"{config.group}"' if " " in config.group else f"grp:{config.group}"
    if config.quality_min and config.quality_min in _Q_VALUES:
        yield f"q:{_Q_VALUES[config.quality_min]}"
    if config.licences and len(config.licences) == 1:
        yield f"lic:{'PD' if config.licences[0] == 'CC0' else config.licences[0][3:]}"
    if config.types and len(config.types) == 1:
        yield f'type:"{config.types[0]}"'
    yield from _range_tags(config)


def _range_tags(config: XenoCantoConfig) -> Iterator[str]:
    """Yields the tags of years and lengths: two each, for `a-b` is misread without a word.

    Both `<` and `>` leave out the value itself, and lengths are stated in whole seconds, so a
    second more is asked for at either end.
    """
    if config.year_min is not None:
        yield f'year:">{config.year_min - 1}"'
    if config.year_max is not None:
        yield f'year:"<{config.year_max + 1}"'
    if config.length_min_s is not None and config.length_min_s >= 1:
        yield f'len:">{floor(config.length_min_s) - 1}"'
    if config.length_max_s is not None:
        yield f'len:"<{ceil(config.length_max_s) + 1}"'


def _plain(number: float) -> str:
    """Returns `number` without an exponent or needless zeros."""
    return f"{number:.6f}".rstrip("0").rstrip(".")
