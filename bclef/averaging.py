"""The moving average of a network's weights, which generalises better than its last step."""

from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from bclef.models import BirdModel


def moving_average(model: BirdModel, decay: float) -> AveragedModel:
    """Returns an exponential moving average of `model`, to be told of each step.

    After n steps the decay is at most (1 + n) / (10 + n), so that the random start is soon
    forgotten in short runs. Statistics of batch norms are averaged too: they belong to the weights.

    Args:
        model: Copied as it is now.
        decay: Per step, from 0 to 1.

    Source:
        The warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    def update(averaged: PARAM_LIST, current: PARAM_LIST, n_averaged: Tensor | int) -> None:
        n_steps = int(n_averaged)
        step_decay = min(decay, (1 + n_steps) / (10 + n_steps))
        get_ema_multi_avg_fn(step_decay)(averaged, current, n_averaged)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.requires_grad_(False).eval()
    return average
