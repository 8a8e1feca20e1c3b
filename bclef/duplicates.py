"""Says which recordings are copies of others, byte for byte or encoded anew, and keeps the best.

Duplicates between training and validation flatter every score, and duplicates within training weigh
a bird double; but what is left out is lost. So a recording is a copy only of one that is kept and
holds nearly all of it, and those that merely share a stretch are a group, which the folds keep
together. Exact copies share the hash of their samples, the others are found by `matches`.
"""

import logging

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bclef.fingerprints import FRAME
from bclef.matches import DuplicatesConfig, Positions, matching_pairs

_ROLES = ("focal", "soundscape", "noise")
_LOG = logging.getLogger(__name__)


def mark_duplicates(
    clips: pd.DataFrame, recordings: pd.DataFrame, config: DuplicatesConfig
) -> pd.DataFrame:
    """Returns the clips with `duplicate_of`, `duplicate_kind` and `sound_group` filled.

    An annotated recording is worth more than a focal one, that more than a soundscape, that more
    than noise; then counts the length, then the original sample rate, then the lowest id. One that
    shares sound with a better one is its copy if nearly all of it is there, and also if that one is
    annotated, for test material must be unheard, or if it is noise and that one is not. It names
    the one that is kept in `duplicate_of`; its kind is `exact` when their samples are equal, else
    `reencoded`. `sound_group` is the best id of all that share sound, also by way of others; null
    for one that shares none.

    Args:
        clips: Columns recording_id, n_samples, pcm_hash, fingerprint, source_sample_rate_hz and
            error; rows with an error are left alone.
        recordings: Columns recording_id, role and annotated.
        config: When two recordings share sound.
    """
    usable = clips[clips["error"].isna()]
    ranked = _ranked(usable, recordings)
    kept, group = _kept_and_group(ranked, config)
    ids = ranked["recording_id"].to_numpy(object)
    is_copy = kept != np.arange(len(ranked))
    is_exact = (ranked["pcm_hash"].to_numpy() == ranked["pcm_hash"].to_numpy()[kept])[is_copy]
    is_shared = np.bincount(group, minlength=len(ranked))[group] > 1
    marked = clips.assign(duplicate_of=None, duplicate_kind=None, sound_group=None)
    marked = marked.astype(
        dict.fromkeys(("duplicate_of", "duplicate_kind", "sound_group"), "string")
    )
    copies = ranked.index[is_copy]
    marked.loc[copies, "duplicate_of"] = ids[kept[is_copy]]
    marked.loc[copies, "duplicate_kind"] = np.where(is_exact, "exact", "reencoded")
    marked.loc[ranked.index[is_shared], "sound_group"] = ids[group[is_shared]]
    _LOG.info("%d of %d usable recordings are copies of others", len(copies), len(usable))
    return marked


def _ranked(usable: pd.DataFrame, recordings: pd.DataFrame) -> pd.DataFrame:
    """Returns the clips with role and annotated, the one most worth keeping first."""
    facts = usable.reset_index().merge(
        recordings[["recording_id", "role", "annotated"]], on="recording_id", validate="1:1"
    )
    keys = {
        "annotated": ~facts["annotated"].to_numpy(bool),
        "role": facts["role"].map(_ROLES.index).to_numpy(np.int64),
        "n_samples": -facts["n_samples"].to_numpy(np.int64),
        "rate_hz": -facts["source_sample_rate_hz"].to_numpy(np.int64),
        "recording_id": facts["recording_id"].to_numpy(object),
    }
    order = pd.DataFrame(keys).sort_values(list(keys)).index
    return facts.iloc[order].set_index("index")


def _kept_and_group(ranked: pd.DataFrame, config: DuplicatesConfig) -> tuple[Positions, Positions]:
    """Returns the position of the row that is kept for each row, and of the best of its group."""
    n_clips = len(ranked)
    first_of_hash = ranked.assign(row=range(n_clips)).groupby("pcm_hash")["row"].transform("min")
    same = first_of_hash.to_numpy(np.int64)
    distinct = np.unique(same)
    prints = [np.frombuffer(ranked["fingerprint"].iloc[row], FRAME) for row in distinct]
    pairs = matching_pairs(prints, config)
    pairs = pairs.assign(one=distinct[pairs["one"]], other=distinct[pairs["other"]])
    kept = np.arange(n_clips)
    leaving = pairs[_is_left_out(pairs, ranked, config)].sort_values(["other", "one"])
    for one, other in leaving[["one", "other"]].to_numpy(np.int64).tolist():
        if kept[other] == other and kept[one] == one:
            kept[other] = one
    links = np.concatenate(
        [np.stack([np.arange(n_clips), same], axis=1), pairs[["one", "other"]].to_numpy(np.int64)]
    )
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), (n_clips, n_clips))
    _, group = connected_components(graph, directed=False)
    best = np.full(n_clips, n_clips, np.int64)
    np.minimum.at(best, group, np.arange(n_clips))
    return kept[same], best[group]


def _is_left_out(
    pairs: pd.DataFrame, ranked: pd.DataFrame, config: DuplicatesConfig
) -> npt.NDArray[np.bool_]:
    """Returns whether the other of each pair goes if the one, which is worth more, is kept."""
    annotated, is_noise = ranked["annotated"].to_numpy(bool), (ranked["role"] == "noise").to_numpy()
    one, other = pairs["one"].to_numpy(np.int64), pairs["other"].to_numpy(np.int64)
    is_covered = pairs["share_of_other"].to_numpy(float) >= config.min_covered_share
    is_heard_test = annotated[one] & ~annotated[other]
    return np.asarray(is_covered | is_heard_test | (is_noise[other] & ~is_noise[one]), np.bool_)
