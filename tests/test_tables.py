"""Tables come back as they were written, byte for byte, or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bclef import tables
from bclef.tables import (
    Schema,
    TableError,
    atomic_dir,
    atomic_path,
    empty_table,
    read_json,
    read_table,
    write_json,
    write_table,
)

BIRDS = Schema(
    "BIRDS",
    ("recording_id",),
    {
        "recording_id": "string",
        "label": "string?",
        "n_samples": "int64?",
        "index": "int64",
        "level_dbfs": "float32",
        "latitude_deg": "float64?",
        "annotated": "bool",
        "checked": "bool?",
        "secondary_labels": "list[string]",
        "activity": "list[float32]",
        "fingerprint": "binary?",
    },
)


def birds(**changes: object) -> pd.DataFrame:
    columns: dict[str, object] = {
        "recording_id": ["b", "a", "c"],
        "label": ["0123", None, "no"],
        "n_samples": pd.array([1, None, 2**53 + 1], dtype="Int64"),
        "index": [3, 1, 2],
        "level_dbfs": [-np.inf, -3.5, 0],
        "latitude_deg": [1.5, np.nan, -90.0],
        "annotated": [True, False, True],
        "checked": [None, True, False],
        "secondary_labels": [["x", "y"], [], ("z",)],
        "activity": [np.array([0.5, 0.25]), [], [1.0]],
        "fingerprint": [b"\x00\x01", None, b""],
    }
    return pd.DataFrame({**columns, **changes})


def test_table_comes_back_sorted_with_its_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    write_table(birds(), path, BIRDS)
    rows = read_table(path, BIRDS)
    assert list(rows.columns) == list(BIRDS.columns)
    assert {column: str(dtype) for column, dtype in rows.dtypes.items()} == {
        "recording_id": "string",
        "label": "string",
        "n_samples": "Int64",
        "index": "int64",
        "level_dbfs": "float32",
        "latitude_deg": "float64",
        "annotated": "bool",
        "checked": "boolean",
        "secondary_labels": "object",
        "activity": "object",
        "fingerprint": "object",
    }
    assert list(rows["recording_id"]) == ["a", "b", "c"]
    assert rows["label"].isna().tolist() == [True, False, False]
    assert rows["label"][1] == "0123"
    assert rows["n_samples"][2] == 2**53 + 1  # beyond what a float64 could hold
    assert rows["level_dbfs"].tolist() == [-3.5, -np.inf, 0]
    assert np.isnan(rows["latitude_deg"][0])
    assert rows["checked"].isna().tolist() == [False, True, False]
    assert rows["secondary_labels"].tolist() == [[], ["x", "y"], ["z"]]
    assert rows["activity"][1].tolist() == [0.5, 0.25]
    assert rows["activity"][0].dtype == np.float32
    assert rows["fingerprint"].tolist() == [None, b"\x00\x01", b""]


def test_same_rows_give_the_same_bytes_in_any_order_index_and_dtype(tmp_path: Path) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_table(birds(), first, BIRDS)
    other = birds(index=np.array([3, 1, 2], dtype=np.uint8)).iloc[::-1]
    other = other[reversed(other.columns)].set_index(pd.Index([7, 7, 7], name="noise"))
    write_table(other, second, BIRDS)
    assert second.read_bytes() == first.read_bytes()
    write_table(read_table(first, BIRDS), second, BIRDS)
    assert second.read_bytes() == first.read_bytes()


def test_writing_does_not_change_the_frame(tmp_path: Path) -> None:
    frame = birds()
    write_table(frame, tmp_path / "birds.parquet", BIRDS)
    pd.testing.assert_frame_equal(frame, birds())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(
        st.text(max_size=5),
        st.tuples(
            st.none() | st.text(max_size=5),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.lists(st.text(max_size=3), max_size=3),
            st.none() | st.binary(max_size=4),
        ),
        max_size=6,
    )
)
def test_any_values_come_back(rows: Mapping[str, tuple[object, ...]], tmp_path: Path) -> None:
    columns = {"id": "string", "s": "string?", "n": "int64?", "l": "list[string]", "b": "binary?"}
    schema = Schema("ANY", ("id",), columns)
    frame = pd.DataFrame(
        {
            "id": pd.Series(list(rows), dtype=object),
            "s": pd.Series([row[0] for row in rows.values()], dtype=object),
            "n": pd.Series([row[1] for row in rows.values()], dtype="Int64"),
            "l": pd.Series([row[2] for row in rows.values()], dtype=object),
            "b": pd.Series([row[3] for row in rows.values()], dtype=object),
        }
    )
    write_table(frame, tmp_path / "any.parquet", schema)
    back = read_table(tmp_path / "any.parquet", schema)
    found = {
        row["id"]: tuple(None if value is pd.NA else value for value in row[["s", "n", "l", "b"]])
        for _, row in back.iterrows()
    }
    assert found == dict(rows)


@pytest.mark.parametrize(
    ("column", "values", "found", "expected"),
    [
        ("label", ["x", 5, None], "5", "string?"),
        ("label", [np.nan, 1.0, np.nan], "1.0", "string?"),
        ("recording_id", ["b", None, "c"], "found null", "string"),
        ("n_samples", [1.0, 2.5, 3.0], "1.0", "int64?"),
        ("index", ["3", "1", "2"], "'3'", "int64"),
        ("index", [True, False, True], "True", "int64"),
        ("level_dbfs", [0.0, np.nan, 0.0], "found null", "float32"),
        ("level_dbfs", ["0", "1", "2"], "'0'", "float32"),
        ("annotated", [1, 0, 1], "1", "bool"),
        ("annotated", [True, None, True], "found null", "bool"),
        ("secondary_labels", [["a"], None, []], "found null", "list[string]"),
        ("secondary_labels", [["a"], "bc", []], "'bc'", "list[string]"),
        ("secondary_labels", [["a"], ["b", None], []], "['b', None]", "list[string]"),
        ("secondary_labels", [["a"], [1], []], "[1]", "list[string]"),
        ("activity", [[1.0], [np.nan], []], "[nan]", "list[float32]"),
        ("fingerprint", [b"a", "b", None], "'b'", "binary?"),
    ],
)
def test_value_of_another_dtype_names_file_column_row_and_both(
    tmp_path: Path, column: str, values: list[object], found: str, expected: str
) -> None:
    path = tmp_path / "birds.parquet"
    with pytest.raises(TableError) as caught:
        write_table(birds(**{column: values}), path, BIRDS)
    message = str(caught.value)
    assert message.startswith(f"{path}: BIRDS.{column}: found ")
    assert found in message
    assert message.endswith(f", expected {expected}")
    assert "where recording_id = " in message
    assert not list(tmp_path.iterdir())


def test_row_of_a_fault_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="found 5 where recording_id = 'a', expected string"):
        write_table(birds(label=["x", 5, None]), tmp_path / "birds.parquet", BIRDS)


def test_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"BIRDS\.index: expected int64"):
        write_table(birds(index=[2**70, 1, 2]), tmp_path / "birds.parquet", BIRDS)


def test_column_of_nothing_but_missing_values_fits_any_nullable_dtype(tmp_path: Path) -> None:
    frame = birds(label=[np.nan] * 3, fingerprint=[np.nan] * 3, n_samples=[None] * 3)
    write_table(frame, tmp_path / "birds.parquet", BIRDS)
    rows = read_table(tmp_path / "birds.parquet", BIRDS)
    assert rows[["label", "fingerprint", "n_samples"]].isna().all(axis=None)


def test_missing_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="BIRDS needs column label, index"):
        write_table(birds().drop(columns=["label", "index"]), tmp_path / "a.parquet", BIRDS)
    with pytest.raises(TableError, match="BIRDS has no column colour"):
        write_table(birds(colour="red"), tmp_path / "a.parquet", BIRDS)


def test_duplicate_key_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="1 rows repeat a key, first where recording_id = 'b'"):
        write_table(birds(recording_id=["b", "a", "b"]), tmp_path / "a.parquet", BIRDS)


def test_key_of_two_columns_sorts_and_is_unique_as_a_pair(tmp_path: Path) -> None:
    windows = Schema("WINDOWS", ("id", "start_s"), {"id": "string", "start_s": "float64"})
    frame = pd.DataFrame({"id": ["b", "a", "a"], "start_s": [0.0, 10.0, 5.0]})
    write_table(frame, tmp_path / "w.parquet", windows)
    rows = read_table(tmp_path / "w.parquet", windows)
    assert list(zip(rows["id"], rows["start_s"], strict=True)) == [("a", 5), ("a", 10), ("b", 0)]


def test_reader_gets_the_columns_it_names_in_its_order(tmp_path: Path) -> None:
    write_table(birds(), tmp_path / "birds.parquet", BIRDS)
    rows = read_table(tmp_path / "birds.parquet", {"index": "int64", "recording_id": "string"})
    assert list(rows.columns) == ["index", "recording_id"]
    assert list(rows["index"]) == [1, 3, 2]


def test_others_follow_in_file_order_and_are_checked(tmp_path: Path) -> None:
    scores = Schema("SCORES", ("id",), {"id": "string"}).with_columns(
        {"zebra": "float32", "ant": "float32"}
    )
    frame = pd.DataFrame({"id": ["x"], "zebra": [0.5], "ant": [0.25]})
    write_table(frame, tmp_path / "scores.parquet", scores)
    rows = read_table(tmp_path / "scores.parquet", {"id": "string"}, others="float32")
    assert list(rows.columns) == ["id", "zebra", "ant"]
    with pytest.raises(TableError, match="zebra: found float32, expected int64"):
        read_table(tmp_path / "scores.parquet", {"id": "string"}, others="int64")


def test_reader_refuses_absent_columns_and_other_dtypes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    write_table(birds(), path, BIRDS)
    with pytest.raises(TableError) as caught:
        read_table(path, {"indez": "int64", "label": "int64?"})
    assert "indez: missing, expected int64; label: found string, expected int64?" in str(
        caught.value
    )


def test_reader_refuses_nulls_where_it_needs_values(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    write_table(birds(), path, BIRDS)
    with pytest.raises(TableError, match="label: found 1 nulls, the first in row 0, expected str"):
        read_table(path, {"label": "string"})


def test_reader_of_a_whole_schema_refuses_duplicate_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"id": "string", "n": "int64"}
    frame = pd.DataFrame({"id": ["x", "x"], "n": [1, 2]})
    write_table(frame, path, Schema("BY_N", ("n",), columns))
    with pytest.raises(TableError, match="BY_ID: 1 rows repeat a key, first where id = 'x'"):
        read_table(path, Schema("BY_ID", ("id",), columns))


def test_missing_truncated_and_foreign_files_are_table_errors(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    with pytest.raises(TableError, match="no such table"):
        read_table(path, BIRDS)
    write_table(birds(), path, BIRDS)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for broken in (
        whole[:middle],
        b"",
        b"id,label\n1,2\n",
        whole[:8] + b"\xff" * 300 + whole[308:],
    ):
        path.write_bytes(broken)
        with pytest.raises(TableError, match=r"birds\.parquet: not a whole Parquet file"):
            read_table(path, BIRDS)
    path.unlink()
    path.mkdir()
    with pytest.raises(TableError, match="not a whole Parquet file"):
        read_table(path, BIRDS)


def test_empty_table_has_the_dtypes_of_a_full_one(tmp_path: Path) -> None:
    path = tmp_path / "birds.parquet"
    write_table(birds(), path, BIRDS)
    full = read_table(path, BIRDS)
    assert empty_table(BIRDS).dtypes.equals(full.dtypes)
    write_table(empty_table(BIRDS), path, BIRDS)
    assert read_table(path, BIRDS).dtypes.equals(full.dtypes)
    assert len(pd.concat([empty_table(BIRDS), full])) == 3


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        (("id",), {"id": "str"}),
        (("id",), {"id": "string?"}),
        (("no",), {"id": "string"}),
        ((), {"labels": "list[string]?"}),
    ],
)
def test_schema_that_cannot_be_is_refused(key: tuple[str, ...], columns: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="T"):
        Schema("T", key, columns)


def test_schema_does_not_take_a_column_twice() -> None:
    with pytest.raises(ValueError, match="label"):
        BIRDS.with_columns({"label": "string"})


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_makes_folders_keeps_the_suffix_and_hides_the_file_until_done(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new" / "a.tar.gz"
    with atomic_path(path) as temporary:
        assert temporary.name.endswith("a.tar.gz")
        assert temporary.parent == path.parent
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_body_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("first", "second"):
        with atomic_dir(path) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text("x")
    assert [entry.name for entry in (path / "deep").iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("x")

    def interrupted() -> None:
        with atomic_dir(path) as temporary:
            (temporary / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_sorted_ends_in_a_newline_and_takes_numpy(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, {"b": np.float32(0.5), "a": {"z": (np.int64(1), None), "y": True}, "c": "Kö"})
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["a", "b", "c"]
    assert read_json(path) == {"a": {"y": True, "z": [1, None]}, "b": 0.5, "c": "Kö"}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": {"b": float("nan")}}, "a: b: found nan, expected a finite number"),
        ({"a": [1.0, np.float32("inf")]}, r"a\[1\]: found inf"),
        ({"a": {1: 2}}, "a: found key 1, expected strings"),
        ({"a": {1, 2}}, "a: found set, which JSON cannot hold"),
    ],
)
def test_json_refuses_what_it_cannot_hold_and_says_where(
    tmp_path: Path, tree: dict[str, object], said: str
) -> None:
    with pytest.raises(TableError, match=said):
        write_json(tmp_path / "a.json", tree)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[1]", "found a JSON list")])
def test_broken_json_is_a_table_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(TableError, match="no such file"):
        read_json(path)
    path.write_text(text)
    with pytest.raises(TableError, match=said):
        read_json(path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to a fifo", "in the folder of devices"])
def test_what_is_no_file_is_not_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    else:
        monkeypatch.setattr(tables, "_DEVICES", tmp_path)
        path.symlink_to(tmp_path / "a.txt")
        (tmp_path / "a.txt").touch()
    before = path.lstat()
    with pytest.raises(TableError, match="expected a regular file or none"), atomic_path(path):
        pytest.fail("nothing may be written")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("old")
    for target in ("cache", "nowhere"):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        with atomic_path(link) as temporary:
            temporary.write_text("new")
        assert not link.is_symlink()
        assert link.read_text() == "new"
    assert (tmp_path / "cache").read_text() == "old"


def test_json_nested_beyond_reason_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(TableError, match="not JSON"):
        read_json(tmp_path / "a.json")
