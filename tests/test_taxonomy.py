from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bclef.tables import write_table
from bclef.taxonomy import CLASSES, ClassList, Synonyms, TaxonomyError, read_classes


def _synonyms(path: Path, text: str) -> Synonyms:
    path.write_bytes(text.encode())
    return Synonyms.read(path)


def test_class_list_keeps_the_order_it_is_given() -> None:
    classes = ClassList(("c", "a", "b"))
    assert list(classes) == ["c", "a", "b"]
    assert [classes.position(label) for label in "abc"] == [1, 2, 0]
    assert len(classes) == 3
    assert "a" in classes
    assert "d" not in classes


@pytest.mark.parametrize("labels", [(), ("a", "b", "a"), ("a", "")])
def test_class_list_refuses_no_labels_duplicates_and_empty_ones(labels: tuple[str, ...]) -> None:
    with pytest.raises(TaxonomyError):
        ClassList(labels)


def test_duplicate_label_is_named() -> None:
    with pytest.raises(TaxonomyError, match=r"twice in a class list: b$"):
        ClassList(("a", "b", "b", "c"))


def test_class_list_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ClassList(("a",)).labels = ("b",)  # type: ignore[misc]


def test_class_lists_are_equal_only_in_the_same_order() -> None:
    assert ClassList(("a", "b")) == ClassList(("a", "b"))
    assert ClassList(("a", "b")) != ClassList(("b", "a"))


def test_targets_stand_in_class_order() -> None:
    targets = ClassList(("c", "a", "b")).targets([["a"], [], ["b", "c", "b"]])
    np.testing.assert_array_equal(targets, [[0, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert targets.dtype == np.float32


def test_no_rows_give_an_empty_target_of_all_classes() -> None:
    assert ClassList(("a", "b")).targets([]).shape == (0, 2)


def test_unknown_label_is_ignored_only_where_asked() -> None:
    classes = ClassList(("a", "b"))
    with pytest.raises(TaxonomyError, match="'x' is none of the 2 classes"):
        classes.targets([["a", "x"]])
    np.testing.assert_array_equal(classes.targets([["a", "x"]], ignore_unknown=True), [[1, 0]])


def test_classes_are_read_in_index_order_targets_first(tmp_path: Path) -> None:
    classes = pd.DataFrame(
        {
            "index": [2, 0, 1],
            "label": ["10", "zebra", "apple"],
            "scientific_name": ["C c", "A a", "B b"],
            "common_name": [None, "A", None],
            "taxon_class": [None, None, None],
            "n_recordings": [3, 4, 5],
            "target": [False, True, True],
        }
    )
    write_table(classes, tmp_path / "classes.parquet", CLASSES)
    assert read_classes(tmp_path / "classes.parquet").labels == ("zebra", "apple")
    every = read_classes(tmp_path / "classes.parquet", target_only=False)
    assert every.labels == ("zebra", "apple", "10")


def test_chain_of_synonyms_ends_at_the_last_name(tmp_path: Path) -> None:
    synonyms = _synonyms(tmp_path / "s.csv", "name,accepted_name\nB b,C c\nA a,B b\nC c,D d\n")
    assert {synonyms.accepted(name) for name in ("A a", "B b", "C c", "D d")} == {"D d"}


@pytest.mark.parametrize(
    "spelling",
    ["hydropsalis  MACULICAUDUS", " Hydropsalis maculicaudus\t", "hydropsalis\u00a0maculicaudus"],
)
def test_case_and_white_space_do_not_matter_to_a_synonym(spelling: str, tmp_path: Path) -> None:
    synonyms = _synonyms(
        tmp_path / "s.csv",
        "\ufeffname,accepted_name\r\nHydropsalis maculicaudus,Antiurus maculicaudus\r\n",
    )
    assert synonyms.accepted(spelling) == "Antiurus maculicaudus"


def test_composed_and_decomposed_letters_are_one_name() -> None:
    synonyms = Synonyms({"Larus schr\u00f6deri": "Larus novus"})
    assert synonyms.accepted("Larus schro\u0308deri") == "Larus novus"


def test_name_without_synonym_comes_back_in_one_form() -> None:
    assert Synonyms({}).accepted(" turdus  MERULA ") == "Turdus merula"


def test_all_names_of_a_species_are_had_by_any_of_them() -> None:
    synonyms = Synonyms({"B b": "C c", "Z z": "B b", "A a": "C c", "X x": "Y y", "lab": "C c"})
    for name in ("A a", "b  B", "C c", "Z z"):
        assert synonyms.same_species(name) == ["C c", "A a", "B b", "Z z"]
    assert synonyms.same_species("turdus MERULA") == ["Turdus merula"]
    assert "c c" in synonyms
    assert "Turdus merula" not in synonyms


def test_single_word_is_a_label_and_keeps_its_letters(tmp_path: Path) -> None:
    synonyms = _synonyms(
        tmp_path / "s.csv",
        "name,accepted_name\nmallar,mallar3\nROPI,rocpig\nrocpig,Columba livia\n",
    )
    assert synonyms.replaced("mallar") == "mallar3"
    assert synonyms.replaced("Mallar") == "Mallar"
    assert synonyms.replaced("ROPI") == "Columba livia"
    assert synonyms.accepted("mallar") == "Mallar"
    assert synonyms.same_species("Columba livia") == ["Columba livia"]


def test_name_is_not_replaced_by_a_label() -> None:
    with pytest.raises(TaxonomyError, match=r"'Columba livia' cannot be replaced by .* 'rocpig'"):
        Synonyms({"Columba livia": "rocpig"})


def test_table_that_comes_with_the_project_has_the_known_renames() -> None:
    synonyms = Synonyms.read(Path(__file__).parents[1] / "taxonomy" / "synonyms.csv")
    assert synonyms.replaced("mallar") == "mallar3"
    assert synonyms.replaced("rufant1") == "rufant7"
    assert synonyms.replaced("rocpig1") == synonyms.replaced("rocpig")
    names = {synonyms.accepted(f"{genus} maculicaudus") for genus in ("Antiurus", "Hydropsalis")}
    assert len(names) == 1


def test_name_that_is_its_own_accepted_name_is_no_circle() -> None:
    assert Synonyms({"Turdus Merula": "Turdus merula"}).accepted("turdus merula") == "Turdus merula"


def test_circle_of_synonyms_is_refused_and_shown(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match="A a -> B b -> C c -> A a"):
        _synonyms(tmp_path / "s.csv", "name,accepted_name\nA a,B b\nB b,C c\nC c,a a\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,accepted_name\nA a,B b\nA a,C c\n", "row 3: 'A a' has two accepted names"),
        ("name,accepted_name\nA a,B b\na A,C c\n", "'A a' is both 'B b' and 'C c'"),
        ("name,accepted_name\nA a\n", "row 2 needs two names"),
        ("name,accepted_name\nA a, \n", "row 2 needs two names"),
        ("name,accepted_name\nA a,B b,C c\n", "row 2 needs two names"),
        ("synonym,name\nA a,B b\n", "expected 'name,accepted_name'"),
        ("", "expected 'name,accepted_name'"),
    ],
)
def test_faulty_synonym_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match=message):
        _synonyms(tmp_path / "s.csv", text)


def test_missing_synonym_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaxonomyError, match="not a readable"):
        Synonyms.read(tmp_path / "none.csv")
