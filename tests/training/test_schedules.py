from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from bclef.schedules import ScheduleConfig, learning_rate_share, shortened


def schedule(**changes: Any) -> ScheduleConfig:
    tree: dict[str, Any] = {
        "schedule": "cosine",
        "schedule_every": "step",
        "warmup_epochs": 0.0,
        "initial_lr_share": 0.0,
        "final_lr_share": 0.0,
    }
    return ScheduleConfig(**tree | changes)


def shares(config: ScheduleConfig, steps_per_epoch: int, n_epochs: int) -> list[float]:
    n_steps = steps_per_epoch * n_epochs
    return [learning_rate_share(config, s, steps_per_epoch, n_epochs) for s in range(n_steps)]


def of_torch(scheduler: type[LRScheduler], n_steps: int, **options: Any) -> list[float]:
    """The learning rates that one of torch's schedulers gives, at a peak of 1."""
    optimiser = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    following = scheduler(optimiser, **options)
    found = []
    for _ in range(n_steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        following.step()
    return found


@pytest.mark.parametrize("final", [0.0, 0.01])
def test_cosine_is_that_of_torch(final: float) -> None:
    ours = shares(schedule(final_lr_share=final), 10, 5)
    theirs = of_torch(CosineAnnealingLR, 50, T_max=50, eta_min=final)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_cosine_by_epochs_is_that_of_torch_and_stands_within_an_epoch() -> None:
    ours = shares(schedule(schedule_every="epoch", final_lr_share=1e-3), 10, 5)
    theirs = of_torch(CosineAnnealingLR, 5, T_max=5, eta_min=1e-3)
    np.testing.assert_allclose(ours, np.repeat(theirs, 10), atol=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0.5, 2.0, 2.73])
def test_one_cycle_is_that_of_torch(warmup_epochs: float) -> None:
    config = schedule(
        schedule="one_cycle",
        warmup_epochs=warmup_epochs,
        initial_lr_share=1 / 25,
        final_lr_share=1 / 2500,
    )
    theirs = of_torch(
        OneCycleLR,
        49,  # torch refuses a step after the last
        max_lr=1.0,
        total_steps=50,
        pct_start=warmup_epochs / 5,
        div_factor=25.0,
        final_div_factor=100.0,
    )
    ours = shares(config, 10, 5)
    np.testing.assert_allclose(ours[:49], theirs, atol=1e-12)
    assert ours[-1] == pytest.approx(1 / 2500)


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.1])
def test_one_cycle_without_a_rise_begins_at_its_peak(warmup_epochs: float) -> None:
    found = shares(schedule(schedule="one_cycle", warmup_epochs=warmup_epochs), 10, 5)
    assert found[0] == pytest.approx(1, abs=2e-3)
    assert np.all(np.diff(found) < 0)


def test_warm_up_is_a_line_that_loses_no_step() -> None:
    found = shares(schedule(warmup_epochs=0.8), 5, 4)
    np.testing.assert_allclose(found[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.all(np.diff(found[4:]) < 0)
    raised = shares(schedule(warmup_epochs=0.8, initial_lr_share=0.5), 5, 4)
    np.testing.assert_allclose(raised[:5], [0.6, 0.7, 0.8, 0.9, 1.0])


def test_line_and_constant_are_what_they_say() -> None:
    line = shares(schedule(schedule="linear", final_lr_share=0.2), 2, 2)
    np.testing.assert_allclose(line, [1.0, 0.8, 0.6, 0.4])
    assert shares(schedule(schedule="constant"), 2, 2) == [1.0] * 4


def test_warm_up_longer_than_the_phase_only_rises() -> None:
    found = shares(schedule(warmup_epochs=9.0), 2, 2)
    np.testing.assert_allclose(found, np.arange(1, 5) / 19)


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_a_shortened_training_has_the_whole_curve(kind: str) -> None:
    """88 epochs with a rise of 8.8, cut to 11: every eighth step of the long one."""
    whole = schedule(schedule=kind, warmup_epochs=8.8, initial_lr_share=0.04)
    long, short = shares(whole, 80, 88), shares(shortened(whole, 1 / 8), 80, 11)
    np.testing.assert_allclose(short, long[4::8], atol=0.01)
    assert max(short) > 0.99
