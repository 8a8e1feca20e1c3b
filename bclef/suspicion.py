"""The recordings that most deserve a look by a person, among those that a run keeps.

Nothing is taken out here: the rules of taking out are params, this is where to look for what they
miss. A recording's score is the sum of parts, each from 0 (nothing to see) to 1:

- label_conflict: 1 if another label's recording is the same sound
- wrong_label: how far its own class scores below 1 where another one scores higher, by a model that
  had not heard it
- stated_length: share by which stated and decoded length differ, beyond 1 s and 5 %
- silent: 0 at an RMS level of -50 dBFS, 1 at -80
- clipped: 0 below 0.01 % of clipped samples, 1 at 10 % of them
- steady: 0 at a flatness of 0.35, 0.5 at 0.5, which noise has and few birds (focal recordings)
- short: 0 from 2 s on, 1 at 0.5 s (focal recordings)
- empty: 0 if half of it holds sound, 1 if nothing does
- low_rate: 0 from an original rate of 22,050 Hz on, 1 at 8,000 Hz, where half of all song is cut
- no_recordist, no_date: 0.25 each (focal recordings), but nothing where more than half lack it
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bclef.fingerprints import FRAME
from bclef.tables import read_table

RECORDINGS_NEEDS = {
    "recording_id": "string",
    "source": "string",
    "role": "string",
    "label": "string?",
    "secondary_labels": "list[string]",
    "recordist": "string?",
    "recorded_on": "string?",
    "url": "string",
    "duration_s": "float64?",
}
CLIPS_NEEDS = {
    "recording_id": "string",
    "duration_s": "float64?",
    "fingerprint": "binary?",
    "rms_dbfs": "float32?",
    "clipped_share": "float32?",
    "flatness": "float32?",
    "source_sample_rate_hz": "int64?",
    "duplicate_of": "string?",
}
WINDOW_SCORES_NEEDS = {"recording_id": "string", "start_s": "float64", "end_s": "float64"}

_WINDOW = list(WINDOW_SCORES_NEEDS)
_LEAST_CLIPPED = 1e-4
"""Share of clipped samples below which nothing is said of it."""


@dataclass(frozen=True)
class _Part:
    """One ground for suspicion."""

    name: str
    weight: Callable[[pd.DataFrame], pd.Series | npt.NDArray[Any]]
    """0 to 1 for each recording; NaN where nothing is known."""
    words: str
    """What is said of a recording whose weight is above 0, with its facts in braces."""
    may_be_common: bool = False
    """Whether it says nothing of a recording once more than half of the focal ones have it."""


@dataclass(frozen=True)
class Suspects:
    """Where to look."""

    rows: pd.DataFrame
    """recording_id, source, label, score, reasons (the heaviest first) and url."""
    common: tuple[str, ...]
    """What more than half of the focal recordings have, a sentence each; it is no ground."""


def _slope(facts: pd.Series, nothing: float, everything: float) -> npt.NDArray[Any]:
    """Returns 0 up to `nothing`, 1 from `everything` on, in either direction."""
    values = facts.to_numpy(np.float64, na_value=np.nan)
    return np.clip((values - nothing) / (everything - nothing), 0, 1)


def _length_gap(facts: pd.DataFrame) -> pd.Series:
    gap_s = (facts["stated_s"] - facts["decoded_s"]).abs()
    share = gap_s / facts[["stated_s", "decoded_s"]].max(axis=1)
    return share.where((gap_s > 1) & (share > 0.05), 0.0)


def _focal(facts: pd.DataFrame, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.where(facts["role"] == "focal", weights, 0.0)


_PARTS = (
    _Part(
        "label_conflict",
        lambda facts: facts["copy_label"].notna(),
        "the same sound as {copy_id}, which is labelled {copy_label}",
    ),
    _Part(
        "wrong_label",
        lambda facts: (1 - facts["own_score"]).where(facts["other_score"] > facts["own_score"]),
        "a model that had not heard it gives {other_label} {other_score:.2f}, "
        "its own label {own_score:.2f}",
    ),
    _Part("stated_length", _length_gap, "listed as {stated_s:.1f} s, decoded to {decoded_s:.1f} s"),
    _Part(
        "silent",
        lambda facts: _slope(facts["rms_dbfs"], -50, -80),
        "nearly silent, {rms_dbfs:.0f} dBFS",
    ),
    _Part(
        "clipped",
        lambda facts: _slope(
            facts["clipped_share"].where(facts["clipped_share"] >= _LEAST_CLIPPED), 0, 0.1
        ),
        "{clipped_share:.2%} of the samples clipped",
    ),
    _Part(
        "steady",
        lambda facts: _focal(facts, 0.5 * _slope(facts["flatness"], 0.35, 0.5)),
        "steady like noise, flatness {flatness:.2f}",
    ),
    _Part(
        "short",
        lambda facts: _focal(facts, _slope(facts["decoded_s"], 2, 0.5)),
        "only {decoded_s:.2f} s long",
    ),
    _Part(
        "empty", lambda facts: _slope(facts["heard_share"], 0.5, 0), "{heard_share:.0%} holds sound"
    ),
    _Part(
        "low_rate",
        lambda facts: _slope(facts["rate_hz"], 22_050, 8_000),
        "recorded at {rate_hz:.0f} Hz, so cut above half of that",
    ),
    _Part(
        "no_recordist",
        lambda facts: _focal(facts, 0.25 * facts["recordist"].isna().to_numpy(float)),
        "no recordist",
        may_be_common=True,
    ),
    _Part(
        "no_date",
        lambda facts: _focal(facts, 0.25 * facts["recorded_on"].isna().to_numpy(float)),
        "no date",
        may_be_common=True,
    ),
)
PART_NAMES = tuple(part.name for part in _PARTS)
"""What a score is the sum of."""


def read_suspects(data: Path, gone: Collection[str], n_most: int) -> Suspects:
    """Returns the `most_suspicious` recordings by what the tables in the folder `data` say so far.

    Args:
        data: Folder of the stages' tables; `recordings` must be there.
        gone: Recordings that were taken out.
        n_most: How many at most.

    Raises:
        TableError: No table of recordings, or a table that is not what it should be.
    """
    recordings = read_table(data / "recordings.parquet", RECORDINGS_NEEDS)
    clips_path = data / "clips.parquet"
    clips = read_table(clips_path, CLIPS_NEEDS) if clips_path.exists() else None
    paths = sorted((data / "oof").glob("*.parquet"))
    folds = [read_table(path, WINDOW_SCORES_NEEDS, others="float32") for path in paths]
    scores = [fold for fold in folds if len(fold)]  # that of a fold passed over is empty
    facts = _facts(recordings, clips, pd.concat(scores) if scores else None)
    return most_suspicious(facts[~facts["recording_id"].isin(list(gone))], n_most)


def most_suspicious(facts: pd.DataFrame, n_most: int) -> Suspects:
    """Returns the recordings of the highest scores above 0, highest first, then by id.

    Args:
        facts: What `_PARTS` ask for, a row per recording.
        n_most: How many at most.
    """
    weights = {part.name: np.nan_to_num(np.asarray(part.weight(facts), float)) for part in _PARTS}
    table = pd.DataFrame(weights, index=facts.index)
    of_focal = table[facts["role"] == "focal"] > 0
    common = [part for part in _PARTS if part.may_be_common and of_focal[part.name].mean() > 0.5]
    table[[part.name for part in common]] = 0.0
    ranked = facts.assign(score=table.sum(axis=1)).sort_values(
        ["score", "recording_id"], ascending=[False, True]
    )
    chosen = ranked[ranked["score"] > 0].head(n_most)
    reasons = [
        _reasons(table.loc[place], fact)
        for place, fact in zip(chosen.index, chosen.to_dict("records"), strict=True)
    ]
    chosen = chosen.assign(reasons=reasons)
    columns = ["recording_id", "source", "label", "score", "reasons", "url"]
    told = [
        f"{of_focal[part.name].sum():,} of {len(of_focal):,} focal recordings have {part.words}, "
        "which is therefore no ground for suspicion."
        for part in common
    ]
    return Suspects(chosen[columns].reset_index(drop=True), tuple(told))


def _reasons(weights: pd.Series, fact: Mapping[Hashable, object]) -> str:
    heaviest = sorted(_PARTS, key=lambda part: -weights[part.name])
    return "; ".join(part.words.format_map(fact) for part in heaviest if weights[part.name] > 0)


def _facts(
    recordings: pd.DataFrame, clips: pd.DataFrame | None, scores: pd.DataFrame | None
) -> pd.DataFrame:
    """Returns the recordings with all columns that `_PARTS` ask for, as far as they are known."""
    facts = recordings.rename(columns={"duration_s": "stated_s"})
    clips = pd.DataFrame(columns=list(CLIPS_NEEDS)) if clips is None else clips
    measures = clips.rename(
        columns={"duration_s": "decoded_s", "source_sample_rate_hz": "rate_hz"}
    ).assign(heard_share=[_heard_share(content) for content in clips["fingerprint"]])
    measures = measures.drop(columns=["fingerprint", "duplicate_of"])
    facts = facts.merge(measures.astype({"recording_id": "string"}), how="left", on="recording_id")
    facts = facts.merge(_conflicts(recordings, clips), how="left", on="recording_id")
    return facts.merge(_rivals(recordings, scores), how="left", on="recording_id")


def _heard_share(fingerprint: bytes | None) -> float:
    """Returns the share of a fingerprint's words that are not silence; NaN without words."""
    if not fingerprint:
        return np.nan
    return float((np.frombuffer(fingerprint, FRAME)["word"] != 0).mean())


def _conflicts(recordings: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Returns recording_id, copy_id, copy_label of kept recordings with a copy of another label."""
    label = recordings.set_index("recording_id")["label"]
    copies = clips.loc[clips["duplicate_of"].notna(), ["recording_id", "duplicate_of"]]
    copies = copies.rename(columns={"recording_id": "copy_id", "duplicate_of": "recording_id"})
    copies = copies.astype("string").assign(copy_label=copies["copy_id"].map(label))
    differs = copies["copy_label"] != copies["recording_id"].map(label)
    conflicts = copies[differs.fillna(False).astype(bool)].sort_values("copy_id")
    return conflicts.drop_duplicates("recording_id")


def _rivals(recordings: pd.DataFrame, scores: pd.DataFrame | None) -> pd.DataFrame:
    """Returns recording_id, own_score, other_label, other_score: maxima over a clip's windows.

    Labels that stand beside a recording's own one (`secondary_labels`) are no others.
    """
    columns = ["recording_id", "own_score", "other_label", "other_score"]
    if scores is None:
        return pd.DataFrame(columns=columns).astype({"recording_id": "string"})
    best = scores.drop(columns=_WINDOW[1:]).groupby("recording_id").max()
    told = recordings[
        recordings["recording_id"].isin(best.index) & recordings["label"].isin(best.columns)
    ]
    values = best.loc[told["recording_id"]].to_numpy(np.float64)
    own = best.columns.get_indexer(pd.Index(told["label"]))
    others = values.copy()
    others[np.arange(len(own)), own] = -np.inf
    for row, labels in enumerate(told["secondary_labels"]):
        others[row, best.columns.isin(labels)] = -np.inf
    rival = others.argmax(axis=1)
    found = {
        "recording_id": told["recording_id"].to_numpy(),
        "own_score": values[np.arange(len(own)), own],
        "other_label": best.columns[rival],
        "other_score": others.max(axis=1),
    }
    return pd.DataFrame(found).astype({"recording_id": "string"})
