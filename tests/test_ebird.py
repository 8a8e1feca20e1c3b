import hashlib
import logging
from pathlib import Path

import pytest

from bclef.config import ConfigError
from bclef.ebird import Ebird
from bclef.nomenclature import Taxonomy, TaxonomyConfig
from bclef.taxonomy import TaxonomyError

HEADER_2021 = (
    "TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER1,FAMILY,"
    "SPECIES_GROUP,REPORT_AS"
)
ROWS_2021 = [
    '1,species,rocpig,Rock Pigeon,Columba livia,Columbiformes,"Columbidae (Pigeons)",Pigeons,',
    '2,domestic,rocpig1,Rock Pigeon (Feral),"Columba livia (Feral Pigeon)",C,C,,rocpig',
    "3,issf,yerwar1,Myrtle Warbler,Setophaga coronata coronata,P,P,,yerwar",
    "4,species,yerwar,Yellow-rumped Warbler,Setophaga coronata,P,P,,",
    "5,slash,y00001,Two Warblers,Setophaga coronata/dominica,P,P,,",
    "6,hybrid,x00001,A x B,Anas crecca x discors,A,A,,",
    "7,spuh,warble1,warbler sp.,Parulidae sp.,P,P,,",
    "8,form,waxwin2,a form,Bombycilla garrulus (form),P,P,,",
    "9,species,gretit1,Great Tit,Parus major,P,P,,",
    "10,form,loop1,loop,Loop a,P,P,,loop2",
    "11,form,loop2,loop,Loop b,P,P,,loop1",
    "12,form,lost1,lost,Lost a,P,P,,nowhere",
]
TEXT_2021 = "\n".join([HEADER_2021, *ROWS_2021]) + "\n"
TEXT_2025 = (
    "\ufeffTAXON_ORDER,CATEGORY,SPECIES_CODE,TAXON_CONCEPT_ID,PRIMARY_COM_NAME,SCI_NAME,ORDER,"
    "FAMILY,SPECIES_GROUP,REPORT_AS\r\n"
    "1,species,gretit1,avibase-1,Great Tit,Parus major,P,P,,\r\n"
    "2,issf,gretit2,avibase-2,Great Tit (major),Parus major major,P,P,,gretit1\r\n"
)


def edition(path: Path, text: str = TEXT_2021) -> Path:
    path.write_bytes(text.encode())
    return path


def code_of(ebird: Ebird, name: str) -> str | None:
    species = ebird.species(name)
    return species.code if species else None


def test_names_have_the_codes_of_the_species_they_are_reported_as(tmp_path: Path) -> None:
    ebird = Ebird.read(edition(tmp_path / "e.csv"), None)
    names = {
        "Columba livia": "rocpig",
        " columba  LIVIA": "rocpig",
        "Columba livia (Feral Pigeon)": "rocpig",
        "Setophaga coronata": "yerwar",
        "Setophaga coronata coronata": "yerwar",
        "Setophaga coronata hooveri": "yerwar",
        "Parus major": "gretit1",
    }
    assert {name: code_of(ebird, name) for name in names} == names


@pytest.mark.parametrize(
    "name",
    [
        "Setophaga coronata/dominica",
        "Anas crecca x discors",
        "Parulidae sp.",
        "Bombycilla garrulus (form)",
        "Turdus merula",
        "Loop a",
        "Lost a",
        "Setophaga",
        "gretit1",
    ],
)
def test_what_is_no_species_has_no_code(name: str, tmp_path: Path) -> None:
    assert code_of(Ebird.read(edition(tmp_path / "e.csv"), None), name) is None


def test_code_stands_for_the_species_it_is_reported_as(tmp_path: Path) -> None:
    ebird = Ebird.read(edition(tmp_path / "e.csv"), None)
    feral = ebird.species_of_code("rocpig1")
    assert feral is not None
    assert (feral.code, feral.scientific_name) == ("rocpig", "Columba livia")
    assert ebird.species_of_code("y00001") is None
    assert ebird.species_of_code("mallar") is None


def test_newer_edition_with_byte_order_mark_and_other_columns_is_read(tmp_path: Path) -> None:
    ebird = Ebird.read(edition(tmp_path / "e.csv", TEXT_2025), None)
    assert code_of(ebird, "Parus major major") == code_of(ebird, "Parus major") == "gretit1"


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    text = "\ufeffSPECIES_CODE,CATEGORY,SCI_NAME,REPORT_AS\ngretit1,species,Parus major,\n"
    assert code_of(Ebird.read(edition(tmp_path / "e.csv", text), None), "Parus major") == "gretit1"


def test_species_wins_the_name_that_a_form_bears_too() -> None:
    species = {"CATEGORY": "species", "SCI_NAME": "A a", "REPORT_AS": ""}
    rows = [
        {"CATEGORY": "form", "SCI_NAME": "A a", "REPORT_AS": "other", "SPECIES_CODE": "form1"},
        {**species, "SPECIES_CODE": "real"},
        {**species, "SPECIES_CODE": "other", "SCI_NAME": "B b"},
    ]
    for order in (rows, rows[::-1]):
        assert code_of(Ebird(order), "A a") == "real"


def test_common_names_in_another_encoding_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(TEXT_2021.replace("Great Tit", "Gr\u00e9at Tit").encode("latin-1"))
    assert code_of(Ebird.read(path, None), "Parus major") == "gretit1"


def test_pinned_edition_is_read_and_another_refused_with_both_hashes(tmp_path: Path) -> None:
    path = edition(tmp_path / "e.csv")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert code_of(Ebird.read(path, found.upper()), "Parus major") == "gretit1"
    with pytest.raises(TaxonomyError, match=f"e.csv: found SHA-256 {found}, expected {'0' * 64}"):
        Ebird.read(path, "0" * 64)


def test_hash_is_logged_for_who_wants_to_pin_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = edition(tmp_path / "e.csv")
    with caplog.at_level(logging.INFO):
        Ebird.read(path, None)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column CATEGORY, SPECIES_CODE, SCI_NAME, REPORT_AS; found ''"),
        ("sciName,comName,speciesCode\na,b,c\n", "found 'sciName,comName,speciesCode'"),
        (TEXT_2021.replace("REPORT_AS", "REPORTED"), "no column REPORT_AS; found 'TAXON_ORDER"),
        (HEADER_2021 + "\n", "no row has CATEGORY 'species'"),
        (TEXT_2021 + "13,species,gretit1,x,Parus minor,P,P,,\n", "code 'gretit1' stands in two"),
        (TEXT_2021 + "13,species,GreTit1,x,Parus minor,P,P,,\n", "code 'GreTit1' stands in two"),
        (
            TEXT_2021 + "13,species,gretit2,x,parus MAJOR,P,P,,\n",
            "the species 'gretit1' and 'gretit2' are both called 'Parus major'",
        ),
        (TEXT_2021 + '13,species,long,"' + "x" * 140_000 + '",A a,P,P,,\n', "field limit"),
        (TEXT_2021 + "13,species,,x,Parus minor,P,P,,\n", "row 14 lacks its code"),
        (TEXT_2021 + "13,species,short\n", "row 14 lacks its code"),
    ],
)
def test_faulty_file_is_refused_by_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=message) as error:
        Ebird.read(edition(tmp_path / "e.csv", text), None)
    assert "e.csv: " in str(error.value)


@pytest.mark.parametrize("name", ["Great\u2028Tit", "Great\x85Tit", "Great\x0bTit", '"Great\rTit"'])
def test_line_end_within_a_field_does_not_end_the_row(name: str, tmp_path: Path) -> None:
    text = TEXT_2021.replace("Great Tit,", f"{name},")
    assert code_of(Ebird.read(edition(tmp_path / "e.csv", text), None), "Parus major") == "gretit1"


def test_capitals_in_codes_do_not_matter(tmp_path: Path) -> None:
    text = TEXT_2021.replace("9,species,gretit1", "9,species,GreTit1") + (
        "13,issf,gretit2,x,Parus major major,P,P,,GRETIT1\n"
    )
    ebird = Ebird.read(edition(tmp_path / "e.csv", text), None)
    assert code_of(ebird, "Parus major major") == "GreTit1"
    for code in ("gretit1", "GRETIT2"):
        found = ebird.species_of_code(code)
        assert found is not None
        assert found.code == "GreTit1"


def test_empty_last_rows_are_passed_over(tmp_path: Path) -> None:
    ebird = Ebird.read(edition(tmp_path / "e.csv", TEXT_2021 + ",,,,,,,,\n"), None)
    assert code_of(ebird, "Parus major") == "gretit1"


def test_missing_file_says_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=r"none\.csv: cannot be read .* eBird"):
        Ebird.read(tmp_path / "none.csv", None)


def test_config_reads_both_tables_and_joins_by_every_name_of_the_species(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    table.write_text("name,accepted_name\nParus major,Parus novus\n", encoding="utf-8")
    config = TaxonomyConfig(
        synonyms=str(table), ebird=str(edition(tmp_path / "e.csv")), ebird_sha256=None
    )
    taxonomy = Taxonomy.read(config)
    assert taxonomy.accepted("Parus major") == "Parus novus"
    assert taxonomy.code("Parus novus") == "gretit1"
    assert taxonomy.name_of_code("gretit1") == "Parus novus"
    assert taxonomy.accepted("Setophaga coronata coronata") == "Setophaga coronata"
    assert "parus NOVUS" in taxonomy
    assert "Setophaga coronata" in taxonomy
    assert "Turdus merula" not in taxonomy


def test_no_edition_gives_no_codes(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    table.write_text("name,accepted_name\n", encoding="utf-8")
    taxonomy = Taxonomy.read(TaxonomyConfig(synonyms=str(table), ebird=None, ebird_sha256=None))
    assert taxonomy.code("Parus major") is None
    assert taxonomy.name_of_code("gretit1") is None
    assert "Parus major" not in taxonomy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ebird_sha256": "0" * 64}, "taxonomy: ebird_sha256 pins a file, but ebird is null"),
        ({"ebird": "e.csv", "ebird_sha256": "0" * 63}, "taxonomy.ebird_sha256: "),
        ({"ebird": "e.csv", "ebird_sha256": "g" * 64}, "taxonomy.ebird_sha256: "),
        ({"ebird": ""}, "taxonomy.ebird: "),
        ({"synonyms": None}, "taxonomy.synonyms: "),
    ],
)
def test_faulty_section_is_refused(changes: dict[str, object], message: str) -> None:
    tree = {"synonyms": "s.csv", "ebird": None, "ebird_sha256": None, **changes}
    with pytest.raises(ConfigError, match=message):
        TaxonomyConfig.from_tree(tree, "params.yaml", "taxonomy")
