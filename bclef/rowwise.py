"""Changes of some rows of a batch in place, in the way that suits the device.

On a CPU fresh memory for many rows costs several times what is calculated in it, so rows are taken
one by one and as they stand. Accelerators want all of them in one go.
"""

from collections.abc import Callable

from torch import Tensor


def change_rows(batch: Tensor, rows: Tensor, change: Callable[[Tensor, slice], object]) -> None:
    """Changes the `rows` of `batch` in place.

    Args:
        batch: [R, T].
        rows: Different positions, int64 [K].
        change: Is given some of the rows [k, T], to be changed in place, and which of the K.
    """
    if _one_by_one(batch):
        for number, row in enumerate(rows.tolist()):
            change(batch[row : row + 1], slice(number, number + 1))
    elif len(rows):
        part = batch[rows]
        change(part, slice(None))
        batch[rows] = part


def rows_of(batch: Tensor, rows: Tensor) -> Tensor:
    """Returns `rows` [k] of `batch`, [k, T], not to be changed; on a CPU one as it stands."""
    if len(rows) == 1 and _one_by_one(batch):
        return batch[int(rows) : int(rows) + 1]
    return batch[rows]


def _one_by_one(batch: Tensor) -> bool:
    return batch.device.type == "cpu"
