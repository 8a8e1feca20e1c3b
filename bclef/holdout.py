"""What a training holds out of its own data to be validated on."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd


def hold_out_groups(recordings: pd.DataFrame, share: float, seed: int) -> set[str]:
    """Returns the ids of about `share` of the recordings, in whole groups.

    No group is taken that would leave a label without training recordings, so fewer may be held
    out than asked for. The order of the rows has no bearing.

    Args:
        recordings: recording_id, group and label.
        share: From 0 to 1.
        seed: Of the choice.
    """
    n_left = recordings["label"].value_counts().to_dict()
    held_out: set[str] = set()
    groups = {str(name): rows for name, rows in recordings.groupby("group")}
    for name in _shuffled(sorted(groups), seed):
        group = groups[name]
        counts = group["label"].value_counts().to_dict()
        ids = set(group["recording_id"])
        fits = len(held_out) + len(ids) <= share * len(recordings)
        if fits and all(n_left[label] > n for label, n in counts.items()):
            held_out |= ids
            n_left |= {label: n_left[label] - n for label, n in counts.items()}
    return held_out


def hold_out_recordings(recording_ids: Collection[str], share: float, seed: int) -> set[str]:
    """Returns `share` of the ids, rounded down, in whatever order they are given."""
    unique = sorted(set(recording_ids))
    return set(_shuffled(unique, seed)[: int(share * len(unique))])


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[position] for position in order]
