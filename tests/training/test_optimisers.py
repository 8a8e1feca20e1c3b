from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bclef.models import BirdModel, ModelSpec, build_model
from bclef.optimisers import (
    clip_gradients,
    freeze,
    live_norms,
    make_optimiser,
    set_learning_rate,
    set_training_mode,
)
from bclef.trainconfig import TrainConfig


@pytest.fixture
def model(spec: ModelSpec) -> BirdModel:
    return build_model(spec, seed=0)


def altered(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update=changes)


def step(model: BirdModel, config: TrainConfig, n_steps: int = 1) -> None:
    """Takes steps along a gradient of ones."""
    freeze(model, config.trainable)
    optimiser = make_optimiser(model, config)
    for _ in range(n_steps):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimiser.step()


def test_decay_spares_vectors_with_adamw_and_nothing_with_adam(
    model: BirdModel, train_config: TrainConfig
) -> None:
    def decays(optimiser: str) -> dict[bool, set[float]]:
        config = altered(train_config, optimiser=optimiser, weight_decay=0.3)
        found: dict[bool, set[float]] = {True: set(), False: set()}
        for group in make_optimiser(model, config).param_groups:
            for parameter in group["params"]:
                found[parameter.ndim <= 1].add(group["weight_decay"])
        return found

    assert decays("adamw") == {True: {0.0}, False: {0.3}}
    assert decays("adam") == decays("radam") == {True: {0.3}, False: {0.3}}


def test_adam_adds_decay_to_the_gradient_and_adamw_takes_it_from_the_weight(
    model: BirdModel, train_config: TrainConfig
) -> None:
    """With a gradient of 1, Adam's first step is lr whatever the L2; AdamW's has lr decay w too."""
    for optimiser, decay_share in (("adam", 0.0), ("adamw", 0.1)):
        weight = model.head.classify.weight
        weight.data.fill_(5.0)
        config = altered(
            train_config, optimiser=optimiser, lr=1e-2, weight_decay=decay_share or 0.1
        )
        step(model, config)
        expected = 5.0 - 1e-2 - 1e-2 * decay_share * 5.0
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-6)


def test_lookahead_goes_back_half_of_the_way_every_five_steps(
    model: BirdModel, train_config: TrainConfig
) -> None:
    """Its slow weights begin after the fifth step, so the tenth is the first to go back."""
    bias = model.head.classify.bias
    found: dict[str, list[Tensor]] = {}
    for optimiser in ("radam", "radam_lookahead"):
        bias.data.zero_()
        config = altered(train_config, optimiser=optimiser, weight_decay=0.0)
        freeze(model, "all")
        made = make_optimiser(model, config)
        found[optimiser] = []
        for _ in range(10):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            made.step()
            found[optimiser].append(bias.detach().clone())
    plain, ahead = found["radam"], found["radam_lookahead"]
    for number in range(9):
        torch.testing.assert_close(ahead[number], plain[number])
    torch.testing.assert_close(ahead[9], (plain[4] + plain[9]) / 2)


def test_backbone_has_its_share_of_the_learning_rate(
    model: BirdModel, train_config: TrainConfig
) -> None:
    config = altered(train_config, lr=1e-2, backbone_lr_share=0.1)
    optimiser = make_optimiser(model, config)
    set_learning_rate(optimiser, 0.5)
    backbone = {id(parameter) for parameter in model.parameter_groups()["backbone"]}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            expected = 5e-4 if id(parameter) in backbone else 5e-3
            assert group["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        ("all", {"backbone", "head", "class_layers"}),
        ("head", {"head", "class_layers"}),
        ("class_layers", {"class_layers"}),
    ],
)
def test_only_what_is_trainable_moves(
    spec: ModelSpec, train_config: TrainConfig, trainable: str, moved: set[str]
) -> None:
    wide = spec.model.model_copy(update={"hidden_features": 8})
    model = build_model(spec.model_copy(update={"model": wide}), seed=0)
    before = {
        name: [parameter.detach().clone() for parameter in parameters]
        for name, parameters in model.parameter_groups().items()
    }
    step(model, altered(train_config, trainable=trainable))
    for name, parameters in model.parameter_groups().items():
        assert parameters
        for parameter, old in zip(parameters, before[name], strict=True):
            assert torch.equal(parameter, old) == (name not in moved)
    freeze(model, "all")
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("trainable", ["all", "head", "class_layers"])
def test_statistics_of_frozen_norms_do_not_move(spec: ModelSpec, trainable: Any) -> None:
    normed = spec.model.model_copy(update={"mel_batch_norm": True})
    model = build_model(spec.model_copy(update={"model": normed}), seed=0)
    freeze(model, trainable)
    set_training_mode(model, trainable)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(4, spec.window_samples))
    names = [name for name in before if "running" in name]
    assert names
    has_moved = {not torch.equal(model.get_buffer(name), before[name]) for name in names}
    assert has_moved == {trainable == "all"}
    assert bool(live_norms(model, trainable)) == (trainable == "all")
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert all(module.training for module in dropouts), "what learns is still regularised"


def test_gradients_are_limited_by_norm_and_then_by_value(train_config: TrainConfig) -> None:
    def clipped(norm: float | None, value: float | None) -> list[float]:
        parameter, untouched = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([3.0, -4.0])
        changes = {"gradient_clip_norm": norm, "gradient_clip_value": value}
        clip_gradients([parameter, untouched], altered(train_config, **changes))
        return [float(number) for number in parameter.grad]

    assert clipped(None, None) == [3.0, -4.0]
    assert clipped(None, 3.5) == [3.0, -3.5]
    np.testing.assert_allclose(clipped(1.0, None), [0.6, -0.8], rtol=1e-5)
    np.testing.assert_allclose(clipped(1.0, 0.7), [0.6, -0.7], rtol=1e-5)
