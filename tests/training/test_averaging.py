from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bclef.averaging import MeanWeights, MovingAverage, re_estimate_norms
from bclef.models import BirdModel


def statistic(model: nn.Module) -> str:
    """The name of some running mean of `model`."""
    return next(name for name, _ in model.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_moving_average_is_the_recurrence_with_its_warm_up(
    lively_model: BirdModel, decay: float
) -> None:
    average = MovingAverage(lively_model, decay)
    names = ["head.classify.bias", statistic(lively_model)]
    expected = [0.0, 0.0]
    for step in range(40):
        for position, name in enumerate(names):
            tensor = lively_model.state_dict()[name]
            tensor.fill_(float(step**2 + position))
            share = 0.0 if step == 0 else min(decay, (1 + step) / (10 + step))
            expected[position] = share * expected[position] + (1 - share) * (step**2 + position)
        average.update()
    for name, value in zip(names, expected, strict=True):
        averaged = average.weights[name]
        torch.testing.assert_close(averaged, torch.full_like(averaged, value))


def test_moving_average_goes_on_from_a_checkpoint() -> None:
    model = nn.Linear(2, 2)
    straight = MovingAverage(model, 0.9)
    for _ in range(3):
        model.weight.data.mul_(2)
        straight.update()
    other = deepcopy(model)
    resumed = MovingAverage(other, 0.9)
    resumed.load_state_dict(deepcopy(straight.state_dict()))
    for one, average in ((model, straight), (other, resumed)):
        one.weight.data.mul_(2)
        average.update()
    assert torch.equal(straight.weights["weight"], resumed.weights["weight"])


def test_whole_numbers_are_not_averaged() -> None:
    """A mean of counts of batches would be no count."""
    norm = nn.BatchNorm1d(2)
    moving, mean = MovingAverage(norm, 0.5), MeanWeights()
    for _ in range(3):
        norm(torch.randn(4, 2))
        moving.update()
        mean.add(norm.state_dict())
    assert moving.weights["num_batches_tracked"] == 3
    assert mean.weights["num_batches_tracked"] == 3


def test_mean_weights_are_the_plain_mean() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(3, 2)).astype(np.float32) for _ in range(5)]
    mean = MeanWeights()
    for row in rows:
        mean.add({"w": torch.from_numpy(row)})
    np.testing.assert_allclose(mean.weights["w"].numpy(), np.mean(rows, axis=0), atol=1e-6)


def test_mean_weights_do_not_follow_the_network_that_they_are_of() -> None:
    layer, mean = nn.Linear(2, 2), MeanWeights()
    before = layer.weight.detach().clone()
    mean.add(layer.state_dict())
    layer.weight.data.add_(1)
    assert torch.equal(mean.weights["weight"], before)


class Small(nn.Module):
    """A layer, something drawn, and a norm whose input depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.drop(self.layer(x)))
        return normed


def averaged() -> tuple[Small, list[Tensor]]:
    """The mean of two networks with batches, and the statistics of both."""
    torch.manual_seed(0)
    batches = list(torch.randn(5, 8, 3) * 3 + 1)
    mean = MeanWeights()
    for _ in range(2):
        model = Small()
        model.layer.weight.data.mul_(4)
        for batch in batches:
            model(batch)
        mean.add(model.state_dict())
    model = Small()
    model.load_state_dict(mean.weights)
    return model, batches


def test_statistics_are_those_of_the_averaged_weights() -> None:
    model, batches = averaged()
    before = model.norm.running_var.clone()
    re_estimate_norms(model, [model.norm], batches, model)
    inputs = [model.layer(batch).detach().numpy() for batch in batches]
    means = np.mean([x.mean(axis=0) for x in inputs], axis=0)
    variances = np.mean([x.var(axis=0, ddof=1) for x in inputs], axis=0)
    np.testing.assert_allclose(model.norm.running_mean.numpy(), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.norm.running_var.numpy(), variances, rtol=1e-5)
    assert not np.allclose(before.numpy(), variances, rtol=0.05), "the mean of both was no better"


def test_statistics_depend_on_nothing_that_is_drawn_and_leave_the_network_as_it_was() -> None:
    found = []
    for seed in (1, 2):
        model, batches = averaged()
        torch.manual_seed(seed)
        re_estimate_norms(model, [model.norm], batches, model)
        found.append(model.norm.running_mean.clone())
        assert model.norm.momentum == 0.1
        assert not any(module.training for module in model.modules())
    assert torch.equal(found[0], found[1])


def test_norms_that_are_not_named_keep_their_statistics() -> None:
    model, batches = averaged()
    before = model.norm.running_mean.clone()
    re_estimate_norms(model, [], batches, model)
    assert torch.equal(model.norm.running_mean, before)
