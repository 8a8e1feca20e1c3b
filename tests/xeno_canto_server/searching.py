"""Queries: splits them into tags and says which recordings they find."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from tests.xeno_canto_server.world import Recording

TAGS_ONLY = (
    "Xeno-canto API v3 only accepts queries using tags. "
    "Visit https://xeno-canto.org/explore/api for a complete list."
)
GROUPS = ("soundscape", "birds", "grasshoppers", "bats", "frogs", "land mammals")
AREAS = ("africa", "america", "asia", "australia", "europe")
UNEVALUATED = frozenset(
    ("fam", "rmk", "loc", "seen", "playback", "lat", "lon", "othertype", "sex", "stage", "method",
     "smp", "temp", "colyear", "colmonth", "regnr", "dvc", "mic", "auto", "id?")
)  # fmt: skip
"""Tags that the real site knows and this server takes no notice of."""

_TAG = re.compile(r'([a-z]+\??):(?:"([^"]*)"|([^\s":]+))(?=\s|$)')
_LICENCE_OF_TAG = {"PD": "zero"}

Test = Callable[[Recording], bool]


class QueryError(Exception):
    """The real site would answer this query with 400."""


@dataclass(frozen=True)
class Search:
    """A query that was understood."""

    tests: tuple[Test, ...]
    """A recording is found when it passes them all."""
    notes: tuple[str, ...]
    """What was ignored or looks like a mistake of the client."""
    has_box: bool
    """Restricted species are left out of box results."""

    def finds(self, recording: Recording) -> bool:
        """Whether `recording` is found."""
        return all(test(recording) for test in self.tests)


def parse(query: str) -> list[tuple[str, str]]:
    """Returns the tags of `query` and their values.

    Raises:
        QueryError: it holds anything but tags.
    """
    tags = []
    rest = query.strip()
    while rest:
        found = _TAG.match(rest)
        if found is None:
            raise QueryError(TAGS_ONLY)
        value = found[3] if found[2] is None else found[2].strip()
        if not value:
            raise QueryError(TAGS_ONLY)
        tags.append((found[1], value))
        rest = rest[found.end() :].lstrip()
    return tags


def search(query: str, refuse_unknown_tags: bool) -> Search:
    """Returns what `query` asks for.

    Raises:
        QueryError: it is not made of tags, or, when asked to look, of unknown ones.
    """
    tags = parse(query)
    tests: list[Test] = []
    notes = []
    for tag, value in tags:
        if tag in _EVALUATORS:
            test = _EVALUATORS[tag](value)
            if test is None:
                notes.append(f"{tag}:{value} is no value of this tag; it finds nothing")
                test = _nothing
            tests.append(test)
        elif tag in UNEVALUATED:
            notes.append(f"{tag}:{value} is ignored by this server")
        elif refuse_unknown_tags:
            raise QueryError(TAGS_ONLY)
        else:
            notes.append(f"{tag}:{value} is no tag of Xeno-canto's; ignored")
    return Search(tuple(tests), tuple(notes), any(tag == "box" for tag, _ in tags))


def _nothing(recording: Recording) -> bool:
    del recording
    return False


def _prefix(read: Callable[[Recording], str]) -> Callable[[str], Test]:
    """Returns an evaluator: the text starts with the value, or equals it after `=`."""

    def evaluate(value: str) -> Test:
        wanted = value.casefold()
        if wanted.startswith("="):
            return lambda recording: read(recording).casefold() == wanted[1:]
        return lambda recording: read(recording).casefold().startswith(wanted)

    return evaluate


def _contained(read: Callable[[Recording], str]) -> Callable[[str], Test]:
    def evaluate(value: str) -> Test:
        wanted = value.casefold()
        if wanted.startswith("="):
            return lambda recording: read(recording).casefold() == wanted[1:]
        return lambda recording: wanted in read(recording).casefold()

    return evaluate


def _species(value: str) -> Test:
    wanted = value.casefold().removeprefix("=")
    return lambda item: wanted in (item.epithet.casefold(), item.species.casefold())


def _group(value: str) -> Test | None:
    name = GROUPS[int(value)] if value in "012345" else value.casefold()
    return (lambda item: item.group == name) if name in GROUPS else None


def _quality(value: str) -> Test | None:
    found = re.fullmatch("([<>]?)([A-E])", value.upper())
    if found is None:
        return None
    grades = {
        "": found[2],
        ">": "ABCDE"[: "ABCDE".index(found[2])],
        "<": "ABCDE"["ABCDE".index(found[2]) + 1 :],
    }[found[1]]
    return lambda item: item.quality in tuple(grades)


def _licence(value: str) -> Test:
    wanted = _LICENCE_OF_TAG.get(value.upper(), value.casefold())
    return lambda item: item.licence.split("/")[0] == wanted


def _since(value: str) -> Test | None:
    try:
        if value.isdecimal():
            first = datetime.now(UTC).date() - timedelta(days=int(value))
        else:
            first = date.fromisoformat(value)
    except (ValueError, OverflowError):
        return None
    return lambda item: item.uploaded_on >= first


def _number(value: str) -> Test | None:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
    if found is None:
        return None
    low, high = int(found[1]), int(found[2] or found[1])
    return lambda item: low <= item.number <= high


def _length(value: str) -> Test | None:
    found = re.fullmatch(r"([<>=]?)(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", value)
    if found is None or (found[1] and found[3]):
        return None
    sign, low = found[1], float(found[2])
    if found[3]:
        return lambda item: low <= item.length_s <= float(found[3])
    if not sign:
        return lambda item: 0.99 * low <= item.length_s <= 1.01 * low
    return _compared(sign, low, lambda item: item.length_s)


def _of_date(read: Callable[[Recording], float]) -> Callable[[str], Test | None]:
    def evaluate(value: str) -> Test | None:
        # A range keeps its first value only, as on the real site.
        found = re.fullmatch(r"([<>]?)=?(\d+)(?:-\d+)?", value)
        return _compared(found[1], int(found[2]), read) if found else None

    return evaluate


def _compared(sign: str, limit: float, read: Callable[[Recording], float]) -> Test:
    if sign == "<":
        return lambda item: read(item) < limit
    if sign == ">":
        return lambda item: read(item) > limit
    return lambda item: read(item) == limit


def _box(value: str) -> Test | None:
    try:
        south, west, north, east = (float(part) for part in value.split(","))
    except ValueError:
        return None
    return lambda item: south <= item.latitude_deg <= north and west <= item.longitude_deg <= east


def _area(value: str) -> Test | None:
    name = value.casefold()
    return (lambda item: item.area == name) if name in AREAS else None


def _type(value: str) -> Test:
    wanted = value.casefold()
    return lambda item: wanted in item.sound_type.split(", ")


def _also(value: str) -> Test:
    wanted = value.casefold()
    return lambda item: wanted in {name.casefold() for name in item.background}


_EVALUATORS: dict[str, Callable[[str], Test | None]] = {
    "gen": _prefix(lambda item: item.genus),
    "sp": _species,
    "ssp": _prefix(lambda item: item.subspecies),
    "en": _prefix(lambda item: item.english),
    "cnt": _prefix(lambda item: item.country),
    "rec": _contained(lambda item: item.recordist),
    "grp": _group,
    "q": _quality,
    "lic": _licence,
    "since": _since,
    "nr": _number,
    "len": _length,
    "year": _of_date(lambda item: item.recorded_on.year),
    "month": _of_date(lambda item: item.recorded_on.month),
    "box": _box,
    "area": _area,
    "type": _type,
    "also": _also,
}


def newest_first(recordings: Sequence[Recording]) -> list[Recording]:
    """Returns `recordings`, oldest first, in the order of a reply."""
    return list(reversed(recordings))
