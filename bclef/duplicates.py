"""Finds the recordings that hold the same sound, byte for byte or encoded anew, and keeps the best.

Duplicates between training and validation flatter every score, and duplicates within training weigh
a bird double. Exact ones share the hash of their samples. For the others every word of every
fingerprint is looked up in one sorted index of all words; two words that agree vote for a pair of
clips at an offset, and each pair with votes is judged by the bits of its whole overlap. The work
grows with the number of words, not of pairs.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bclef import fingerprints
from bclef.config import Section
from bclef.fingerprints import FRAME, HOP_S, N_BITS, Frames

_ROLES = ("focal", "soundscape", "noise")
_MOST_COMMON = 100
"""Words that occur more often say nothing of a pair (and would cost their number squared)."""
_NEIGHBOURS = (-16, -12, -8, -4, 4, 8, 12, 16)
"""Frames around two equal words that are compared before the pair is: chance agrees in one word."""
_NEIGHBOUR_ERROR_RATE = 0.35
_OFFSETS_PER_PAIR = 5
_FRAMES_AT_ONCE = 500_000
_LOG = logging.getLogger(__name__)


class DuplicatesConfig(Section):
    """When two recordings count as the same."""

    max_bit_error_rate: float = Field(gt=0, lt=0.5)
    """Share of fingerprint bits that may differ in the overlap; unrelated sounds have 0.5."""
    min_overlap_s: float = Field(gt=0.3)
    """Shortest common sound that can prove anything, seconds without silence."""
    min_overlap_share: float = Field(gt=0, le=1)
    """Share of the shorter recording that must lie in the overlap."""


def mark_duplicates(
    clips: pd.DataFrame, recordings: pd.DataFrame, config: DuplicatesConfig
) -> pd.DataFrame:
    """Returns the clips with `duplicate_of` and `duplicate_kind` filled.

    Recordings that are the same as a third are the same. Of each such group one is kept: an
    annotated one before a focal one before a soundscape before noise, then the longest, then the
    one of the highest original sample rate, then the lowest id. The others name it in
    `duplicate_of`; their kind is `exact` when their samples equal its own, else `reencoded`.

    Args:
        clips: Columns recording_id, n_samples, pcm_hash, fingerprint, source_sample_rate_hz and
            error; rows with an error are left alone.
        recordings: Columns recording_id, role and annotated.
        config: When two recordings count as the same.
    """
    usable = clips[clips["error"].isna()]
    ranked = usable.iloc[_best_first(usable, recordings)]
    kept = ranked.iloc[_best_of_group(ranked, config)]
    is_copy = kept.index.to_numpy() != ranked.index.to_numpy()
    is_exact = kept["pcm_hash"].to_numpy() == ranked["pcm_hash"].to_numpy()
    marked = clips.assign(duplicate_of=None, duplicate_kind=None)
    marked = marked.astype({"duplicate_of": "string", "duplicate_kind": "string"})
    copies = ranked.index[is_copy]
    marked.loc[copies, "duplicate_of"] = kept["recording_id"].to_numpy()[is_copy]
    marked.loc[copies, "duplicate_kind"] = np.where(is_exact, "exact", "reencoded")[is_copy]
    _LOG.info("%d of %d usable recordings are copies of others", len(copies), len(usable))
    return marked


def matching_pairs(
    fingerprints_of_clips: Sequence[Frames], config: DuplicatesConfig
) -> npt.NDArray[np.int64]:
    """Returns the pairs of clips that hold the same sound, int64 [P, 2] of positions, sorted."""
    words = _Words.join(fingerprints_of_clips)
    pairs: set[tuple[int, int]] = set()
    for one, other, offset_frames in _candidates(words).tolist():
        if (one, other) not in pairs and any(
            _is_match(words.of(one), words.of(other), offset_frames + nudge, config)
            for nudge in (0, -1, 1)
        ):
            pairs.add((one, other))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class _Words:
    """The fingerprints of all clips end to end."""

    frames: Frames
    clip: npt.NDArray[np.int64]
    """Clip of each frame."""
    place: npt.NDArray[np.int64]
    """Place of each frame in its clip."""
    starts: npt.NDArray[np.int64]
    """First frame of each clip, and the end of the last: [N + 1]."""

    @classmethod
    def join(cls, parts: Sequence[Frames]) -> "_Words":
        lengths = np.array([len(part) for part in parts], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        clip = np.repeat(np.arange(len(parts)), lengths)
        frames = np.concatenate([np.zeros(0, FRAME), *parts])
        return cls(frames, clip, np.arange(len(frames)) - starts[clip], starts)

    def of(self, clip: int) -> Frames:
        return self.frames[self.starts[clip] : self.starts[clip + 1]]


def _best_first(usable: pd.DataFrame, recordings: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Returns the positions of the clips, the one most worth keeping first, int64 [N]."""
    facts = usable[["recording_id", "n_samples", "source_sample_rate_hz"]].merge(
        recordings[["recording_id", "role", "annotated"]], on="recording_id", validate="1:1"
    )
    keys = {
        "annotated": ~facts["annotated"].to_numpy(bool),
        "role": facts["role"].map(_ROLES.index).to_numpy(np.int64),
        "n_samples": -facts["n_samples"].to_numpy(np.int64),
        "rate_hz": -facts["source_sample_rate_hz"].to_numpy(np.int64),
        "recording_id": facts["recording_id"].to_numpy(object),
    }
    return pd.DataFrame(keys).sort_values(list(keys)).index.to_numpy(np.int64)


def _best_of_group(ranked: pd.DataFrame, config: DuplicatesConfig) -> npt.NDArray[np.int64]:
    """Returns for each row the position of the first row of its group of duplicates."""
    n_clips = len(ranked)
    first_of_hash = ranked.assign(row=range(n_clips)).groupby("pcm_hash")["row"].transform("min")
    same = first_of_hash.to_numpy(np.int64)
    distinct = np.unique(same)
    prints = [np.frombuffer(ranked["fingerprint"].iloc[row], FRAME) for row in distinct]
    pairs = distinct[matching_pairs(prints, config)]
    links = np.concatenate([np.stack([np.arange(n_clips), same], axis=1), pairs])
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), (n_clips, n_clips))
    _, group = connected_components(graph, directed=False)
    best = np.full(n_clips, n_clips, np.int64)
    np.minimum.at(best, group, np.arange(n_clips))
    return best[group]


def _candidates(words: _Words) -> npt.NDArray[np.int64]:
    """Returns (clip, later clip, offset in frames) worth comparing in full, int64 [K, 3].

    The offset is the place in the first clip less the place in the second.
    """
    n_clips, span = len(words.starts) - 1, 2 * int(np.diff(words.starts).max(initial=0)) + 1
    ballots = [np.zeros(0, np.int64)]
    for mine, theirs in _agreements(words):
        one, other = words.clip[mine], words.clip[theirs]
        offset = np.where(one < other, 1, -1) * (words.place[mine] - words.place[theirs])
        pair = np.minimum(one, other) * n_clips + np.maximum(one, other)
        ballots.append(pair * span + offset + span // 2)
    keys, votes = np.unique(np.concatenate(ballots), return_counts=True)
    keys = keys[np.lexsort((-votes, keys // span))]
    pair = keys // span
    is_chosen = np.arange(len(pair)) - np.searchsorted(pair, pair) < _OFFSETS_PER_PAIR
    one, other = np.divmod(pair[is_chosen], max(1, n_clips))
    return np.stack([one, other, keys[is_chosen] % span - span // 2], axis=1)


def _agreements(words: _Words) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yields positions of frames whose words agree, but for weak bits of the first of the two."""
    order = np.argsort(words.frames["word"], kind="stable")
    values, firsts, counts = np.unique(
        words.frames["word"][order], return_index=True, return_counts=True
    )
    # Word 0 is silence, and very common words would make pairs of everything.
    telling = (values != 0) & (counts <= _MOST_COMMON)
    for start in range(0, len(order), _FRAMES_AT_ONCE):
        frames = words.frames[start : start + _FRAMES_AT_ONCE]
        for mask in fingerprints.probe_masks(frames):
            probe = frames["word"] ^ mask
            # Sorted probes walk through the index once; in other orders each one misses the cache.
            asked = np.argsort(probe)
            found = np.minimum(np.searchsorted(values, probe[asked]), len(values) - 1)
            is_hit = (values[found] == probe[asked]) & telling[found] & (frames["word"][asked] != 0)
            n_hits = counts[found[is_hit]]
            mine = np.repeat(start + asked[is_hit], n_hits)
            nth = np.arange(len(mine)) - np.repeat(np.cumsum(n_hits) - n_hits, n_hits)
            theirs = order[np.repeat(firsts[found[is_hit]], n_hits) + nth]
            agree = _neighbours_agree(words, mine, theirs)
            yield mine[agree], theirs[agree]


def _neighbours_agree(
    words: _Words, mine: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Returns which pairs of frames lie in different clips and agree in the words around, too."""
    last = len(words.clip) - 1
    n_wrong, n_compared = np.zeros(len(mine), np.int64), np.zeros(len(mine), np.int64)
    for step in _NEIGHBOURS:
        one, other = np.clip(mine + step, 0, last), np.clip(theirs + step, 0, last)
        inside = (words.clip[one] == words.clip[mine]) & (words.clip[other] == words.clip[theirs])
        wrong = np.bitwise_count(words.frames["word"][one] ^ words.frames["word"][other])
        n_wrong += np.where(inside, wrong, 0)
        n_compared += N_BITS * inside
    is_pair = words.clip[mine] != words.clip[theirs]
    return is_pair & (n_wrong <= _NEIGHBOUR_ERROR_RATE * n_compared)


def _is_match(one: Frames, other: Frames, offset_frames: int, config: DuplicatesConfig) -> bool:
    one_start, other_start = max(0, offset_frames), max(0, -offset_frames)
    n_frames = min(len(one) - one_start, len(other) - other_start)
    if n_frames < config.min_overlap_share * min(len(one), len(other)):
        return False
    error_rate, n_heard = fingerprints.bit_error_rate(
        one[one_start : one_start + n_frames], other[other_start : other_start + n_frames]
    )
    return error_rate <= config.max_bit_error_rate and n_heard * HOP_S >= config.min_overlap_s
