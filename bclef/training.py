"""Training: one `fit` for every stage that trains, over a list of phases, resumed where killed.

All that is random depends on (seed, epoch, position): batches by their key, dropout by a seed set
for each. A checkpoint is written whole or not at all, after each epoch and every few minutes, so a
run that was killed at any moment and started again ends with the weights of one that was not.

Several processes may share each batch. All of them go through the phases; the first one alone
validates, reports, saves and returns.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch
from lightning.fabric import Fabric

from bclef.checkpoints import read_checkpoint, write_checkpoint
from bclef.handover import Handover
from bclef.launching import DeviceError, processes
from bclef.models import BirdModel
from bclef.phasetraining import Phase, PhaseTraining
from bclef.trainconfig import TrainConfig
from bclef.transit import keep_memory

__all__ = ["FitPlan", "FitResult", "Phase", "TrainConfig", "Validation", "fit"]

_LOG = logging.getLogger(__name__)
CHECKPOINT_EVERY_S = 600.0
"""Time between checkpoints within an epoch."""

Validation: TypeAlias = Callable[[BirdModel], Mapping[str, float]]
"""Gives figures of a model by name: none where there is nothing to score, else with `val_loss`."""


@dataclass(frozen=True)
class FitPlan:
    """One training run."""

    model: BirdModel
    """Starting weights; changed by training."""
    phases: Sequence[Phase]
    """What is trained one after another, at least one. Each starts from the weights that the one
    before handed on, with an optimiser, a schedule and averages of its own."""
    seed: int
    """Of dropout; the batches have their own."""
    work_dir: Path
    """Where the checkpoint lies; a run of other settings or data needs another folder."""
    validate: Validation
    """Called every few epochs, and at the end of each phase with the weights that it hands on."""
    on_metrics: Callable[[Mapping[str, float], int], None]
    """Is told the figures of each epoch, and its number from 1."""


@dataclass(frozen=True)
class FitResult:
    """What a training run made."""

    model: BirdModel
    """The weights that the last phase handed on, in evaluation mode, on the device that trained."""
    epoch: int
    """Epoch that they are from, from 1, counted through all phases."""
    figures: Mapping[str, float]
    """Their validation figures."""
    history: pd.DataFrame
    """One row per epoch: epoch and phase, from 1, train_loss, lr, and the validation figures where
    there are any. Where a phase hands on the mean of several epochs, its last row has those of the
    mean."""


def fit(plan: FitPlan) -> FitResult:
    """Returns the trained model; goes on from the checkpoint in `plan.work_dir` if there is one.

    On a CPU this process keeps memory that it has freed, from then on.

    Raises:
        CheckpointError: It cannot be read.
        DeviceError: The devices are not those that the settings ask for.
        SystemExit: 0, in all processes but the first, when they have done their part.
    """
    asked = {(phase.config.devices, phase.config.nodes) for phase in plan.phases}
    if len(asked) != 1:
        raise DeviceError(f"phases differ in devices and nodes: {sorted(asked)}; expected one pair")
    with processes(*asked.pop()) as fabric:
        gpus = [fabric.device] if fabric.device.type == "cuda" else []
        if not gpus:
            keep_memory()
        with torch.random.fork_rng(devices=gpus):
            run = _Run(plan, fabric)
            run.train()
            result = run.result() if fabric.is_global_zero else None
            fabric.barrier()  # the others wait for it, so that all leave together
            if result is None:
                raise SystemExit(0)
            return result


class _Run:
    """A run in one of its processes, which all train and of which the first does the rest."""

    def __init__(self, plan: FitPlan, fabric: Fabric) -> None:
        self._plan = plan
        self._fabric = fabric
        self._model = plan.model.to(fabric.device)
        n_epochs = [phase.config.n_epochs for phase in plan.phases]
        self._first_epochs = [sum(n_epochs[:number]) for number in range(len(n_epochs))]
        self._n_epochs = sum(n_epochs)
        self._history: list[dict[str, float]] = []
        self._kept_epoch = 0
        self._figures: Mapping[str, float] | None = None
        self._saved_s = time.monotonic()

    def train(self) -> None:
        """Goes through all phases, or through what the checkpoint has left of them."""
        is_first = self._fabric.is_global_zero
        state = self._fabric.broadcast(read_checkpoint(self._plan.work_dir) if is_first else None)
        if state is None:
            state = {"phase": 0, "under_way": None}
        elif is_first:
            self._resume(state)
        for number in range(state["phase"], len(self._plan.phases)):
            self._train_phase(number, state.pop("under_way", None))

    def result(self) -> FitResult:
        """Returns what the last phase handed on; it is validated again if an earlier run did."""
        figures = self._validate_kept() if self._figures is None else self._figures
        return FitResult(self._model, self._kept_epoch, figures, pd.DataFrame(self._history))

    def _train_phase(self, number: int, state: dict[str, Any] | None) -> None:
        phase, first_epoch = self._plan.phases[number], self._first_epochs[number]
        training = PhaseTraining(self._fabric, self._model, phase, first_epoch, self._plan.seed)
        handover = Handover(self._model, phase, first_epoch)
        if state is not None:
            training.load_state_dict(state["training"])
            handover.load_state_dict(state["handover"])
            state = None  # as large as what it was loaded into
        is_first = self._fabric.is_global_zero
        while training.epoch < phase.config.n_epochs:
            for _ in training.steps():
                if is_first and time.monotonic() - self._saved_s >= CHECKPOINT_EVERY_S:
                    self._save_under_way(number, training, handover)
            if is_first:
                self._end_epoch(number, training, handover)
            training.next_epoch()
            if is_first:
                self._save_under_way(number, training, handover)
        if is_first:
            self._kept_epoch = first_epoch + handover.finish(training.weights()) + 1
            self._figures = self._validate_kept()
            self._save(
                {"phase": number + 1, "under_way": None, "weights": self._model.state_dict()}
            )

    def _end_epoch(self, number: int, training: PhaseTraining, handover: Handover) -> None:
        """Validates, if it is due, and reports."""
        config, epoch = self._plan.phases[number].config, training.epoch
        shown = self._first_epochs[number] + epoch + 1
        figures = {"epoch": float(shown), "phase": number + 1.0, **training.figures()}
        handover.end_epoch(epoch, training.weights())
        is_end = epoch + 1 == config.n_epochs
        is_kept = is_end and config.select == "last"  # what is kept is validated after training
        if not is_kept and (is_end or (epoch + 1) % config.validate_every_epochs == 0):
            handover.show(epoch, training.weights())
            found = self._plan.validate(self._model)
            if "val_loss" in found:
                handover.offer(epoch, found["val_loss"])
            figures |= found
        self._history.append(figures)
        self._plan.on_metrics(figures, shown)
        if not is_kept:
            self._log(figures)

    def _validate_kept(self) -> Mapping[str, float]:
        """Adds validation figures to those of the epoch whose weights the model has."""
        figures = self._plan.validate(self._model.eval())
        whole = self._history[self._kept_epoch - 1]
        whole |= figures
        self._plan.on_metrics(whole, self._kept_epoch)
        self._log(whole)
        return figures

    def _resume(self, state: dict[str, Any]) -> None:
        self._history, self._kept_epoch = state["history"], state["kept_epoch"]
        if state["under_way"] is None:
            self._model.load_state_dict(state["weights"])
        # A resumed run has a new record, which needs the earlier epochs for a whole curve.
        for figures in self._history:
            self._plan.on_metrics(figures, int(figures["epoch"]))

    def _save_under_way(self, number: int, training: PhaseTraining, handover: Handover) -> None:
        under_way = {"training": training.state_dict(), "handover": handover.state_dict()}
        self._save({"phase": number, "under_way": under_way})

    def _save(self, state: dict[str, Any]) -> None:
        known = {"history": self._history, "kept_epoch": self._kept_epoch}
        write_checkpoint(self._plan.work_dir, state | known)
        self._saved_s = time.monotonic()

    def _log(self, figures: Mapping[str, float]) -> None:
        epoch = int(figures["epoch"])
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[1:])
        _LOG.info("epoch %d/%d  %s", epoch, self._n_epochs, shown)
