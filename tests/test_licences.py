"""Under which terms recordings may come in: the section, and what holds for every table."""

import re
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bclef.config import ConfigError
from bclef.features import usable_clips
from bclef.nomenclature import Taxonomy
from bclef.recordings import Metadata, MetadataConfig, build_recordings
from bclef.sieve import LicencesConfig, Sieve
from bclef.sources.protocol import LISTED_ANNOTATIONS, LISTED_REJECTED, Listing, listed_frame
from bclef.taxonomy import Synonyms

Row = dict[str, object]

STATED = {
    "https://creativecommons.org/licenses/by-nc-nd/4.0/": ("CC-BY-NC-ND", "4.0"),
    "//creativecommons.org/licenses/by/3.0/": ("CC-BY", "3.0"),
    "CC BY 4.0": ("CC-BY", "4.0"),
    "cc-by": ("CC-BY", None),
    "cc-by-nc": ("CC-BY-NC", None),
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0": ("CC-BY-NC-SA", "4.0"),
    "cc0": ("CC0", None),
    "all rights reserved": ("unknown", None),
    "CC BY 4.0, no derivatives": ("unknown", None),
    None: ("unknown", None),
}
"""Form and version of each licence as stated, by hand."""
FORMS = ("CC0", "CC-BY", "CC-BY-4.0", "CC-BY-NC", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND", "unknown")


def is_allowed(stated: object, allow: Sequence[str]) -> bool:
    form, version = STATED[stated]  # type: ignore[index]
    return form in allow or (version is not None and f"{form}-{version}" in allow)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[Row]], tuple[str, ...]]:
    """The rows of two sources, ids and events that repeat, and an allow-list."""
    listings: list[list[Row]] = [[], []]
    for number in range(draw(st.integers(1, 14))):
        place = draw(st.integers(0, 1))
        name = draw(st.sampled_from("pqrstu"))
        listings[place].append(
            {
                "recording_id": name,
                "source": "ab"[place],
                "collection": draw(st.sampled_from(["XC", "iNat", None])),
                "role": draw(st.sampled_from(["focal", "focal", "soundscape", "noise"])),
                "label": draw(st.sampled_from(["x", "y"])),
                # A mark that shows in features where anything came of this row.
                "secondary_labels": [f"mark{number}"],
                "recordist": "Ana",
                "recorded_on": draw(st.sampled_from(["2021-05-03", None])),
                "licence": draw(st.sampled_from(list(STATED))),
                "attribution": name,
                "url": f"{number}",
                "annotated": False,
            }
        )
    allow = draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=3, unique=True))
    return listings, tuple(allow)


def built(listings: Sequence[Sequence[Row]], allow: tuple[str, ...] | None) -> Metadata | None:
    """Returns what the stage makes of the rows; None where no focal recording is left."""
    config = MetadataConfig(
        sources=("a", "b"),
        species=None,
        keep_others=True,
        min_recordings=1,
        max_recordings=None,
        cap_by="rating",
        min_rating=0.0,
        drop_same_event=True,
    )
    listed = {
        name: Listing(
            listed_frame(rows),
            listed_frame([], LISTED_ANNOTATIONS),
            listed_frame([], LISTED_REJECTED),
        )
        for name, rows in zip("ab", listings, strict=True)
    }
    try:
        return build_recordings(
            listed, config, LicencesConfig(allow=allow), Taxonomy(Synonyms({}), None)
        )
    except ConfigError as error:
        if "no focal recording is left" not in str(error):
            raise
        return None


def fake_clips(recordings: pd.DataFrame, picks: Sequence[int]) -> pd.DataFrame:
    """Returns a clip of each recording; picks say which are errors and which copies of which."""
    ids = recordings["recording_id"].tolist()
    kinds = [picks[place % len(picks)] % 4 for place in range(len(ids))]
    kept = [name for name, kind in zip(ids, kinds, strict=True) if kind > 1]
    copies = {name: kept[0] for name, kind in zip(ids, kinds, strict=True) if kept and kind == 1}
    return pd.DataFrame(
        {
            "recording_id": pd.Series(ids, dtype="string"),
            "path": "p.ogg",
            "n_samples": 1,
            "duplicate_of": pd.Series([copies.get(name) for name in ids], dtype="string"),
            "error": pd.Series([None if kind else "silent" for kind in kinds], dtype="string"),
        }
    )


def check_licences(
    listings: Sequence[Sequence[Row]], allow: tuple[str, ...], picks: Sequence[int]
) -> None:
    """Fails if anything of a row outside the allow-list is in the features."""
    metadata = built(listings, allow)
    if metadata is None:
        return
    usable = usable_clips(fake_clips(metadata.recordings, picks), metadata.recordings)
    rows = [row for rows in listings for row in rows]
    allowed = [row for row in rows if is_allowed(row["licence"], allow)]
    assert set(usable["recording_id"]) <= {row["recording_id"] for row in allowed}
    marks = {mark for row in allowed for mark in row["secondary_labels"]}  # type: ignore[attr-defined]
    assert {mark for others in usable["secondary_labels"] for mark in others} <= marks | {"x", "y"}
    urls = {row["url"] for row in allowed}
    assert set(metadata.recordings["url"]) <= urls


@pytest.mark.slow
@given(tables(), st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_nothing_outside_the_allow_list_reaches_features(
    drawn: tuple[list[list[Row]], tuple[str, ...]], picks: list[int]
) -> None:
    check_licences(*drawn, picks)


def row(number: int, name: str, source: str, licence: str | None) -> Row:
    return {
        "recording_id": name,
        "source": source,
        "role": "focal",
        "label": "x",
        "secondary_labels": [f"mark{number}"],
        "licence": licence,
        "attribution": name,
        "url": f"{number}",
        "annotated": False,
    }


def test_that_check_sees_a_filter_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[row(0, "p", "a", "cc0"), row(1, "q", "a", "cc-by-nc")], []]
    check_licences(rows, ("CC0",), [3])
    monkeypatch.setattr(Sieve, "drop_licences", lambda *_: None)
    with pytest.raises(AssertionError):
        check_licences(rows, ("CC0",), [3])


def test_that_check_sees_labels_taken_over_before_the_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[row(0, "p", "a", "cc0")], [row(1, "p", "b", "cc-by-nc")]]
    check_licences(rows, ("CC0",), [3])
    monkeypatch.setattr(Sieve, "drop_unusable", Sieve.drop_listed_again)
    with pytest.raises(AssertionError):
        check_licences(rows, ("CC0",), [3])


def test_id_that_another_source_lists_under_an_accepted_licence_stays() -> None:
    metadata = built([[row(0, "p", "a", None)], [row(1, "p", "b", "cc0")]], ("CC0",))
    assert metadata is not None
    assert metadata.recordings["url"].tolist() == ["1"]
    assert metadata.rejected["reason"].tolist() == ["licence"]
    assert metadata.rejected["detail"].tolist() == ["unknown"]


@pytest.mark.parametrize(
    ("allow", "stay"),
    [
        (None, "0123456"),
        (("CC-BY",), "12"),
        (("cc-by-4.0",), "2"),
        (("https://creativecommons.org/licenses/by/3.0/", "PD"), "15"),
        (("Unknown",), "6"),
        (("CC-BY-NC",), "3"),
        (("cc by nc nd",), "4"),
        (("CC-BY-2.5", "CC0"), "5"),
    ],
)
def test_form_without_version_takes_every_version_of_itself_alone(
    allow: tuple[str, ...] | None, stay: str
) -> None:
    stated = ["cc-by-sa", "CC BY 3.0", "CC BY 4.0", "CC BY-NC 4.0", "CC BY-NC-ND 4.0", "CC0", "?"]
    rows = [row(number, str(number), "a", text) for number, text in enumerate(stated)]
    metadata = built([rows, []], allow)
    assert metadata is not None
    assert "".join(metadata.recordings["recording_id"]) == stay


def test_spellings_in_params_become_normal_forms() -> None:
    allow = ("cc-by", "CC BY-NC-SA 4.0", "pd", " UNKNOWN ")
    config = LicencesConfig.from_tree({"allow": list(allow)}, "params.yaml", "licences")
    assert config.allow == ("CC-BY", "CC-BY-NC-SA-4.0", "CC0", "unknown")


@pytest.mark.parametrize("slip", ["CC-BYE", "by-nc", "free", "", "all rights reserved"])
def test_slip_of_the_pen_in_params_is_refused_with_the_known_forms(slip: str) -> None:
    message = re.escape(
        f"params.yaml: licences.allow[1]: {slip!r} is no licence; known are CC0, CC-BY, CC-BY-SA, "
        "CC-BY-NC, CC-BY-NC-SA, CC-BY-ND, CC-BY-NC-ND, unknown, a version may follow"
    )
    with pytest.raises(ConfigError, match=message):
        LicencesConfig.from_tree({"allow": ["CC0", slip]}, "params.yaml", "licences")


def test_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"licences\.allow: "):
        LicencesConfig.from_tree({"allow": []}, "params.yaml", "licences")
