"""How many of many recordings may fail before a stage does."""

import pandas as pd


def excess_failures(failed: pd.DataFrame, n_all: int, max_failed_share: float) -> str | None:
    """Returns each reason with its number and an example, a line each; None if few enough failed.

    To be asked after the stage's table is written, so that the failures can be looked up in it.

    Args:
        failed: recording_id, error, detail of each failure.
        n_all: How many could have failed.
        max_failed_share: The share of them that may.
    """
    if len(failed) <= max_failed_share * n_all:
        return None
    return "\n".join(
        f"  {len(rows)} {reason}, such as {rows['recording_id'].iloc[0]}: {rows['detail'].iloc[0]}"
        for reason, rows in sorted(failed.groupby("error"), key=lambda pair: -len(pair[1]))
    )
