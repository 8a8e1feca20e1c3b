import pytest
import torch

from bclef.averaging import moving_average
from bclef.models import BirdModel


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_average_is_the_recurrence_with_its_warm_up(lively_model: BirdModel, decay: float) -> None:
    average = moving_average(lively_model, decay)
    parameter = lively_model.head.classify.bias
    statistic = lively_model.get_buffer("backbone.bn1.running_mean")
    expected = [0.0, 0.0]
    for step in range(40):
        for position, tensor in enumerate((parameter, statistic)):
            tensor.data.fill_(float(step**2 + position))
            share = 0.0 if step == 0 else min(decay, (1 + step) / (10 + step))
            expected[position] = (
                share * expected[position] + (1 - share) * tensor.flatten()[0].item()
            )
        average.update_parameters(lively_model)
    averaged = average.module.head.classify.bias
    torch.testing.assert_close(averaged, torch.full_like(averaged, expected[0]))
    averaged = average.module.get_buffer("backbone.bn1.running_mean")
    torch.testing.assert_close(averaged, torch.full_like(averaged, expected[1]))
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
