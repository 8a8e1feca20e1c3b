"""Tables for tests, from rows that state only what matters."""

import pandas as pd

from bclef.tables import empty_table


def rows_of(schema, rows):
    """A frame of `schema`; what a row does not state is null."""
    return pd.DataFrame(rows, columns=list(schema.columns)).astype(empty_table(schema).dtypes)
