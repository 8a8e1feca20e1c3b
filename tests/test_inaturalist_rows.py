"""Observations of iNaturalist as rows: every trap of its replies, and replies of any shape."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bclef.normal_forms import licence_form
from bclef.sources.inaturalist_rows import Asked, SoundList, list_sounds
from bclef.sources.protocol import LISTED, LISTED_REJECTED, listed_frame
from tests.inaturalist_server import observation, sound, taxon

ANY = Asked(None, None)
BLACKBIRD, THRUSH = "Turdus merula", "Turdus philomelos"


def one_row(**changes: object) -> dict[str, object]:
    """Returns the row of an observation with these changes, which has to be listed."""
    [row] = list_sounds([observation(42, **changes)], ANY).rows.values()
    return row


def refused(observed: object, asked: Asked = ANY) -> list[tuple[str, str]]:
    """Returns id and reason of what is not listed of an observation; nothing else may be."""
    sounds = list_sounds([observed], asked)
    assert not sounds.rows
    return [(row["recording_id"], row["reason"]) for row in sounds.rejected]


def test_a_row_says_all_that_is_known_of_a_sound() -> None:
    assert one_row() == {
        "recording_id": "iNat420",
        "collection": "iNat",
        "role": "focal",
        "scientific_name": "Turdus merula",
        "common_name": "Eurasian Blackbird",
        "taxon_class": "Aves",
        "secondary_labels": [],
        "recordist": "Example User",
        "latitude_deg": 51.6,
        "longitude_deg": -1.5,
        "recorded_on": "2021-05-03",
        "licence": "cc-by",
        "attribution": "(c) example_user, some rights reserved (CC BY), iNat420, cc-by",
        "url": "https://static.inaturalist.org/sounds/420.mp3",
        "page_url": "https://www.inaturalist.org/observations/42",
        "annotated": False,
    }


@pytest.mark.parametrize(
    ("changes", "place_deg"),
    [
        ({"geojson": None}, (51.6, -1.5)),
        ({"geojson": None, "location": None}, (None, None)),
        ({"geojson": {"coordinates": [-1.5, None]}, "location": "51.6;-1.5"}, (None, None)),
        ({"location": None}, (51.6, -1.5)),
        ({"geojson": {"coordinates": [-1.5, 151.6]}, "location": "91,0"}, (None, None)),
        ({"geojson": {"coordinates": [0, 0]}}, (0.0, 0.0)),
        ({"obscured": True}, (None, None)),
        ({"geoprivacy": "obscured"}, (None, None)),
        ({"taxon_geoprivacy": "private"}, (None, None)),
        ({"taxon_geoprivacy": "open"}, (51.6, -1.5)),
    ],
)
def test_a_place_that_is_missing_or_obscured_is_null_and_loses_no_row(
    changes: dict[str, object], place_deg: tuple[float | None, float | None]
) -> None:
    row = one_row(**changes)
    assert (row["latitude_deg"], row["longitude_deg"]) == place_deg


@pytest.mark.parametrize(
    ("name", "rank", "species"),
    [
        ("Turdus merula", "species", BLACKBIRD),
        ("Turdus merula", None, BLACKBIRD),
        ("Turdus merula mauritanicus", "subspecies", BLACKBIRD),
        ("Turdus merula mauritanicus", None, BLACKBIRD),
        (" Turdus  merula ", "Species", BLACKBIRD),
        ("Capra aegagrus-hircus", "species", "Capra aegagrus-hircus"),
        ("Turdus", "genus", None),
        ("Turdus", None, None),
        ("Turdus merula", "complex", None),
        ("Anas acuta \u00d7 platyrhynchos", "hybrid", None),
        ("Anas acuta \u00d7 platyrhynchos", None, None),
        ("Turdus (Merula)", None, None),
        ("", "species", None),
    ],
)
def test_a_taxon_is_its_species_or_no_species(
    name: str, rank: str | None, species: str | None
) -> None:
    seen = observation(42, taxon=taxon(name, rank))
    if species is None:
        assert refused(seen) == [("iNat420", "not_a_species")]
    else:
        assert one_row(taxon=taxon(name, rank))["scientific_name"] == species


@pytest.mark.parametrize("missing", [None, [], 7, "Turdus merula"])
def test_an_observation_without_a_taxon_is_refused(missing: object) -> None:
    assert refused(observation(42, taxon=missing)) == [("iNat420", "not_a_species")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file_url": None}, "no_file"),
        ({"file_url": " "}, "no_file"),
        ({"file_url": 7}, "no_file"),
        ({"file_url": "/sounds/420.mp3"}, "bad_url"),
        ({"file_url": "http://[/420.mp3"}, "bad_url"),
        ({"file_url": "file:///etc/passwd"}, "bad_url"),
        ({"file_url": "https://static.inaturalist.org/sounds/420.m4a?1600000000"}, "undecodable"),
        ({"file_url": "https://static.inaturalist.org/sounds/420.M4A"}, "undecodable"),
        ({"file_content_type": "audio/mp4"}, "undecodable"),
        ({"file_content_type": "Audio/X-M4A; codecs=mp4a"}, "undecodable"),
        ({"file_content_type": "video/quicktime"}, "undecodable"),
        ({"hidden": True}, "hidden"),
        ({"flags": [{"flag": "copyright infringement", "resolved": False}]}, "flagged"),
        ({"flags": [{"flag": "spam"}]}, "flagged"),
    ],
)
def test_a_sound_that_cannot_be_used_is_refused_with_its_reason(
    changes: dict[str, object], reason: str
) -> None:
    assert refused(observation(42, sounds=[sound(420, **changes)])) == [("iNat420", reason)]


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": [{"flag": "spam", "resolved": True}]},
        {"flags": None},
        {"hidden": None},
        {"file_content_type": None},
        {"file_content_type": "audio/x-wav"},
        {"file_content_type": "audio/mp3"},
        {"a_field_of_next_year": {"x": [1]}},
    ],
)
def test_a_sound_that_is_in_order_is_listed(changes: dict[str, object]) -> None:
    assert one_row(sounds=[sound(420, **changes)])["recording_id"] == "iNat420"


def test_only_a_number_behind_the_address_is_no_part_of_it() -> None:
    for url, kept in [
        ("https://a.example/7.mp3?1600000000", "https://a.example/7.mp3"),
        ("https://a.example/7.mp3?", "https://a.example/7.mp3"),
        ("https://a.example/7?name=7.mp3", "https://a.example/7?name=7.mp3"),
        ("//a.example/7.mp3?1", "https://a.example/7.mp3"),
    ]:
        assert one_row(sounds=[sound(420, file_url=url)])["url"] == kept


def test_the_licence_is_that_of_the_sound_and_none_fails_closed() -> None:
    rows = [
        one_row(license_code="cc0", sounds=[sound(420, license_code=code)])
        for code in ("cc-by-nc", None, "")
    ]
    assert [row["licence"] for row in rows] == [
        "cc-by-nc", "all rights reserved", "all rights reserved",
    ]  # fmt: skip
    assert [licence_form(str(row["licence"])) for row in rows] == [
        "CC-BY-NC", "unknown", "unknown",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "attribution", "recordist", "credit"),
    [
        ({"login": "kim", "name": "Kim B"}, "(c) Estate of Kim", "Kim B", "(c) Estate of Kim"),
        ({"login": "kim", "name": "Kim B"}, None, "Kim B", "kim"),
        ({"login": "kim", "name": ""}, None, "kim", "kim"),
        (None, None, None, "unnamed observer"),
    ],
)
def test_nobody_goes_without_credit(
    user: object, attribution: object, recordist: str | None, credit: str
) -> None:
    row = one_row(user=user, sounds=[sound(420, attribution=attribution)])
    assert row["recordist"] == recordist
    assert row["attribution"] == f"{credit}, iNat420, cc-by"


def test_every_sound_of_an_observation_is_a_row_of_its_own() -> None:
    mixed = [sound(7), sound(8, license_code=None), sound(9, file_url=None)]
    sounds = list_sounds([observation(42, sounds=mixed)], ANY)
    assert [row["licence"] for row in sounds.rows.values()] == ["cc-by", "all rights reserved"]
    assert {row["page_url"] for row in sounds.rows.values()} == {
        "https://www.inaturalist.org/observations/42"
    }
    assert [(row["recording_id"], row["reason"]) for row in sounds.rejected] == [
        ("iNat9", "no_file")
    ]


def test_a_file_of_two_observations_is_listed_with_the_older_in_any_order() -> None:
    one = observation(41, sounds=[sound(7)])
    same_sound = observation(42, sounds=[sound(7)])
    same_file = observation(43, sounds=[sound(8, file_url=f"{sound(7)['file_url']}5")])
    for order in ([one, same_sound, same_file], [same_file, same_sound, one, one]):
        sounds = list_sounds(order, ANY)
        assert [row["page_url"] for row in sounds.rows.values()] == [
            "https://www.inaturalist.org/observations/41"
        ]
        assert [(row["recording_id"], row["reason"]) for row in sounds.rejected] == [
            ("iNat7", "listed_again"),
            ("iNat8", "listed_again"),
        ]


def test_of_two_states_of_an_observation_the_later_one_counts() -> None:
    before = observation(42, taxon=taxon(THRUSH))
    after = observation(42, updated_at="2022-01-01T00:00:00+00:00")
    for order in ([before, after], [after, before]):
        [row] = list_sounds(order, ANY).rows.values()
        assert row["scientific_name"] == BLACKBIRD


def test_only_what_was_asked_for_is_listed() -> None:
    asked = Asked({BLACKBIRD}, {"CC-BY"})
    assert list_sounds([observation(42)], asked).rows
    other = observation(42, taxon=taxon(THRUSH))
    assert refused(other, asked) == [("iNat420", "species_not_asked_for")]
    for code in ("cc-by-nc", None):
        seen = observation(42, sounds=[sound(420, license_code=code)])
        assert refused(seen, asked) == [("iNat420", "licence")]


def test_without_ids_nothing_vanishes() -> None:
    assert refused(observation(42, sounds=[sound(None), sound("x")])) == [
        ("inaturalist/observation/42/1", "no_id"),
        ("inaturalist/observation/42/2", "no_id"),
    ]
    assert refused(observation(42, sounds=None)) == [("inaturalist/observation/42", "no_file")]
    assert refused("nonsense") == [("inaturalist/observation/unnamed", "no_file")]
    [row] = list_sounds([observation(None, sounds=[sound("7")])], ANY).rows.values()
    assert (row["recording_id"], row["page_url"]) == ("iNat7", None)


def test_what_no_number_and_no_file_can_hold_is_null_or_replaced() -> None:
    far = {"type": "Point", "coordinates": [10**400, 10**400]}
    assert one_row(geojson=far, location="nan,nan")["latitude_deg"] is None
    assert one_row(user={"name": "Kim \ud800"})["recordist"] == "Kim ?"


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["http://[", "https://a.example/\ud800.mp3", "cc-by", BLACKBIRD, "1,nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def damaged(whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Returns `whole` with some of its fields, at any depth of objects, replaced or missing."""

    def field(value: object) -> st.SearchStrategy[object]:
        sound_one = damaged(value) if isinstance(value, dict) else st.just(value)
        return sound_one | ANY_JSON

    return st.fixed_dictionaries({}, optional={name: field(item) for name, item in whole.items()})


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        damaged(observation(42, sounds={}) | {"sounds": None}).flatmap(
            lambda seen: st.lists(damaged(sound(7)) | ANY_JSON, max_size=3).map(
                lambda sounds: seen | {"sounds": sounds}
            )
        )
        | ANY_JSON,
        max_size=4,
    )
)
def test_no_reply_makes_the_reading_raise_or_lose_a_sound(observations: list[Any]) -> None:
    sounds = SoundList(ANY)
    for seen in observations:
        sounds.add(seen)
    held = [seen.get("sounds") for seen in observations if isinstance(seen, dict)]
    n_sounds = sum(len(item) for item in held if isinstance(item, list))
    assert len(sounds.rows) + len(sounds.rejected) >= n_sounds
    frame = listed_frame([row | {"source": "inaturalist"} for row in sounds.rows.values()])
    listed_frame(sounds.rejected, LISTED_REJECTED)
    for column, dtype in LISTED.items():
        if not dtype.endswith("?"):
            assert frame[column].notna().all()
    assert frame["url"].str.match("https?://").all()
    list_sounds(observations, Asked({BLACKBIRD}, {"CC-BY"}))
