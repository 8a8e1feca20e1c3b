from pathlib import Path

import pandas as pd
import pytest

from bclef.ebird import Ebird
from bclef.naming import SPECIES_NAMES, SpeciesNames
from bclef.nomenclature import Taxonomy
from bclef.tables import read_table, write_table
from bclef.taxonomy import Synonyms

EDITION = [
    ("species", "gretit1", "Parus major", ""),
    ("species", "blutit", "Cyanistes caeruleus", ""),
    ("species", "rocpig", "Columba livia", ""),
    ("domestic", "rocpig1", "Columba livia (Feral Pigeon)", "rocpig"),
    ("species", "augbuz1", "Buteo augur", ""),
    ("issf", "yerwar1", "Setophaga coronata coronata", "yerwar"),
    ("species", "yerwar", "Setophaga coronata", ""),
    ("slash", "y00001", "Parus major/minor", ""),
]
COLUMNS = ("CATEGORY", "SPECIES_CODE", "SCI_NAME", "REPORT_AS")
Pair = tuple[str | None, str | None]


def taxonomy(edition: bool = False, **synonyms: str) -> Taxonomy:
    """Returns tables of names; `Parus_novus="Parus major"` is a synonym."""
    table = {name.replace("_", " "): accepted for name, accepted in synonyms.items()}
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in EDITION]
    return Taxonomy(Synonyms(table), Ebird(rows) if edition else None)


def listed(*pairs: Pair) -> pd.DataFrame:
    """Returns focal recordings of source `a` with these labels and names."""
    rows = [("a", *pair) for pair in pairs]
    return pd.DataFrame(rows, columns=["source", "label", "scientific_name"], dtype="string")


def labels(tables: Taxonomy, *pairs: Pair) -> list[str | None]:
    rows = listed(*pairs)
    found = SpeciesNames(rows, tables).labels(rows)
    return [None if pd.isna(label) else label for label in found]


def how(tables: Taxonomy, *pairs: Pair) -> list[str]:
    """Returns how the label of each pair was found, in the order of the pairs."""
    table = SpeciesNames(listed(*pairs), tables).table(mentioned())
    ways = {
        (label, name): way
        for label, name, way in zip(
            table["listed_label"].astype(object).where(table["listed_label"].notna(), None),
            table["scientific_name"].astype(object).where(table["scientific_name"].notna(), None),
            table["how"],
            strict=True,
        )
    }
    return [ways[pair] for pair in pairs]


def mentioned(*rows: tuple[str, str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source", "place", "text", "n_recordings"])


def test_name_that_no_source_labels_gets_the_code_of_the_edition() -> None:
    pairs: list[Pair] = [(None, "Parus major"), (None, "parus MAJOR"), (None, "Turdus merula")]
    assert labels(taxonomy(edition=True), *pairs) == ["gretit1", "gretit1", "Turdus merula"]
    assert how(taxonomy(edition=True), *pairs) == ["ebird", "ebird", "unmapped"]
    assert labels(taxonomy(), *pairs) == ["Parus major", "Parus major", "Turdus merula"]
    assert how(taxonomy(), *pairs) == ["name_only"] * 3


def test_code_is_found_by_any_name_of_the_species() -> None:
    tables = taxonomy(edition=True, Parus_major="Parus novus", Parus_vetus="Parus major")
    pairs: list[Pair] = [(None, "Parus novus"), (None, "Parus vetus")]
    assert labels(tables, *pairs) == ["gretit1", "gretit1"]
    assert SpeciesNames(listed(*pairs), tables).scientific_names == {"gretit1": "Parus novus"}


def test_what_a_source_states_is_not_overruled_by_the_edition() -> None:
    pairs: list[Pair] = [
        ("augbuz2", "Buteo augur"),
        (None, "Buteo augur"),
        ("1161364", "Parus major"),
    ]
    tables = taxonomy(edition=True)
    assert labels(tables, *pairs) == ["augbuz2", "augbuz2", "1161364"]
    assert how(tables, *pairs) == ["source_label", "same_species", "source_label"]


def test_label_that_is_a_code_has_the_name_of_the_code() -> None:
    tables = taxonomy(edition=True)
    pairs: list[Pair] = [("gretit1", None), (None, "Parus major"), ("rocpig1", None)]
    assert labels(tables, *pairs) == ["gretit1", "gretit1", "rocpig1"]
    names = SpeciesNames(listed(*pairs), tables)
    assert names.scientific_names == {"gretit1": "Parus major", "rocpig1": "Columba livia"}
    assert names.label("rocpig") == "rocpig1"


def test_subspecies_and_codes_of_forms_are_their_species() -> None:
    pairs: list[Pair] = [(None, "Setophaga coronata coronata"), (None, "Setophaga coronata")]
    assert labels(taxonomy(edition=True), *pairs) == ["yerwar", "yerwar"]
    pairs = [("rocpig1", None), ("rocpig", None), ("rocpig", "Columba livia")]
    assert set(labels(taxonomy(edition=True), *pairs)) == {"rocpig"}
    assert labels(taxonomy(), *pairs) == ["rocpig1", "rocpig", "rocpig"]


def test_species_is_asked_for_by_code_name_or_label() -> None:
    tables = taxonomy(edition=True, ROPI="rocpig")
    names = SpeciesNames(listed(("Great Tit", "Parus major"), ("rocpig", "Columba livia")), tables)
    for text in ("gretit1", "parus MAJOR", "Great Tit", "great tit"):
        assert names.label(text) == "Great Tit"
    assert names.label("ROPI") == "rocpig"
    assert names.label("rocpig1") == "rocpig"
    assert names.label("blutit") == "blutit"
    assert names.label("Cyanistes caeruleus") == "blutit"


def test_renamed_label_is_one_with_the_new_one_and_renamed_where_it_stands_alone() -> None:
    tables = taxonomy(rocpig1="rocpig", mallar="mallar3")
    name = "Columba livia"
    pairs: list[Pair] = [("rocpig1", name), ("rocpig1", None), ("rocpig", None), ("mallar", None)]
    assert labels(tables, *pairs) == ["rocpig", "rocpig", "rocpig", "mallar3"]
    assert how(tables, *pairs) == ["synonym", "synonym", "source_label", "synonym"]
    assert SpeciesNames(listed(*pairs), tables).label("rocpig1") == "rocpig"


def test_label_may_be_replaced_by_the_name_it_stands_for() -> None:
    tables = taxonomy(ROPI="Columba livia")
    assert labels(tables, ("ROPI", None), ("rocpig", "Columba livia")) == ["rocpig", "rocpig"]
    assert labels(tables, ("ROPI", None)) == ["Columba livia"]


def test_label_that_is_a_known_name_is_taken_as_the_name() -> None:
    known: Pair = ("blutit", "Cyanistes caeruleus")
    folder: Pair = ("Parus caeruleus", None)
    tables = taxonomy(Parus_caeruleus="Cyanistes caeruleus")
    assert labels(tables, known, folder) == ["blutit", "blutit"]
    assert labels(taxonomy(), known, ("cyanistes CAERULEUS", None)) == ["blutit", "blutit"]
    assert labels(taxonomy(edition=True), ("parus major", None)) == ["gretit1"]
    assert labels(taxonomy(), ("barking dog", None)) == ["barking dog"]


def test_labels_that_differ_in_capitals_only_are_one() -> None:
    pairs: list[Pair] = [("parus major", None), ("Parus major", None), ("Parus major", None)]
    assert set(labels(taxonomy(), *pairs)) == {"Parus major"}
    pairs = [("BOABIS", "Boana bischoffi"), ("boabis", None)]
    assert set(labels(taxonomy(), *pairs)) == {"BOABIS"}
    assert how(taxonomy(), *pairs) == ["source_label", "same_species"]


def test_labels_that_differ_in_capitals_stay_apart_where_their_names_say_so() -> None:
    pairs: list[Pair] = [("aba", "Abies alba"), ("ABA", "Abdimia abacus"), ("ABA", None)]
    assert labels(taxonomy(), *pairs) == ["aba", "ABA", "ABA"]


@pytest.mark.parametrize(
    "name", ["Insecta", "Gryllus sp.", "Unidentified cicada", "Parus cf. major"]
)
def test_name_that_leaves_the_species_open_unites_nothing(name: str) -> None:
    pairs: list[Pair] = [("47158son01", name), ("47158son02", name), (None, name)]
    assert labels(taxonomy(), *pairs) == ["47158son01", "47158son02", name]


def test_code_of_a_subspecies_gives_way_to_the_species_own() -> None:
    tables = taxonomy(edition=True)
    pairs: list[Pair] = [("rocpig1", "Columba livia")] * 3 + [(None, "Columba livia")]
    assert labels(tables, *pairs) == ["rocpig"] * 4
    assert how(tables, *pairs) == ["same_species"] * 3 + ["ebird"]
    names = SpeciesNames(listed(*pairs), tables)
    assert [names.label(text) for text in ("rocpig", "rocpig1", "RocPig")] == ["rocpig"] * 3
    assert labels(tables, *pairs, ("house", None), ("ROPI", "Columba livia")) == [
        *["ROPI"] * 4, "house", "ROPI",
    ]  # fmt: skip
    assert labels(tables, *pairs[:3]) == ["rocpig1"] * 3


def test_recordings_without_label_do_not_overrule_what_is_stated() -> None:
    pairs: list[Pair] = [("gretit1", "Parus vetus"), *[(None, "Parus major")] * 9]
    pairs += [("kohmei", "Parus vetus")] * 2
    assert set(labels(taxonomy(edition=True, Parus_vetus="Parus major"), *pairs)) == {"kohmei"}


def test_capitals_in_a_code_do_not_matter() -> None:
    tables = taxonomy(edition=True)
    pairs: list[Pair] = [
        ("GRETIT1", None),
        ("Blutit", "Cyanistes caeruleus"),
        (None, "Parus major"),
    ]
    assert labels(tables, *pairs) == ["gretit1", "blutit", "gretit1"]
    assert how(tables, *pairs) == ["same_species"] * 3
    names = SpeciesNames(listed(*pairs), tables)
    assert [names.label(text) for text in ("GreTit1", "BLUTIT", "AUGBUZ1")] == [
        "gretit1", "blutit", "augbuz1",
    ]  # fmt: skip
    assert labels(tables, ("BLUTIT", "Bluteus titus")) == ["BLUTIT"]


def test_nothing_stated_stays_null() -> None:
    assert labels(taxonomy(), (None, None), ("x", None)) == [None, "x"]


def test_order_of_the_rows_decides_nothing() -> None:
    pairs: list[Pair] = [
        ("x", "A a"), ("y", "A a"), ("X", None), ("z", "B b"), ("z", "A a"), (None, "B b"),
    ]  # fmt: skip
    forwards = labels(taxonomy(), *pairs)
    assert labels(taxonomy(), *pairs[::-1])[::-1] == forwards


def test_table_lists_every_name_with_what_became_of_it(tmp_path: Path) -> None:
    tables = taxonomy(edition=True, Parus_vetus="Parus major", rocpig1="rocpig")
    rows = pd.concat(
        [
            listed(("gretit1", "Parus major"), ("gretit1", "Parus major"), (None, "Parus vetus")),
            listed(("rocpig1", None), (None, "Hyla nova")).assign(source="b"),
        ]
    )
    table = SpeciesNames(rows, tables).table(
        mentioned(
            ("b", "background", "Parus vetus", 7),
            ("b", "background", "Cyanistes caeruleus", 2),
            ("b", "annotation", "????", 1),
        )
    )
    write_table(table, tmp_path / "t.parquet", SPECIES_NAMES)
    assert read_table(tmp_path / "t.parquet", SPECIES_NAMES).equals(table)
    shown = table[["source", "place", "listed", "accepted_name", "label", "how", "n_recordings"]]
    assert shown.astype(object).where(shown.notna(), None).to_numpy().tolist() == [
        ["a", "recording", "Parus vetus", "Parus major", "gretit1", "synonym", 1],
        ["a", "recording", "gretit1 / Parus major", "Parus major", "gretit1", "source_label", 2],
        ["b", "annotation", "????", None, "????", "unlisted", 1],
        ["b", "background", "Cyanistes caeruleus", None, "blutit", "unlisted", 2],
        ["b", "background", "Parus vetus", "Parus major", "gretit1", "synonym", 7],
        ["b", "recording", "Hyla nova", "Hyla nova", "Hyla nova", "unmapped", 1],
        ["b", "recording", "rocpig1", "Columba livia", "rocpig", "synonym", 1],
    ]
