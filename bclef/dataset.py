"""Training batches: clips read from the store, their targets, and how they are augmented.

A batch depends on (seed, epoch, position in the epoch) and on nothing that came before, so a run
that resumes sees what an uninterrupted one would. Reading takes a small part of a training step and
is done in the training process; augmentation is drawn here but applied on the model's device.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from bclef.augment import AugmentConfig, MaskDraws, WaveDraws, draw_masks, draw_waves
from bclef.clipsampling import LabelledClips, NoiseClips, PseudoWindows, SamplingConfig, join_rows
from bclef.crops import WaveStore, read_crops

_LOG = logging.getLogger(__name__)


class BatchConfig(SamplingConfig, AugmentConfig):
    """How batches are put together (part of section `train`)."""

    batch_size: int = Field(ge=1)
    """Clips per step and device."""
    clips_per_epoch: int | None = Field(ge=1)
    """Clips of an epoch, of all kinds together; null: as many as give each recording one turn."""


class Batch(NamedTuple):
    """B clips of one training step."""

    wave: Tensor
    """float32 [B, T], full scale at 1."""
    noise: Tensor
    """float32 [K, T], for the K clips to which noise is added."""
    target: Tensor
    """float32 [B, C], from 0 to 1."""
    mask: Tensor
    """float32 [B, C], 1 where the target is known."""
    weight: Tensor
    """float32 [B], weight in the loss."""
    wave_draws: WaveDraws
    """What happens to the waves."""
    mask_draws: MaskDraws
    """What happens to the images."""


@dataclass(frozen=True)
class ClipSources:
    """Where the clips of a run come from."""

    labelled: LabelledClips
    """Labelled recordings."""
    pseudo: PseudoWindows | None
    """Pseudo-labelled windows, if there are any."""
    pseudo_share: float
    """Their share of each batch, from 0 up to but not including 1."""
    noise: NoiseClips | None
    """Background noise, if there is any."""


class TrainingBatches(Dataset[Batch]):
    """Batches by key (epoch, position in the epoch).

    Args:
        store: The recordings.
        sources: Which of them.
        config: Sizes and augmentation.
        window_samples: Length of a clip.
        seed: Of every draw.
    """

    def __init__(
        self,
        store: WaveStore,
        sources: ClipSources,
        config: BatchConfig,
        window_samples: int,
        seed: int,
    ) -> None:
        if sources.noise is None and config.noise_probability:
            _LOG.warning("no recording of role `noise`: clips get no background noise")
            config = config.model_copy(update={"noise_probability": 0.0})
        self._store = store
        self._sources = sources
        self._config = config
        self._window_samples = window_samples
        self._seed = seed
        n_pseudo = round(sources.pseudo_share * config.batch_size) if sources.pseudo else 0
        self._n_pseudo = min(n_pseudo, config.batch_size - 1)
        self._n_labelled = config.batch_size - self._n_pseudo
        self._drawn: tuple[int, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        if self._config.clips_per_epoch is not None:
            return math.ceil(self._config.clips_per_epoch / self._config.batch_size)
        return math.ceil(len(self._sources.labelled) / self._n_labelled)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """Returns the batch at `key`, (epoch, position in the epoch)."""
        epoch, position = key
        generator = seeded_generator(self._seed, epoch, position)
        labelled, pseudo = self._positions(epoch)
        parts = [self._sources.labelled.rows(labelled[position], generator)]
        if self._sources.pseudo is not None:
            parts.append(self._sources.pseudo.rows(pseudo[position]))
        rows = join_rows(parts)
        draws = draw_waves(self._config, len(rows.crops), generator)
        n_noisy = int(draws.noise_snr_db.isfinite().sum())
        noise = self._sources.noise.draw(n_noisy, generator) if self._sources.noise else []
        return Batch(
            wave=torch.from_numpy(read_crops(self._store, rows.crops, self._window_samples)),
            noise=torch.from_numpy(read_crops(self._store, noise, self._window_samples)),
            target=rows.target,
            mask=rows.mask,
            weight=rows.weight,
            wave_draws=draws,
            mask_draws=draw_masks(self._config, len(rows.crops), generator),
        )

    def _positions(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Positions among labelled clips and among windows for each batch, [batches, clips]."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = seeded_generator(self._seed, epoch)
            n_batches, pseudo = len(self), self._sources.pseudo
            labelled = self._sources.labelled.epoch(n_batches * self._n_labelled, generator)
            windows = torch.zeros(0, dtype=torch.int64)
            if pseudo is not None and self._n_pseudo:
                windows = pseudo.epoch(n_batches * self._n_pseudo, generator)
            shape = (n_batches, -1) if len(windows) else (n_batches, 0)
            self._drawn = epoch, labelled.view(n_batches, -1), windows.view(shape)
        return self._drawn[1:]


class EpochKeys(Sampler[tuple[int, int]]):
    """Keys of the batches of one epoch, in order; each of several processes takes its own share.

    Args:
        n_batches: Batches of an epoch, of all processes together.
        rank: Number of this process.
        n_processes: Number of processes that train together.
    """

    def __init__(self, n_batches: int, rank: int, n_processes: int) -> None:
        self._n_batches = n_batches
        self._rank = rank
        self._n_processes = n_processes
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of `epoch`; the trainer calls it before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Returns the number of batches of this process; all processes take equally many."""
        return math.ceil(self._n_batches / self._n_processes)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields (epoch, position in the epoch); the last round may repeat the epoch's first."""
        for step in range(len(self)):
            position = (step * self._n_processes + self._rank) % self._n_batches
            yield self._epoch, position


def seeded_generator(*key: int) -> Generator:
    """Returns a generator whose draws depend on the numbers of `key` alone."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))
