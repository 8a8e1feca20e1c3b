"""Finds the recordings that hold the same sound, byte for byte or encoded anew, and keeps the best.

Duplicates between training and validation flatter every score, and duplicates within training weigh
a bird double. Exact ones share the hash of their samples. For the others every word of every
fingerprint is looked up in one sorted index of all words; two words that agree vote for a pair of
clips at an offset, and each pair with votes is judged by the bits of its whole overlap. The work
grows with the number of words, not of pairs.
"""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from bclef import fingerprints
from bclef.config import Section
from bclef.fingerprints import FRAME, HOP_S, Frames

NEEDS = {
    "recording_id": "string",
    "n_samples": "int64?",
    "pcm_hash": "string?",
    "fingerprint": "binary?",
    "source_sample_rate_hz": "int64?",
    "error": "string?",
}

_MOST_COMMON = 100
"""Words that occur more often say nothing of a pair (and would cost their number squared)."""
_WORDS_AT_ONCE = 500_000
_LOG = logging.getLogger(__name__)


class DuplicatesConfig(Section):
    """When two recordings count as the same."""

    max_bit_error_rate: float = Field(gt=0, lt=0.5)
    """Share of fingerprint bits that may differ in the overlap; unrelated sounds have 0.5."""
    min_overlap_s: float = Field(gt=0.3)
    """Shortest common sound that can prove anything, seconds without silence."""
    min_overlap_share: float = Field(gt=0, le=1)
    """Share of the shorter recording that must lie in the overlap."""


@dataclass(frozen=True)
class _Words:
    """The fingerprints of all clips end to end."""

    frames: Frames
    clip: npt.NDArray[np.int32]
    """Clip of each frame."""
    starts: npt.NDArray[np.int64]
    """First frame of each clip, and the end of the last: [N + 1]."""

    def of(self, clip: int) -> Frames:
        return self.frames[self.starts[clip] : self.starts[clip + 1]]


def mark_duplicates(
    clips: pd.DataFrame, config: DuplicatesConfig, preferred_ids: Collection[str] = ()
) -> pd.DataFrame:
    """Returns the clips with `duplicate_of` and `duplicate_kind` filled.

    Recordings that are the same as a third are the same. Of each such group one is kept: one of
    `preferred_ids` before others, then the longest, then the highest sample rate of its source,
    then the lowest id. The others name it in `duplicate_of`; their kind is `exact` when their
    samples equal those of the kept one, else `reencoded`.

    Args:
        clips: One row for each recording; rows with an error are left alone.
        config: When two recordings count as the same.
        preferred_ids: Recordings that should be kept whatever their quality (annotated ones).
    """
    usable = clips[clips["error"].isna()]
    ranked = usable.assign(is_other=~usable["recording_id"].isin(list(preferred_ids))).sort_values(
        ["is_other", "n_samples", "source_sample_rate_hz", "recording_id"],
        ascending=[True, False, False, True],
    )
    kept = pd.Series(find_groups(ranked, config), index=ranked.index)
    first = ranked.loc[kept.to_numpy()] if len(ranked) else ranked
    is_copy = kept.to_numpy() != ranked.index.to_numpy()
    is_exact = first["pcm_hash"].to_numpy() == ranked["pcm_hash"].to_numpy()
    copies, marked = ranked.index[is_copy], clips.copy()
    marked["duplicate_of"] = pd.Series(pd.NA, index=clips.index, dtype="string")
    marked["duplicate_kind"] = pd.Series(pd.NA, index=clips.index, dtype="string")
    marked.loc[copies, "duplicate_of"] = first["recording_id"].to_numpy()[is_copy]
    marked.loc[copies, "duplicate_kind"] = np.where(is_exact, "exact", "reencoded")[is_copy]
    _LOG.info("%d of %d recordings are copies of others", len(copies), len(usable))
    return marked
