"""One phase of a training in one of its processes: batches in, steps of the optimiser out."""

import copy
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bclef.averaging import MovingAverage, Weights
from bclef.dataset import Batch, EpochKeys, TrainingBatches, batch_loader
from bclef.models import BirdModel
from bclef.objective import training_loss
from bclef.optimisers import (
    clip_gradients,
    freeze,
    live_norms,
    make_optimiser,
    set_learning_rate,
    set_training_mode,
)
from bclef.schedules import learning_rate_share, shortened
from bclef.trainconfig import TrainConfig

_LOG = logging.getLogger(__name__)
_HALF = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Phase:
    """A stretch of a training with settings of its own."""

    config: TrainConfig
    """How it trains."""
    batches: TrainingBatches
    """What on."""


class PhaseTraining:
    """A phase under way, in one of the processes that share its batches.

    Args:
        fabric: This process's device, and its connection to the others.
        model: Starting weights, of which those of the first process count; not changed.
        phase: Data and settings.
        first_epoch: Epochs of earlier phases; each epoch of a training has batches of its own.
        seed: Of dropout; the batches have their own.
    """

    def __init__(
        self, fabric: Fabric, model: BirdModel, phase: Phase, first_epoch: int, seed: int
    ) -> None:
        config = phase.config
        self.epoch = 0
        self._position = 0
        self._losses: list[Tensor] = []
        self._fabric, self._config, self._seed = fabric, config, seed
        self._schedule = shortened(config, config.n_epochs / config.epochs)
        self._first_epoch, self._n_batches = first_epoch, len(phase.batches)
        self._model = _own_copy(model, config, fabric)
        self._optimiser = make_optimiser(self._model, config)
        self._loss = fabric.strategy.setup_module(_Loss(self._model, config))
        self._scaler = torch.amp.GradScaler(
            fabric.device.type, enabled=config.precision == "float16"
        )
        self._keys = EpochKeys(self._n_batches, fabric.global_rank, fabric.world_size)
        self._loader = batch_loader(phase.batches, self._keys)
        self._average: MovingAverage | None = None
        if config.ema_decay is not None and fabric.is_global_zero:
            self._average = MovingAverage(self._model, config.ema_decay)

    def steps(self) -> Iterator[None]:
        """Trains what is left of the epoch; yields after each step, as `state_dict` has it."""
        if self._position == self._n_batches:
            return
        set_training_mode(self._model, self._config.trainable)
        self._keys.set_epoch(self._first_epoch + self.epoch)
        self._keys.start_at(self._position)
        most = self._config.accumulate_batches
        for batch in self._loader:
            first = self._position - self._position % most
            n_accumulated = min(most, self._n_batches - first)
            is_step = self._position + 1 == first + n_accumulated
            self._add_gradient(batch, n_accumulated, is_shared=is_step)
            self._position += 1
            if is_step:
                self._step()
                yield

    def figures(self) -> dict[str, float]:
        """Returns the epoch's mean loss, of all processes, and the learning rate of its end."""
        loss = float(torch.stack(self._losses).mean())
        return {"train_loss": loss, "lr": self._config.lr * self._learning_rate_share()}

    def weights(self) -> Weights:
        """Returns the weights that count: their moving average, where there is one."""
        return self._model.state_dict() if self._average is None else self._average.weights

    def next_epoch(self) -> None:
        """Makes `steps` begin the next epoch."""
        self.epoch += 1
        self._position = 0
        self._losses = []

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the rest of the phase depends on, for a checkpoint."""
        return {
            "epoch": self.epoch,
            "position": self._position,
            "losses": torch.stack(self._losses).tolist() if self._losses else [],
            "weights": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint, which all processes have."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._losses = [torch.tensor(loss, device=self._fabric.device) for loss in state["losses"]]
        self._model.load_state_dict(state["weights"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _add_gradient(self, batch: Batch, n_accumulated: int, *, is_shared: bool) -> None:
        """Adds a batch's share to the gradients; the last of a step's shares them all around."""
        # Dropout draws from torch's global generator, which `fit` borrows and gives back.
        place = (self._first_epoch + self.epoch, self._position, self._fabric.global_rank)
        key = np.random.SeedSequence((self._seed, *place))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        half, device = _HALF[self._config.precision], self._fabric.device
        with _unshared(self._loss) if not is_shared else nullcontext():
            with torch.autocast(device.type, half, enabled=half is not None):
                loss: Tensor = self._loss(self._fabric.to_device(batch))
            self._scaler.scale(loss / n_accumulated).backward()
        self._losses.append(_mean_over_processes(loss.detach().float(), self._fabric))

    def _step(self) -> None:
        set_learning_rate(self._optimiser, self._learning_rate_share())
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimiser)
        clip_gradients(self._model.parameters(), self._config)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad()
        if self._average is not None:
            self._average.update()

    def _learning_rate_share(self) -> float:
        """That of the step which the batch before the present position belongs to."""
        most = self._config.accumulate_batches
        steps_per_epoch = -(-self._n_batches // most)
        step = self.epoch * steps_per_epoch + (self._position - 1) // most
        return learning_rate_share(self._schedule, step, steps_per_epoch, self._config.n_epochs)


class _Loss(nn.Module):
    """The loss of a batch as a module: processes that share gradients do so as it goes backward."""

    def __init__(self, model: BirdModel, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self._config = config

    def forward(self, batch: Batch) -> Tensor:
        return training_loss(self.model, batch, self._config)


def _unshared(module: nn.Module) -> AbstractContextManager[None]:
    """Keeps the gradients of a backward pass to this process, to be shared with later ones."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def _own_copy(model: BirdModel, config: TrainConfig, fabric: Fabric) -> BirdModel:
    """A copy of `model` on this process's device, frozen as configured, fit for many processes."""
    own = copy.deepcopy(model).to(fabric.device)
    if fabric.world_size > 1 and live_norms(own, config.trainable):
        if fabric.device.type == "cuda":
            own = convert_sync_batchnorm(own)  # type: ignore[no-untyped-call]
        elif fabric.is_global_zero:
            _LOG.warning(
                "on the CPU batch norms see the clips of their own process alone: "
                "%d processes do not train as one would", fabric.world_size,
            )  # fmt: skip
    freeze(own, config.trainable)
    return own


def _mean_over_processes(value: Tensor, fabric: Fabric) -> Tensor:
    if fabric.world_size > 1:
        torch.distributed.all_reduce(value)
        value /= fabric.world_size
    return value
