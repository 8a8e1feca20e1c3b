"""From what Xeno-canto replies to rows of a listing, or to reasons why not.

Whatever was asked is checked again on the reply: a server may ignore a tag, countries are found by
how they begin (Niger finds Nigeria), and some of the section has no tag. What the reply leaves open
is not held against a row, but for licence, quality and the place in a box.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit

from bclef.normal_forms import licence_form, without_version
from bclef.sources.files import UNDECODABLE
from bclef.sources.xeno_canto_query import Query, XenoCantoConfig
from bclef.sources.xeno_canto_reply import Recording
from bclef.taxonomy import scientific_form

COLLECTION = "XC"
PUBLIC_SITE = "https://xeno-canto.org"
OUTSIDE_QUERY = "outside_query"
"""Reason of rows that were not asked for."""

_PUBLIC_HOSTS = ("xeno-canto.org", "www.xeno-canto.org")
_RATINGS: Mapping[str | None, float] = {"A": 5.0, "B": 4.0, "C": 3.0, "D": 2.0, "E": 1.0}
_OTHERS_COST = 0.5
"""How much lower a recording with further species in it is rated."""
_CLASSES = {
    "birds": "Aves",
    "frogs": "Amphibia",
    "grasshoppers": "Insecta",
    "bats": "Mammalia",
    "land mammals": "Mammalia",
}
_NO_SPECIES = ("sp", "sp.", "spec.", "spp.")


@dataclass(frozen=True)
class Rejection:
    """Why a recording is not listed."""

    recording_id: str
    reason: str
    detail: str


Verdict: TypeAlias = dict[str, object] | Rejection
"""A row of `protocol.LISTED` but for `source`, or why there is none."""


def listed_row(row: object, query: Query, config: XenoCantoConfig, digest: str) -> Verdict:
    """Returns what becomes of a recording that came; `label` is for `recordings` to find.

    Args:
        row: A recording as received, any JSON.
        query: The search that it answers.
        config: What else is asked for.
        digest: Names the search, for ids of recordings that have none.
    """
    recording = Recording.read(row)
    if recording.number is None:
        text = json.dumps(row, sort_keys=True)
        place = sha256(text.encode()).hexdigest()[:16]
        return Rejection(f"xeno_canto/{digest}/{place}", "no_id", f"no number in {text:.200}")
    recording_id = f"{COLLECTION}{recording.number}"
    url = _file_url(recording, config.base_url)
    for reason, detail in _faults(recording, url, query, config):
        return Rejection(recording_id, reason, detail)
    return _row(recording, recording_id, str(url))


def _faults(
    recording: Recording, url: str | None, query: Query, config: XenoCantoConfig
) -> Iterator[tuple[str, str]]:
    """Yields reason and detail of all that keeps a recording from being listed."""
    name = recording.scientific_name
    is_soundscape = _is_soundscape(recording)
    stated = f"{name or 'no name'}, status {recording.status or 'not stated'}"
    if recording.file is None:
        # First, because then the place is kept back too and nothing can be said of it.
        yield "restricted", f"{name}: no address of the audio; its species may be protected"
    if not is_soundscape and not _is_identified(recording):
        yield "unidentified", stated
    for detail in _misfits(recording, query, config):
        yield OUTSIDE_QUERY, detail
    if recording.status == "questioned" and not config.keep_questioned:
        yield "questioned", f"{stated}; xeno_canto.keep_questioned would keep it"
    if url is None:
        yield "bad_url", f"address of the audio is {recording.file!r:.200}, expected http(s)"
    if recording.suffix in UNDECODABLE:
        yield "undecodable", f"{recording.suffix}; convert it and use the source `folder`"


def _is_soundscape(recording: Recording) -> bool:
    name = (recording.scientific_name or "").lower()
    return recording.group == "soundscape" or name == "sonus naturalis"


def _is_identified(recording: Recording) -> bool:
    name = (recording.scientific_name or "").lower()
    return (
        name not in ("", "mystery mystery")
        and recording.status != "unidentified"
        and (recording.epithet or "").lower() not in _NO_SPECIES
    )


def _misfits(recording: Recording, query: Query, config: XenoCantoConfig) -> Iterator[str]:
    """Yields what of a recording was not asked for, with what was."""
    if query.name and not _is_named(recording, query.name):
        yield f"{recording.scientific_name}; asked for {query.name}"
    country = (recording.country or "").casefold()
    if config.country and country and country != config.country.casefold():
        yield f"country {recording.country}; asked for {config.country}"
    if config.box and not _is_in(config.box, recording):
        place = f"{recording.latitude_deg}, {recording.longitude_deg}"
        is_known = None not in (recording.latitude_deg, recording.longitude_deg)
        yield f"{f'at {place}' if is_known else 'place unknown'}; asked for box {config.box}"
    if config.group and recording.group and recording.group != config.group:
        yield f"group {recording.group}; asked for {config.group}"
    if config.types and recording.types and not set(config.types) & set(recording.types):
        yield f"type {', '.join(recording.types)}; asked for {', '.join(config.types)}"
    if config.quality_min and (recording.quality or "F") > config.quality_min:
        yield f"quality {recording.quality or 'not rated'}; asked for {config.quality_min} at least"
    if config.licences and _licence(recording) not in config.licences:
        yield f"licence {recording.licence or 'not stated'}; asked for {', '.join(config.licences)}"
    yield from _out_of_range(recording, config)


def _out_of_range(recording: Recording, config: XenoCantoConfig) -> Iterator[str]:
    """Yields the numbers and days of a recording that are beyond those asked for."""
    ranges = (
        ("year", recording.year, config.year_min, config.year_max),
        ("seconds", recording.duration_s, config.length_min_s, config.length_max_s),
    )
    for what, found, least, most in ranges:
        if found is None:
            continue
        if (least is not None and found < least) or (most is not None and found > most):
            yield f"{what} {found:g}; asked for {_shown(least)} to {_shown(most)}"
    since = date.fromisoformat(config.since) if config.since else date.min
    if recording.uploaded_on and recording.uploaded_on < since:
        yield f"uploaded {recording.uploaded_on}; asked for {since} or later"


def _shown(bound: float | None) -> str:
    return "any" if bound is None else f"{bound:g}"


def _is_named(recording: Recording, name: str) -> bool:
    """Returns whether a recording is of the species or genus `name`."""
    found = scientific_form(recording.scientific_name or "")
    return found == name or found.partition(" ")[0] == name


def _is_in(box: tuple[float, float, float, float], recording: Recording) -> bool:
    latitude_deg, longitude_deg = recording.latitude_deg, recording.longitude_deg
    south, west, north, east = box
    if latitude_deg is None or longitude_deg is None:
        return False
    return south <= latitude_deg <= north and west <= longitude_deg <= east


def _licence(recording: Recording) -> str:
    return without_version(licence_form(recording.licence))


def _file_url(recording: Recording, base_url: str) -> str | None:
    """Returns where the audio is to be had, or None where what is stated is no address.

    A file of the public site is asked for at `base_url`, so that a local server can stand in.
    """
    try:
        url = urljoin(f"{base_url}/", recording.file or "")
        parts = urlsplit(url)
        here = urlsplit(base_url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    if parts.netloc.lower() in _PUBLIC_HOSTS and here.netloc.lower() not in _PUBLIC_HOSTS:
        url = parts._replace(scheme=here.scheme, netloc=here.netloc).geturl()
    return url


def _row(recording: Recording, recording_id: str, url: str) -> dict[str, object]:
    is_soundscape = _is_soundscape(recording)
    name = scientific_form(recording.scientific_name or "")
    recordist = recording.recordist or "unknown recordist"
    licence = recording.licence or "licence not stated"
    rating = _RATINGS.get(recording.quality)
    if rating is not None and recording.others:
        rating -= _OTHERS_COST
    return {
        "recording_id": recording_id,
        "collection": COLLECTION,
        "role": "soundscape" if is_soundscape else "focal",
        "scientific_name": None if is_soundscape else name,
        "common_name": None if is_soundscape else recording.common_name,
        "taxon_class": _CLASSES.get(recording.group or ""),
        # What sings in a soundscape is all background; nobody listened for it from end to end.
        "secondary_labels": [] if is_soundscape else list(recording.others),
        "recordist": recording.recordist,
        "latitude_deg": recording.latitude_deg,
        "longitude_deg": recording.longitude_deg,
        "recorded_on": recording.recorded_on,
        "rating": rating,
        "licence": recording.licence,
        "attribution": f"{recordist}, {recording_id}, {licence}",
        "url": url,
        "page_url": f"{PUBLIC_SITE}/{recording.number}",
        "duration_s": recording.duration_s,
        "annotated": False,
    }
