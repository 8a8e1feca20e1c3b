import numpy as np
import pandas as pd
import pytest

from bclef.normal_forms import clean_text, in_one_form, iso_dates, licence_form, without_version


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA-4.0"),
        ("//creativecommons.org/licenses/by-nc-nd/2.5/", "CC-BY-NC-ND-2.5"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "CC-BY-NC-SA-4.0"),
        ("Creative Commons Attribution 3.0 Unported", "CC-BY-3.0"),
        ("Creative Commons Attribution-NoDerivatives 4.0 International", "CC-BY-ND-4.0"),
        ("cc-by-nc", "CC-BY-NC"),
        ("CC BY-SA 3.0", "CC-BY-SA-3.0"),
        ("CC-BY", "CC-BY"),
        ("Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)", "CC-BY-NC-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        ("cc0", "CC0"),
        ("PD", "CC0"),
        ("CC BY-NC-SA-4.0", "CC-BY-NC-SA-4.0"),
        ("CC_BY_NC_4_0", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution Non-Commercial Share Alike 3.0", "CC-BY-NC-SA-3.0"),
        ("http://creativecommons.org/licenses/by-nc-sa/3.0/us/", "CC-BY-NC-SA-3.0"),
        ("Creative Commons Zero 1.0", "CC0"),
    ],
)
def test_licence_is_read_in_every_known_spelling(text: str, form: str) -> None:
    assert licence_form(text) == form
    assert licence_form(form) == form


@pytest.mark.parametrize("version", ["2.5", "3.0", "4.0"])
@pytest.mark.parametrize(
    ("code", "form", "words"),
    [
        ("by", "CC-BY", "Attribution"),
        ("by-nc", "CC-BY-NC", "Attribution-NonCommercial"),
        ("by-sa", "CC-BY-SA", "Attribution-ShareAlike"),
        ("by-nc-sa", "CC-BY-NC-SA", "Attribution-NonCommercial-ShareAlike"),
        ("by-nd", "CC-BY-ND", "Attribution-NoDerivatives"),
        ("by-nc-nd", "CC-BY-NC-ND", "Attribution-NonCommercial-NoDerivs"),
    ],
)
def test_each_licence_is_read_as_every_source_states_it(
    code: str, form: str, words: str, version: str
) -> None:
    assert licence_form(f"cc-{code}") == form
    for text in (
        f"https://creativecommons.org/licenses/{code}/{version}/",
        f"//creativecommons.org/licenses/{code}/{version}/",
        f"http://creativecommons.org/licenses/{code}/{version}/legalcode",
        f"Creative Commons {words} {version}",
        f"cc-{code}-{version}",
    ):
        assert licence_form(text) == f"{form}-{version}"
        assert without_version(licence_form(text)) == form


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "All rights reserved",
        "see SOUNDS_LICENSING.md",
        "unknown (probably xeno-canto)",
        "CC (per recording",
        "by-nc",
        "acc by",
        "photo by CC",
        "CC-BYE",
        "C",
        "not CC0",
        "CC BY-NC, all rights reserved",
        "anything but CC-BY",
        "https://creativecommons.org/publicdomain/mark/1.0/",
        "https://creativecommons.org/licenses/nc-sa/1.0/",
    ],
)
def test_licence_that_is_not_stated_for_certain_is_unknown(text: str | None) -> None:
    assert licence_form(text) == "unknown"


@pytest.mark.parametrize(
    "text", ["CC BY 4.0, no derivatives", "CC-BY or CC-BY-NC", "CC BY-SA-NC 4.0", "CC0 or CC BY"]
)
def test_condition_of_a_licence_is_never_lost(text: str) -> None:
    assert licence_form(text) == "unknown"


def test_version_is_cut_from_the_end_only() -> None:
    assert without_version("CC-BY-NC-SA-4.0") == "CC-BY-NC-SA"
    assert without_version("CC0") == "CC0"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2015-06-23", "2015-06-23"),
        ("2015-06-23T07:40:00", "2015-06-23"),
        ("2015-06-23 07:40", "2015-06-23"),
        ("1998-06-00", "1998-06"),
        ("1998-06", "1998-06"),
        ("1998-00-00", "1998"),
        ("1998", "1998"),
        ("2020-02-29", "2020-02-29"),
        ("0000-00-00", None),
        ("2021-02-29", None),
        ("2021-13-01", None),
        ("2021-13", None),
        ("23.6.2015", None),
        ("20150623", None),
        ("morning", None),
        (None, None),
    ],
)
def test_date_is_as_exact_as_stated_and_null_where_impossible(text: str, day: str | None) -> None:
    found = iso_dates(pd.Series([text], dtype="string"))[0]
    assert (None if pd.isna(found) else found) == day


def test_text_is_composed_and_stripped_and_null_when_empty() -> None:
    cleaned = clean_text(pd.Series(["  Jose\u0301 ", "   ", None, "a b"]))
    assert cleaned.isna().tolist() == [False, True, True, False]
    assert cleaned.dropna().tolist() == ["Jos\u00e9", "a b"]


def test_place_with_an_impossible_number_is_no_place() -> None:
    columns = {
        "recorded_on": "string?",
        "licence": "string?",
        "rating": "float32?",
        "latitude_deg": "float64?",
        "longitude_deg": "float64?",
    }
    listed = pd.DataFrame(
        {
            "latitude_deg": [90.0, 91.5, 10.0, np.nan, -90.0],
            "longitude_deg": [-180.0, 20.0, 180.5, 3.0, 180.0],
            "rating": [0.0, 5.0, 5.5, -1.0, np.nan],
        }
    )
    rows = in_one_form([listed], columns)
    np.testing.assert_array_equal(rows["latitude_deg"], [90, np.nan, np.nan, np.nan, -90])
    np.testing.assert_array_equal(rows["longitude_deg"], [-180, np.nan, np.nan, np.nan, 180])
    np.testing.assert_array_equal(rows["rating"], [0, 5, np.nan, np.nan, np.nan])
    assert set(rows["licence"]) == {"unknown"}


def test_address_keeps_its_bytes() -> None:
    listed = pd.DataFrame({"url": ["Ame\u0301lie.wav"], "recordist": ["Ame\u0301lie"]})
    columns = dict.fromkeys(("url", "recordist", "recorded_on", "licence"), "string?")
    numbers = dict.fromkeys(("rating", "latitude_deg", "longitude_deg"), "float64?")
    rows = in_one_form([listed], {**columns, **numbers})
    assert rows.loc[0, "url"] == "Ame\u0301lie.wav"
    assert rows.loc[0, "recordist"] == "Am\u00e9lie"
