import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bclef.losses import LOSSES, mean_loss, smooth_labels

Floats = NDArray[np.float64]


def sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


def bce(z: Floats, y: Floats) -> Floats:
    return -(y * np.log(sigmoid(z)) + (1 - y) * np.log(1 - sigmoid(z)))


def focal(z: Floats, y: Floats) -> Floats:
    p = sigmoid(z)
    agreement = p * y + (1 - p) * (1 - y)
    return (0.25 * y + 0.75 * (1 - y)) * (1 - agreement) ** 2 * bce(z, y)


def cross_entropy(z: Floats, y: Floats) -> Floats:
    return -y * (z - np.log(np.exp(z).sum(axis=1, keepdims=True))) * z.shape[1]


TWINS = {
    "bce": bce,
    "focal": focal,
    "bce_focal": lambda z, y: bce(z, y) + focal(z, y),
    "cross_entropy": cross_entropy,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_element_loss_equals_its_formula(name: str, soft: bool, rng: np.random.Generator) -> None:
    z, y = 3 * rng.normal(size=(5, 4)), rng.uniform(size=(5, 4))
    y = y if soft else np.round(y)
    found = LOSSES[name](torch.tensor(z), torch.tensor(y)).numpy()
    np.testing.assert_allclose(found, TWINS[name](z, y), rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_extreme_logits_is_finite(name: str) -> None:
    z = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = LOSSES[name](z, torch.tensor([[0.0, 1.0], [0.0, 1.0]])).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_focal_loss_weighs_a_sure_error_more_than_an_unsure_one() -> None:
    z, y = torch.tensor([[2.0, 0.1]]), torch.zeros(1, 2)
    share = LOSSES["focal"](z, y) / LOSSES["bce"](z, y)
    assert share[0, 0] > 2 * share[0, 1]


def test_masked_element_counts_as_zero_and_still_counts() -> None:
    losses = torch.tensor([[1.0, 100.0], [2.0, 4.0]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert mean_loss(losses, mask, torch.ones(2)).item() == pytest.approx((0.5 + 3.0) / 2)


def test_clip_of_double_weight_counts_twice() -> None:
    losses = torch.tensor([[1.0], [4.0]])
    weight = torch.tensor([2.0, 1.0])
    assert mean_loss(losses, torch.ones(2, 1), weight).item() == pytest.approx(2.0)


def test_smoothing_keeps_the_label_mass() -> None:
    smooth = smooth_labels(torch.eye(206)[:1], 0.05)
    assert smooth[0, 0].item() == pytest.approx(0.950243, abs=1e-6)
    assert smooth[0, 1].item() == pytest.approx(0.000243, abs=1e-6)
    assert smooth.sum().item() == pytest.approx(1.0)
    assert torch.equal(smooth_labels(torch.eye(3), 0.0), torch.eye(3))
