"""Folds that no group straddles, and the audit that looks for leaks without trusting them.

A group is everything that may sound alike for a reason other than the species: recordings of one
recordist, of one site or session as the source states it, and copies of one recording, joined
wherever they share a member. A group is in one fold as a whole or, with fold null, always trains.

Only target species are validated, so only they are grouped by recordist alone. A recording of
another species joins its recordist's recordings of that species; otherwise a few keen recordists
would leave nothing to pretrain on, since pretraining uses what no fold validates. What it then
shares with a validated recording is at most the recordist's microphone, never a label. This is the
rule of the first place of BirdCLEF 2023, which left out recordings of the same author and label.
"""

import unicodedata
import warnings
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from bclef.config import Section
from bclef.tables import Schema
from bclef.taxonomy import ClassList

SPLITS = Schema(
    name="splits",
    key=("recording_id",),
    columns={"recording_id": "string", "group": "string", "fold": "int64?"},
)
"""The usable focal recordings without their copies; fold null always trains."""

_UNKNOWN_RECORDISTS = frozenset({"", "unknown", "anonymous", "anon", "none", "na", "n/a", "?", "-"})
_LEAKS = ["kind", "recording_id", "other_recording_id", "detail"]


class SplitError(Exception):
    """The recordings cannot be divided as asked."""


class SplitsConfig(Section):
    """Section `splits`: how recordings are divided for cross-validation."""

    n_folds: int = Field(ge=2, le=20)
    """Number of folds."""
    group_by: Literal["recordist", "recordist_species", "stated"]
    """What stays together besides copies and what the source states: all target recordings of a
    recordist, those of one species, or nothing more."""


def assign_folds(
    recordings: pd.DataFrame,
    clips: pd.DataFrame,
    targets: ClassList,
    config: SplitsConfig,
    seed: int,
) -> pd.DataFrame:
    """Returns the splits table: group and fold of each usable focal recording.

    Folds that the source states are kept. Of the other groups those without a target recording, and
    those that alone hold some target species, always train; the rest is stratified by label. The
    result does not depend on the order of the rows.

    Args:
        recordings: Columns recording_id, source, role, label, recordist, group_id and fold.
        clips: Columns recording_id, duplicate_of and error. Copies (`duplicate_of` not null) join
            groups and get no row of their own, since no feature is made of them.
        targets: The labels that folds validate.
        config: Number of folds and what makes a group.
        seed: Decides between divisions that are equally good.

    Raises:
        SplitError: Stated folds contradict each other or `n_folds`, or there are too few groups.
    """
    usable = _usable(recordings, clips)
    focal = usable[usable["role"] == "focal"]
    is_target = focal["label"].isin(targets)
    focal = focal.assign(group=_groups(focal, is_target, config), target=is_target)
    kept = focal[focal["duplicate_of"].isna()]
    folds = _stated_folds(kept, config.n_folds)
    validated = kept[kept["target"] & ~kept["group"].isin(folds.index)]
    n_groups = kept[kept["target"]].groupby("label")["group"].nunique()
    lone = validated.loc[validated["label"].map(n_groups) == 1, "group"]
    validated = validated[~validated["group"].isin(lone)]
    folds = pd.concat([folds, _stratified(validated, config.n_folds, seed)])
    splits = kept[["recording_id", "group"]].reset_index(drop=True)
    return splits.assign(fold=splits["group"].map(folds).astype("Int64"))


def split_counts(
    splits: pd.DataFrame, recordings: pd.DataFrame, targets: ClassList
) -> dict[str, object]:
    """Returns numbers of recordings and groups, in all and per fold, and the species in no fold.

    Args:
        splits: From `assign_folds`.
        recordings: Columns recording_id and label.
        targets: The labels that folds validate.
    """
    rows = splits.merge(recordings[["recording_id", "label"]], on="recording_id")
    rows = rows[rows["label"].isin(targets)]
    in_folds = rows[rows["fold"].notna()]
    return {
        "n_recordings": len(splits),
        "n_groups": int(splits["group"].nunique()),
        "n_target_recordings": len(rows),
        "n_target_recordings_always_training": len(rows) - len(in_folds),
        "folds": {
            str(fold): {
                "n_recordings": len(part),
                "n_groups": int(part["group"].nunique()),
                "n_species": int(part["label"].nunique()),
            }
            for fold, part in in_folds.groupby("fold")
        },
        "never_validated": sorted(set(targets) - set(in_folds["label"])),
    }


def audit_leaks(
    splits: pd.DataFrame, recordings: pd.DataFrame, clips: pd.DataFrame, config: SplitsConfig
) -> pd.DataFrame:
    """Returns the pairs of recordings that stand on two sides and must not; none is the good case.

    A side is a fold, or always training (recordings without fold, unlabelled soundscapes, noise),
    or testing (annotated soundscapes). It is derived from the tables anew, not from how
    `assign_folds` came to its groups. Kinds: `id` (a recording has two sides), `not_usable` (a copy
    or a faulty clip has a fold), `group`, `stated_group`, `recordist` (with the same label),
    `duplicate` and `same_audio` (equal decoded samples).

    Args:
        splits: Columns recording_id, group and fold.
        recordings: Columns recording_id, source, role, label, recordist, group_id and annotated.
        clips: Columns recording_id, pcm_hash, duplicate_of and error.
        config: What makes a group.

    Returns:
        Columns kind, recording_id, other_recording_id, detail; sorted.
    """
    sides = _sides(splits, _usable(recordings, clips))
    in_splits = sides[sides["group"].notna()]
    by_source = in_splits["source"] + "\0" + in_splits["group_id"]
    cluster = sides["duplicate_of"].fillna(sides["recording_id"])
    leaks = [
        _straddling("id", sides, sides["recording_id"]),
        _straddling("group", in_splits, in_splits["group"]),
        _straddling("stated_group", in_splits, by_source),
        _straddling("duplicate", sides, cluster),
        _straddling("same_audio", sides, sides["pcm_hash"]),
        _not_usable(splits, recordings, clips),
    ]
    if config.group_by != "stated":
        person = _recordist_keys(in_splits["recordist"]) + "\0" + in_splits["label"]
        leaks.append(_straddling("recordist", in_splits, person))
    return pd.concat(leaks).sort_values(_LEAKS, ignore_index=True)
