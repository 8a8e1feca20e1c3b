"""Tables on disk: Parquet against schemas, JSON, and writes that are whole or absent.

A `Schema` stands beside the code that writes its table. A reader names the columns that it needs at
its own top, so that an edit of the writer's code does not rerun every reader; a test compares the
two. Missing is null and only where the schema allows it; a list may be empty but is never null.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from bclef.columns import arrow_type, dtype_name, is_dtype, to_arrow, to_pandas, wrong_rows

_DEVICES = Path("/dev")


class TableError(Exception):
    """A table or JSON file is missing or broken, or holds something other than its schema says."""


@dataclass(frozen=True)
class Schema:
    """What a table holds.

    Raises:
        ValueError: An unknown dtype, or a key that is no column or may be null.
    """

    name: str
    """Name of the table, for messages."""
    key: tuple[str, ...]
    """Columns that together name a row; the table is sorted by them."""
    columns: Mapping[str, str]
    """Dtype of each column: string int64 float32 float64 bool binary list[string] list[float32].

    A trailing `?` lets a column hold nulls; lists are never null.
    """

    def __post_init__(self) -> None:
        for column, dtype in self.columns.items():
            if not is_dtype(dtype):
                raise ValueError(f"{self.name}.{column}: {dtype!r} is no dtype of a table")
        for column in self.key:
            if self.columns.get(column, "?").endswith("?"):
                raise ValueError(f"{self.name}: key {column!r} is no column, or one with nulls")

    def with_columns(self, extra: Mapping[str, str]) -> "Schema":
        """Returns this schema with the columns of `extra` after its own.

        Raises:
            ValueError: A column of `extra` is there already, or its dtype is unknown.
        """
        if shared := sorted(self.columns.keys() & extra.keys()):
            raise ValueError(f"{self.name}: columns {shared} are there already")
        return Schema(self.name, self.key, {**self.columns, **extra})


def write_table(frame: pd.DataFrame, path: Path, schema: Schema) -> None:
    """Writes `frame` to `path`, sorted by the key of `schema`, whole or not at all.

    The same rows give the same bytes, whatever their order, index and pandas dtypes. NaN is null.

    Raises:
        TableError: Columns missing or unknown, a value of another dtype, a null, a duplicate key.
    """
    if unknown := [str(column) for column in frame.columns if column not in schema.columns]:
        raise TableError(f"{path}: {schema.name} has no column {', '.join(unknown)}")
    if missing := [column for column in schema.columns if column not in frame.columns]:
        raise TableError(f"{path}: {schema.name} needs column {', '.join(missing)}")
    arrays = {column: _arrow_column(frame, schema, column, path) for column in schema.columns}
    _check_key(frame, schema, path)
    fields = [
        pa.field(column, arrow_type(dtype), nullable=dtype.endswith("?"))
        for column, dtype in schema.columns.items()
    ]
    table = pa.table(list(arrays.values()), schema=pa.schema(fields))
    table = table.sort_by([(column, "ascending") for column in schema.key])
    with atomic_path(path) as temporary:
        parquet.write_table(
            table, temporary, compression="zstd", row_group_size=1 << 20, write_page_checksum=True
        )


def read_table(
    path: Path, columns: Schema | Mapping[str, str], others: str | None = None
) -> pd.DataFrame:
    """Returns the named `columns` of the table at `path`, in their order, index 0..n-1.

    Dtypes in memory: `string`, `int64` or `Int64`, numpy floats (null is NaN), `bool` or `boolean`;
    lists of strings are Python lists, lists of numbers float32 arrays, binary is bytes or None.

    Args:
        path: The Parquet file.
        columns: A whole schema (its key must then be unique) or the columns that the caller needs.
        others: Dtype of all further columns, which then follow in file order; None leaves them out.

    Raises:
        TableError: No such file, not a Parquet file, or its contents are not as stated.
    """
    schema = columns if isinstance(columns, Schema) else Schema("table", (), columns)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            if others is not None:
                rest = found.keys() - schema.columns.keys()
                schema = schema.with_columns({name: others for name in found if name in rest})
            _check_types(found, schema, path)
            table = file.read(columns=list(schema.columns))
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table; run the stage that writes it") from error
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{path}: not a whole Parquet file ({error}); delete it and rerun its stage"
        ) from error
    for column, dtype in schema.columns.items():
        if n_null := 0 if dtype.endswith("?") else table[column].null_count:
            row = table[column].is_null().index(True).as_py()
            raise TableError(
                f"{path}: {column}: found {n_null} nulls, the first in row {row}, expected {dtype}"
            )
    frame = pd.DataFrame(
        {column: to_pandas(table[column], dtype) for column, dtype in schema.columns.items()}
    )
    _check_key(frame, schema, path)
    return frame


def empty_table(schema: Schema) -> pd.DataFrame:
    """Returns a frame without rows, with the columns and in-memory dtypes of `schema`."""
    dtypes = schema.columns.items()
    nothing = {column: pa.chunked_array([], type=arrow_type(dtype)) for column, dtype in dtypes}
    return pd.DataFrame({column: to_pandas(nothing[column], dtype) for column, dtype in dtypes})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, of the same suffix, that becomes `path` on success.

    The file reaches the disk before it takes the name; after an exception nothing is left behind.
    Parent folders are made; a link is replaced, not what it leads to.

    Raises:
        TableError: At `path` is a folder, a device or the like.
        FileNotFoundError: The body wrote nothing to the temporary path.
    """
    # A program that may would put a file in place of /dev/null, or of /dev/stdout, which is a link.
    if (path.exists() and not path.is_file()) or path.parent.resolve() == _DEVICES:
        raise TableError(f"{path}: found a folder or a device, expected a regular file or none")
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path` that becomes `path` on success.

    A folder that stands at `path` is replaced as a whole; after an exception it stands untouched.
    """
    temporary, replaced = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        if path.exists():
            path.rename(replaced)  # a folder with files in it cannot be renamed over
        try:
            temporary.rename(path)
        except OSError:
            replaced.rename(path)
            raise
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until the file or folder at `path` is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, tree: Mapping[str, object]) -> None:
    """Writes `tree` to `path` as JSON with sorted keys and a final newline, whole or not at all.

    Numpy scalars and tuples are written as numbers and lists.

    Raises:
        TableError: A number that is not finite, a key that is no string, or a value JSON has not.
    """
    text = json.dumps(
        _json_value(tree, str(path)), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`.

    Raises:
        TableError: No such file, not JSON, or JSON other than an object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file; run the stage that writes it") from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path}: not JSON ({error}); delete it and rerun its stage") from error
    if not isinstance(tree, dict):
        raise TableError(f"{path}: found a JSON {type(tree).__name__}, expected an object")
    return tree


def _arrow_column(frame: pd.DataFrame, schema: Schema, column: str, path: Path) -> pa.Array:
    """Returns a column of `frame` as an Arrow array of exactly the dtype that `schema` states."""
    dtype, values = schema.columns[column], frame[column]
    if (wrong := wrong_rows(values, dtype)).any():
        position = int(wrong.argmax())
        found = "null" if values.isna().iloc[position] else repr(values.iloc[position])
        raise TableError(
            f"{path}: {schema.name}.{column}: found {found} where "
            f"{_row_name(frame, schema, position)}, expected {dtype}"
        )
    try:
        return to_arrow(values, dtype)
    except (pa.ArrowException, OverflowError) as error:
        raise TableError(f"{path}: {schema.name}.{column}: expected {dtype}: {error}") from error


def _check_types(found: Mapping[str, pa.DataType], schema: Schema, path: Path) -> None:
    """Refuses a file whose columns are not those of `schema`; columns beyond it are fine."""
    faults = []
    for column, dtype in schema.columns.items():
        if column not in found:
            faults.append(f"{column}: missing, expected {dtype}")
        elif found[column] != arrow_type(dtype):
            faults.append(f"{column}: found {dtype_name(found[column])}, expected {dtype}")
    if faults:
        raise TableError(f"{path}: {'; '.join(faults)}; the file has {', '.join(found)}")


def _check_key(frame: pd.DataFrame, schema: Schema, path: Path) -> None:
    if not schema.key:
        return
    if (repeated := frame.duplicated(list(schema.key)).to_numpy()).any():
        row = _row_name(frame, schema, int(repeated.argmax()))
        raise TableError(
            f"{path}: {schema.name}: {int(repeated.sum())} rows repeat a key, first where {row}; "
            "expected each key once"
        )


def _row_name(frame: pd.DataFrame, schema: Schema, position: int) -> str:
    return ", ".join(f"{column} = {frame[column].iloc[position]!r}" for column in schema.key)


def _beside(path: Path) -> Path:
    """Returns a free hidden name in the folder of `path`, which is made, with the same suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{secrets.token_hex(4)}-{path.name}")


def _json_value(value: object, where: str) -> object:
    """Returns `value` as what the json module writes, `where` naming the place in messages."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TableError(f"{where}: found key {odd[0]!r}, expected strings")
        return {key: _json_value(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise TableError(f"{where}: found {value}, expected a finite number or null")
    if value is not None and not isinstance(value, str | int | float):
        raise TableError(f"{where}: found {type(value).__name__}, which JSON cannot hold")
    return value
