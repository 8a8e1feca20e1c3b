"""Observations of iNaturalist, as its API states them, to rows of a listing.

Any field may be null, missing or of another type. What cannot be read is null, what cannot be used
is refused with a reason, and nothing that a reply may hold makes the reading raise.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from bclef.normal_forms import Licence, licence_form, without_version
from bclef.sources.anyjson import fields, items, number, printable, text, whole
from bclef.sources.files import UNDECODABLE
from bclef.taxonomy import scientific_form

COLLECTION = "iNat"
OBSERVATION_PAGE = "https://www.inaturalist.org/observations/"
ALL_RIGHTS_RESERVED = "all rights reserved"
"""What a sound without a licence code states; no licence form, so it fails closed."""

OBSERVATION_FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": (),
    "updated_at": (),
    "observed_on": (),
    "geojson": ("coordinates",),
    "location": (),
    "obscured": (),
    "geoprivacy": (),
    "taxon_geoprivacy": (),
    "taxon": ("name", "rank", "preferred_common_name", "iconic_taxon_name"),
    "user": ("login", "name"),
    "sounds": (
        "id", "file_url", "file_content_type", "license_code", "attribution", "hidden", "flags",
    ),
}  # fmt: skip
"""Fields that the rows are made of; of those that hold fields themselves, which of them."""
_SPECIES = re.compile(r"([^\W\d_]+) ([^\W\d_]+(?:-[^\W\d_]+)*)(?: [^\W\d_]+)*")
_SPECIES_RANKS = frozenset(("species", "subspecies", "variety", "form"))
_CLASSES = frozenset(("Actinopterygii", "Amphibia", "Arachnida", "Aves", "Insecta", "Mammalia",
                      "Reptilia"))  # fmt: skip
"""The iconic taxa that are classes; the others, such as Animalia, stand for no class."""
_UNDECODABLE_TYPE = re.compile(
    r"video/.*|audio/(x-)?(3gpp2?|aacp?|amr(-wb)?|m4[abp]|matroska|mp4(a-latm)?|ms-wma|webm)"
)
_CACHE_BUSTER = re.compile(r"\?[0-9]*$")


@dataclass(frozen=True)
class Asked:
    """What a listing is of; the API gives more than that."""

    species: Collection[str] | None
    """All names, in `scientific_form`, of the species that are asked for, or None for any."""
    licences: Collection[Licence] | None
    """Licences without their version, or None for any."""


@dataclass
class SoundList:
    """The sounds of observations, each once, and those that cannot be used."""

    asked: Asked
    """Which sounds are wanted."""
    rows: dict[str, dict[str, object]] = field(default_factory=dict)
    """Rows of `protocol.LISTED` but for `source`, by recording id."""
    rejected: list[dict[str, str]] = field(default_factory=list)
    """Rows of `protocol.LISTED_REJECTED`."""
    _ids_by_url: dict[str, str] = field(default_factory=dict)

    def add(self, observation: object) -> None:
        """Lists every sound of `observation`, or says why not."""
        facts = fields(observation)
        sounds = items(facts.get("sounds"))
        if not sounds:
            self._reject(_place(facts), "no_file", "the observation has no sound")
        for place, sound in enumerate(map(fields, sounds), start=1):
            self._add_sound(facts, sound, f"{_place(facts)}/{place}")

    def _add_sound(
        self, observation: Mapping[str, object], sound: Mapping[str, object], place: str
    ) -> None:
        sound_id = whole(sound.get("id"))
        name = f"{COLLECTION}{sound_id}"
        if sound_id is None:
            self._reject(place, "no_id", f"the sound's id is {sound.get('id')!r:.80}")
            return
        for reason, detail in _faults(observation, sound, self.asked):
            self._reject(name, reason, f"{detail}; observation {whole(observation.get('id'))}")
            return
        row = _row(observation, sound, name)
        first = self._ids_by_url.setdefault(str(row["url"]), name)
        if first != name or name in self.rows:
            listed = self.rows[first]["page_url"]
            self._reject(name, "listed_again", f"{row['page_url']}: listed with {listed}")
            return
        self.rows[name] = row

    def _reject(self, recording_id: str, reason: str, detail: str) -> None:
        self.rejected.append(
            {
                "recording_id": recording_id,
                "stage": "metadata",
                "reason": reason,
                "detail": printable(detail),
            }
        )


def list_sounds(observations: Iterable[object], asked: Asked) -> SoundList:
    """Returns the sounds of `observations`; one that is given again counts once, as last changed.

    Of sounds with the same file the one of the oldest observation is listed, whatever the order.

    Args:
        observations: as the API states them, or their fields that `OBSERVATION_FIELDS` names.
        asked: which sounds are wanted.
    """
    sounds = SoundList(asked)
    by_id: dict[int, object] = {}
    # Under the name that it had before, a search on disk may hold an observation as it was.
    for observation in sorted(observations, key=_changed_at, reverse=True):
        observation_id = whole(fields(observation).get("id"))
        if observation_id is None:
            sounds.add(observation)
        else:
            by_id.setdefault(observation_id, observation)
    for observation_id in sorted(by_id):
        sounds.add(by_id[observation_id])
    return sounds


def _changed_at(observation: object) -> str:
    return text(fields(observation).get("updated_at")) or ""


def _faults(
    observation: Mapping[str, object], sound: Mapping[str, object], asked: Asked
) -> Iterator[tuple[str, str]]:
    """Yields reason and detail of everything that keeps a sound from being listed."""
    if sound.get("hidden"):
        yield "hidden", "iNaturalist hides the sound"
    if flags := [flag for flag in map(fields, items(sound.get("flags"))) if _is_open(flag)]:
        words = ", ".join(text(flag.get("flag")) or "unnamed" for flag in flags)
        yield "flagged", f"flagged and not resolved: {words}"
    yield from _file_faults(sound)
    species = species_of(observation)
    if species is None:
        yield "not_a_species", _taxon_words(observation)
    elif asked.species is not None and species not in asked.species:
        yield "species_not_asked_for", f"iNaturalist has it as {species}"
    stated = _licence(sound)
    if asked.licences is not None and without_version(licence_form(stated)) not in asked.licences:
        yield "licence", stated


def _file_faults(sound: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    url = _url(sound)
    if url is None:
        yield "no_file", "file_url is null"
    elif not _is_web_address(url):
        yield "bad_url", f"file_url is {url!r:.200}, expected http(s)://host/path"
    elif kind := _undecodable(url, sound):
        yield "undecodable", f"{kind} cannot be decoded; convert it and use the source `folder`"


def _row(
    observation: Mapping[str, object], sound: Mapping[str, object], name: str
) -> dict[str, object]:
    taxon, user = fields(observation.get("taxon")), fields(observation.get("user"))
    login = text(user.get("login"))
    recordist = text(user.get("name")) or login
    observation_id = whole(observation.get("id"))
    iconic = text(taxon.get("iconic_taxon_name"))
    latitude_deg, longitude_deg = _place_deg(observation)
    licence = _licence(sound)
    # iNaturalist asks for its own wording, in which the holder may be another than the observer.
    credit = text(sound.get("attribution")) or login or recordist or "unnamed observer"
    return {
        "recording_id": name,
        "collection": COLLECTION,
        "role": "focal",
        "scientific_name": species_of(observation),
        "common_name": text(taxon.get("preferred_common_name")),
        "taxon_class": iconic if iconic in _CLASSES else None,
        "secondary_labels": [],
        "recordist": recordist,
        "latitude_deg": latitude_deg,
        "longitude_deg": longitude_deg,
        "recorded_on": text(observation.get("observed_on")),
        "licence": licence,
        "attribution": f"{credit}, {name}, {licence}",
        "url": _url(sound),
        "page_url": f"{OBSERVATION_PAGE}{observation_id}" if observation_id else None,
        "annotated": False,
    }


def species_of(observation: object) -> str | None:
    """Returns genus and epithet of the taxon, or None where it is no species nor below one."""
    taxon = fields(fields(observation).get("taxon"))
    rank = text(taxon.get("rank"))
    found = _SPECIES.fullmatch(" ".join((text(taxon.get("name")) or "").split()))
    if found is None or (rank is not None and rank.lower() not in _SPECIES_RANKS):
        return None
    genus, epithet = found.groups()
    is_name = genus[0].isupper() and epithet.islower()
    return scientific_form(f"{genus} {epithet}") if is_name else None


def _taxon_words(observation: Mapping[str, object]) -> str:
    taxon = fields(observation.get("taxon"))
    name, rank = text(taxon.get("name")), text(taxon.get("rank"))
    return f"taxon {name or 'not stated'}, rank {rank or 'not stated'}"


def _licence(sound: Mapping[str, object]) -> str:
    """Returns the sound's own licence; the observation's covers the text, not the recording."""
    return text(sound.get("license_code")) or ALL_RIGHTS_RESERVED


def _url(sound: Mapping[str, object]) -> str | None:
    """Returns the file's address without the number of its last change behind a `?`."""
    url = text(sound.get("file_url"))
    if url is not None and url.startswith("//"):
        url = "https:" + url
    return None if url is None else _CACHE_BUSTER.sub("", url)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _undecodable(url: str, sound: Mapping[str, object]) -> str | None:
    """Returns what the file is, if it says by suffix or type that it cannot be decoded."""
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    kind = (text(sound.get("file_content_type")) or "").lower().split(";")[0].strip()
    if suffix in UNDECODABLE:
        return suffix
    return kind if _UNDECODABLE_TYPE.fullmatch(kind) else None


def _is_open(flag: Mapping[str, object]) -> bool:
    return flag.get("resolved") is not True


def _place_deg(observation: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Returns latitude and longitude, both null where they are missing, nonsense or obscured."""
    hidden = {text(observation.get(name)) for name in ("geoprivacy", "taxon_geoprivacy")}
    # An obscured place is a random point of a cell of 0.2 degrees: worse than none.
    if observation.get("obscured") is True or hidden & {"obscured", "private"}:
        return None, None
    point = items(fields(observation.get("geojson")).get("coordinates"))[1::-1]
    for pair in (point, (text(observation.get("location")) or "").split(",")):
        numbers = [number(value) for value in pair]
        latitude_deg, longitude_deg = numbers if len(numbers) == 2 else (None, None)
        if latitude_deg is None or longitude_deg is None:
            continue
        if abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180:
            return latitude_deg, longitude_deg
    return None, None


def _place(observation: Mapping[str, object]) -> str:
    return f"inaturalist/observation/{whole(observation.get('id')) or 'unnamed'}"
