import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bclef.normal_forms import (
    clean_text,
    in_one_form,
    iso_dates,
    licence_form,
    names_one_species,
    without_version,
)


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
        ("Creative Commons CC0 1.0 Universal Public Domain Dedication", "CC0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/legalcode", "CC0"),
        ("CC0_1_0", "CC0"),
        ("CC BY 3.0 US", "CC-BY-3.0"),
        ("https://www.creativecommons.org/licenses/by/2.1/jp/deed.ja", "CC-BY-2.1"),
        ("creativecommons.org/licenses/BY-SA/3.0/no/", "CC-BY-SA-3.0"),
        ("https://creativecommons.org/licenses/by-nd/4.0/deed.pt_BR", "CC-BY-ND-4.0"),
        ("Creative Commons Attribution-Noncommercial-No Derivative Works 3.0", "CC-BY-NC-ND-3.0"),
        ("Creative Commons Attribution License (CC BY)", "CC-BY"),
        ("Creative Commons Attribution 4.0 International Public License", "CC-BY-4.0"),
        ("cc-by-nc-sa 4.0", "CC-BY-NC-SA-4.0"),
        ("  CC\u00a0BY\u00a04.0 ", "CC-BY-4.0"),
        ("CC BY-\uff2e\uff23 4.0", "CC-BY-NC-4.0"),
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


LEFT_OVER = (
    "CC0 (non-commercial use only)|CC0 NonCommercial|CC0 sharealike|CC-BY-NCSA|CC BY-N.C. 4.0|"
    "CC BY N C|https://creativecommons.org/licenses/by%2Dnc/4.0|CC BY-N\u0421 4.0|CC BY-N\u200bC|"
    "CC BY noncomercial|CC BY 4.0 noncomm|CC BY 4.0 Noncommerciale|CC BY 4.0 nicht kommerziell|"
    "CC BY 4.0 niet-commercieel|CC BY 4.0 pas d'utilisation commerciale|"
    "CC BY 4.0 \u975e\u55b6\u5229|"
    "CC BY 4.0 NonDerivative|CC BY 4.0 NoDerivative|CC BY 4.0 NoDeriv|"
    "CC BY Condividi stesso modo|CC BY 4.0, personal use only|CC BY 4.0, academic use|"
    "CC-BY, commercial use prohibited|CC BY 4.0 revoked|isn't CC BY|none of CC BY|never CC BY|"
    "without CC BY|CC BY unless otherwise stated|https://evil.example/cc/by/4.0|"
    "https://evil.example/?u=creativecommons.org/licenses/by/4.0|"
    "https://creativecommons.org.evil.example/licenses/by/4.0/|"
    "https://creativecommons.org@evil.example/licenses/by/4.0/|"
    "https://creativecommons.org/licenses/by/4.0/?nc|https://creativecommons.org/licenses/by/9.0/|"
    "https://creativecommons.org/licenses/by/4.0/nc/|CC BY 4.0 NC|CC BY 4.0 ND|CC BY 4.0 no|"
    "CC BY 4.0 NC SA|CC BY 7.0|CC0 2.0|CC BY 4.0 (CC BY-NC 4.0)|CC BY 4.0 (unknown)|"
    "Attribution|Attribution License|Open Data Commons Attribution License 1.0|"
    "CC BY 4.0\nnon-commercial|CC BY 4.0 CC BY-NC 4.0|CC\u2013BY 4.0|Public Domain"
)


@pytest.mark.parametrize("text", LEFT_OVER.split("|"))
def test_one_word_that_is_not_known_makes_the_licence_unknown(text: str) -> None:
    assert licence_form(text) == "unknown"


STATEMENTS = (
    "cc0", "CC BY 4.0", "cc-by-nc", "CC BY-NC-SA 3.0 US", "Creative Commons Attribution 4.0",
    "https://creativecommons.org/licenses/by/4.0/", "//creativecommons.org/licenses/by-nc/3.0/us/",
    "https://creativecommons.org/publicdomain/zero/1.0/",
)  # fmt: skip
HARMLESS = re.compile(
    r"cc|by|nc|sa|nd|[a-z]{2}|igo|scotland|v?[1-4][.-][0-5]|international|unported|generic|public|"
    r"universal|licen[cs]e|non-?commercial|share-?alike|noderiv(s|atives)|no|non|commercial|"
)
"""Words that a statement may hold; of those with two letters the others are countries."""
MORE = ["nc", "NC", "-nd", "_SA", "no", "non-commercial", "v4.0", "us", "/nc", "NoDerivs", "4.0 nc"]


@given(
    st.sampled_from(STATEMENTS),
    st.one_of(st.text(min_size=1, max_size=12), st.sampled_from(MORE)),
    st.sampled_from(["{0} {1}", "{0}{1}", "{1} {0}", "{1}{0}"]),
)
def test_what_stands_around_a_licence_is_never_passed_over(
    statement: str, more: str, order: str
) -> None:
    form = licence_form(order.format(statement, more))
    words = re.split(r"[\s_-]+", unicodedata.normalize("NFKC", more).strip().lower())
    is_page = more.strip() in ("/", "") and "org" in statement
    assert form == "unknown" or is_page or all(map(HARMLESS.fullmatch, words))
    for code, name in (("NC", "noncommercial"), ("ND", "noderivs"), ("SA", "sharealike")):
        if code.lower() in words or name in "".join(words):
            assert form == "unknown" or code in form


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


@pytest.mark.parametrize(
    "end", ["\r", "\n", "\r\n", "\t", "\x00", "\x0b", "\x85", "\u2028", "\u2029"]
)
def test_text_is_one_line(end: str) -> None:
    assert clean_text(pd.Series([f"{end}Ann{end}B{end}", end])).tolist() == ["Ann B", pd.NA]


@pytest.mark.parametrize(
    "name",
    ["Parus major", "Parus major minor", "Polioptila californica atwoodi", "Ia io",
     "Turdus x-album",
     "Anas crecca x discors", "Avis \u00e9troite", "parus MAJOR", "Setophaga coronata (Myrtle)"],
)  # fmt: skip
def test_name_of_a_species_names_one(name: str) -> None:
    assert names_one_species(name)


@pytest.mark.parametrize(
    "name",
    ["", "Insecta", "Unidentified cicada", "Unknown species", "Hylidae indet.", "Hylidae gen. sp.",
     "Hylidae gen sp", "Parus cf. major", "Parus cf major", "Parus aff. major", "Gryllus spec.",
     "Gryllus sp.", "Gryllus sp", "Gryllus sp.1", "Gryllus sp1", "Gryllus ssp.", "Gryllus spp.",
     "Gryllus undescribed", "Undescribed species", "Gryllus species", "Insecta sonotype 3",
     "Mystery bird", "Parus major/minor", "Parus ?", "Gryllus 7", "Parus (Parus)",
     "Leptodactylus latrans complex", "Parus major cf. minor"],
)  # fmt: skip
def test_name_that_leaves_the_species_open_names_none(name: str) -> None:
    assert not names_one_species(name)


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
