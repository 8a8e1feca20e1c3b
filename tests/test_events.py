from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from bclef.events import same_events

SOURCES = ("competition", "xeno_canto", "inaturalist")
HOMES = {"competition": "XC", "xeno_canto": "XC", "inaturalist": "iNat"}


def row(recording_id: str, source: str = "competition", **changes: object) -> dict[str, object]:
    return {
        "recording_id": recording_id,
        "source": source,
        "collection": HOMES[source],
        "label": "gretit1",
        "recordist": "Ana Example",
        "recorded_on": "2021-05-03",
        "latitude_deg": 51.6,
        "longitude_deg": -1.5,
        "duration_s": 30.0,
        **changes,
    }


def repeats(*rows: Mapping[str, object]) -> dict[str, str]:
    """Returns the id that each repeated row repeats."""
    texts = ("recording_id", "source", "collection", "label", "recordist", "recorded_on")
    recordings = pd.DataFrame(rows).astype(dict.fromkeys(texts, "string"))
    numbers = ["latitude_deg", "longitude_deg", "duration_s"]
    recordings[numbers] = recordings[numbers].astype("float64")
    found = same_events(recordings, SOURCES)
    pairs = zip(recordings["recording_id"], found, strict=True)
    return {recording_id: of for recording_id, of in pairs if not pd.isna(of)}


def other(recording_id: str = "iNat1", **changes: object) -> dict[str, object]:
    return row(recording_id, "inaturalist", **changes)


def test_row_of_the_later_source_repeats_the_earlier_ones() -> None:
    assert repeats(row("XC9"), other("iNat1")) == {"iNat1": "XC9"}
    assert repeats(other("iNat1"), row("XC9")) == {"iNat1": "XC9"}


@pytest.mark.parametrize("name", ["ANA  example", "Ana\u00a0Example", "\uff21na Example "])
def test_recordist_is_one_in_every_spelling(name: str) -> None:
    assert repeats(row("XC9"), other(recordist=name)) == {"iNat1": "XC9"}


@pytest.mark.parametrize(
    "changes",
    [
        {"recordist": "Ana Sample"},
        {"label": "blutit"},
        {"recorded_on": "2021-05-04"},
        {"recorded_on": "2021-05"},
        {"recorded_on": None},
        {"recordist": None},
        {"label": None},
        {"duration_s": 31.1},
        {"latitude_deg": 51.63},
        {"longitude_deg": -1.47},
        {"collection": "XC"},
    ],
)
def test_row_that_differs_is_another_recording(changes: dict[str, Any]) -> None:
    assert repeats(row("XC9"), other(**changes)) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": 30.9},
        {"duration_s": None},
        {"latitude_deg": None, "longitude_deg": None},
        {"latitude_deg": None},
        {"latitude_deg": 51.615},
    ],
)
def test_what_is_rounded_or_not_stated_contradicts_nothing(changes: dict[str, Any]) -> None:
    assert repeats(row("XC9"), other(**changes)) == {"iNat1": "XC9"}


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": None, "latitude_deg": None, "longitude_deg": None},
        {"duration_s": None, "latitude_deg": None},
        {"duration_s": None, "longitude_deg": None},
    ],
)
def test_without_length_or_place_on_both_sides_nothing_is_the_same(changes: dict[str, Any]) -> None:
    assert repeats(row("XC9"), other(**changes)) == {}
    assert repeats(row("XC9", **changes), other()) == {}
    assert repeats(row("XC9", **changes), other(**changes)) == {}


def test_length_on_one_side_and_place_on_the_other_is_no_evidence() -> None:
    assert repeats(row("XC9", duration_s=None), other(latitude_deg=None)) == {}


@pytest.mark.parametrize(
    "nobody",
    ["Anonymous", "anonymous user", "ANON.", "unknown", "Unknown recordist", "n/a", "N. A.", "-",
     "???", "?", "(unknown)", "none", "nan", "12", "Anonyme"],
)  # fmt: skip
def test_who_is_not_named_is_not_one_person(nobody: str) -> None:
    assert repeats(row("XC9", recordist=nobody), other(recordist=nobody)) == {}


@pytest.mark.parametrize("name", ["bob42", "Nan Li Anonby", "Anona Example", "\u738b", "Li-Na"])
def test_rare_names_are_people(name: str) -> None:
    assert repeats(row("XC9", recordist=name), other(recordist=name)) == {"iNat1": "XC9"}


def test_unknown_people_and_days_on_both_sides_are_not_the_same() -> None:
    for nothing in ({"recordist": None}, {"recorded_on": None}, {"recorded_on": "2021-05"}):
        assert repeats(row("XC9", **nothing), other(**nothing)) == {}


def test_places_on_both_sides_of_the_date_line_are_near() -> None:
    rows = row("XC9", longitude_deg=179.995), other(longitude_deg=-179.995)
    assert repeats(*rows) == {"iNat1": "XC9"}


def test_three_here_and_two_there_leave_three() -> None:
    rows = [row(f"XC{number}") for number in (3, 1, 2)]
    assert repeats(*rows, other("iNat2"), other("iNat1")) == {"iNat1": "XC1", "iNat2": "XC2"}
    assert repeats(*rows[:1], *[other(f"iNat{n}") for n in (1, 2)]) == {"iNat1": "XC3"}


def test_partner_is_the_first_that_nothing_contradicts() -> None:
    rows = [row("XC1", duration_s=10.0), row("XC2", duration_s=30.0)]
    assert repeats(*rows, other("iNat1", duration_s=30.4)) == {"iNat1": "XC2"}


def test_recordings_of_one_collection_are_never_one_whichever_source_lists_them() -> None:
    assert repeats(row("XC1"), row("XC2", "xeno_canto")) == {}
    assert repeats(row("XC1"), row("XC2", "xeno_canto"), other("iNat1")) == {"iNat1": "XC1"}


def test_third_collection_repeats_the_first_too() -> None:
    rows = row("XC1"), other("iNat1"), other("CSA1", collection="CSA")
    assert repeats(*rows) == {"iNat1": "XC1", "CSA1": "XC1"}


def test_source_stands_for_the_collection_where_none_is_stated() -> None:
    assert repeats(row("1", collection=None), other("2", collection=None)) == {"2": "1"}
    assert repeats(row("1", collection=None), row("2", collection=None)) == {}
