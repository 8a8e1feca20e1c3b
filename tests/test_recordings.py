import itertools
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bclef.config import ConfigError
from bclef.ebird import Ebird
from bclef.naming import SPECIES_NAMES
from bclef.nomenclature import Taxonomy
from bclef.recordings import (
    ANNOTATIONS,
    RECORDINGS,
    Metadata,
    MetadataConfig,
    build_recordings,
)
from bclef.sieve import REJECTED, LicencesConfig
from bclef.sources.protocol import LISTED_ANNOTATIONS, LISTED_REJECTED, Listing, listed_frame
from bclef.tables import read_table, write_table
from bclef.taxonomy import CLASSES, Synonyms

Row = dict[str, object]


def _config(**changes: object) -> MetadataConfig:
    fields: dict[str, object] = {
        "sources": ("a",),
        "species": None,
        "keep_others": True,
        "min_recordings": 1,
        "max_recordings": None,
        "cap_by": "rating",
        "min_rating": 0.0,
        "drop_same_event": True,
    }
    return MetadataConfig.model_validate({**fields, **changes})


def _row(recording_id: str, label: str | None = "gretit1", **changes: object) -> Row:
    row: Row = {
        "recording_id": recording_id,
        "source": "a",
        "role": "focal",
        "label": label,
        "scientific_name": None,
        "secondary_labels": [],
        "licence": "CC0",
        "attribution": f"{recording_id}, CC0",
        "url": f"https://example.org/{recording_id}",
        "annotated": False,
    }
    return {**row, **changes}


def _listing(
    rows: Sequence[Row], annotations: Sequence[Row] = (), rejected: Sequence[Row] = ()
) -> Listing:
    return Listing(
        recordings=listed_frame(rows),
        annotations=listed_frame(annotations, LISTED_ANNOTATIONS),
        rejected=listed_frame(rejected, LISTED_REJECTED),
    )


def _build(
    rows: Sequence[Row], synonyms: Mapping[str, str] | None = None, **changes: Any
) -> Metadata:
    return _build_all({"a": _listing(rows)}, synonyms, **changes)


def _build_all(
    listings: Mapping[str, Listing],
    synonyms: Mapping[str, str] | None = None,
    licences: tuple[str, ...] | None = None,
    ebird: Ebird | None = None,
    **changes: object,
) -> Metadata:
    config = _config(**{"sources": tuple(listings), **changes})
    allowed = LicencesConfig(allow=licences)
    return build_recordings(listings, config, allowed, Taxonomy(Synonyms(synonyms or {}), ebird))


def _reasons(metadata: Metadata) -> dict[str, str]:
    return dict(zip(metadata.rejected["recording_id"], metadata.rejected["reason"], strict=True))


def _column(metadata: Metadata, column: str) -> dict[str, Any]:
    rows = metadata.recordings
    return dict(zip(rows["recording_id"], rows[column], strict=True))


def test_tables_pass_their_own_schemas_and_come_back_equal(tmp_path: Path) -> None:
    listing = _listing(
        [_row("r2"), _row("r1", secondary_labels=["x"]), _row("s1", None, role="soundscape")],
        [{"recording_id": "s1", "start_s": 0.0, "end_s": 5.0, "label": "gretit1"}],
        [{"recording_id": "q", "stage": "metadata", "reason": "restricted", "detail": "no file"}],
    )
    metadata = _build_all({"a": listing})
    tables = (
        (metadata.recordings, RECORDINGS),
        (metadata.classes, CLASSES),
        (metadata.rejected, REJECTED),
        (metadata.annotations, ANNOTATIONS),
        (metadata.species_names, SPECIES_NAMES),
    )
    for table, schema in tables:
        write_table(table, tmp_path / "t.parquet", schema)
        assert read_table(tmp_path / "t.parquet", schema).astype(str).equals(table.astype(str))
    assert metadata.recordings["recording_id"].tolist() == ["r1", "r2", "s1"]


def test_two_labels_of_one_species_become_the_more_frequent_one() -> None:
    name = {"scientific_name": "Columba livia"}
    metadata = _build(
        [_row("1", "rocpig1", **name), _row("2", "rocpig", **name), _row("3", "rocpig", **name)]
    )
    assert set(metadata.recordings["label"]) == {"rocpig"}
    assert metadata.classes["n_recordings"].tolist() == [3]


def test_label_given_with_the_accepted_name_wins_over_a_more_frequent_old_one() -> None:
    old = {"scientific_name": "Hydropsalis maculicaudus"}
    metadata = _build(
        [
            _row("1", "old", **old),
            _row("2", "old", **old),
            _row("3", "new", scientific_name="antiurus MACULICAUDUS"),
        ],
        synonyms={"Hydropsalis maculicaudus": "Antiurus maculicaudus"},
    )
    assert set(metadata.recordings["label"]) == {"new"}
    assert set(metadata.recordings["scientific_name"]) == {"Antiurus maculicaudus"}


def test_name_without_label_takes_the_label_of_its_species_or_is_its_own() -> None:
    metadata = _build(
        [
            _row("1", "gretit1", scientific_name="Parus major"),
            _row("2", None, scientific_name="parus major"),
            _row("3", None, scientific_name="turdus merula"),
        ]
    )
    assert _column(metadata, "label") == {"1": "gretit1", "2": "gretit1", "3": "Turdus merula"}


def test_label_without_name_takes_the_name_of_its_species_in_both_tables() -> None:
    metadata = _build(
        [_row("1", "x", scientific_name="Parus major"), _row("2", "x"), _row("3", "y")]
    )
    assert _column(metadata, "scientific_name")["2"] == "Parus major"
    assert pd.isna(_column(metadata, "scientific_name")["3"])
    assert metadata.classes["scientific_name"].tolist() == ["Parus major", "y"]


def test_label_that_was_unified_is_renamed_where_it_stands_without_a_name() -> None:
    name = {"scientific_name": "Columba livia"}
    rows = [_row("1", "rocpig1", **name), _row("2", "rocpig", **name), _row("3", "rocpig", **name)]
    metadata = _build([*rows, _row("4", "rocpig1")])
    assert set(metadata.recordings["label"]) == {"rocpig"}


def test_secondary_labels_are_labels_without_doubles_and_without_the_own_one() -> None:
    metadata = _build(
        [
            _row("1", "gretit1", scientific_name="Parus major"),
            _row("2", "blutit", scientific_name="Cyanistes caeruleus"),
            _row(
                "3",
                "gretit1",
                scientific_name="Parus major",
                secondary_labels=[
                    "Parus caeruleus",
                    "blutit",
                    "parus MAJOR",
                    " mystery ",
                    "",
                    "gretit1",
                ],
            ),
        ],
        synonyms={"Parus caeruleus": "Cyanistes caeruleus"},
    )
    assert _column(metadata, "secondary_labels") == {"1": [], "2": [], "3": ["blutit", "mystery"]}


def test_label_that_was_unified_is_also_renamed_in_secondary_labels_and_annotations() -> None:
    name = {"scientific_name": "Columba livia"}
    listing = _listing(
        [
            _row("1", "rocpig1", **name),
            _row("2", "rocpig", **name),
            _row("3", "rocpig", **name),
            _row("4", "gretit1", secondary_labels=["rocpig1"]),
            _row("5", None, role="soundscape", annotated=True),
        ],
        [{"recording_id": "5", "start_s": 1.0, "end_s": 2.0, "label": "rocpig1"}],
    )
    metadata = _build_all({"a": listing})
    assert _column(metadata, "secondary_labels")["4"] == ["rocpig"]
    assert metadata.annotations["label"].tolist() == ["rocpig"]


def test_id_listed_twice_is_kept_once_with_the_labels_of_both() -> None:
    first = _listing([_row("1", "x", url="first"), _row("2", "x")])
    second = _listing(
        [
            _row("1", "y", source="b", url="second", secondary_labels=["z", "x"]),
            _row("1", "x", source="b", url="third"),
        ]
    )
    metadata = _build_all({"a": first, "b": second})
    assert _column(metadata, "url") == {"1": "first", "2": "https://example.org/2"}
    assert _column(metadata, "secondary_labels")["1"] == ["y", "z"]
    assert metadata.rejected["detail"].tolist() == [
        "row 2 of this id: b second",
        "row 3 of this id: b third",
    ]


def test_ids_that_differ_in_unicode_form_only_are_one_id() -> None:
    metadata = _build([_row("e\u0301"), _row(" \u00e9 ")])
    assert metadata.recordings["recording_id"].tolist() == ["\u00e9"]


def test_row_of_an_id_that_no_run_can_use_gives_way_to_one_that_it_can() -> None:
    metadata = _build([_row("1", None), _row("1", "x", url="second")])
    assert _column(metadata, "url") == {"1": "second"}
    assert metadata.rejected["reason"].tolist() == ["no_label"]


def test_low_rating_of_the_first_listing_is_not_evaded_by_a_second() -> None:
    rows = [_row("1", rating=1.0), _row("1", rating=5.0), _row("2")]
    metadata = _build(rows, min_rating=3.0)
    assert metadata.recordings["recording_id"].tolist() == ["2"]
    assert metadata.rejected["reason"].tolist() == ["listed_again", "low_rating"]


def test_equal_rejections_of_one_id_are_numbered() -> None:
    rows = [_row("1", licence=None), _row("1", licence=None), _row("2")]
    metadata = _build_all({"a": _listing(rows)}, licences=("CC0",))
    assert metadata.rejected["detail"].tolist() == ["unknown", "unknown (row 2 of this kind)"]


def _upload(recording_id: str, source: str, collection: str, **changes: Any) -> Row:
    event = {"recordist": "Ana", "recorded_on": "2021-05-03", "duration_s": 30.0}
    return _row(
        recording_id,
        **{"label": "x", "source": source, "collection": collection, **event, **changes},
    )


def test_upload_to_a_second_collection_goes_and_leaves_its_secondary_labels() -> None:
    listings = {
        "b": _listing([_upload("XC1", "b", "XC", secondary_labels=["y"])]),
        "a": _listing([_upload("iNat1", "a", "iNat", secondary_labels=["z", "y", "x"])]),
    }
    metadata = _build_all(listings)
    assert _column(metadata, "secondary_labels") == {"XC1": ["y", "z"]}
    assert metadata.rejected[["recording_id", "reason", "detail"]].to_numpy().tolist() == [
        ["iNat1", "same_event", "kept as XC1"]
    ]
    kept = _build_all(listings, drop_same_event=False)
    assert kept.recordings["recording_id"].tolist() == ["XC1", "iNat1"]


def test_species_of_two_names_are_one_for_the_same_event_too() -> None:
    rows = [
        _upload("1", "a", "XC", label=None, scientific_name="Parus caeruleus"),
        _upload("2", "a", "iNat", label="blutit", scientific_name="Cyanistes caeruleus"),
    ]
    metadata = _build(rows, {"Parus caeruleus": "Cyanistes caeruleus"})
    assert list(_reasons(metadata).values()) == ["same_event"]


def test_only_focal_recordings_can_be_the_same_event() -> None:
    rows = [_row("1", "x"), _upload("2", "a", "XC", role="noise")]
    assert _build([*rows, _upload("3", "a", "iNat", role="noise")]).rejected.empty


def test_rare_species_is_dropped_unless_asked_for() -> None:
    rows = [_row("1", "x"), _row("2", "y"), _row("3", "y"), _row("4", "z")]
    metadata = _build(rows, min_recordings=2)
    assert _reasons(metadata) == {"1": "species_too_rare", "4": "species_too_rare"}
    metadata = _build(rows, min_recordings=2, species=("x",))
    assert _reasons(metadata) == {"4": "species_too_rare"}
    assert metadata.classes["target"].tolist() == [True, False]


def test_targets_come_first_and_each_part_is_sorted() -> None:
    rows = [_row(label, label) for label in ("b", "d", "a", "c")]
    classes = _build(rows, species=("d", "b")).classes
    assert classes["label"].tolist() == ["b", "d", "a", "c"]
    assert classes["index"].tolist() == [0, 1, 2, 3]
    assert classes["target"].tolist() == [True, True, False, False]


def test_common_name_goes_to_the_classes_table() -> None:
    rows = [_row("1", "x"), _row("2", "x", common_name="Great Tit"), _row("3", "y")]
    names = _build(rows).classes["common_name"]
    assert names[0] == "Great Tit"
    assert pd.isna(names[1])


def test_other_species_are_rejected_where_they_are_not_kept() -> None:
    rows = [_row("1", "x"), _row("2", "y"), _row("3", None, role="noise")]
    metadata = _build(rows, species=("x",), keep_others=False)
    assert _reasons(metadata) == {"2": "species_not_asked_for"}
    assert metadata.classes["label"].tolist() == ["x"]


def test_species_may_be_asked_for_by_an_old_name_in_any_case() -> None:
    rows = [_row("1", "blutit", scientific_name="Cyanistes caeruleus"), _row("2", "x")]
    synonyms = {"Parus caeruleus": "Cyanistes caeruleus"}
    metadata = _build(rows, synonyms, species=("parus CAERULEUS",))
    assert metadata.classes.loc[metadata.classes["target"], "label"].tolist() == ["blutit"]


def test_long_list_of_unlisted_species_is_cut_and_says_how_to_take_all() -> None:
    rows = [_row("1", "gretit1", scientific_name="Parus major")]
    with pytest.raises(ConfigError) as error:
        _build(rows, species=tuple(f"none{number}" for number in range(9)))
    lines = str(error.value).splitlines()
    assert len(lines) == 6
    assert lines[-1] == ("metadata.species: so it is with 4 more; null takes every species")


def test_species_that_nobody_lists_are_all_named_with_the_nearest_name() -> None:
    rows = [_row("1", "gretit1", scientific_name="Parus major")]
    with pytest.raises(ConfigError) as error:
        _build(rows, species=("gretit", "Parus mayor", "gretit1"))
    assert str(error.value).splitlines() == [
        "metadata.species: no source lists 'gretit'; did you mean 'gretit1'?",
        "metadata.species: no source lists 'Parus mayor'; did you mean 'Parus major'?",
    ]


def test_names_that_the_edition_lacks_are_counted_listed_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        _row("1", None, scientific_name="Parus major", secondary_labels=["Parus vetus"]),
        _row("2", None, scientific_name="Hyla nova"),
        _row("3", None, scientific_name="hyla NOVA", source="b"),
        _row("4", None, role="soundscape", annotated=True),
    ]
    taxon = {"CATEGORY": "species", "SPECIES_CODE": "gretit1", "SCI_NAME": "Parus major"}
    annotated = {"recording_id": "4", "start_s": 0.0, "end_s": 1.0, "label": "gretit1"}
    metadata = _build_all(
        {"a": _listing(rows, [annotated])}, ebird=Ebird([{**taxon, "REPORT_AS": ""}])
    )
    assert _column(metadata, "label")["1"] == "gretit1"
    assert metadata.counts()["n_unmapped_names"] == 1
    assert metadata.unmapped_names().tolist() == ["Hyla nova"]
    assert "the eBird taxonomy lacks 1 names, which are labels as they stand: Hyla nova" in (
        caplog.text
    )
    shown = metadata.species_names[["source", "place", "listed", "how", "n_recordings"]]
    assert shown.to_numpy().tolist() == [
        ["a", "annotation", "gretit1", "source_label", 1],
        ["a", "background", "Parus vetus", "unlisted", 1],
        ["a", "recording", "Hyla nova", "unmapped", 1],
        ["a", "recording", "Parus major", "ebird", 1],
        ["b", "recording", "hyla NOVA", "unmapped", 1],
    ]


def test_species_is_asked_for_by_its_code_in_the_edition() -> None:
    taxon = {"CATEGORY": "species", "SPECIES_CODE": "gretit1", "SCI_NAME": "Parus major"}
    rows = [_row("1", "Great tit", scientific_name="Parus major"), _row("2", "x")]
    metadata = _build_all(
        {"a": _listing(rows)}, species=("gretit1",), ebird=Ebird([{**taxon, "REPORT_AS": ""}])
    )
    assert metadata.classes["label"].tolist() == ["Great tit", "x"]
    assert metadata.classes["target"].tolist() == [True, False]


def test_species_asked_for_but_filtered_out_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no recording of 'x' passes"):
        _build([_row("1", "x", rating=1.0), _row("2", "y")], species=("x",), min_rating=3.0)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no focal recording is left"):
        _build([_row("1")], min_recordings=2)


def test_low_ratings_go_and_unrated_recordings_stay() -> None:
    rows = [_row("0", rating=0.0), _row("n"), _row("2", rating=2.5), _row("3", rating=3.0)]
    metadata = _build(rows, min_rating=3.0)
    assert _reasons(metadata) == {"2": "low_rating"}


def test_only_focal_recordings_are_chosen_by_species_and_rating() -> None:
    rows = [
        _row("1"),
        _row("2"),
        _row("3", "rain", role="noise"),
        _row("4", None, role="soundscape", rating=1.0),
        _row("5", "gretit1", role="soundscape"),
    ]
    metadata = _build(rows, min_recordings=2, max_recordings=2, min_rating=3.0)
    assert metadata.rejected.empty
    assert metadata.classes["n_recordings"].tolist() == [2]


def test_cap_keeps_the_best_rated_then_the_first_ids_of_each_species() -> None:
    rows = [
        _row("a", rating=3.0),
        _row("c", rating=5.0),
        _row("b", rating=5.0),
        _row("d"),
        _row("e", rating=5.0),
        _row("x", "other"),
        _row("s", None, role="soundscape"),
    ]
    metadata = _build(rows, max_recordings=2)
    assert _reasons(metadata) == dict.fromkeys("ade", "species_over_cap")


def test_cap_by_date_keeps_the_newest_and_the_undated_last() -> None:
    dates = {"a": None, "b": "2015-06", "c": "2015-06-23", "d": "2020", "e": "2015-06-23"}
    rows = [_row(name, recorded_on=date, rating=5.0) for name, date in dates.items()]
    metadata = _build(rows, max_recordings=2, cap_by="newest")
    assert sorted(_reasons(metadata)) == ["a", "b", "e"]
    assert metadata.rejected["detail"].tolist()[0] == "gretit1: place 5 by newest"


def test_cap_as_listed_keeps_what_comes_first() -> None:
    rows = [_row("c"), _row("a"), _row("b", recorded_on="2020", rating=5.0)]
    metadata = _build(rows, max_recordings=2, cap_by="listed")
    assert _reasons(metadata) == {"b": "species_over_cap"}
    assert metadata.rejected["detail"].tolist() == ["gretit1: place 3 by listed"]


@pytest.mark.parametrize("cap_by", ["rating", "newest", "listed"])
def test_cap_drops_nothing_of_the_first_source_before_the_others(cap_by: str) -> None:
    old = [_row(name, source="b", rating=1.0, recorded_on="1990-01-01") for name in ("p", "q")]
    new = [_row(name, rating=5.0, recorded_on="2020-01-01") for name in ("r", "s")]
    listings = {"b": _listing(old), "a": _listing(new)}
    for most, gone in ((3, ["s"]), (2, ["r", "s"]), (1, ["q", "r", "s"])):
        metadata = _build_all(listings, max_recordings=most, cap_by=cap_by)
        assert sorted(_reasons(metadata)) == gone


def test_only_accepted_licences_stay_in_every_role() -> None:
    rows = [
        _row("1", licence="CC BY-NC-ND 4.0"),
        _row("2", licence="//creativecommons.org/licenses/by/4.0/"),
        _row("3", licence=None),
        _row("4", None, role="noise", licence="all rights reserved"),
    ]
    metadata = _build_all({"a": _listing(rows)}, licences=("CC0", "CC-BY"))
    assert _reasons(metadata) == dict.fromkeys("134", "licence")
    assert _column(metadata, "licence") == {"2": "CC-BY-4.0"}


def test_recording_without_any_name_and_unknown_role_are_rejected() -> None:
    metadata = _build([_row("1"), _row("2", None), _row("3", " "), _row("4", role="field")])
    assert _reasons(metadata) == {"2": "no_label", "3": "no_label", "4": "unknown_role"}


@pytest.mark.parametrize("nothing", [None, "", "  ", "\r\n"])
def test_row_without_an_id_is_rejected_and_costs_no_other(
    nothing: str | None, tmp_path: Path
) -> None:
    rows = [_row("1"), _row("2") | {"recording_id": nothing}]
    rows.append(_row("3", url="u") | {"recording_id": nothing})
    metadata = _build(rows)
    assert metadata.recordings["recording_id"].tolist() == ["1"]
    assert metadata.rejected[["recording_id", "reason", "detail"]].to_numpy().tolist() == [
        ["a/unnamed", "no_id", "https://example.org/2"],
        ["a/unnamed", "no_id", "u"],
    ]
    write_table(metadata.rejected, tmp_path / "rejected.parquet", REJECTED)


def test_annotations_written_twice_are_one_and_those_of_dropped_recordings_go() -> None:
    rows = [_row("1"), _row("s", None, role="soundscape", annotated=True)]
    stretch: Row = {"recording_id": "s", "start_s": 1.0, "end_s": 4.0, "label": "gretit1"}
    annotations = [stretch, stretch, {**stretch, "end_s": 6.0}, {**stretch, "recording_id": "t"}]
    metadata = _build_all({"a": _listing(rows, annotations)})
    assert metadata.annotations.to_dict("records") == [{**stretch, "end_s": 6.0}]


def test_what_a_source_rejects_is_handed_on() -> None:
    stated: Row = {"recording_id": "q", "stage": "metadata", "reason": "restricted", "detail": "-"}
    metadata = _build_all({"a": _listing([_row("1")], (), [stated])})
    assert metadata.rejected.to_dict("records") == [stated | {"source": "a"}]


def test_counts_are_per_source_role_and_reason() -> None:
    rows = [
        _row("1", "x"),
        _row("2", "x", source="b"),
        _row("3", None, role="noise"),
        _row("4", "y"),
        _row("5", "z", rating=1.0),
    ]
    assert _build(rows, species=("x",), min_rating=2.0).counts() == {
        "recordings": {"a": {"focal": 2, "noise": 1}, "b": {"focal": 1}},
        "rejected": {"low_rating": 1},
        "n_annotations": 0,
        "n_targets": 1,
        "n_others": 1,
        "n_unmapped_names": 0,
    }


def _random_rows(rng: np.random.Generator, n_rows: int) -> list[Row]:
    n_species = max(2, n_rows // 20)
    epithets = ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=3))
    names = [f"Genus {epithet}" for epithet in itertools.islice(epithets, n_species)]
    rows = []
    for species, twin, number in zip(
        rng.integers(n_species, size=n_rows),
        rng.integers(n_species, size=n_rows),
        rng.integers(int(n_rows * 0.95) + 1, size=n_rows),
        strict=True,
    ):
        rows.append(
            _row(
                f"r{number}",
                [f"s{species}", f"old{species}", None][number % 3],
                scientific_name=[names[species], names[species].upper(), None][number % 7 % 3],
                role=["focal", "focal", "focal", "soundscape", "noise", "fcal"][number % 11 % 6],
                rating=[None, 0.0, 1.0, 3.5, 5.0, 7.0][number % 13 % 6],
                licence=["CC0", "cc-by-nc", "CC BY-NC-ND 4.0", None][number % 4],
                secondary_labels=[names[twin], f"old{twin}"][: number % 3],
            )
        )
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_every_listed_row_is_kept_or_rejected_with_its_reason(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = _random_rows(rng, 300)
    metadata = _build_all(
        {"a": _listing(rows)},
        min_recordings=int(rng.integers(1, 5)),
        max_recordings=int(rng.integers(5, 30)),
        min_rating=2.0,
        licences=("CC0", "CC-BY-NC", "unknown"),
    )
    kept, rejected = metadata.recordings, metadata.rejected
    assert Counter(kept["recording_id"]) + Counter(rejected["recording_id"]) == Counter(
        str(row["recording_id"]) for row in rows
    )
    assert kept["recording_id"].is_unique
    assert not rejected["detail"].isna().any()
    focal = kept[kept["role"] == "focal"]
    counts = focal["label"].value_counts()
    assert dict(counts) == dict(
        zip(metadata.classes["label"], metadata.classes["n_recordings"], strict=True)
    )
    for name, labels in focal.groupby("scientific_name")["label"]:
        assert labels.nunique() == 1, name
    for own, others in zip(kept["label"], kept["secondary_labels"], strict=True):
        assert pd.isna(own) or own not in others
        assert len(set(others)) == len(others)


def test_order_of_the_rows_does_not_matter() -> None:
    rows = {str(row["recording_id"]): row for row in _random_rows(np.random.default_rng(0), 200)}
    forwards = _build(list(rows.values()), min_recordings=3, max_recordings=9)
    backwards = _build(list(rows.values())[::-1], min_recordings=3, max_recordings=9)
    assert forwards.recordings.equals(backwards.recordings)
    assert forwards.classes.equals(backwards.classes)
    assert forwards.rejected.equals(backwards.rejected)


@pytest.mark.slow
def test_a_hundred_thousand_rows_pass() -> None:
    listing = _listing(_random_rows(np.random.default_rng(1), 100_000))
    metadata = _build_all({"a": listing}, min_recordings=5)
    assert len(metadata.recordings) > 40_000
