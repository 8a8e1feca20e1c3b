"""What a phase of training hands on: which weights, averaged how; the first process's business."""

from typing import Any

from lightning.fabric.utilities.apply_func import move_data_to_device

from bclef.averaging import MeanWeights, Weights, re_estimate_norms
from bclef.dataset import Batch, EpochKeys, batch_loader
from bclef.models import BirdModel
from bclef.objective import training_loss
from bclef.optimisers import live_norms
from bclef.phasetraining import Phase
from bclef.selection import Candidates

MOST_NORM_BATCHES = 200
"""Batches that the statistics of averaged weights are taken over, at most."""


class Handover:
    """Puts weights of a phase into a model that is scored and handed on.

    Args:
        model: That model.
        phase: The phase.
        first_epoch: Epochs of earlier phases.
    """

    def __init__(self, model: BirdModel, phase: Phase, first_epoch: int) -> None:
        config = phase.config
        self._model, self._phase, self._first_epoch = model, phase, first_epoch
        self._candidates = Candidates(config.select, config.soup_size)
        self._mean = MeanWeights()
        n_meant = min(config.swa_epochs or 0, config.n_epochs)
        self._first_meant = config.n_epochs - n_meant

    def end_epoch(self, epoch: int, weights: Weights) -> None:
        """Takes in the weights after `epoch` of the phase, from 0; once for each."""
        if epoch >= self._first_meant:
            self._mean.add(weights)

    def show(self, epoch: int, weights: Weights) -> None:
        """Puts into the model what counts after `epoch`: its weights, or their mean at the end."""
        is_end = epoch + 1 == self._phase.config.n_epochs
        if self._mean.n_added and is_end:
            self._show_mean(self._mean.weights)
        else:
            self._model.load_state_dict(weights)
            self._model.eval()

    def offer(self, epoch: int, val_loss: float) -> None:
        """Holds what the model shows, if it is among the best."""
        self._candidates.offer(epoch, val_loss, self._model.state_dict())

    def finish(self, weights: Weights) -> int:
        """Puts into the model what is handed on; returns the epoch that ends with it, from 0.

        Where no epoch has a validation loss, that is what counts after the last one; so ends the
        phase with the mean of several epochs too.

        Args:
            weights: Those after the last epoch.
        """
        best, last = self._candidates.best, self._phase.config.n_epochs - 1
        if self._phase.config.select == "best" and best:
            self._model.load_state_dict(best[0].weights)
            self._model.eval()
            return best[0].epoch
        if best:
            self._show_mean(self._candidates.mean())
        else:
            self.show(last, weights)
        return last

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {"mean": self._mean.state_dict(), "candidates": self._candidates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._mean.load_state_dict(state["mean"])
        self._candidates.load_state_dict(state["candidates"])

    def _show_mean(self, weights: Weights) -> None:
        """Puts averaged weights into the model, with batch-norm statistics of their own.

        These are taken over the batches of the phase's last epoch.
        """
        config, batches = self._phase.config, self._phase.batches
        self._model.load_state_dict(weights)
        keys = EpochKeys(min(len(batches), MOST_NORM_BATCHES), rank=0, n_ranks=1)
        keys.set_epoch(self._first_epoch + config.n_epochs - 1)
        device = next(self._model.parameters()).device

        def show_batch(batch: Batch) -> None:
            training_loss(self._model, move_data_to_device(batch, device), config)

        norms = live_norms(self._model, config.trainable)
        re_estimate_norms(self._model, norms, batch_loader(batches, keys), show_batch)
        self._model.eval()
