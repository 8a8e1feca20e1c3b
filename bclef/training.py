"""Training: one `fit` for every phase, run by Lightning, that resumes where it was killed.

All that is random depends on (seed, epoch, step): batches by their key, dropout by a seed set at
each step. A checkpoint is written whole or not at all at the end of each epoch, so a run that was
killed at any moment and started again ends with the weights of one that was not.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import Field
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from bclef.averaging import moving_average
from bclef.checkpoints import AtomicCheckpoints, checkpoint_callback, whole_checkpoint
from bclef.dataset import Batch, BatchConfig, EpochKeys, TrainingBatches
from bclef.inference import best_device
from bclef.losses import LossConfig
from bclef.models import BirdModel
from bclef.objective import learning_rate_share, training_loss

_LOG = logging.getLogger(__name__)
_PRECISIONS: dict[str, Any] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


class TrainConfig(BatchConfig, LossConfig):
    """Settings that pretraining, finetuning and distillation share (section `train`)."""

    epochs: int = Field(ge=1)
    """Passes, each of `clips_per_epoch`."""
    lr: float = Field(gt=0, le=1)
    """Learning rate at its peak; it rises linearly, then falls by a cosine to 0."""
    warmup_epochs: float = Field(ge=0)
    """Epochs of the rise."""
    weight_decay: float = Field(ge=0)
    """Of AdamW; biases, norms and other vectors are spared."""
    gradient_clip_norm: float | None = Field(gt=0)
    """Greatest norm of a step's gradient; null for no limit."""
    ema_decay: float | None = Field(gt=0, lt=1)
    """Decay per step of the moving average of weights that is then the model; null for none."""
    precision: Literal["float32", "bfloat16", "float16"]
    """Of the network; the front end always calculates in float32."""
    validate_every_epochs: int = Field(ge=1)
    """Epochs between validations; the weights that are kept always have one."""
    val_step_s: float = Field(gt=0)
    """Time between the windows that are scored in validation, s; at most `window_s`."""
    select: Literal["last", "best"]
    """Weights that are kept: those of the last epoch, or of the one with the least `val_loss`."""


Validation: TypeAlias = Callable[[BirdModel], Mapping[str, float]]
"""Gives figures of a model by name: none where there is nothing to score, else with `val_loss`."""


@dataclass(frozen=True)
class FitPlan:
    """One training run."""

    model: BirdModel
    """Starting weights; changed by training."""
    batches: TrainingBatches
    """What is trained on."""
    config: TrainConfig
    """How."""
    seed: int
    """Of dropout; the batches have their own."""
    work_dir: Path
    """Where the checkpoint lies; a run of other settings or data needs another folder."""
    validate: Validation
    """Called every few epochs, and last of all with the weights that are kept."""
    on_metrics: Callable[[Mapping[str, float], int], None]
    """Is told the figures of each epoch, and its number from 1."""


@dataclass(frozen=True)
class FitResult:
    """What a training run made."""

    model: BirdModel
    """The selected weights, in evaluation mode, on the device that trained."""
    epoch: int
    """Epoch that they are from, from 1."""
    figures: Mapping[str, float]
    """Their validation figures."""
    history: pd.DataFrame
    """One row per epoch: epoch, train_loss, lr, and the validation figures where there are any."""


def fit(plan: FitPlan) -> FitResult:
    """Returns the trained model; goes on from the checkpoint in `plan.work_dir` if there is one.

    Raises:
        CheckpointError: It cannot be read.
    """
    config = plan.config
    module, epochs = _Training(plan), _Epochs(plan)
    with _quiet_lightning(), torch.random.fork_rng():
        trainer = Trainer(
            max_epochs=config.epochs,
            devices=1,
            precision=_PRECISIONS[config.precision],
            gradient_clip_val=config.gradient_clip_norm,
            callbacks=[epochs, checkpoint_callback(plan.work_dir)],
            plugins=[AtomicCheckpoints()],
            use_distributed_sampler=False,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, ckpt_path=whole_checkpoint(plan.work_dir), weights_only=True)
    model, epoch = module.current_model().to(best_device()).eval(), config.epochs
    if config.select == "best" and epochs.best_weights:
        model.load_state_dict(epochs.best_weights)
        epoch = epochs.best_epoch
    figures = plan.validate(model)
    epochs.add_figures(epoch, figures)
    return FitResult(model, epoch, figures, pd.DataFrame(epochs.history))


class _Training(LightningModule):
    """The step, the optimiser and the moving average of weights."""

    def __init__(self, plan: FitPlan) -> None:
        super().__init__()
        self.model = plan.model
        self.config = plan.config
        self.batches = plan.batches
        self.seed = plan.seed
        self.losses: list[Tensor] = []
        self.average: AveragedModel | None = None
        if self.config.ema_decay is not None:
            self.average = moving_average(self.model, self.config.ema_decay)

    def current_model(self) -> BirdModel:
        """Returns the model that counts: the moving average if there is one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, BirdModel)
        return model

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None, sampler=self._keys())

    def _keys(self) -> EpochKeys:
        return EpochKeys(len(self.batches), self.global_rank, self.trainer.world_size)

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        # Dropout draws from torch's global generator, which `fit` borrows and gives back.
        key = np.random.SeedSequence((self.seed, self.global_step, self.global_rank))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        loss = training_loss(self.model, batch, self.config)
        self.losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config, n_steps = self.config, len(self._keys()) * self.config.epochs
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        n_warmup = config.warmup_epochs * n_steps / config.epochs
        schedule = LambdaLR(optimiser, lambda step: learning_rate_share(step, n_warmup, n_steps))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class _Epochs(Callback):
    """Validates, reports and remembers; its state travels with the checkpoint."""

    def __init__(self, plan: FitPlan) -> None:
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self._plan = plan
        self._least_loss = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "least_loss": self._least_loss,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        self.best_epoch = state_dict["best_epoch"]
        self.best_weights = state_dict["best_weights"]
        self._least_loss = state_dict["least_loss"]
        # A resumed run has a new record, which needs the earlier epochs for a whole curve.
        for figures in self.history:
            self._plan.on_metrics(figures, int(figures["epoch"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Training)
        config, epoch = self._plan.config, trainer.current_epoch + 1
        figures = {
            "epoch": float(epoch),
            "train_loss": float(torch.stack(pl_module.losses).mean()),
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        pl_module.losses.clear()
        is_kept = epoch == config.epochs and config.select == "last"
        is_due = epoch == config.epochs or epoch % config.validate_every_epochs == 0
        if is_due and not is_kept:  # what is kept is validated after training
            model = pl_module.current_model()
            figures |= self._plan.validate(model)
            self._keep_best(figures, epoch, model)
        self.history.append(figures)
        self._plan.on_metrics(figures, epoch)
        if not is_kept:
            self._show(figures)

    def add_figures(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Adds validation figures to those of `epoch`, whose weights are kept."""
        whole = self.history[epoch - 1]
        whole |= figures
        self._plan.on_metrics(whole, epoch)
        self._show(whole)

    def _show(self, figures: Mapping[str, float]) -> None:
        epoch = int(figures["epoch"])
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[1:])
        _LOG.info("epoch %d/%d  %s", epoch, self._plan.config.epochs, shown)

    def _keep_best(self, figures: Mapping[str, float], epoch: int, model: BirdModel) -> None:
        is_better = figures.get("val_loss", math.inf) < self._least_loss
        if self._plan.config.select != "best" or not is_better:
            return
        self._least_loss, self.best_epoch = figures["val_loss"], epoch
        self.best_weights = {name: t.detach().clone() for name, t in model.state_dict().items()}


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's hints (more workers, a logger, its banner) out of a stage's output."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            # Lightning 2.6 uses a name that torch 2.13 has deprecated; there is nothing to do here.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
