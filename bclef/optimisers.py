"""Optimisers, what of the network they move, and how its gradients are limited."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from pydantic import Field
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from bclef.averaging import BatchNorm
from bclef.models import BirdModel
from bclef.schedules import ScheduleConfig

LOOKAHEAD_STEPS = 5
LOOKAHEAD_SHARE = 0.5
Trainable: TypeAlias = Literal["all", "head", "class_layers"]
_TRAINED: dict[Trainable, tuple[str, ...]] = {
    "all": ("backbone", "head", "class_layers"),
    "head": ("head", "class_layers"),
    "class_layers": ("class_layers",),
}


class OptimiserConfig(ScheduleConfig):
    """How the network is moved (part of section `train`)."""

    optimiser: Literal["adam", "adamw", "radam", "radam_lookahead"]
    """`radam_lookahead`: after every 5 steps the weights go back half of the way."""
    lr: float = Field(gt=0, le=1)
    """Learning rate at its peak."""
    backbone_lr_share: float = Field(gt=0, le=1)
    """The backbone's learning rate as a share of `lr`."""
    trainable: Trainable
    """What learns: all, the head, or its layers with one row per class. The rest is frozen."""
    weight_decay: float = Field(ge=0)
    """Of `adamw`: apart from the gradient, and biases, norms and other vectors are spared. Of the
    others: added to the gradient of all (L2)."""
    gradient_clip_norm: float | None = Field(gt=0)
    """Greatest norm of a step's gradient; null for no limit."""
    gradient_clip_value: float | None = Field(gt=0)
    """Greatest size of any of its numbers, after the norm; null for no limit."""
    accumulate_batches: int = Field(ge=1)
    """Batches whose mean gradient makes a step; the last step of an epoch may have fewer."""


def make_optimiser(model: BirdModel, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Returns the optimiser of what learns in `model`, as `freeze` has left it.

    Source:
        Lookahead with 5 steps and a share of one half: the 2024 third place.
    """
    groups = _groups(model, config)
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    optimiser = torch.optim.RAdam(groups, lr=config.lr)
    if config.optimiser == "radam":
        return optimiser
    return Lookahead(optimiser, LOOKAHEAD_SHARE, LOOKAHEAD_STEPS)  # type: ignore[no-untyped-call]


def set_learning_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Sets each group's learning rate to `share` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * share


def clip_gradients(parameters: Iterable[Tensor], config: OptimiserConfig) -> None:
    """Limits the gradients of `parameters`, first by their common norm, then one by one."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    if config.gradient_clip_norm is not None:
        clip_grad_norm_(moved, config.gradient_clip_norm)
    if config.gradient_clip_value is not None:
        clip_grad_value_(moved, config.gradient_clip_value)


def freeze(model: BirdModel, trainable: Trainable) -> None:
    """Makes the parameters of `trainable` those that have gradients, and no others."""
    for name, parameters in model.parameter_groups().items():
        for parameter in parameters:
            parameter.requires_grad_(name in _TRAINED[trainable])


def live_norms(model: BirdModel, trainable: Trainable) -> list[BatchNorm]:
    """Returns the batch norms whose statistics move in training: those of the parts that learn."""
    part: nn.Module = model if trainable == "all" else model.head
    found = [module for module in part.modules() if isinstance(module, BatchNorm)]
    return [] if trainable == "class_layers" else found


def set_training_mode(model: BirdModel, trainable: Trainable) -> None:
    """Puts `model` into training mode but for frozen batch norms, which keep their statistics."""
    model.train()
    live = set(live_norms(model, trainable))
    for module in model.modules():
        if isinstance(module, BatchNorm) and module not in live:
            module.eval()


def _groups(model: BirdModel, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay; `peak_lr` is what schedules take shares of."""
    groups: list[dict[str, Any]] = []
    for name, parameters in model.parameter_groups().items():
        moved = [parameter for parameter in parameters if parameter.requires_grad]
        lr = config.lr * (config.backbone_lr_share if name == "backbone" else 1.0)
        decay = config.weight_decay
        spared = [p for p in moved if p.ndim <= 1 and config.optimiser == "adamw"]
        decayed = [p for p in moved if p.ndim > 1 or config.optimiser != "adamw"]
        groups += [
            {"params": part, "lr": lr, "peak_lr": lr, "weight_decay": part_decay}
            for part, part_decay in ((decayed, decay), (spared, 0.0))
            if part
        ]
    return groups
