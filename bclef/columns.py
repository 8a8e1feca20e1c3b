"""The column types of tables: what a value must be, and its forms in Arrow and in pandas.

A dtype is a word of `DTYPES`; with a trailing `?` the column may hold nulls. Lists may be empty but
are never null, and hold no nulls. NaN in a column is null; inside a list it is refused.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionDtype
from pandas.api.types import infer_dtype

DTYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
    "list[string]": pa.list_(pa.string()),
    "list[float32]": pa.list_(pa.float32()),
}
"""Arrow type of each dtype that a column may have."""

_PANDAS: dict[str, dict[pa.DataType, ExtensionDtype]] = {
    "string": {pa.string(): pd.StringDtype()},
    "string?": {pa.string(): pd.StringDtype()},
    "int64?": {pa.int64(): pd.Int64Dtype()},
    "bool?": {pa.bool_(): pd.BooleanDtype()},
}
"""Dtypes that come into memory as other than numpy arrays: what Arrow's `types_mapper` looks up."""

_WRITABLE: dict[str, frozenset[str]] = {
    "string": frozenset({"string"}),
    "int64": frozenset({"integer"}),
    "float32": frozenset({"floating", "integer", "mixed-integer-float"}),
    "float64": frozenset({"floating", "integer", "mixed-integer-float"}),
    "bool": frozenset({"boolean"}),
    "binary": frozenset({"bytes"}),
}
"""What `pandas.api.types.infer_dtype` may say of the values written into a column."""


def is_dtype(dtype: str) -> bool:
    """Returns whether `dtype` is a word of `DTYPES`, with `?` where that is allowed."""
    return plain(dtype) in DTYPES and not (dtype.endswith("?") and dtype.startswith("list"))


def plain(dtype: str) -> str:
    """Returns `dtype` without its `?`."""
    return dtype.removesuffix("?")


def arrow_type(dtype: str) -> pa.DataType:
    """Returns the Arrow type that stores `dtype`."""
    return DTYPES[plain(dtype)]


def dtype_name(arrow: pa.DataType) -> str:
    """Returns the word of `DTYPES` for an Arrow type, or Arrow's own name where there is none."""
    return next((name for name, known in DTYPES.items() if known == arrow), str(arrow))


def to_arrow(values: pd.Series, dtype: str) -> pa.Array:
    """Returns `values`, of which `wrong_rows` has none, as an Arrow array of exactly `dtype`.

    Raises:
        ArrowException: A number does not fit, such as 2 ** 24 + 1 in a float32.
    """
    if values.isna().all():  # whatever pandas calls a column of nothing: floats, objects
        return pa.nulls(len(values), arrow_type(dtype))
    listed = [list(value) for value in values] if dtype.startswith("list") else values
    return pa.array(listed, type=arrow_type(dtype), from_pandas=True)


def to_pandas(values: pa.ChunkedArray, dtype: str) -> pd.Series:
    """Returns an Arrow column as the in-memory dtype that `dtype` has there."""
    if dtype == "list[string]":
        return pd.Series(values.to_pylist(), dtype=object)
    return values.to_pandas(types_mapper=_PANDAS.get(dtype, {}).get)


def wrong_rows(values: pd.Series, dtype: str) -> npt.NDArray[np.bool_]:
    """Returns for each row whether its value is none of `dtype`."""
    if dtype.startswith("list"):
        element = dtype.removeprefix("list[").removesuffix("]")
        return np.array([not _is_list_of(value, element) for value in values], dtype=bool)
    kinds = _WRITABLE[plain(dtype)]
    null = values.isna().to_numpy(dtype=bool)
    wrong = np.zeros(len(values), dtype=bool)
    if not null.all() and infer_dtype(values, skipna=True) not in kinds:
        fits = [infer_dtype([value], skipna=False) in kinds for value in values]
        wrong = ~null & ~np.array(fits, dtype=bool)
    return wrong if dtype.endswith("?") else wrong | null


def _is_list_of(value: object, element: str) -> bool:
    if not isinstance(value, list | tuple | np.ndarray):
        return False
    filled = not any(pd.isna(item) for item in value)
    return len(value) == 0 or (filled and infer_dtype(value, skipna=False) in _WRITABLE[element])
