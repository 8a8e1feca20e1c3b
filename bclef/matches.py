"""Finds the pairs of recordings that share sound, by their fingerprints.

Every word of every fingerprint is looked up in one sorted index of all words; two words that agree
vote for a pair of clips at an offset, and each pair with votes is judged by the bits of its whole
overlap, piece by piece. The work grows with the number of words, not of pairs
(`python -m bench.duplicates`). In memory are, for each word, its 6 bytes, the 8 of its place in the
index and some bits that say which words there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from bclef import fingerprints
from bclef.config import Section
from bclef.fingerprints import FRAME, HOP_S, N_BITS, Frames

_MOST_COMMON = 100
"""Words that occur more often say nothing of a pair (and would cost their number squared)."""
_NEIGHBOURS = (-16, -12, -8, -4, 4, 8, 12, 16)
"""Frames around two equal words that are compared before the pair is: chance agrees in one word."""
_NEIGHBOUR_ERROR_RATE = 0.35
_OFFSETS_PER_PAIR = 5
_PIECE_FRAMES = 31
"""About a second: sound is shared where the frames around agree for so long."""
_PIECE_ERROR_RATE = 0.35
_FRAMES_AT_ONCE = 500_000
_WORD_SHIFT, _ALL_FRAMES = np.uint64(32), np.uint64(2**32 - 1)

Positions = npt.NDArray[np.int64]


class DuplicatesConfig(Section):
    """When two recordings count as the same."""

    max_bit_error_rate: float = Field(gt=0, lt=0.5)
    """Share of fingerprint bits that may differ in the overlap; unrelated sounds have 0.5."""
    min_overlap_s: float = Field(gt=0.3)
    """Shortest common sound that can prove anything, seconds without silence."""
    min_overlap_share: float = Field(gt=0, le=1)
    """Share of the sound of the one with less of it that both must hold to belong together."""
    min_covered_share: float = Field(gt=0, le=1)
    """Share of the sound of a recording that another must hold for it to be left out."""


def matching_pairs(
    fingerprints_of_clips: Sequence[Frames], config: DuplicatesConfig
) -> pd.DataFrame:
    """Returns the pairs of clips that share sound, sorted.

    Returns:
        Columns one and other, positions of clips; share_of_one and share_of_other, the part of the
        sound of each that the other holds, 0 to 1.
    """
    words = _Words.join(fingerprints_of_clips)
    best: dict[tuple[int, int], tuple[float, float]] = {}
    for one, other, offset_frames in _candidates(words).tolist():
        for nudge in (0, -1, 1):
            shares = _shares(words.of(one), words.of(other), offset_frames + nudge, config)
            if shares and sum(shares) > sum(best.get((one, other), (0.0, 0.0))):
                best[one, other] = shares
    rows = [(*pair, *best[pair]) for pair in sorted(best)]
    pairs = pd.DataFrame(rows, columns=["one", "other", "share_of_one", "share_of_other"])
    return pairs.astype({"one": "int64", "other": "int64"})


@dataclass(frozen=True)
class _Words:
    """The fingerprints of all clips end to end, and an index of their words."""

    frames: Frames
    starts: npt.NDArray[np.int64]
    """First frame of each clip, and the end of the last: [N + 1]."""
    index: npt.NDArray[np.uint64]
    """Word << 32 | frame of every frame that is not silent, sorted."""
    present: npt.NDArray[np.uint8]
    """Bits set where `_slot` puts the words of `index`, 16 bits or more per frame."""
    repeated: npt.NDArray[np.uint8]
    """The same of words that occur twice or more."""

    @classmethod
    def join(cls, parts: Sequence[Frames]) -> "_Words":
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        frames = np.concatenate([np.zeros(0, FRAME), *parts])
        index = frames["word"].astype(np.uint64)
        index <<= _WORD_SHIFT
        index |= np.arange(len(frames), dtype=np.uint32)
        index.sort()
        index = index[np.searchsorted(index, 1 << _WORD_SHIFT) :]  # word 0 is silence
        present = np.zeros(2 ** min(29, len(frames).bit_length() + 1), np.uint8)
        repeated = np.zeros_like(present)
        for first in range(0, len(index), _FRAMES_AT_ONCE):
            words = (index[first : first + _FRAMES_AT_ONCE + 1] >> _WORD_SHIFT).astype(np.uint32)
            np.bitwise_or.at(present, *_slot(words, present))
            np.bitwise_or.at(repeated, *_slot(words[1:][words[1:] == words[:-1]], repeated))
        return cls(frames, starts, index, present, repeated)

    def of(self, clip: int) -> Frames:
        return self.frames[self.starts[clip] : self.starts[clip + 1]]

    def clips(self, places: Positions) -> Positions:
        """Returns the clip of each frame."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def find(
        self, probes: npt.NDArray[np.uint32], slots: npt.NDArray[np.uint8]
    ) -> tuple[Positions, Positions]:
        """Returns (which probe, which frame) where words equal a probe that `slots` may hold."""
        byte, bit = _slot(probes, slots)
        asked = np.flatnonzero(slots[byte] & bit)
        # Sorted probes walk through the index once; in other orders each one misses the cache.
        asked = asked[np.argsort(probes[asked])]
        words = probes[asked].astype(np.uint64)
        first = np.searchsorted(self.index, words << _WORD_SHIFT)
        found = self.index[np.minimum(first, len(self.index) - 1)] >> _WORD_SHIFT == words
        asked, first, words = asked[found], first[found], words[found]
        n_hits = np.searchsorted(self.index, words << _WORD_SHIFT | _ALL_FRAMES, "right") - first
        telling = n_hits <= _MOST_COMMON
        asked, first, n_hits = asked[telling], first[telling], n_hits[telling]
        nth = np.arange(n_hits.sum()) - np.repeat(np.cumsum(n_hits) - n_hits, n_hits)
        hits = self.index[np.repeat(first, n_hits) + nth] & _ALL_FRAMES
        return np.repeat(asked, n_hits), hits.astype(np.int64)


def _slot(
    words: npt.NDArray[np.uint32], slots: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Returns the (byte, bit) of each word in a table whose size is a power of 2."""
    # The multiplier is 2**32 over the golden ratio: it spreads words over the upper bits.
    slot = words * np.uint32(2_654_435_769) >> np.uint32(30 - len(slots).bit_length())
    return slot >> np.uint32(3), np.uint8(1) << (slot & np.uint32(7)).astype(np.uint8)


def _candidates(words: _Words) -> npt.NDArray[np.int64]:
    """Returns (clip, later clip, offset in frames) worth comparing in full, int64 [K, 3].

    The offset is the place in the first clip less the place in the second.
    """
    n_clips, span = len(words.starts) - 1, 2 * int(np.diff(words.starts).max(initial=0)) + 1
    ballots = [np.zeros(0, np.int64)]
    for mine, theirs in _agreements(words):
        one, other = words.clips(mine), words.clips(theirs)
        offset = (mine - words.starts[one]) - (theirs - words.starts[other])
        pair = np.minimum(one, other) * n_clips + np.maximum(one, other)
        ballots.append(pair * span + np.where(one < other, offset, -offset) + span // 2)
    keys, votes = np.unique(np.concatenate(ballots), return_counts=True)
    keys = keys[np.lexsort((-votes, keys // span))]
    pair = keys // span
    is_chosen = np.arange(len(pair)) - np.searchsorted(pair, pair) < _OFFSETS_PER_PAIR
    one, other = np.divmod(pair[is_chosen], max(1, n_clips))
    return np.stack([one, other, keys[is_chosen] % span - span // 2], axis=1)


def _agreements(words: _Words) -> Iterator[tuple[Positions, Positions]]:
    """Yields places of frames whose words agree, but for weak bits of the first of the two."""
    for start in range(0, len(words.frames), _FRAMES_AT_ONCE):
        frames = words.frames[start : start + _FRAMES_AT_ONCE]
        heard = np.flatnonzero(frames["word"])
        for subset, mask in enumerate(fingerprints.probe_masks(frames[heard])):
            # The word as it is (subset 0) at least finds itself.
            slots = words.present if subset else words.repeated
            asked, theirs = words.find(frames["word"][heard] ^ mask, slots)
            mine = start + heard[asked]
            elsewhere = words.clips(mine) != words.clips(theirs)
            mine, theirs = mine[elsewhere], theirs[elsewhere]
            agree = _neighbours_agree(words, mine, theirs)
            yield mine[agree], theirs[agree]


def _neighbours_agree(words: _Words, mine: Positions, theirs: Positions) -> npt.NDArray[np.bool_]:
    """Returns which pairs of frames agree in the words around, too, as far as their clips reach."""
    one, other = words.clips(mine), words.clips(theirs)
    earliest = np.maximum(words.starts[one] - mine, words.starts[other] - theirs)
    latest = np.minimum(words.starts[one + 1] - mine, words.starts[other + 1] - theirs)
    n_wrong, n_compared = np.zeros(len(mine), np.int64), np.zeros(len(mine), np.int64)
    for step in _NEIGHBOURS:
        inside = (earliest <= step) & (step < latest)
        here = words.frames["word"][np.where(inside, mine + step, mine)]
        there = words.frames["word"][np.where(inside, theirs + step, mine)]
        n_wrong += np.bitwise_count(here ^ there)
        n_compared += N_BITS * inside
    return n_wrong <= _NEIGHBOUR_ERROR_RATE * n_compared


def _shares(
    one: Frames, other: Frames, offset_frames: int, config: DuplicatesConfig
) -> tuple[float, float] | None:
    """Returns the share of the sound of each that the other holds, if that is enough."""
    one_start, other_start = max(0, offset_frames), max(0, -offset_frames)
    n_frames = min(len(one) - one_start, len(other) - other_start)
    errors = fingerprints.bit_errors(
        one[one_start : one_start + n_frames], other[other_start : other_start + n_frames]
    )
    heard = ~np.isnan(errors)
    if not heard.any() or errors[heard].mean() > config.max_bit_error_rate:
        return None
    wrong, compared = _around(np.where(heard, errors, 0)), _around(heard.astype(np.float64))
    n_shared = np.count_nonzero(heard & (wrong <= _PIECE_ERROR_RATE * compared))
    n_one, n_other = np.count_nonzero(one["word"]), np.count_nonzero(other["word"])
    is_enough = n_shared >= config.min_overlap_share * min(n_one, n_other)
    if n_shared * HOP_S < config.min_overlap_s or not is_enough:
        return None
    return min(1.0, n_shared / n_one), min(1.0, n_shared / n_other)


def _around(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Returns the sum of the values in the piece around each place, as far as there are any."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - _PIECE_FRAMES // 2, 0)
    end = np.minimum(places + _PIECE_FRAMES // 2 + 1, len(values))
    return np.asarray(sums[end] - sums[first], np.float64)
