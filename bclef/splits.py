"""Folds that no group straddles.

A group is everything that may sound alike for a reason other than the species: recordings of one
recordist, of one site or session as the source states it, and copies of one recording, joined
wherever they share a member. A group is in one fold as a whole or, with fold null, always trains.

Only target species are validated, so only they are grouped by recordist alone. A recording of
another species joins its recordist's recordings of that species; otherwise a few keen recordists
would leave nothing to pretrain on, since pretraining uses what no fold validates. What it then
shares with a validated recording is at most the recordist's microphone, never a label. This is the
rule of the first place of BirdCLEF 2023, which left out recordings of the same author and label.
"""

import logging
import unicodedata
import warnings
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator
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

MOST_FOLDS = 5
"""Folds that dvc.yaml has teachers for."""

_LOG = logging.getLogger(__name__)
_UNKNOWN_RECORDISTS = frozenset({"", "unknown", "anonymous", "anon", "none", "na", "n/a", "?", "-"})


class SplitError(Exception):
    """The recordings cannot be divided as asked."""


class SplitsConfig(Section):
    """Section `splits`: how recordings are divided for cross-validation."""

    n_folds: int = Field(ge=2)
    """Number of folds, 2 to 5."""
    group_by: Literal["recordist", "recordist_species", "stated"]
    """What stays together besides copies and what the source states: all target recordings of a
    recordist, those of one species, or nothing more."""

    @field_validator("n_folds")
    @classmethod
    def _each_fold_is_finetuned(cls, n_folds: int) -> int:
        if n_folds > MOST_FOLDS:
            raise ValueError(
                f"found {n_folds}, expected at most {MOST_FOLDS}: dvc.yaml finetunes no teacher "
                f"for fold {MOST_FOLDS} and on, so nothing would validate them"
            )
        return n_folds


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
        clips: Columns recording_id, duplicate_of, sound_group and error. Copies (`duplicate_of` not
            null) join groups and get no row of their own, since no feature is made of them.
        targets: The labels that folds validate.
        config: Number of folds and what makes a group.
        seed: Decides between divisions that are equally good.

    Raises:
        SplitError: Stated folds contradict each other or `n_folds`, or there are too few groups.
    """
    usable = usable_recordings(recordings, clips)
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
    if empty := sorted(set(range(config.n_folds)) - set(folds)):
        raise SplitError(
            f"nothing is left for folds {empty}: {int(kept['target'].sum())} target recordings are "
            f"in {kept.loc[kept['target'], 'group'].nunique()} groups, and {lone.nunique()} of "
            "these alone hold a species and so always train; lower splits.n_folds, or set "
            "splits.group_by to a narrower kind of group"
        )
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


def usable_recordings(recordings: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of `recordings` whose clip has no error, joined with `clips`, sorted by id.

    Args:
        recordings: Column recording_id and others.
        clips: Columns recording_id, error and others.
    """
    whole = clips[clips["error"].isna()].drop(columns="error")
    joined = recordings.merge(whole, on="recording_id")
    return joined.sort_values("recording_id", ignore_index=True)


def recordist_keys(recordists: pd.Series) -> pd.Series:
    """Returns one spelling of each recordist: no case, accents or extra spaces; null if unknown."""
    keys = {name: _plain(name) for name in recordists.dropna().unique()}
    known = {name: key for name, key in keys.items() if key not in _UNKNOWN_RECORDISTS}
    return recordists.map(known).astype("string")


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def _groups(focal: pd.DataFrame, is_target: pd.Series, config: SplitsConfig) -> pd.Series:
    """Returns the group of each row, named for the first recording in it."""
    links = [
        focal["duplicate_of"].fillna(focal["recording_id"]),
        focal["sound_group"],
        focal["source"] + "\0" + focal["group_id"],
    ]
    recordist = recordist_keys(focal["recordist"])
    lone = int((recordist.isna() & focal["group_id"].isna()).sum())
    if lone:
        _LOG.warning(
            "%d of %d recordings have no recordist and no group: each is a group of its own, "
            "so folds cannot keep those of one person or day together, and scores may be flattered",
            lone, len(focal),
        )  # fmt: skip
    with_label = recordist + "\0" + focal["label"]
    if config.group_by == "recordist":
        links.append(with_label.mask(is_target, recordist))
    elif config.group_by == "recordist_species":
        links.append(with_label)
    return focal.groupby(_components(links))["recording_id"].transform("first")


def _components(links: list[pd.Series]) -> np.ndarray:
    """Returns the number of each row's component, int [N]; rows with one link value are joined."""
    n_rows = n_nodes = len(links[0])
    rows, nodes = [], []
    for link in links:
        codes, values = pd.factorize(link)
        rows.append(np.flatnonzero(codes >= 0))
        nodes.append(n_nodes + codes[codes >= 0])
        n_nodes += len(values)
    ends = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n_nodes, n_nodes))
    return connected_components(graph, directed=False)[1][:n_rows]


def _stated_folds(kept: pd.DataFrame, n_folds: int) -> pd.Series:
    """Returns the fold of each group that has one by its source, indexed by group.

    Raises:
        SplitError: A fold that there is not, or two in one group.
    """
    stated = kept[kept["fold"].notna()].drop_duplicates(["group", "fold"])
    beyond = stated[~stated["fold"].isin(range(n_folds))]
    if not beyond.empty:
        recording_id, fold = beyond[["recording_id", "fold"]].iloc[0]
        raise SplitError(
            f"recording {recording_id}: its source states fold {fold}, but splits.n_folds is "
            f"{n_folds}: folds are 0 to {n_folds - 1}"
        )
    torn = stated[stated.duplicated("group", keep=False)].sort_values("group", kind="stable")
    if not torn.empty:
        (one, fold), (other, other_fold) = torn[["recording_id", "fold"]].to_numpy()[:2]
        raise SplitError(
            f"the source states fold {fold} for {one} and fold {other_fold} for {other}, but they "
            "are linked by recordist, stated group or copy; set splits.group_by to a narrower kind "
            "of group, or leave the stated folds out"
        )
    return stated.set_index("group")["fold"].astype("Int64")


def _stratified(validated: pd.DataFrame, n_folds: int, seed: int) -> pd.Series:
    """Returns the fold of each group in `validated`, indexed by group; none if it has too few."""
    n_largest = validated["label"].value_counts().max()
    if validated["group"].nunique() < n_folds or n_largest < n_folds:
        return pd.Series(dtype="Int64")
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    labels, _ = pd.factorize(validated["label"], sort=True)
    groups = validated["group"].to_numpy()
    with warnings.catch_warnings():
        # It warns of species with fewer recordings than folds; those are in the stage's metrics.
        warnings.simplefilter("ignore", UserWarning)
        tests = [test for _, test in splitter.split(labels, labels, groups)]
    return pd.concat(
        pd.Series(fold, index=pd.unique(groups[test]), dtype="Int64")
        for fold, test in enumerate(tests)
    )
