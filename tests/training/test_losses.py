"""The losses against plain numpy lines of their formulas (docs/formulas.md E5-E14)."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bclef import losses
from bclef.config import ConfigError
from bclef.losses import (
    LOSSES,
    LossConfig,
    Truth,
    clip_losses,
    soft_auc,
    total_loss,
    weighted_loss,
)
from tests.trainsettings import LOSS

Floats = NDArray[np.float64]


def config(**changes: Any) -> LossConfig:
    return LossConfig.from_tree(LOSS | changes, "train")


def truth_of(
    target: Floats,
    mask: Floats | None = None,
    weight: Floats | None = None,
    divisor: float | None = None,
) -> Truth:
    mask = np.ones_like(target) if mask is None else mask
    weight = np.ones(len(target)) if weight is None else weight
    total = float(weight.sum()) if divisor is None else divisor
    return Truth(torch.tensor(target), torch.tensor(mask), torch.tensor(weight), total)


def sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


def softplus(x: Floats) -> Floats:
    return np.log(1 + np.exp(x))


def bce(z: Floats, y: Floats) -> Floats:
    return -(y * np.log(sigmoid(z)) + (1 - y) * np.log(1 - sigmoid(z)))


def focal(z: Floats, y: Floats) -> Floats:
    p = sigmoid(z)
    agreement = p * y + (1 - p) * (1 - y)
    return (0.25 * y + 0.75 * (1 - y)) * (1 - agreement) ** 2 * bce(z, y)


def bcefocal_2022(z: Floats, y: Floats) -> Floats:
    p = sigmoid(z)
    return 0.25 * y * (1 - p) ** 2 * bce(z, y) + (1 - y) * p**2 * bce(z, y)


def cross_entropy(z: Floats, y: Floats) -> Floats:
    return -y * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


TWINS = {
    "bce": bce,
    "focal": focal,
    "bce_focal": lambda z, y: bce(z, y) + focal(z, y),
    "bcefocal_2022": bcefocal_2022,
    "cross_entropy": cross_entropy,
    "cross_entropy_normalised": lambda z, y: cross_entropy(z, y / y.sum(axis=1, keepdims=True)),
}


def slow_soft_auc(s: Floats, y: Floats, amount: Floats) -> float:
    """E12 pair by pair; `amount` is 1 for every element of the published form."""
    total, n_pairs = 0.0, 0.0
    for i in np.ndindex(y.shape):
        for j in np.ndindex(y.shape):
            if y[i] > 0.5 > y[j]:
                pair = (y[i] - 0.5) * (0.5 - y[j]) * softplus(-(s[i] - s[j]))
                total += float(amount[i] * amount[j] * pair)
                n_pairs += float(amount[i] * amount[j])
    return total / n_pairs


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_element_loss_equals_its_formula(name: str, soft: bool, rng: np.random.Generator) -> None:
    z, y = 3 * rng.normal(size=(5, 4)), rng.uniform(size=(5, 4))
    y = y if soft else np.maximum(np.round(y), np.eye(5, 4))
    y[4, 0] = 1.0  # a clip without any label is another test
    found = LOSSES[name](torch.tensor(z), torch.tensor(y)).numpy()
    np.testing.assert_allclose(found, TWINS[name](z, y), rtol=1e-9)


def test_every_loss_that_can_be_set_is_there() -> None:
    assert set(get_args(LossConfig.model_fields["loss"].annotation)) == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_extreme_logits_is_finite_and_so_is_its_gradient(name: str) -> None:
    z = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    y = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    terms = {"loss": name, "frame_loss_weight": 1.0, "soft_auc_weight": 1.0, "soft_auc_on": "logit"}
    truth = Truth(y, torch.ones(2, 2), torch.ones(2), 2.0)
    loss = total_loss(z, z[:, None], truth, config(**terms))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_focal_loss_weighs_a_sure_error_more_than_an_unsure_one() -> None:
    z, y = torch.tensor([[2.0, 0.1]]), torch.zeros(1, 2)
    share = LOSSES["focal"](z, y) / LOSSES["bce"](z, y)
    assert share[0, 0] > 2 * share[0, 1]


def test_masked_element_counts_as_zero_and_still_counts(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(3, 4)), np.eye(3, 4)
    mask = np.round(rng.uniform(size=(3, 4)))
    found = weighted_loss(torch.tensor(z), truth_of(y, mask), config())
    assert float(found) == pytest.approx((mask * bce(z, y)).sum() / (3 * 4), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_masked_element_moves_no_logit(name: str) -> None:
    z = torch.tensor([[0.3, 0.9, -0.2], [1.0, 0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    y = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    terms = config(loss=name, frame_loss_weight=0.5, soft_auc_weight=1.0)
    total_loss(z, z[:, None], truth_of(y, mask), terms).backward()
    assert z.grad is not None
    assert z.grad[0, 1] == 0
    assert (z.grad != 0).sum() == 5


def test_clip_with_nothing_known_or_nothing_heard_costs_a_softmax_nothing() -> None:
    z = torch.tensor([[5.0, 1.0], [2.0, 7.0]], dtype=torch.float64)
    silent = truth_of(np.zeros((2, 2)))
    unknown = truth_of(np.eye(2), np.zeros((2, 2)))
    for name in ("cross_entropy", "cross_entropy_normalised"):
        for truth in (silent, unknown):
            assert clip_losses(z, truth, config(loss=name)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", LOSSES)
def test_mean_over_clips_is_weighted(name: str, rng: np.random.Generator) -> None:
    z, y, w = 2 * rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)), np.array([1.0, 0.2, 0.6, 0.1])
    element = TWINS[name](z, y)
    is_softmax = name.startswith("cross_entropy")
    per_clip = element.sum(axis=1) if is_softmax else element.mean(axis=1)
    found = weighted_loss(torch.tensor(z), truth_of(y, weight=w), config(loss=name))
    assert float(found) == pytest.approx((w * per_clip).sum() / w.sum(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sum_is_over_classes_and_clips(name: str, rng: np.random.Generator) -> None:
    z, y, w = 2 * rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)), np.array([1.0, 0.2, 0.6, 0.1])
    truth = truth_of(y, weight=w, divisor=1.0)
    found = weighted_loss(torch.tensor(z), truth, config(loss=name, loss_sum=True))
    expected = (w[:, None] * TWINS[name](z, y)).sum()
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "shares"),
    [("bcefocal_2022", (1.0, 1.0)), ("bce", (0.5, 0.5)), ("cross_entropy", (0.5, 0.5))],
    ids=["E8", "E9", "E9 of the cross-entropy stages"],
)
def test_two_way_loss_is_that_of_the_clip_and_of_the_loudest_frame(
    name: str, shares: tuple[float, float], rng: np.random.Generator
) -> None:
    clip, frames = rng.normal(size=(4, 3)), 2 * rng.normal(size=(4, 6, 3))
    y = np.maximum(np.round(rng.uniform(size=(4, 3))), np.eye(4, 3))

    def mean(z: Floats) -> float:
        element = TWINS[name](z, y)
        per_clip = element.sum(axis=1) if name == "cross_entropy" else element.mean(axis=1)
        return float(per_clip.mean())

    terms = config(loss=name, clip_loss_weight=shares[0], frame_loss_weight=shares[1])
    found = total_loss(torch.tensor(clip), torch.tensor(frames), truth_of(y), terms)
    expected = shares[0] * mean(clip) + shares[1] * mean(frames.max(axis=1))
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("on", ["probability", "logit"])
@pytest.mark.parametrize("soft", [False, True])
def test_soft_area_equals_its_formula(on: str, soft: bool, rng: np.random.Generator) -> None:
    z, y = 2 * rng.normal(size=(5, 4)), rng.uniform(size=(5, 4))
    y = y if soft else np.round(y)
    terms = config(clip_loss_weight=0.25, soft_auc_weight=1.0, soft_auc_on=on)
    found = total_loss(torch.tensor(z), torch.tensor(z[:, None]), truth_of(y), terms)
    s = z if on == "logit" else sigmoid(z)
    expected = slow_soft_auc(s, y, np.ones_like(y)) + 0.25 * bce(z, y).mean()
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_soft_area_on_probability_has_its_floor() -> None:
    scores, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), np.array([[1.0, 0.0]])
    floor = float(soft_auc(scores, truth_of(y)))
    assert floor == pytest.approx(0.25 * np.log(1 + np.exp(-1)), abs=1e-9)
    assert floor == pytest.approx(0.25 * 0.313, abs=1e-3)


def test_soft_area_weighs_elements_by_mask_and_clip(rng: np.random.Generator) -> None:
    s, y = rng.normal(size=(5, 4)), rng.uniform(size=(5, 4))
    mask, weight = np.round(rng.uniform(size=(5, 4))), rng.uniform(size=5)
    mask[2, 1] = 0.3
    found = soft_auc(torch.tensor(s), truth_of(y, mask, weight))
    assert float(found) == pytest.approx(slow_soft_auc(s, y, mask * weight[:, None]), abs=1e-6)


def test_soft_area_of_many_pairs_is_that_of_all_at_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, start = np.round(rng.uniform(size=(6, 5))), torch.tensor(rng.normal(size=(6, 5)))

    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        scores = start.clone().requires_grad_()
        loss = soft_auc(scores, truth_of(y))
        loss.backward()
        assert scores.grad is not None
        return loss.item(), scores.grad

    whole, gradient = loss_and_gradient()
    sizes = []
    real = torch.nn.functional.softplus

    def counted(table: torch.Tensor) -> torch.Tensor:
        sizes.append(table.numel())
        return real(table)

    monkeypatch.setattr(losses, "softplus", counted)
    monkeypatch.setattr(losses, "PAIRS_AT_ONCE", 40)
    parts, gradient_of_parts = loss_and_gradient()
    assert parts == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(gradient_of_parts, gradient)
    assert len(sizes) > 4
    assert max(sizes) <= 40


def test_soft_area_has_the_gradient_of_its_value(rng: np.random.Generator) -> None:
    scores = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    truth = truth_of(rng.uniform(size=(3, 4)))
    assert torch.autograd.gradcheck(lambda s: soft_auc(s, truth), scores)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_soft_area_without_pairs_is_zero_and_pulls_nowhere(value: float) -> None:
    scores = torch.tensor([[0.3, 0.9]], dtype=torch.float64, requires_grad=True)
    loss = soft_auc(scores, truth_of(np.full((1, 2), value)))
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0]]


def test_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is learned"):
        config(clip_loss_weight=0.0)
    assert config(clip_loss_weight=0.0, soft_auc_weight=1.0).soft_auc_weight == 1.0
