"""All settings that pretraining, finetuning and distillation share."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bclef.dataset import BatchConfig
from bclef.losses import LossConfig
from bclef.optimisers import OptimiserConfig
from bclef.selection import Select


class TrainConfig(BatchConfig, LossConfig, OptimiserConfig):
    """Settings of one phase of a training (section `train`)."""

    epochs: int = Field(ge=1)
    """Passes, each of `clips_per_epoch`."""
    max_epochs: int | None = Field(ge=1)
    """Most epochs of any phase; shortens a long recipe for a trial, and its warm-up in the same
    proportion. Null for no limit."""
    swa_epochs: int | None = Field(ge=1)
    """The weights after the last epoch are the mean of those after each of so many last epochs,
    with batch-norm statistics of its own; null for none."""
    ema_decay: float | None = Field(gt=0, lt=1)
    """Decay per step of the moving average of weights that is then the model; null for none. With
    `swa_epochs`, it is what that is the mean of."""
    precision: Literal["float32", "bfloat16", "float16"]
    """Of the network; the front end always calculates in float32."""
    devices: int = Field(ge=1)
    """GPUs of each machine, or without any its processes, that share each batch."""
    nodes: int = Field(ge=1)
    """Machines that train together."""
    validate_every_epochs: int = Field(ge=1)
    """Epochs between validations; the weights that are kept always have one."""
    val_step_s: float = Field(gt=0)
    """Time between the windows that are scored in validation, s."""
    select: Select
    """Weights that are kept: those of the last epoch, of the one with the least `val_loss`, or the
    mean of a few such, with batch-norm statistics of its own. `best` and `soup` choose on the fold
    that is held out, and so flatter the out-of-fold scores a little."""
    soup_size: int = Field(ge=1)
    """How many epochs that mean is of."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} exceeds epochs {self.epochs}: lower it, or "
                "cut the training short by max_epochs, which shortens the warm-up too"
            )
        if self.batch_size < self.devices * self.nodes:
            raise ValueError(
                f"batch_size {self.batch_size} is less than the processes that share it, devices "
                f"{self.devices} times nodes {self.nodes}"
            )
        return self

    @property
    def n_epochs(self) -> int:
        """Epochs that are trained."""
        return self.epochs if self.max_epochs is None else min(self.epochs, self.max_epochs)
