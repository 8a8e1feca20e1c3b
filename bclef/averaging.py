"""Averages of a network's weights, which generalise better than its last step.

Weights are dictionaries as `state_dict` gives them. Averaged weights need batch-norm statistics of
their own: the mean of the statistics of several networks is not that of their mean.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

T = TypeVar("T")
Weights: TypeAlias = dict[str, Tensor]
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def copied(weights: Weights) -> Weights:
    """Returns `weights` as they are now, apart from the network and on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


class MovingAverage:
    """The exponential moving average of a network's weights, to be told of each step.

    After n steps the decay is at most (1 + n) / (10 + n), so that the random start is soon
    forgotten in short runs. Statistics of batch norms are averaged too: they change as slowly as
    the weights do. Whole numbers are those of the last step.

    Args:
        model: Averaged as it is after each step.
        decay: Per step, from 0 to 1.

    Source:
        The warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._live: Weights = model.state_dict()  # the network's own tensors, which steps change
        self.weights: Weights = {name: t.detach().clone() for name, t in self._live.items()}
        self._decay = decay
        self._n_steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights of the network after a step."""
        warm = (1 + self._n_steps) / (10 + self._n_steps)
        decay = min(self._decay, warm) if self._n_steps else 0.0
        floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        averaged, current = ([part[name] for name in floats] for part in (self.weights, self._live))
        get_ema_multi_avg_fn(decay)(averaged, current, self._n_steps)
        for name in self._live.keys() - set(floats):
            self.weights[name].copy_(self._live[name])
        self._n_steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {"weights": self.weights, "n_steps": self._n_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        for name, tensor in state["weights"].items():
            self.weights[name].copy_(tensor)
        self._n_steps = state["n_steps"]


class MeanWeights:
    """The plain mean of weights; whole numbers are those of the last. Each weighs the same."""

    def __init__(self) -> None:
        self.weights: Weights = {}
        self.n_added = 0

    @torch.no_grad()
    def add(self, weights: Weights) -> None:
        """Takes in `weights`."""
        self.n_added += 1
        if self.n_added == 1:
            self.weights = copied(weights)
            return
        for name, tensor in copied(weights).items():
            mean = self.weights[name]
            if tensor.is_floating_point():
                mean.lerp_(tensor, 1 / self.n_added)
            else:
                mean.copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {"weights": self.weights, "n_added": self.n_added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.weights, self.n_added = state["weights"], state["n_added"]


@torch.no_grad()
def re_estimate_norms(
    model: nn.Module,
    norms: Sequence[BatchNorm],
    batches: Iterable[T],
    forward: Callable[[T], object],
) -> None:
    """Gives batch norms the statistics of `model` as it is: plain means over `batches`.

    All but `norms` is in evaluation mode meanwhile and in the end, so nothing is drawn: the result
    depends on the weights and the batches alone.

    Args:
        model: The network.
        norms: Those of its batch norms whose statistics are made anew; maybe none.
        batches: What the network is shown.
        forward: Shows it one batch.
    """
    if not norms:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean over all batches
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
