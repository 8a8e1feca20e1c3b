"""Training batches: clips read from the store, their targets, and how they are augmented.

The batch of all processes depends on (seed, epoch, position in the epoch) and on nothing that came
before, so a run that resumes, or has other workers, sees what an uninterrupted one would. Waves
travel as int16; augmentation is drawn here but applied on the model's device.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bclef.augment import AugmentConfig, Draws, draw, mixed_labels
from bclef.clipsampling import SamplingConfig, SamplingError
from bclef.cropplaces import N_CHANCES
from bclef.crops import Crop, WaveStore, read_pcm
from bclef.noises import NoiseAdder
from bclef.streams import ClipSources, NoiseClips, Stream, join_labels
from bclef.transit import Sent, n_workers, stayed, worker_context

_LOG = logging.getLogger(__name__)
_EPOCH, _BATCH = range(2)
"""Purposes of generators."""


class BatchConfig(SamplingConfig, AugmentConfig):
    """How batches are put together (part of section `train`)."""

    batch_size: int = Field(ge=1)
    """Clips per step, of all devices together."""
    clips_per_epoch: int | None = Field(ge=1)
    """Clips of an epoch, of all kinds together; null: as many as give each labelled recording its
    turns."""
    scored_share: float = Field(ge=0, lt=1)
    """Share of each batch that is drawn from recordings with a scored label alone."""
    noise_share: float = Field(ge=0, lt=1)
    """Share of each batch that is background noise, with targets of zero."""


class Batch(NamedTuple):
    """The R rows of one training step in one process: its clips, then those mixed into them."""

    wave: Tensor
    """int16 [R, T]"""
    noise: Tensor
    """int16 [K, T]: recorded noise for K clips, adder by adder."""
    target: Tensor
    """float32 [R, C], from 0 to 1."""
    mask: Tensor
    """float32 [R, C], 1 where the target is known."""
    weight: Tensor
    """float32 [R], weight in the loss."""
    draws: Draws
    """What happens to the rows."""
    n_kept: int
    """So many of the first rows go on after mixing."""
    total_weight: float
    """Loss weight after mixing of the clips of all processes, over the number of processes."""

    def pin_memory(self) -> "Batch":
        """Returns the batch with its audio in page-locked memory; a loader's thread calls it."""
        return self._replace(wave=self.wave.pin_memory(), noise=self.noise.pin_memory())


class BatchKey(NamedTuple):
    """Which batch, and which part of it."""

    epoch: int
    """Number of the epoch, from 0."""
    position: int
    """Place in the epoch."""
    rank: int
    """Number of the process."""
    n_ranks: int
    """Processes that train together; each takes every n-th clip."""


class TrainingBatches(Dataset[Batch]):
    """Batches by `BatchKey`.

    Args:
        store: The recordings.
        sources: Which of them.
        config: Sizes and augmentation.
        window_samples: Length of a clip.
        seed: Of every draw.

    Raises:
        SamplingError: A batch has no place for labelled recordings, or for one of its shares.
    """

    def __init__(
        self,
        store: WaveStore,
        sources: ClipSources,
        config: BatchConfig,
        window_samples: int,
        seed: int,
    ) -> None:
        self._store = store
        self._noise = sources.noise
        adders, self._choices = _available_noise(config.noise, sources.noise)
        self._config = _available(config, sources).model_copy(update={"noise": adders})
        self._window_samples = window_samples
        self._seed = seed
        self._streams = _streams(sources, self._config)
        self._n_batches = math.ceil(len(sources.labelled) / self._streams[0][1])
        if config.clips_per_epoch is not None:
            self._n_batches = math.ceil(config.clips_per_epoch / config.batch_size)
        self._drawn: tuple[int, list[Tensor]] | None = None

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return self._n_batches

    def __getitem__(self, key: BatchKey) -> Batch:
        """Returns one process's part of a batch.

        Raises:
            SamplingError: There are more processes than clips.
        """
        n_clips = self._config.batch_size
        if key.n_ranks > n_clips:
            raise SamplingError(f"batch_size {n_clips} is too small for {key.n_ranks} processes")
        generator = seeded_generator(self._seed, _BATCH, key.epoch, key.position)
        clips = self._clips(key.epoch, key.position)
        rows = [(stream, place) for stream, places in clips for place in places.tolist()]
        chances = torch.rand(len(rows), N_CHANCES, generator=generator, dtype=torch.float64)
        draws = draw(self._config, n_clips, len(rows) - n_clips, generator)
        labels = join_labels([stream.labels(places) for stream, places in clips])
        mixed = mixed_labels(*labels, draws)
        kept = torch.arange(key.rank, n_clips, key.n_ranks)
        taken = draws.needed(kept)
        draws = draws.take(taken)
        crops = [
            rows[row][0].crops(rows[row][1], numbers)
            for row, numbers in zip(taken.tolist(), chances[taken].tolist(), strict=True)
        ]
        return Batch(
            wave=self._read(crops),
            noise=self._read(self._noise_crops(draws)),
            target=labels.target[taken],
            mask=labels.mask[taken],
            weight=labels.weight[taken],
            draws=draws,
            n_kept=len(kept),
            total_weight=float(mixed[2][:n_clips].sum()) / key.n_ranks,
        )

    def _clips(self, epoch: int, position: int) -> list[tuple[Stream, Tensor]]:
        """Streams of a batch, and which of each."""
        if self._drawn is None or self._drawn[0] != epoch:
            drawn = []
            for number, (stream, n_clips) in enumerate(self._streams):
                generator = seeded_generator(self._seed, _EPOCH, epoch, number)
                drawn.append(stream.epoch(len(self) * n_clips, generator).view(len(self), n_clips))
            self._drawn = epoch, drawn
        streams = [stream for stream, _ in self._streams]
        return list(zip(streams, [drawn[position] for drawn in self._drawn[1]], strict=True))

    def _noise_crops(self, draws: Draws) -> list[Sequence[Crop]]:
        if self._noise is None:
            return []
        return [
            self._noise.seeded_crops(choice, seed)
            for choice, drawn in zip(self._choices, draws.noise, strict=True)
            for seed in (drawn.seed.tolist() if choice else [])
        ]

    def _read(self, clips: Sequence[Sequence[Crop]]) -> Tensor:
        return torch.from_numpy(read_pcm(self._store, clips, self._window_samples))


def _streams(sources: ClipSources, config: BatchConfig) -> list[tuple[Stream, int]]:
    """Streams of a batch with their numbers of clips; last come clips that are only mixed in."""
    shared: list[tuple[Stream, int]] = [
        (stream, round(share * config.batch_size))
        for stream, share in (
            (sources.scored, config.scored_share),
            (sources.pseudo, sources.pseudo_share),
            (sources.noise, config.noise_share),
        )
        if stream is not None and share
    ]
    n_labelled = config.batch_size - sum(n_clips for _, n_clips in shared)
    if n_labelled < 1 or not all(n_clips for _, n_clips in shared):
        lacking = "labelled recordings" if n_labelled < 1 else "one of its shares"
        raise SamplingError(
            f"a batch of {config.batch_size} has no place for {lacking}: scored_share "
            f"{config.scored_share}, noise_share {config.noise_share}, pseudo_share "
            f"{sources.pseudo_share}; change these or raise batch_size"
        )
    partners: list[tuple[Stream, int]] = []
    if sources.scored is not None and config.selective_mixup.probability:
        partners = [(sources.scored, config.batch_size)]
    return [(sources.labelled, n_labelled), *shared, *partners]


def _available(config: BatchConfig, sources: ClipSources) -> BatchConfig:
    """The settings, less the shares that there are no recordings for."""
    off: dict[str, object] = {}
    if sources.scored is None and (config.scored_share or config.selective_mixup.probability):
        _LOG.warning("no recording holds a scored label: no scored clips, no selective mixup")
        selective = config.selective_mixup.model_copy(update={"probability": 0.0})
        off |= {"scored_share": 0.0, "selective_mixup": selective}
    if sources.noise is None and config.noise_share:
        _LOG.warning("no recording of role `noise`: noise_share is off")
        off["noise_share"] = 0.0
    return config.model_copy(update=off)


def _available_noise(
    adders: Sequence[NoiseAdder], noise: NoiseClips | None
) -> tuple[tuple[NoiseAdder, ...], list[Sequence[int]]]:
    """The adders, off where nothing matches, and the recordings that each one of them takes."""
    kept, choices = [], []
    for adder in adders:
        is_recorded = adder.kind == "recordings"
        choice = noise.matching(adder.recordings) if noise is not None and is_recorded else []
        choices.append(choice)
        if is_recorded and adder.probability and not choice:
            _LOG.warning("no recording of role `noise` is like %r: not added", adder.recordings)
            kept.append(adder.model_copy(update={"probability": 0.0}))
        else:
            kept.append(adder)
    return tuple(kept), choices


class EpochKeys(Sampler[BatchKey]):
    """Keys of one process's parts of the batches of an epoch, in order.

    Args:
        n_batches: Batches of an epoch.
        rank: Number of this process.
        n_ranks: Number of processes that train together.
    """

    def __init__(self, n_batches: int, rank: int, n_ranks: int) -> None:
        self._n_batches = n_batches
        self._rank = rank
        self.n_ranks = n_ranks
        self._epoch = 0
        self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of `epoch`; the trainer calls it before each."""
        self._epoch = epoch

    def start_at(self, position: int) -> None:
        """Makes the next pass begin at `position`, as an interrupted epoch goes on; once."""
        self._first = position

    def __len__(self) -> int:
        """Returns the number of batches of a whole epoch."""
        return self._n_batches

    def __iter__(self) -> Iterator[BatchKey]:
        """Yields the keys."""
        first, self._first = self._first, 0
        for position in range(first, self._n_batches):
            yield BatchKey(self._epoch, position, self._rank, self.n_ranks)


def batch_loader(batches: TrainingBatches, keys: EpochKeys) -> DataLoader[Batch]:
    """Returns a loader of the batches of `keys`, read ahead by worker processes where it pays.

    They are the same batches for any number of workers. Each worker opens the store on its own.

    Raises:
        TransitError: BCLEF_LOADER_WORKERS is no number.
    """
    count = n_workers(keys.n_ranks)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=keys,
        num_workers=count,
        collate_fn=Sent if count else stayed,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=worker_context() if count else None,
        persistent_workers=count > 0,
    )


def seeded_generator(*key: int) -> Generator:
    """Returns a generator whose draws depend on the numbers of `key` alone."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))
