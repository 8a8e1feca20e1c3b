"""A recording as a row of the reply, in the plain shape and in the odd ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from tests.xeno_canto_server.faults import Faults
from tests.xeno_canto_server.world import Recording, World, by_take

Row = dict[str, object]

UPLOADER = "EXAMPLEKEY"
RESTRICTED_SHAPES = ("null", "empty", "word")
_REDACTED = ("file", "loc", "lat", "lon", "file-name")
_LONG_S = 3723.0
"""1:02:03."""


@dataclass(frozen=True)
class Shapes:
    """Which recordings come in which shape, by XC number."""

    restricted: Mapping[int, str]
    """One of `RESTRICTED_SHAPES`."""
    removed: frozenset[int]
    odd: Mapping[int, str]
    """One of `faults.ODD_KINDS`."""


def deal_shapes(world: World, faults: Faults) -> Shapes:
    """Returns the shape of every recording that is not plain; no recording has two.

    They are dealt take by take, so that a world with more takes leaves the shapes that were there.
    """
    kinds = iter(faults.odd_kinds * faults.odd_rows)
    restricted: dict[int, str] = {}
    removed: set[int] = set()
    odd: dict[int, str] = {}
    for n_dealt, item in enumerate(by_take(world.species, world.recordings), start=1):
        if len(restricted) < round(faults.restricted_share * n_dealt):
            restricted[item.number] = RESTRICTED_SHAPES[len(restricted) % 3]
        elif len(removed) < round(faults.removed_share * n_dealt):
            removed.add(item.number)
        elif kind := next(kinds, None):
            odd[item.number] = kind
    return Shapes(restricted, frozenset(removed), odd)


def true_form(recording: Recording, kind: str | None) -> Recording:
    """Returns `recording` as queries see it: an odd kind can be a matter of fact."""
    return replace(recording, length_s=_LONG_S) if kind == "long_length" else recording


def container_of(recording: Recording, kind: str | None) -> str:
    """Returns the format that the file really has."""
    return "ogg" if kind == "wrong_suffix" else recording.container


def file_name(recording: Recording, kind: str | None) -> str:
    """Returns the name under which the recording was uploaded; unique, as it holds the number."""
    stem, suffix = f"XC{recording.number}-{recording.english}", f".{recording.container}"
    if recording.number % 6 == 0:
        stem += " été"
    odd = {
        "upper_suffix": (stem, suffix.upper()),
        "no_suffix": (stem, ""),
        "wrong_suffix": (stem, ".mp3"),
        "unicode": (f'{stem} "森: 鳥?", A', suffix),
        "hostile_name": (f"../../../{stem}/..", suffix),
    }
    return "".join(odd.get(str(kind), (stem, suffix)))


def make_row(recording: Recording, shapes: Shapes, base_url: str) -> Row:
    """Returns the row of `recording`.

    Args:
        recording: in its true form.
        shapes: what is odd about which row.
        base_url: where its page and its file are.
    """
    kind = shapes.odd.get(recording.number)
    row = _plain(recording, base_url) | {"file-name": file_name(recording, kind)}
    if kind in _ODD:
        row = _ODD[kind](row)
    if recording.number in shapes.restricted:
        row = _restricted(row, shapes.restricted[recording.number])
    return row


def _plain(recording: Recording, base_url: str) -> Row:
    page = f"{base_url}/{recording.number}"
    images = f"{base_url}/sounds/spectrograms/{UPLOADER}/{recording.number}"
    deed = "publicdomain" if recording.licence.startswith("zero") else "licenses"
    minutes, seconds = divmod(max(1, round(recording.length_s)), 60)
    return {
        "id": str(recording.number),
        "gen": recording.genus,
        "sp": recording.epithet,
        "ssp": recording.subspecies,
        "grp": recording.group,
        "en": recording.english,
        "rec": recording.recordist,
        "cnt": recording.country,
        "loc": recording.locality,
        "lat": str(recording.latitude_deg),
        "lon": str(recording.longitude_deg),
        "alt": "1300" if recording.number % 5 else "?",
        "type": recording.sound_type,
        "sex": "",
        "stage": "",
        "method": "field recording",
        "url": page,
        "file": f"{page}/download",
        "file-name": "",
        "sono": {
            "small": f"{images}/grey-small.png",
            "med": f"{images}/grey-medium.png",
            "large": f"{images}/colour.png",
            "full": None,
        },
        "osci": {"small": None, "med": None, "large": None},
        "lic": f"https://creativecommons.org/{deed}/{recording.licence}/",
        "q": recording.quality,
        "length": f"{minutes}:{seconds:02d}",
        "time": "07:17",
        "date": recording.recorded_on.isoformat(),
        "uploaded": recording.uploaded_on.isoformat(),
        "also": list(recording.background),
        "rmk": "line one\r\n\r\nline two",
        "animal-seen": "yes",
        "playback-used": "no",
        "temp": None,
        "regnr": "",
        "auto": "no",
        "dvc": "",
        "mic": "",
        "smp": str(recording.sample_rate_hz),
        "annotation-set": [],
    }


def _restricted(row: Row, shape: str) -> Row:
    """Returns `row` without audio and place; images are not there at all."""
    hidden: Row = dict.fromkeys(
        _REDACTED, {"null": None, "empty": "", "word": "restricted_species"}[shape]
    )
    shown = {key: value for key, value in row.items() if key not in ("sono", "osci")}
    if shape == "empty":  # API v2
        return shown | hidden
    meta = {"redacted_fields": dict.fromkeys(_REDACTED, "restricted_species")}
    return shown | hidden | {"_meta": meta}


def _without(row: Row, keys: Sequence[str]) -> Row:
    return {key: value for key, value in row.items() if key not in keys}


def _scheme_less(row: Row) -> Row:
    cut = {key: str(row[key]).partition(":")[2] for key in ("url", "file", "lic")}
    return row | cut


_UNNEEDED = ("en", "rmk", "loc", "lat", "lon", "type", "length", "also", "smp", "q", "date")
_ODD: Mapping[str | None, Callable[[Row], Row]] = {
    "int_id": lambda row: row | {"id": int(str(row["id"])), "smp": int(str(row["smp"]))},
    "null_fields": lambda row: row | dict.fromkeys(_UNNEEDED),
    "missing_fields": lambda row: _without(row, _UNNEEDED),
    "extra_fields": lambda row: (
        row
        | {
            "status": "identified",
            "novelty": {"of": ["next", "year"]},
            "annotation-set": {"set_name": "Example set", "annotations": []},
        }
    ),
    "blank_also": lambda row: row | {"also": [""]},
    "entities": lambda row: row | {"rec": "A. O&#039;R &amp; B"},
    "double_entities": lambda row: (
        row | {"rec": "P. D&amp;#039;X", "loc": "Bois d&amp;#039;X &amp;amp; Y"}
    ),
    "unicode": lambda row: row | {"rec": "Ľudmila Ñandú 王小明", "loc": "森の公園 🐦"},
    "zero_date": lambda row: row | {"date": "0000-00-00"},
    "zero_day": lambda row: row | {"date": f"{str(row['date'])[:7]}-00"},
    "long_length": lambda row: row | {"length": "1:02:03"},
    "bad_length": lambda row: row | {"length": "about 10"},
    "odd_time": lambda row: row | {"time": "07H00", "alt": "-"},
    "bad_latitude": lambda row: row | {"lat": "91.5"},
    "no_licence": lambda row: row | {"lic": None},
    "slash_urls": _scheme_less,
    "named_download": lambda row: (
        row | {"file": f"{row['file']}/{quote(str(row['file-name']), safe='')}"}
    ),
}
"""The other kinds lie in the file's name and bytes."""
