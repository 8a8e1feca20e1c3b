from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from bclef.checkpoints import CheckpointError
from bclef.clipsampling import LabelledClips, NoiseClips, labelled_recordings
from bclef.crops import RandomCrops
from bclef.dataset import Batch, ClipSources, TrainingBatches
from bclef.losses import bce
from bclef.models import BirdModel, ModelSpec, build_model
from bclef.objective import learning_rate_share, training_loss
from bclef.taxonomy import ClassList
from bclef.training import FitPlan, FitResult, TrainConfig, fit

RATE_HZ = 8000
CLASSES = ClassList(("ani", "bee", "cro", "dov"))


class Killed(BaseException):
    """Nothing that a library would catch and go on from."""


class KilledBatches(TrainingBatches):
    """Batches during one of which the process dies."""

    deadly: tuple[int, int]

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        if key == self.deadly:
            raise Killed
        return super().__getitem__(key)


@pytest.fixture
def make_plan(
    world: Any, spec: ModelSpec, train_config: TrainConfig, tmp_path: Path
) -> Callable[..., FitPlan]:
    """A function that makes a plan; its work directory stays, so a second one resumes."""

    def make(
        work: str = "work",
        deadly: tuple[int, int] | None = None,
        validate: Callable[[BirdModel], Mapping[str, float]] | None = None,
        on_metrics: Callable[[Mapping[str, float], int], None] | None = None,
        **overrides: object,
    ) -> FitPlan:
        config = train_config.model_copy(update=overrides)
        index = world.index
        crops = RandomCrops(world, RATE_HZ, RATE_HZ, prefer_active=True)
        sources = ClipSources(
            labelled=LabelledClips(labelled_recordings(index, CLASSES), CLASSES, config, crops),
            pseudo=None,
            pseudo_share=0.0,
            noise=NoiseClips(index[index["role"] == "noise"], crops),
        )
        kind = TrainingBatches if deadly is None else KilledBatches
        batches = kind(world, sources, config, RATE_HZ, 0)
        if isinstance(batches, KilledBatches) and deadly is not None:
            batches.deadly = deadly
        return FitPlan(
            model=build_model(spec, seed=0),
            batches=batches,
            config=config,
            seed=11,
            work_dir=tmp_path / work,
            validate=validate or (lambda _model: {}),
            on_metrics=on_metrics or (lambda _figures, _epoch: None),
        )

    return make


def weights(result: FitResult) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in result.model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.8])
@pytest.mark.parametrize("deadly", [(0, 2), (1, 0), (2, 1)])
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    make_plan: Callable[..., FitPlan], deadly: tuple[int, int], ema_decay: float | None
) -> None:
    straight = fit(make_plan("straight", ema_decay=ema_decay))
    with pytest.raises(Killed):
        fit(make_plan("killed", deadly, ema_decay=ema_decay))
    torch.manual_seed(99)
    resumed = fit(make_plan("killed", ema_decay=ema_decay))
    assert same(weights(straight), weights(resumed))
    pd.testing.assert_frame_equal(straight.history, resumed.history)


def test_run_killed_while_it_validates_repeats_that_epoch(
    make_plan: Callable[..., FitPlan],
) -> None:
    def dying(_model: BirdModel) -> Mapping[str, float]:
        raise Killed

    straight = fit(make_plan("straight"))
    with pytest.raises(Killed):
        fit(make_plan("killed", validate=dying))
    assert same(weights(straight), weights(fit(make_plan("killed"))))


def test_finished_run_is_not_trained_again(make_plan: Callable[..., FitPlan]) -> None:
    first = fit(make_plan())
    told: list[int] = []
    again = fit(make_plan(deadly=(2, 0), on_metrics=lambda _figures, epoch: told.append(epoch)))
    assert same(weights(first), weights(again))
    assert told == [1, 2, 3, 3]


@pytest.mark.parametrize("left_bytes", [0, 20, 5_000])
def test_damaged_checkpoint_is_refused_by_name(
    make_plan: Callable[..., FitPlan], left_bytes: int
) -> None:
    with pytest.raises(Killed):
        fit(make_plan(deadly=(1, 0)))
    plan = make_plan()
    checkpoint = plan.work_dir / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:left_bytes])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a whole checkpoint .* remove it"):
        fit(plan)


def test_resumed_run_tells_the_earlier_epochs_again(make_plan: Callable[..., FitPlan]) -> None:
    with pytest.raises(Killed):
        fit(make_plan(deadly=(2, 1)))
    told: dict[int, Mapping[str, float]] = {}
    result = fit(make_plan(on_metrics=lambda figures, epoch: told.update({epoch: dict(figures)})))
    assert list(told) == [1, 2, 3]
    assert [told[epoch]["train_loss"] for epoch in told] == result.history["train_loss"].tolist()


def test_work_directory_holds_one_whole_checkpoint(make_plan: Callable[..., FitPlan]) -> None:
    plan = make_plan()
    fit(plan)
    assert [path.name for path in plan.work_dir.iterdir()] == ["last.ckpt"]
    checkpoint = torch.load(plan.work_dir / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 2


def test_result_does_not_depend_on_the_global_generator_and_leaves_it(
    make_plan: Callable[..., FitPlan],
) -> None:
    torch.manual_seed(1)
    first = fit(make_plan("one", epochs=1))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = fit(make_plan("two", epochs=1))
    assert torch.equal(before, torch.get_rng_state())
    assert same(weights(first), weights(again))


def test_another_seed_gives_other_weights(make_plan: Callable[..., FitPlan]) -> None:
    """The batches are the same: only dropout differs."""
    plan = make_plan("one", epochs=1)
    other = FitPlan(**{**vars(make_plan("two", epochs=1)), "seed": 12})
    assert not same(weights(fit(plan)), weights(fit(other)))


def test_average_without_memory_is_the_last_step(make_plan: Callable[..., FitPlan]) -> None:
    plain = weights(fit(make_plan("plain", ema_decay=None)))
    forgetful = weights(fit(make_plan("forgetful", ema_decay=1e-9)))
    name = "head.classify.weight"
    torch.testing.assert_close(forgetful[name], plain[name])
    running = "backbone.bn1.running_mean"
    torch.testing.assert_close(forgetful[running], plain[running])


@pytest.mark.parametrize("select", ["last", "best"])
def test_selected_weights_are_those_of_the_stated_epoch(
    make_plan: Callable[..., FitPlan], select: str
) -> None:
    seen: list[Tensor] = []

    def validate(model: BirdModel) -> Mapping[str, float]:
        seen.append(model.head.classify.weight.detach().clone())
        return {"val_loss": [3.0, 1.0, 2.0, 9.0][len(seen) - 1]}

    result = fit(make_plan(validate=validate, select=select, validate_every_epochs=1))
    epoch = {"last": 3, "best": 2}[select]
    assert result.epoch == epoch
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(result.model.head.classify.weight, seen[epoch - 1])
    assert torch.equal(seen[-1], seen[epoch - 1]), "what is kept is validated last of all"
    assert result.history.loc[epoch - 1, "val_loss"] == result.figures["val_loss"]


def test_validation_comes_every_few_epochs_and_at_the_end(
    make_plan: Callable[..., FitPlan],
) -> None:
    result = fit(make_plan(validate=lambda _model: {"val_loss": 1.0}, epochs=5))
    assert result.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert result.history["val_loss"].notna().tolist() == [False, True, False, True, True]
    assert not result.model.training


def test_learning_rate_rises_and_falls() -> None:
    shares = [learning_rate_share(step, 4, 20) for step in range(20)]
    assert shares[:4] == [0.2, 0.4, 0.6, 0.8]
    assert max(shares) == shares[4] == 1.0
    assert np.all(np.diff(shares[4:]) < 0)
    assert 0 < shares[-1] < 0.02
    assert learning_rate_share(20, 4, 20) == 0


def test_loss_without_augmentation_is_that_of_the_batch(
    make_plan: Callable[..., FitPlan], lively_model: BirdModel
) -> None:
    off = {"mixup_probability": 0.0, "noise_probability": 0.0, "mask_probability": 0.0}
    plan = make_plan(**off, gain_range_db=0.0, label_smoothing=0.0, frame_loss_weight=0.25)
    batch = plan.batches[0, 0]
    logits = lively_model(batch.wave)
    clip = bce(logits.clip, batch.target).mean()
    frames = bce(logits.frames.amax(dim=1), batch.target).mean()
    loss = training_loss(lively_model, batch, plan.config)
    torch.testing.assert_close(loss, clip + 0.25 * frames)


@pytest.mark.parametrize(
    "override",
    [{"mixup_probability": 1.0}, {"noise_probability": 1.0}, {"mask_probability": 1.0},
     {"gain_range_db": 40.0}],
)  # fmt: skip
def test_each_augmentation_reaches_the_loss(
    make_plan: Callable[..., FitPlan], lively_model: BirdModel, override: dict[str, float]
) -> None:
    off = {"mixup_probability": 0.0, "noise_probability": 0.0, "mask_probability": 0.0}
    plain = make_plan(**off, gain_range_db=0.0, label_smoothing=0.0)
    varied = make_plan(**off | {"gain_range_db": 0.0} | override, label_smoothing=0.0)
    losses = [
        training_loss(lively_model, plan.batches[0, 0], plan.config) for plan in (plain, varied)
    ]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_class_unknown_in_one_of_two_mixed_clips_leaves_the_loss(
    make_plan: Callable[..., FitPlan], lively_model: BirdModel
) -> None:
    plan = make_plan(mixup_probability=1.0, label_smoothing=0.0)
    batch = plan.batches[0, 0]
    clip = int((batch.wave_draws.partner != torch.arange(8)).int().argmax())
    partner = int(batch.wave_draws.partner[clip])
    alone = torch.zeros(8)
    alone[clip] = 1.0
    batch = batch._replace(target=torch.zeros_like(batch.target), weight=alone)
    unknown = batch.mask.clone()
    unknown[partner, 2] = 0.0
    loss = training_loss(lively_model, batch._replace(mask=unknown), plan.config)
    assert loss < training_loss(lively_model, batch, plan.config) - 1e-3


def test_half_precision_trains_and_scores_in_full(make_plan: Callable[..., FitPlan]) -> None:
    result = fit(make_plan(precision="bfloat16", epochs=1))
    assert np.isfinite(result.history["train_loss"]).all()
    assert all(tensor.dtype != torch.bfloat16 for tensor in result.model.state_dict().values())


def test_batch_moves_to_a_device_as_a_whole(make_plan: Callable[..., FitPlan]) -> None:
    moved = move_data_to_device(make_plan().batches[0, 0], torch.device("meta"))
    tensors = [*moved[:5], *moved.wave_draws, *moved.mask_draws]
    assert all(tensor.is_meta for tensor in tensors)
