"""What is asked of Xeno-canto, and how every shape of its replies is read."""

import re
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bclef.config import ConfigError
from bclef.normal_forms import OpenLicence
from bclef.sources.protocol import LISTED, LISTED_REJECTED, SourceError, listed_frame
from bclef.sources.xeno_canto_query import Query, XenoCantoConfig, queries
from bclef.sources.xeno_canto_reply import Recording, rows_of
from bclef.sources.xeno_canto_rows import Rejection, listed_row
from bclef.taxonomy import Synonyms

SITE = "https://xeno-canto.org"
NO_SYNONYMS = Synonyms({})
SETTINGS: dict[str, Any] = dict.fromkeys(XenoCantoConfig.model_fields) | {
    "base_url": SITE,
    "country": "Example Land",
    "keep_questioned": False,
    "per_page": 500,
    "search_interval_s": 1.0,
    "file_interval_s": 4.0,
    "update_after_hours": 12.0,
    "refresh_after_days": 30.0,
}
ROW: dict[str, Any] = {
    "id": "9000001", "gen": "Turdus", "sp": "merula", "ssp": "", "grp": "birds",
    "en": "Common Blackbird", "rec": "Example Recordist", "cnt": "Example Land",
    "loc": "Old Mill", "lat": "43.6571", "lon": "-103.4143", "alt": "1300",
    "type": "song, flight call", "url": "https://xeno-canto.org/9000001",
    "file": "https://xeno-canto.org/9000001/download", "file-name": "XC9000001-song.mp3",
    "lic": "https://creativecommons.org/licenses/by-nc-sa/4.0/", "q": "A", "length": "4:13",
    "time": "07:17", "date": "2015-06-23", "uploaded": "2015-06-29", "also": [],
    "rmk": "a\r\nb", "smp": "48000", "annotation-set": [],
}  # fmt: skip


def config(**settings: object) -> XenoCantoConfig:
    return XenoCantoConfig.from_tree(SETTINGS | settings, "params.yaml", "xeno_canto")


def verdict(row: object, name: str | None = None, **settings: object) -> dict[str, Any] | Rejection:
    return listed_row(row, Query(name, name, (), None), config(**settings), "0123")


def taken(changes: dict[str, object], **settings: object) -> dict[str, Any]:
    found = verdict(ROW | changes, **settings)
    assert not isinstance(found, Rejection), found
    return found


def refused(changes: dict[str, object], name: str | None = None, **settings: object) -> Rejection:
    found = verdict(ROW | changes, name, **settings)
    assert isinstance(found, Rejection), found
    return found


def text(**settings: object) -> str:
    (query,) = queries(config(**settings), NO_SYNONYMS)
    return query.text()


# what is asked


def test_every_field_becomes_the_tag_that_the_site_has_for_it() -> None:
    assert text() == 'cnt:"Example Land"'
    assert text(
        species=["turdus MERULA"], area="europe", box=[24.5, -87.6, 31, -80], group="land mammals",
        quality_min="B", licences=["CC-BY-NC-SA"], since="2024-02-29", types=["flight call"],
    ) == (
        'sp:"turdus merula" cnt:"Example Land" area:europe box:24.5,-87.6,31,-80 '
        'grp:"land mammals" q:">C" lic:BY-NC-SA type:"flight call" since:2024-02-29'
    )  # fmt: skip


def test_years_are_two_tags_because_a_range_is_misread() -> None:
    assert text(year_min=2014, year_max=2020).endswith('year:">2013" year:"<2021"')
    assert text(year_min=2014).endswith('Land" year:">2013"')
    assert text(year_max=2020).endswith('Land" year:"<2021"')


def test_lengths_are_asked_a_second_wider_than_they_are_taken() -> None:
    assert text(length_min_s=10, length_max_s=60.5).endswith('len:">9" len:"<62"')
    assert "len" not in text(length_min_s=0.5)


@pytest.mark.parametrize(
    ("lowest", "tag"), [("A", " q:A"), ("B", ' q:">C"'), ("D", ' q:">E"'), ("E", "")]
)
def test_lowest_quality_is_asked_for_by_the_next_worse(lowest: str, tag: str) -> None:
    assert text(quality_min=lowest) == 'cnt:"Example Land"' + tag


def test_several_licences_or_types_are_not_asked_because_tags_are_anded() -> None:
    assert text(licences=["CC0", "CC-BY"], types=["song", "call"]) == 'cnt:"Example Land"'
    assert text(licences=["CC0"]).endswith("lic:PD")


def test_every_licence_but_the_unknown_can_be_asked_for() -> None:
    tags = {text(licences=[form]).partition(" lic:")[2] for form in get_args(OpenLicence)}
    assert tags == {"PD", "BY", "BY-SA", "BY-NC", "BY-NC-SA", "BY-ND", "BY-NC-ND"}


def test_genus_is_asked_for_by_its_own_tag() -> None:
    assert text(species=["Turdus"]).startswith("gen:turdus ")


def test_species_is_searched_under_all_its_names_once() -> None:
    synonyms = Synonyms({"Corvus cornix": "Corvus corone", "Corvus x": "Corvus corone",
                         "Corvus corone orientalis": "Corvus corone"})  # fmt: skip
    found = queries(config(species=["corvus CORNIX", "Corvus corone", "Pica pica"]), synonyms)
    assert [(query.name, query.asked_for) for query in found] == [
        ("Corvus cornix", "corvus CORNIX"),
        ("Corvus corone", "corvus CORNIX"),
        ("Corvus x", "corvus CORNIX"),
        ("Pica pica", "Pica pica"),
    ]


def test_later_of_two_days_of_uploading_is_asked_for() -> None:
    (query,) = queries(config(since="2024-05-01"), NO_SYNONYMS)
    day = type(query.uploaded_since).fromisoformat
    assert query.text(day("2026-01-01")).endswith(" since:2026-01-01")
    assert query.text(day("2020-01-01")).endswith(" since:2024-05-01")
    assert query.text(day("2026-01-01")).count("since") == 1


def test_whole_site_is_never_asked_for() -> None:
    with pytest.raises(SourceError, match="species, country, area and box are all null"):
        queries(config(country=None, group="birds"), NO_SYNONYMS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"species": ['x" q:A sp:"y']}, "xeno_canto.species: found 'x\" q:A"),
        ({"species": ["Turdus merula x"]}, "expected a species"),
        ({"species": ["2 turdus"]}, "expected a species"),
        ({"species": [""]}, "expected a species"),
        ({"species": []}, "at least 1 item"),
        ({"country": 'Peru" q:A cnt:"x'}, "xeno_canto.country: found"),
        ({"country": "=Peru"}, "country: found"),
        ({"country": "Peru\n"}, "country: found"),
        ({"country": ""}, "country: found"),
        ({"area": "antarctica"}, "none of"),
        ({"box": [1, 2, 3]}, "xeno_canto.box"),
        ({"box": [31.0, -87.6, 24.5, -80.0]}, "greater latitude"),
        ({"box": [24.5, 170, 31.0, -170]}, "180 degrees"),
        ({"box": [24.5, 0, 91, 3]}, "xeno_canto.box"),
        ({"since": "31"}, "YYYY-MM-DD"),
        ({"since": "2024-02-30"}, "xeno_canto.since"),
        ({"year_min": 2020, "year_max": 2019}, "year_min 2020 is above year_max 2019"),
        ({"length_min_s": 9, "length_max_s": 8}, "length_min_s 9 is above"),
        ({"licences": ["unknown"]}, "none of"),
        ({"types": ["songs"]}, "none of"),
        ({"per_page": 49}, "per_page"),
        ({"per_page": 501}, "per_page"),
        ({"base_url": "ftp://xeno-canto.org"}, "expected an address"),
        ({"base_url": "https://me:pw@xeno-canto.org"}, "expected an address"),
        ({"base_url": "https://xeno-canto.org?key=1"}, "without"),
        ({"base_url": "http://xeno-canto.org"}, "write https"),
        ({"search_interval_s": 0.9}, "search_interval_s 0.9 is less than 1"),
        ({"file_interval_s": 1.9}, "file_interval_s 1.9 is less than 2"),
    ],
)
def test_setting_at_fault_is_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config(**settings)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9"])
def test_server_on_this_machine_may_be_asked_without_pauses(host: str) -> None:
    settings = config(base_url=f"http://{host}/", search_interval_s=0, file_interval_s=0)
    assert settings.base_url == f"http://{host}"


def test_names_of_countries_as_they_are() -> None:
    for country in ("Côte d'Ivoire", "Congo (Brazzaville)", "Guinea-Bissau", "Türkiye"):
        assert text(country=country) == f'cnt:"{country}"'


# how a reply is read


def test_plain_row_becomes_a_listed_row() -> None:
    assert taken({}) == {
        "recording_id": "XC9000001", "collection": "XC", "role": "focal",
        "scientific_name": "Turdus merula", "common_name": "Common Blackbird",
        "taxon_class": "Aves", "secondary_labels": [], "recordist": "Example Recordist",
        "latitude_deg": 43.6571, "longitude_deg": -103.4143, "recorded_on": "2015-06-23",
        "rating": 5.0, "licence": ROW["lic"],
        "attribution": f"Example Recordist, XC9000001, {ROW['lic']}",
        "url": "https://xeno-canto.org/9000001/download",
        "page_url": "https://xeno-canto.org/9000001", "duration_s": 253.0, "annotated": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "column", "expected"),
    [
        ({"id": 9000001}, "recording_id", "XC9000001"),
        ({"id": " 9000001 "}, "recording_id", "XC9000001"),
        ({"ssp": "aterrimus"}, "scientific_name", "Turdus merula"),
        ({"gen": "TURDUS", "sp": "Merula "}, "scientific_name", "Turdus merula"),
        ({"lon": None, "lng": "5.5"}, "longitude_deg", 5.5),
        ({"lat": 5}, "latitude_deg", 5.0),
        ({"lat": ""}, "latitude_deg", None),
        ({"lat": "?"}, "latitude_deg", None),
        ({"lat": "nan"}, "latitude_deg", None),
        ({"lat": 10**400}, "latitude_deg", None),
        ({"lat": True}, "latitude_deg", None),
        ({"grp": None, "group": "Frogs"}, "taxon_class", "Amphibia"),
        ({"grp": "grasshoppers"}, "taxon_class", "Insecta"),
        ({"grp": "bats"}, "taxon_class", "Mammalia"),
        ({"grp": "land mammals"}, "taxon_class", "Mammalia"),
        ({"grp": "fish"}, "taxon_class", None),
        ({"length": "0:32"}, "duration_s", 32.0),
        ({"length": "1:02:03"}, "duration_s", 3723.0),
        ({"length": "75:10"}, "duration_s", 4510.0),
        ({"length": "1:75:03"}, "duration_s", None),
        ({"length": "about 10"}, "duration_s", None),
        ({"length": 32}, "duration_s", None),
        ({"q": "E"}, "rating", 1.0),
        ({"q": "no score"}, "rating", None),
        ({"q": ""}, "rating", None),
        ({"q": "B", "also": ["Pica pica"]}, "rating", 3.5),
        ({"q": "B", "also": [""]}, "rating", 4.0),
        ({"also": ["Pica pica", "", None, "Pica pica", "Parus major"]}, "secondary_labels",
         ["Pica pica", "Parus major"]),
        ({"also": [""]}, "secondary_labels", []),
        ({"also": None}, "secondary_labels", []),
        ({"also": "Pica pica"}, "secondary_labels", ["Pica pica"]),
        ({"rec": "A. O&#039;R &amp; B"}, "recordist", "A. O'R & B"),
        ({"rec": "Bois d&amp;#039;X"}, "recordist", "Bois d'X"),
        ({"rec": "&amp;amp;lt;"}, "recordist", "&lt;"),
        ({"rec": "Ľudmila  Ñandú 王小明 "}, "recordist", "Ľudmila Ñandú 王小明"),
        ({"rec": "half \ud83d"}, "recordist", "half ?"),
        ({"rec": None}, "attribution", f"unknown recordist, XC9000001, {ROW['lic']}"),
        ({"lic": None}, "attribution", "Example Recordist, XC9000001, licence not stated"),
        ({"lic": None}, "licence", None),
        ({"lic": "//creativecommons.org/licenses/by/4.0/"}, "licence",
         "//creativecommons.org/licenses/by/4.0/"),
        ({"date": "1998-06-00"}, "recorded_on", "1998-06-00"),
        ({"file": "//xeno-canto.org/9000001/download"}, "url",
         "https://xeno-canto.org/9000001/download"),
        ({"file": "/9000001/download"}, "url", "https://xeno-canto.org/9000001/download"),
        ({"file": "https://xeno-canto.org/1/download/a%20b  c.mp3"}, "url",
         "https://xeno-canto.org/1/download/a%20b  c.mp3"),
        ({"smp": 48000, "status": "identified", "novelty": {"of": [1]}}, "recording_id",
         "XC9000001"),
    ],
)  # fmt: skip
def test_shape_of_a_field(changes: dict[str, object], column: str, expected: object) -> None:
    assert taken(changes)[column] == expected


@pytest.mark.parametrize("field", sorted(set(ROW) - {"id", "gen", "sp", "file"}))
@pytest.mark.parametrize("value", [None, "", "missing", [], {}, 0, True])
def test_any_other_field_may_be_missing_or_odd(field: str, value: object) -> None:
    row = {name: said for name, said in ROW.items() if name != field}
    found = verdict(row if value == "missing" else row | {field: value}, country=None)
    assert not isinstance(found, Rejection)
    assert found["attribution"]


def test_local_server_stands_in_for_files_of_the_public_site() -> None:
    here = {"base_url": "http://127.0.0.1:8000"}
    for file in (ROW["file"], "//www.xeno-canto.org/9000001/download", "/9000001/download"):
        assert taken({"file": file}, **here)["url"] == "http://127.0.0.1:8000/9000001/download"
    elsewhere = "https://sounds.example/9000001.mp3"
    assert taken({"file": elsewhere}, **here)["url"] == elsewhere
    assert taken({}, **here)["page_url"] == "https://xeno-canto.org/9000001"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file": None}, "restricted"),
        ({"file": ""}, "restricted"),
        ({"file": "restricted_species", "lat": "restricted_species"}, "restricted"),
        ({"file": "javascript:alert(1)"}, "bad_url"),
        ({"file": "http://[x/"}, "bad_url"),
        ({"file-name": "XC9000001-x.M4A"}, "undecodable"),
        ({"gen": "Mystery", "sp": "mystery"}, "unidentified"),
        ({"status": "unidentified"}, "unidentified"),
        ({"sp": "sp."}, "unidentified"),
        ({"sp": None}, "unidentified"),
        ({"status": "questioned"}, "questioned"),
    ],
)
def test_row_that_cannot_be_used_has_its_reason(changes: dict[str, object], reason: str) -> None:
    found = refused(changes)
    assert (found.recording_id, found.reason) == ("XC9000001", reason)
    assert found.detail


def test_questioned_row_is_kept_on_request() -> None:
    assert taken({"status": "questioned"}, keep_questioned=True)["recording_id"] == "XC9000001"


@pytest.mark.parametrize("number", [None, "", "abc", "12.5", -3, 0, True, [], "9" * 40])
def test_row_without_number_has_a_stable_id_of_its_own(number: object) -> None:
    first, again = refused({"id": number}), refused({"id": number})
    assert first == again
    assert first.reason == "no_id"
    assert re.fullmatch(r"xeno_canto/0123/[0-9a-f]{16}", first.recording_id)
    assert refused({"id": number, "q": "B"}).recording_id != first.recording_id


def test_soundscape_has_no_species() -> None:
    for changes in ({"gen": "Sonus", "sp": "naturalis"}, {"grp": "soundscape", "sp": None}):
        row = taken(changes | {"also": ["Pica pica"]})
        assert (row["role"], row["scientific_name"], row["common_name"]) == (
            "soundscape", None, None,
        )  # fmt: skip
        assert row["secondary_labels"] == []


@pytest.mark.parametrize(
    ("changes", "settings", "found"),
    [
        ({"cnt": "Nigeria"}, {"country": "Niger"}, "Nigeria"),
        ({"lat": "10"}, {"box": [40.0, -110.0, 45.0, -100.0]}, "10.0, -103.4143"),
        ({"lat": None}, {"box": [40.0, -110.0, 45.0, -100.0]}, "place unknown"),
        ({"grp": "bats"}, {"group": "birds"}, "group bats"),
        ({"q": "C"}, {"quality_min": "B"}, "quality C"),
        ({"q": "no score"}, {"quality_min": "E"}, "not rated"),
        ({}, {"licences": ["CC0", "CC-BY"]}, "by-nc-sa"),
        ({"lic": None}, {"licences": ["CC0"]}, "licence not stated"),
        ({"lic": "all mine"}, {"licences": ["CC0"]}, "all mine"),
        ({}, {"year_min": 2016}, "year 2015"),
        ({}, {"year_max": 2014}, "year 2015"),
        ({"length": "0:09"}, {"length_min_s": 9.5}, "seconds 9"),
        ({"length": "1:02:03"}, {"length_max_s": 60}, "seconds 3723"),
        ({}, {"since": "2015-06-30"}, "uploaded 2015-06-29"),
        ({}, {"types": ["call"]}, "song, flight call"),
    ],
)
def test_what_was_asked_is_checked_on_the_reply(
    changes: dict[str, object], settings: dict[str, object], found: str
) -> None:
    rejection = refused(changes, **settings)
    assert rejection.reason == "outside_query"
    assert found in rejection.detail


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"cnt": "NIGER"}, {"country": "Niger"}),
        ({"cnt": "M&eacute;xico&#039;s"}, {"country": "México's"}),
        ({"cnt": None}, {}),
        ({}, {"box": [43.6571, -104.0, 44.0, -103.4143]}),
        ({"grp": None}, {"group": "birds"}),
        ({"q": "B"}, {"quality_min": "B"}),
        ({}, {"licences": ["CC-BY-NC-SA"]}),
        ({"date": "0000-00-00"}, {"year_min": 2016}),
        ({}, {"year_min": 2015, "year_max": 2015}),
        ({"length": "garbage"}, {"length_max_s": 1}),
        ({}, {"length_min_s": 253, "length_max_s": 253}),
        ({"uploaded": ""}, {"since": "2020-01-01"}),
        ({}, {"since": "2015-06-29"}),
        ({}, {"types": ["call", "flight call"]}),
        ({"type": ""}, {"types": ["call"]}),
    ],
)
def test_what_the_reply_leaves_open_or_grants_is_taken(
    changes: dict[str, object], settings: dict[str, object]
) -> None:
    assert taken(changes, **settings)["recording_id"] == "XC9000001"


def test_other_species_than_the_one_searched_for_is_refused() -> None:
    assert refused({}, "Turdus pilaris").reason == "outside_query"
    assert refused({}, "Turd").reason == "outside_query"
    for name in ("Turdus merula", "Turdus"):
        assert not isinstance(verdict(ROW, name), Rejection)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [*ROW, "status", "group", "lng", "_meta"]
TEXTS = st.sampled_from(
    [*map(str, ROW.values()), "//x", "http://[", "1:02:03", "&#xD800;", "\ud800",
     "restricted_species"]
)  # fmt: skip


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON | TEXTS), st.booleans())
@example(ROW | {"file": "http://[", "also": [[], {"a": "\ud800"}, "\ud800"]}, True)
@example(ROW | {"id": 10**1000}, False)
def test_no_row_whatever_raises(row: object, is_whole: bool) -> None:
    if is_whole and isinstance(row, dict):
        row = ROW | row
    found = verdict(
        row, "Turdus", box=[0, 0, 1, 1], quality_min="C", licences=["CC0"], since="2020-01-01",
        year_min=2010, length_max_s=5, types=["song"], group="birds",
    )  # fmt: skip
    plain = verdict(row)
    for said in (found, plain):
        if isinstance(said, Rejection):
            frame = listed_frame([{"stage": "metadata", **vars(said)}], LISTED_REJECTED)
        else:
            assert said["attribution"]
            frame = listed_frame([said], LISTED)
        frame.to_json()  # what cannot be written as UTF-8 shows here


@pytest.mark.parametrize(
    ("stated", "n"), [([1, 2], 2), (None, 0), ({"0": 1, "2": 3}, 2), ("none", None), (3, None)]
)
def test_list_of_recordings_in_any_shape(stated: object, n: int | None) -> None:
    rows = rows_of({"recordings": stated})
    assert (None if rows is None else len(rows)) == n
    assert rows_of({}) is None


def test_year_is_read_from_whole_and_partial_dates() -> None:
    years = {
        said: Recording.read({"date": said}).year
        for said in ("2015-06-23", "1998-06-00", "2001", "0000-00-00", "June 2001", "")
    }
    assert years == {
        "2015-06-23": 2015, "1998-06-00": 1998, "2001": 2001, "0000-00-00": None,
        "June 2001": None, "": None,
    }  # fmt: skip
