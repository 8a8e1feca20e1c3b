"""The audit of a division: it looks for leaks in the tables and does not trust who divided."""

import pandas as pd

from bclef.splits import SplitsConfig, recordist_keys, usable_recordings

_LEAKS = ["kind", "recording_id", "other_recording_id", "detail"]


class LeakError(Exception):
    """Recordings stand on two sides of a division."""


def audit_leaks(
    splits: pd.DataFrame, recordings: pd.DataFrame, clips: pd.DataFrame, config: SplitsConfig
) -> pd.DataFrame:
    """Returns the pairs of recordings that stand on two sides and must not; none is the good case.

    A side is a fold, or always training (recordings without fold, unlabelled soundscapes, noise),
    or testing (annotated soundscapes). Kinds: `id` (a recording has two sides), `not_usable` (a
    copy or a faulty clip has a fold), `group`, `stated_group`, `recordist` (with the same label),
    `duplicate`, `shared_sound` (a stretch of one is in the other) and `same_audio` (equal decoded
    samples).

    Args:
        splits: Columns recording_id, group and fold.
        recordings: Columns recording_id, source, role, label, recordist, group_id and annotated.
        clips: Columns recording_id, pcm_hash, duplicate_of, sound_group and error.
        config: What makes a group.

    Returns:
        Columns kind, recording_id, other_recording_id, detail; sorted.
    """
    sides = _sides(splits, usable_recordings(recordings, clips))
    in_splits = sides[sides["group"].notna()]
    by_source = in_splits["source"] + "\0" + in_splits["group_id"]
    copied = sides["duplicate_of"].fillna(sides["recording_id"])
    leaks = [
        _straddling("id", sides, sides["recording_id"]),
        _straddling("group", in_splits, in_splits["group"]),
        _straddling("stated_group", in_splits, by_source),
        _straddling("duplicate", sides, copied),
        _straddling("shared_sound", in_splits, in_splits["sound_group"]),
        _straddling("same_audio", sides, sides["pcm_hash"]),
        _not_usable(splits, recordings, clips),
    ]
    if config.group_by != "stated":
        person = recordist_keys(in_splits["recordist"]) + "\0" + in_splits["label"]
        leaks.append(_straddling("recordist", in_splits, person))
    return pd.concat(leaks).sort_values(_LEAKS, ignore_index=True)


def refuse_leaks(leaks: pd.DataFrame) -> None:
    """Does nothing when `leaks` is empty.

    Raises:
        LeakError: With the number and an example of each kind.
    """
    if leaks.empty:
        return
    lines = [
        f"  {len(rows)} {kind}, such as {rows['recording_id'].iloc[0]} and "
        f"{rows['other_recording_id'].iloc[0]}: {rows['detail'].iloc[0]}"
        for kind, rows in leaks.groupby("kind")
    ]
    raise LeakError(
        "scores would be flattered: recordings stand on two sides of a division. Take one of each "
        "pair out of its source, or have them marked as copies:\n" + "\n".join(lines)
    )


def _sides(splits: pd.DataFrame, usable: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each use of a usable recording, with its `side`, sorted by id."""
    fold = splits["fold"].astype("string")
    side = ("fold " + fold).fillna("always training")
    used = splits.assign(side=side).merge(
        usable.drop(columns="fold", errors="ignore"), on="recording_id"
    )
    others = usable[usable["role"] != "focal"]
    is_test = (others["role"] == "soundscape") & others["annotated"]
    others = others.assign(side=is_test.map({True: "testing", False: "always training"}))
    others = others[is_test | others["duplicate_of"].isna()]
    return pd.concat([used, others]).sort_values(["recording_id", "side"], ignore_index=True)


def _straddling(kind: str, rows: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """Returns a leak for each row whose side is not that of the first row with its key."""
    known = rows[keys.notna()]
    first = known.groupby(keys[keys.notna()])[["recording_id", "side"]].transform("first")
    differs = known["side"] != first["side"]
    return pd.DataFrame(
        {
            "kind": kind,
            "recording_id": first.loc[differs, "recording_id"],
            "other_recording_id": known.loc[differs, "recording_id"],
            "detail": (first["side"] + " and " + known["side"])[differs],
        }
    )


def _not_usable(
    splits: pd.DataFrame, recordings: pd.DataFrame, clips: pd.DataFrame
) -> pd.DataFrame:
    """Returns a leak for each recording in `splits` of which no feature is made."""
    usable = usable_recordings(recordings, clips)
    usable = usable[(usable["role"] == "focal") & usable["duplicate_of"].isna()]
    wrong = splits.loc[~splits["recording_id"].isin(usable["recording_id"]), "recording_id"]
    return pd.DataFrame(
        {
            "kind": "not_usable",
            "recording_id": wrong,
            "other_recording_id": wrong,
            "detail": "not a focal recording with a whole clip of its own",
        }
    )
