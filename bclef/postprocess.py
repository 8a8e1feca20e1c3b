"""What happens to window scores after the network: smoothing over neighbouring windows.

Part of the base install: `predict` and evaluation go through the same code. Everything works within
one recording; scores of two recordings never mix.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def check_kernel(kernel: Sequence[float]) -> None:
    """Refuses `kernel` unless it is an odd number of weights around a window's own.

    Raises:
        ValueError: An even number of weights, a negative one, or none for the window itself.

    >>> check_kernel([0.25, 0.5, 0.25])
    """
    if len(kernel) % 2 == 0 or min(kernel) < 0 or kernel[len(kernel) // 2] <= 0:
        raise ValueError(
            f"{list(kernel)} is no smoothing kernel: give an odd number of weights, none negative, "
            "the middle one above 0"
        )


def smooth_neighbours(
    scores: ArrayLike, recording_ids: ArrayLike, kernel: Sequence[float]
) -> NDArray[np.float32]:
    """Returns `scores` averaged over neighbouring windows by `kernel`.

    At the ends of a recording the weights that fall outside are left out and the rest scaled to
    sum to 1, so a constant score stays constant.

    Args:
        scores: float [N, C], windows in order of time, those of a recording in one run.
        recording_ids: Recording of each window, [N].
        kernel: See `check_kernel`.

    Returns:
        float32 [N, C].

    Raises:
        ValueError: The kernel has no centre or a negative weight.

    Source: smoothing kernels of the BirdCLEF systems; they differ in how edges are treated, here
        they are always renormalised.
    """
    check_kernel(kernel)
    table, owner = np.asarray(scores, dtype=np.float64), np.asarray(recording_ids)
    total, weight = np.zeros_like(table), np.zeros((len(table), 1))
    for shift, share in enumerate(kernel, start=-(len(kernel) // 2)):
        here = slice(max(0, -shift), max(0, len(table) - max(0, shift)))
        there = slice(max(0, shift), max(0, len(table) + min(0, shift)))
        # A neighbour counts only while it belongs to the same recording.
        part = share * (owner[here] == owner[there]).astype(np.float64)[:, None]
        total[here] += part * table[there]
        weight[here] += part
    return (total / weight).astype(np.float32)


def smooth_windows(
    window_scores: pd.DataFrame, labels: Sequence[str], kernel: Sequence[float] | None
) -> pd.DataFrame:
    """Returns `window_scores` with the columns `labels` smoothed, sorted by recording and time.

    Args:
        window_scores: recording_id, start_s and one float column per label; the windows of a
            recording stand on an even grid without gaps.
        labels: The class columns.
        kernel: See `check_kernel`; None leaves the scores as they are.

    Raises:
        ValueError: The kernel has no centre or a negative weight.
    """
    ordered = window_scores.sort_values(["recording_id", "start_s"], ignore_index=True)
    if kernel is None:
        return ordered
    columns = list(labels)
    ordered[columns] = smooth_neighbours(
        ordered[columns].to_numpy(), ordered["recording_id"].to_numpy(), kernel
    )
    return ordered
