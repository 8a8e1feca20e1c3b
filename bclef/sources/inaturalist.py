"""Sounds of iNaturalist's observations as a source.

The API gives no more than the first 10,000 results page by page, so a search is walked by id: the
oldest observations above the last id that was seen, until there are none. Its `taxon_name` finds
every taxon that has, or once had, all those words in one of its names; the species that were asked
for are picked from the replies. It knows nothing of descendants, but a subspecies bears the words
of its species.

Source: `lib/models/observation_query_builder.js` of iNaturalist's own API, github.com/inaturalist.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlencode, urlsplit

from pydantic import Field, field_validator, model_validator

from bclef.config import Section
from bclef.normal_forms import OpenLicence
from bclef.parallel import progress_bar
from bclef.sources.addresses import is_loopback
from bclef.sources.anyjson import whole
from bclef.sources.asking import naming_address
from bclef.sources.http import HttpConfig, PoliteClient
from bclef.sources.inaturalist_rows import OBSERVATION_FIELDS, Asked, list_sounds, species_of
from bclef.sources.protocol import (
    LISTED_ANNOTATIONS,
    LISTED_REJECTED,
    Listing,
    SourceError,
    listed_frame,
)
from bclef.sources.searches import Page, SearchCache
from bclef.taxonomy import Synonyms

_log = logging.getLogger(__name__)

FILE_HOSTS = ("static.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com")
"""Where iNaturalist keeps its files."""
MIN_INTERVAL_S = 1.0
"""iNaturalist asks for 60 requests a minute at most."""
_ADVICE = {
    "species": "check the spelling in inaturalist.species, and add other names of the species to "
    "taxonomy/synonyms.csv",
    "place_id": "check inaturalist.place_id, the number in the address of the place's page",
}
"""What to look at when nothing came, by the param that was asked for."""

IconicTaxon = Literal[
    "Actinopterygii", "Amphibia", "Arachnida", "Aves", "Insecta", "Mammalia", "Mollusca", "Reptilia"
]

Species = Annotated[str, Field(pattern=r"^\s*\p{L}+\s+\p{L}[\p{L}-]*\s*$")]


class INaturalistConfig(Section):
    """Section `inaturalist`: which observations with sounds; what is null is not asked for.

    One at least of `species` and `place_id` is needed.
    """

    base_url: str
    """Address of the API, without `/v1`; a server on this machine needs no pauses."""
    species: Annotated[tuple[Species, ...], Field(min_length=1)] | None
    """Scientific names of species, genus and epithet; their synonyms are asked for too."""
    place_id: int | None = Field(gt=0)
    """iNaturalist's number of a place, as in the address of its page."""
    iconic_taxa: Annotated[tuple[IconicTaxon, ...], Field(min_length=1)] | None
    """Groups of animals; without `species`, a place gives insects and frogs too."""
    quality_grade: Literal["research", "needs_id", "any"]
    """`research`: two people agree on the species; `needs_id`: not yet; `any`: pets too."""
    licences: Annotated[tuple[OpenLicence, ...], Field(min_length=1)] | None
    """Licences, without version, that the sound itself may have; null lists unlicensed ones too."""
    per_page: int = Field(ge=1, le=200)
    """Observations that one request asks for."""
    search_interval_s: float = Field(ge=0, le=600)
    """Least time between two searches in seconds, 1 at least."""
    file_interval_s: float = Field(ge=0, le=600)
    """Least time between two files in seconds, 1 at least; 5 GB an hour are allowed."""
    max_requests: int | None = Field(ge=1)
    """Most requests of one run, searches or files; iNaturalist asks for fewer than 10,000 a day."""
    update_after_hours: float = Field(ge=0)
    """A search that is younger than that is not asked again, in hours."""
    refresh_after_days: float = Field(ge=0)
    """Days after which everything is asked again; until then only what is new or has changed."""

    @field_validator("base_url")
    @classmethod
    def _is_home(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise ValueError(f"found {text!r}, expected such as https://api.inaturalist.org")
        return text.rstrip("/")

    @model_validator(mode="after")
    def _is_polite(self) -> Self:
        quick = [
            name
            for name in ("search_interval_s", "file_interval_s")
            if getattr(self, name) < MIN_INTERVAL_S
        ]
        if quick and not is_loopback(self.base_url):
            raise ValueError(
                f"{' and '.join(quick)} below {MIN_INTERVAL_S:g} s; less only on this machine"
            )
        return self


@dataclass(frozen=True)
class INaturalistSource:
    """Lists and fetches the sounds of observations."""

    config: INaturalistConfig
    http: HttpConfig
    cache_root: Path
    """Folder of the cached searches of all sources."""
    synonyms: Synonyms

    @property
    def name(self) -> str:
        """The source's name."""
        return "inaturalist"

    @property
    def is_remote(self) -> bool:
        """True: one polite connection."""
        return True

    def list_recordings(self) -> Listing:
        """Returns every sound of the observations asked for; unusable ones are among `rejected`.

        Raises:
            SourceError: The section asks for everything, nothing is found at all, or the replies
                are not those of this API.
            SourceStoppedError: The API must not be asked any further now.
        """
        if self.config.species is None and self.config.place_id is None:
            raise SourceError(
                "inaturalist: species and place_id are both null, which asks for the whole world; "
                "name one at least"
            )
        names = {name: self.synonyms.same_species(name) for name in self.config.species or ()}
        every_name = list(dict.fromkeys(name for group in names.values() for name in group))
        observations = self._search(every_name)
        found = {species_of(observation) for observation in observations}
        missing = [name for name, group in names.items() if found.isdisjoint(group)]
        if not observations or (names and len(missing) == len(names)):
            n_came = f"{len(observations)} observations came of other species"
            raise SourceError(
                f"inaturalist: {self.config.base_url} has no sounds that were asked for, by "
                f"{urlencode(self._query())} {', '.join(every_name):.500}; "
                f"{n_came if observations else 'none came at all'}; {self._advice()}"
            )
        sounds = list_sounds(observations, Asked(set(every_name) or None, self.config.licences))
        rejected = sorted(
            [*map(self._none_found, missing), *sounds.rejected],
            key=itemgetter("recording_id", "reason", "detail"),
        )
        _log.info("iNaturalist: %d sounds, %d rejected", len(sounds.rows), len(rejected))
        return Listing(
            listed_frame([sounds.rows[key] | {"source": self.name} for key in sorted(sounds.rows)]),
            listed_frame([], LISTED_ANNOTATIONS),
            listed_frame(rejected, LISTED_REJECTED),
        )

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Writes the file at `url` to `path`.

        Raises:
            FetchError: It cannot be had.
            SourceStoppedError: Nothing more can be had now.
        """
        self._client.download(url, path, max_bytes, interval_s=self.config.file_interval_s)

    def __getstate__(self) -> dict[str, object]:
        """Returns what makes the source anew elsewhere: all but its connection."""
        return {name: value for name, value in vars(self).items() if name != "_client"}

    @cached_property
    def _client(self) -> PoliteClient:
        """The connection; a server on this machine has its files itself."""
        return PoliteClient(
            self.http,
            self.config.base_url,
            self.cache_root,
            () if is_loopback(self.config.base_url) else FILE_HOSTS,
            self.config.max_requests,
        )

    def _search(self, names: Sequence[str]) -> list[object]:
        """Returns the observations of all `names`, or of the place where there are none."""
        query = self._query()
        searches = [query | {"taxon_name": name} for name in names] or [query]
        cache = SearchCache(
            self.cache_root / self.name,
            self.config.base_url,
            self.config.update_after_hours,
            self.config.refresh_after_days,
        )
        found: list[object] = []
        progress = progress_bar(len(searches), f"search {self.name}", "search")
        with cache, self._client, progress:
            for search in searches:
                found += cache.rows(urlencode(search), partial(self._walk, search))
                progress.update()
        return found

    def _query(self) -> dict[str, str | int]:
        """Returns the parameters that all searches share and that decide what they find."""
        stated: dict[str, str | int | None] = {
            "sounds": "true",
            "quality_grade": None
            if self.config.quality_grade == "any"
            else self.config.quality_grade,
            "place_id": self.config.place_id,
            "iconic_taxa": ",".join(sorted(self.config.iconic_taxa or ())) or None,
            "sound_license": ",".join(sorted(self.config.licences or ())).lower() or None,
        }
        return {name: value for name, value in stated.items() if value is not None}

    def _walk(
        self, search: Mapping[str, str | int], since: date | None, pages: Sequence[Page]
    ) -> Iterator[Page]:
        """Yields the pages of a search after `pages`, up to the empty one; see `searches.Walk`."""
        last_id = pages[-1].note.get("last_id") or 0 if pages else 0
        parameters = {**search, "per_page": self.config.per_page, "order_by": "id", "order": "asc"}
        # No id tells what is new: an old observation is research grade since yesterday, when the
        # second opinion came.
        if since is not None:
            parameters["updated_since"] = since.isoformat()
        while True:
            url = f"{self.config.base_url}/v1/observations"
            with naming_address(url, "inaturalist.base_url"):
                reply = self._client.get_json(
                    url,
                    {**parameters, "id_above": last_id},
                    interval_s=self.config.search_interval_s,
                )
            observations = reply.get("results")
            if not isinstance(observations, list):
                raise SourceError(
                    f"iNaturalist: found a reply with {sorted(reply)}, expected `results`, a list"
                )
            n_missing = max(0, (whole(reply.get("total_results")) or 0) - len(observations))
            if not observations:
                if n_missing:
                    yield Page([], {"last_id": last_id, "n_missing": n_missing})
                return
            kept = [_trimmed(observation) for observation in observations]
            above_id, last_id = last_id, max(whole(item.get("id")) or 0 for item in kept)
            if last_id <= above_id:
                raise SourceError(
                    f"iNaturalist: asked for ids above {above_id}, found none above {last_id}"
                )
            yield Page(kept, {"last_id": last_id, "n_missing": n_missing})

    def _none_found(self, name: str) -> dict[str, str]:
        asked = ", ".join(self.synonyms.same_species(name))
        detail = f"no observation with sounds of {asked}; {self._advice()}"
        _log.warning("inaturalist: %s", detail)
        return {
            "recording_id": f"{self.name}/{name}",
            "stage": "metadata",
            "reason": "none_found",
            "detail": detail,
        }

    def _advice(self) -> str:
        return "; ".join(said for name, said in _ADVICE.items() if getattr(self.config, name))


def _trimmed(observation: object) -> dict[str, object]:
    """Returns the fields that a listing is made of, a fiftieth of what the API sends."""
    if not isinstance(observation, dict):
        return {}
    return {
        name: _inner(observation[name], inner)
        for name, inner in OBSERVATION_FIELDS.items()
        if name in observation
    }


def _inner(value: object, names: Sequence[str]) -> object:
    if isinstance(value, list) and names:
        return [_inner(item, names) for item in value]
    if isinstance(value, dict) and names:
        return {name: value[name] for name in names if name in value}
    return value
