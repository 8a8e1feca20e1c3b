from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

import bclef.training
from bclef.checkpoints import CheckpointError
from bclef.clipsampling import labelled_recordings
from bclef.dataset import Batch, BatchKey, TrainingBatches
from bclef.launching import DeviceError
from bclef.models import BirdModel, ModelSpec, build_model
from bclef.streams import clip_sources
from bclef.taxonomy import ClassList
from bclef.training import FitPlan, FitResult, Phase, TrainConfig, fit

RATE_HZ = 8000
CLASSES = ClassList(("ani", "bee", "cro", "dov"))
CLASSIFY = "head.classify.weight"


class Killed(BaseException):
    """Nothing that a library would catch and go on from."""


class KilledBatches(TrainingBatches):
    """Batches during one of which the process dies."""

    deadly: tuple[int, int]

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, key: BatchKey) -> Batch:
        self.reads.append((key.epoch, key.position))
        if (key.epoch, key.position) == self.deadly:
            raise Killed
        return super().__getitem__(key)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are read in this process."""
    monkeypatch.setenv("BCLEF_LOADER_WORKERS", "0")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(bclef.training, "CHECKPOINT_EVERY_S", 0.0)


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
        phases: tuple[dict[str, Any], ...] = ({},),
        **overrides: object,
    ) -> FitPlan:
        made = []
        for changes in phases:
            config = train_config.model_copy(update=overrides | changes)
            recordings = labelled_recordings(world.index, CLASSES)
            sources = clip_sources(world, recordings, CLASSES, config, RATE_HZ)
            kind = TrainingBatches if deadly is None else KilledBatches
            batches = kind(world, sources, config, RATE_HZ, 0)
            if isinstance(batches, KilledBatches) and deadly is not None:
                batches.deadly = deadly
            made.append(Phase(config, batches))
        return FitPlan(
            model=build_model(spec, seed=0),
            phases=made,
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


def loss_by_weights(model: BirdModel) -> Mapping[str, float]:
    """A validation that depends on the weights alone."""
    return {"val_loss": float(model.head.classify.weight.detach().abs().sum())}


KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "accumulated": ({"clips_per_epoch": 40, "accumulate_batches": 2, "optimiser": "radam"},),
    "lookahead": ({"optimiser": "radam_lookahead", "ema_decay": None},),
    "soup": ({"select": "soup", "validate_every_epochs": 1, "optimiser": "adam"},),
    "phases": (
        {"epochs": 1, "select": "best", "precision": "bfloat16"},
        {"epochs": 2, "trainable": "class_layers", "schedule": "one_cycle", "swa_epochs": 2},
    ),
}
"""Phases of three epochs in all."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("eager")
def test_run_killed_in_mid_epoch_ends_with_the_weights_of_an_uninterrupted_one(
    make_plan: Callable[..., FitPlan], kind: str
) -> None:
    options: dict[str, Any] = {"phases": KINDS[kind], "validate": loss_by_weights}
    straight = fit(make_plan("straight", **options))
    most, due = KINDS[kind][0].get("accumulate_batches", 1), (0, 0)
    for deadly in [(0, 2), (1, 0), (1, 3), (2, 3)]:
        plan = make_plan("killed", deadly, **options)
        reads = [cast("KilledBatches", phase.batches).reads for phase in plan.phases]
        with pytest.raises(Killed):
            fit(plan)
        begun = next(read for phase_reads in reads for read in phase_reads)
        assert begun == due, "no step is trained again"
        due = (deadly[0], deadly[1] - deadly[1] % most)
        torch.manual_seed(99)
    resumed = fit(make_plan("killed", **options))
    assert same(weights(straight), weights(resumed))
    pd.testing.assert_frame_equal(straight.history, resumed.history, check_exact=True)
    assert (straight.epoch, straight.figures) == (resumed.epoch, resumed.figures)


def test_run_killed_within_an_epoch_before_its_first_checkpoint_repeats_that_epoch(
    make_plan: Callable[..., FitPlan],
) -> None:
    straight = fit(make_plan("straight"))
    with pytest.raises(Killed):
        fit(make_plan("killed", (1, 2)))
    resumed = fit(make_plan("killed"))
    assert same(weights(straight), weights(resumed))
    pd.testing.assert_frame_equal(straight.history, resumed.history, check_exact=True)


@pytest.mark.parametrize("phases", [({},), ({"epochs": 1}, {"epochs": 1, "swa_epochs": 1})])
def test_run_killed_while_it_validates_trains_no_step_again(
    make_plan: Callable[..., FitPlan], phases: tuple[dict[str, Any], ...]
) -> None:
    def dying(_model: BirdModel) -> Mapping[str, float]:
        raise Killed

    straight = fit(make_plan("straight", phases=phases))
    with pytest.raises(Killed):
        fit(make_plan("killed", validate=dying, phases=phases))
    assert same(weights(straight), weights(fit(make_plan("killed", phases=phases))))


def test_finished_run_is_not_trained_again(make_plan: Callable[..., FitPlan]) -> None:
    phases = ({"epochs": 1}, {"epochs": 2})
    first = fit(make_plan(phases=phases, validate=loss_by_weights))
    told: list[int] = []
    plan = make_plan(
        phases=phases,
        deadly=(2, 0),
        validate=loss_by_weights,
        on_metrics=lambda _figures, epoch: told.append(epoch),
    )
    again = fit(plan)
    assert same(weights(first), weights(again))
    assert told == [1, 2, 3, 3]
    assert (first.epoch, first.figures) == (again.epoch, again.figures)
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)


def test_finished_phase_is_not_trained_again_and_hands_on_what_it_selected(
    make_plan: Callable[..., FitPlan],
) -> None:
    phases = ({"epochs": 2, "swa_epochs": 2}, {"epochs": 1})
    straight = fit(make_plan("straight", phases=phases))
    with pytest.raises(Killed):
        fit(make_plan("killed", (2, 0), phases=phases))
    plan, dead = make_plan("killed", phases=phases), make_plan("killed", (0, 0), phases=phases)
    resumed = fit(replace(plan, phases=[dead.phases[0], plan.phases[1]]))
    assert same(weights(straight), weights(resumed))
    assert resumed.epoch == 3


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


def test_memory_is_kept_once_by_the_training_itself(
    make_plan: Callable[..., FitPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each of its loaders; whoever only makes one keeps the memory's old ways."""
    told: list[str] = []
    for module in ("training", "transit"):
        monkeypatch.setattr(f"bclef.{module}.keep_memory", lambda: told.append("keep"))
    fit(make_plan(phases=({"epochs": 1}, {"epochs": 1})))
    assert told == ["keep"]


def test_work_directory_holds_one_whole_checkpoint(make_plan: Callable[..., FitPlan]) -> None:
    plan = make_plan()
    fit(plan)
    assert [path.name for path in plan.work_dir.iterdir()] == ["last.ckpt"]
    assert torch.load(plan.work_dir / "last.ckpt", weights_only=True)["phase"] == 1


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
    other = replace(make_plan("two", epochs=1), seed=12)
    assert not same(weights(fit(plan)), weights(fit(other)))


def test_average_without_memory_is_the_last_step(make_plan: Callable[..., FitPlan]) -> None:
    plain = weights(fit(make_plan("plain", ema_decay=None)))
    forgetful = weights(fit(make_plan("forgetful", ema_decay=1e-9)))
    for name, tensor in plain.items():
        torch.testing.assert_close(forgetful[name], tensor)


@pytest.mark.parametrize("select", ["last", "best"])
def test_selected_weights_are_those_of_the_stated_epoch(
    make_plan: Callable[..., FitPlan], select: str
) -> None:
    seen: list[Tensor] = []

    def validate(model: BirdModel) -> Mapping[str, float]:
        assert not model.training
        seen.append(model.head.classify.weight.detach().clone())
        return {"val_loss": [3.0, 1.0, 2.0, 9.0][len(seen) - 1]}

    result = fit(make_plan(validate=validate, select=select, validate_every_epochs=1))
    epoch = {"last": 3, "best": 2}[select]
    assert result.epoch == epoch
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(result.model.head.classify.weight, seen[epoch - 1])
    assert torch.equal(seen[-1], seen[epoch - 1]), "what is kept is validated last of all"
    assert result.history.loc[epoch - 1, "val_loss"] == result.figures["val_loss"]


def test_soup_is_the_mean_of_the_best_epochs_and_has_its_own_statistics(
    make_plan: Callable[..., FitPlan],
) -> None:
    seen: list[dict[str, Tensor]] = []

    def validate(model: BirdModel) -> Mapping[str, float]:
        seen.append(deepcopy(model.state_dict()))
        return {"val_loss": [1.0, 3.0, 2.0, 9.0][len(seen) - 1]}

    plan = make_plan(validate=validate, select="soup", soup_size=2, validate_every_epochs=1)
    result = fit(plan)
    found = weights(result)
    torch.testing.assert_close(found[CLASSIFY], (seen[0][CLASSIFY] + seen[2][CLASSIFY]) / 2)
    name = next(name for name in found if name.endswith("running_var"))
    assert not torch.allclose(found[name], (seen[0][name] + seen[2][name]) / 2, rtol=1e-3)
    assert (result.epoch, result.figures) == (3, {"val_loss": 9.0})
    assert result.history["val_loss"].tolist() == [1.0, 3.0, 9.0]


def test_swa_is_the_mean_of_the_weights_after_the_last_epochs(
    make_plan: Callable[..., FitPlan],
) -> None:
    after = [
        weights(fit(make_plan(f"to {n}", ema_decay=None, schedule="constant", epochs=n)))
        for n in (2, 3)
    ]
    swa = {"ema_decay": None, "schedule": "constant", "epochs": 3, "swa_epochs": 2}
    found = weights(fit(make_plan("swa", **swa)))
    torch.testing.assert_close(found[CLASSIFY], (after[0][CLASSIFY] + after[1][CLASSIFY]) / 2)
    name = next(name for name in found if name.endswith("running_var"))
    assert not torch.allclose(found[name], (after[0][name] + after[1][name]) / 2, rtol=1e-3)


def test_validation_comes_every_few_epochs_and_at_the_end(
    make_plan: Callable[..., FitPlan],
) -> None:
    result = fit(make_plan(validate=lambda _model: {"val_loss": 1.0}, epochs=5))
    assert result.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert result.history["val_loss"].notna().tolist() == [False, True, False, True, True]
    assert not result.model.training


def test_best_of_nothing_validated_is_the_last(make_plan: Callable[..., FitPlan]) -> None:
    last = weights(fit(make_plan("last", epochs=2)))
    for select in ("best", "soup"):
        result = fit(make_plan(select, select=select, epochs=2))
        assert result.epoch == 2
        assert same(last, weights(result))


def test_a_phase_starts_from_what_the_one_before_selected(
    make_plan: Callable[..., FitPlan],
) -> None:
    """A second phase that learns nothing shows what it was given."""
    seen: list[Tensor] = []

    def validate(model: BirdModel) -> Mapping[str, float]:
        seen.append(model.head.classify.weight.detach().clone())
        return {"val_loss": float(len(seen))}

    first = {"epochs": 3, "select": "best", "validate_every_epochs": 1}
    idle = {"epochs": 1, "lr": 1e-30, "weight_decay": 0.0, "ema_decay": None}
    result = fit(make_plan(validate=validate, phases=(first, idle)))
    assert torch.equal(result.model.head.classify.weight, seen[0])
    assert not torch.equal(seen[0], seen[2])
    assert result.history["phase"].tolist() == [1, 1, 1, 2]
    assert result.history["epoch"].tolist() == [1, 2, 3, 4]
    assert result.epoch == 4


def test_each_phase_has_its_own_optimiser_schedule_and_batches(
    make_plan: Callable[..., FitPlan],
) -> None:
    one = {"epochs": 2, "warmup_epochs": 0.0, "schedule": "linear", "schedule_every": "epoch"}
    result = fit(make_plan(phases=(one | {"lr": 1e-2}, one | {"lr": 1e-3})))
    np.testing.assert_allclose(result.history["lr"], [1e-2, 5e-3, 1e-3, 5e-4])
    assert result.history["train_loss"].nunique() == 4
    alone = fit(make_plan("alone", phases=(one | {"lr": 1e-2},)))
    np.testing.assert_array_equal(alone.history["train_loss"], result.history["train_loss"][:2])


def test_frozen_parts_stay_and_come_back_in_the_next_phase(
    make_plan: Callable[..., FitPlan],
) -> None:
    plan = make_plan("frozen", trainable="class_layers", epochs=1, swa_epochs=1)
    before = deepcopy(plan.model.state_dict())
    found = weights(fit(plan))
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert moved
    assert all(name.startswith(("head.classify", "head.attention")) for name in moved)
    both = fit(make_plan("both", phases=({"trainable": "class_layers"}, {}), epochs=1))
    assert not same(
        {name: value for name, value in before.items() if name.startswith("backbone")},
        weights(both),
    )
    assert all(parameter.requires_grad for parameter in both.model.parameters())


def test_most_epochs_shorten_the_schedule_too(make_plan: Callable[..., FitPlan]) -> None:
    """With its warm-up, half of either."""
    short = fit(make_plan("short", epochs=1, warmup_epochs=0.5))
    cut = fit(make_plan("cut", epochs=50, max_epochs=1, warmup_epochs=25.0))
    assert same(weights(short), weights(cut))


def test_accumulated_batches_make_the_steps_of_one_batch_as_large(
    make_plan: Callable[..., FitPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five batches by two: three steps, the last of one batch alone, whose gradient is whole."""
    steps: list[tuple[float, float]] = []

    def spy(parameters: Any, _config: TrainConfig) -> None:
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        steps.append((float(torch.cat(gradients).norm()), 0.0))

    monkeypatch.setattr("bclef.phasetraining.clip_gradients", spy)
    still = {"lr": 1e-30, "weight_decay": 0.0, "clips_per_epoch": 40, "epochs": 1}
    result = fit(make_plan("one by one", **still))
    single = [norm for norm, _ in steps]
    steps.clear()
    fit(make_plan("two by two", **still, accumulate_batches=2))
    double = [norm for norm, _ in steps]
    assert (len(single), len(double)) == (5, 3)
    assert double[2] == pytest.approx(single[4], rel=1e-4)
    assert double[0] < max(single[:2])
    assert len(result.history) == 1


def test_schedule_counts_steps_and_not_batches(make_plan: Callable[..., FitPlan]) -> None:
    changes = {"clips_per_epoch": 40, "accumulate_batches": 2, "schedule": "linear", "epochs": 2}
    result = fit(make_plan(**changes, warmup_epochs=0.0, lr=6e-3))
    np.testing.assert_allclose(result.history["lr"], [4e-3, 1e-3])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_scores_in_full(
    make_plan: Callable[..., FitPlan], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Tensor] = []
    original = BirdModel.features

    def spy(model: BirdModel, mel: Tensor, *, scored: bool = False) -> Any:
        images.append(mel)
        return original(model, mel, scored=scored)

    monkeypatch.setattr(BirdModel, "features", spy)
    full = fit(make_plan("full", epochs=1))
    n_batches = len(images)
    result = fit(make_plan("half", precision=precision, epochs=1))
    assert torch.equal(images[0], images[n_batches]), "the front end calculates in float32"
    assert np.isfinite(result.history["train_loss"]).all()
    np.testing.assert_allclose(result.history["train_loss"], full.history["train_loss"], rtol=0.05)
    assert result.history["train_loss"][0] != full.history["train_loss"][0]
    assert not {tensor.dtype for tensor in weights(result).values()} & {torch.bfloat16, torch.half}


def test_batch_moves_to_a_device_as_a_whole(make_plan: Callable[..., FitPlan]) -> None:
    batch = make_plan().phases[0].batches[BatchKey(0, 0, 0, 1)]
    moved = move_data_to_device(batch, torch.device("meta"))

    def tensors(tree: Any) -> list[Tensor]:
        if isinstance(tree, Tensor):
            return [tree]
        return [t for part in tree for t in tensors(part)] if isinstance(tree, tuple) else []

    assert len(tensors(moved)) > 5
    assert all(tensor.is_meta for tensor in tensors(moved))


def test_phases_that_differ_in_devices_are_refused(make_plan: Callable[..., FitPlan]) -> None:
    with pytest.raises(DeviceError, match="differ in devices"):
        fit(make_plan(phases=({"devices": 1}, {"devices": 2})))


def test_process_of_a_launcher_that_no_setting_asks_for_is_refused(
    make_plan: Callable[..., FitPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(DeviceError, match="a launcher has started several processes"):
        fit(make_plan())
