"""The epochs of a phase of training whose weights may be handed on, by their validation loss."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from bclef.averaging import MeanWeights, Weights, copied

Select: TypeAlias = Literal["last", "best", "soup"]


@dataclass(frozen=True)
class Candidate:
    """Weights that may be handed on."""

    epoch: int
    """Epoch that they are from."""
    val_loss: float
    """Theirs."""
    weights: Weights
    """On the CPU."""


class Candidates:
    """The epochs with the least `val_loss` so far; of equal ones the earlier.

    Args:
        select: `last` holds none, `best` one, `soup` a few.
        soup_size: How many those few are.
    """

    def __init__(self, select: Select, soup_size: int) -> None:
        self.best: list[Candidate] = []
        self._n_held = {"last": 0, "best": 1, "soup": soup_size}[select]

    def offer(self, epoch: int, val_loss: float, weights: Weights) -> None:
        """Holds a copy of `weights` if they are among the best; with a loss of NaN never."""
        if math.isnan(val_loss) or not self._n_held:
            return
        if len(self.best) < self._n_held or val_loss < self.best[-1].val_loss:
            held = [*self.best, Candidate(epoch, val_loss, copied(weights))]
            self.best = sorted(held, key=lambda one: one.val_loss)[: self._n_held]

    def mean(self) -> Weights:
        """Returns the mean of the weights that are held, at least one."""
        mean = MeanWeights()
        for candidate in sorted(self.best, key=lambda one: one.epoch):
            mean.add(candidate.weights)
        return mean.weights

    def state_dict(self) -> list[dict[str, Any]]:
        """Returns what a checkpoint holds."""
        return [asdict(candidate) for candidate in self.best]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Goes on from a checkpoint."""
        self.best = [Candidate(**candidate) for candidate in state]
