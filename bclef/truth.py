"""What is true of a window or a clip: annotated boxes cut to a grid, labels of recordings.

A window is positive for a species when a box overlaps it by enough of a second; the least overlap
is a param, because published truths differ by it and seldom say so.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bclef.audio import window_starts
from bclef.taxonomy import ClassList


def window_grid(
    n_samples: pd.Series, sample_rate_hz: int, window_s: float, step_s: float
) -> pd.DataFrame:
    """Returns the windows that cover each recording: recording_id, start_s, end_s.

    The last window is kept whole, although part of it may lie beyond the end (its audio is padded),
    so no second of a recording goes unscored.

    Args:
        n_samples: Length of each recording, indexed by recording_id.
        sample_rate_hz: Its sample rate.
        window_s: Length of a window.
        step_s: From one window to the next, at most `window_s`.

    Raises:
        ValueError: The step leaves gaps.

    >>> window_grid(pd.Series({"a": 12}), 1, 5.0, 5.0)["start_s"].tolist()
    [0.0, 5.0, 10.0]
    """
    window_samples, step_samples = (round(t * sample_rate_hz) for t in (window_s, step_s))
    starts = [window_starts(int(n), window_samples, step_samples) for n in n_samples]
    owners = np.repeat(n_samples.index, [len(first) for first in starts])
    start_s = np.concatenate([*starts, np.zeros(0)]) / sample_rate_hz
    return pd.DataFrame(
        {
            "recording_id": pd.array(owners, dtype="string"),
            "start_s": start_s,
            "end_s": start_s + window_s,
        }
    )


def truth_windows(
    windows: pd.DataFrame, annotations: pd.DataFrame, classes: ClassList, min_overlap_s: float
) -> NDArray[np.bool_]:
    """Returns which of `classes` are to be heard in each of `windows`, bool [N, C].

    A box shorter than twice `min_overlap_s` counts where at least half of it lies, so that no box
    is lost between two windows. Labels outside `classes` and boxes of other recordings are passed
    over.

    Args:
        windows: recording_id, start_s, end_s; any order.
        annotations: recording_id, start_s, end_s, label: one row per box.
        classes: Order of the columns.
        min_overlap_s: Least overlap of a long box and a window.
    """
    truth = np.zeros((len(windows), len(classes)), dtype=np.bool_)
    starts, ends = windows["start_s"].to_numpy(), windows["end_s"].to_numpy()
    rows_of = windows.groupby("recording_id").indices
    known = annotations[annotations["label"].isin(list(classes.labels))]
    boxes = zip(
        known["recording_id"], known["start_s"], known["end_s"], known["label"], strict=True
    )
    for recording_id, start_s, end_s, label in boxes:
        rows = rows_of.get(recording_id, np.zeros(0, dtype=np.intp))
        overlap_s = np.minimum(ends[rows], end_s) - np.maximum(starts[rows], start_s)
        enough_s = min(min_overlap_s, (end_s - start_s) / 2)
        # A nanosecond less, so that the rounding of decimal times does not decide.
        truth[rows[overlap_s >= enough_s - 1e-9], classes.position(label)] = True
    return truth


def clip_truth(clips: pd.DataFrame, classes: ClassList) -> NDArray[np.bool_]:
    """Returns which of `classes` a clip is labelled with, first or second, bool [N, C].

    Args:
        clips: label and secondary_labels; labels outside `classes` are passed over.
        classes: Order of the columns.
    """
    labels = [
        [*([] if pd.isna(label) else [label]), *secondary]
        for label, secondary in zip(clips["label"], clips["secondary_labels"], strict=True)
    ]
    return classes.targets(labels, ignore_unknown=True).astype(np.bool_)
