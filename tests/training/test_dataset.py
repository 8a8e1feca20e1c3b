import logging
from typing import Any

import pandas as pd
import pytest
import torch

from bclef.clipsampling import LabelledClips, NoiseClips, PseudoWindows, labelled_recordings
from bclef.crops import RandomCrops, window_crops
from bclef.dataset import Batch, ClipSources, EpochKeys, TrainingBatches
from bclef.taxonomy import ClassList
from bclef.training import TrainConfig

RATE_HZ = 8000
CLASSES = ClassList(("ani", "bee", "cro", "dov"))


def make_batches(
    world: Any, config: TrainConfig, *, pseudo_share: float = 0.0, noise: bool = True, seed: int = 0
) -> TrainingBatches:
    crops = RandomCrops(world, RATE_HZ, RATE_HZ, prefer_active=True)
    index = world.index
    windows = pd.DataFrame({"recording_id": [f"s{i}" for i in range(8)], "start_s": 0.0})
    windows = windows.assign(weight=1.0, **dict.fromkeys(CLASSES.labels, 0.25))
    sources = ClipSources(
        labelled=LabelledClips(labelled_recordings(index, CLASSES), CLASSES, config, crops),
        pseudo=PseudoWindows(window_crops(windows, index, RATE_HZ, RATE_HZ), windows, CLASSES, 0.5)
        if pseudo_share
        else None,
        pseudo_share=pseudo_share,
        noise=NoiseClips(index[index["role"] == "noise"], crops) if noise else None,
    )
    return TrainingBatches(world, sources, config, RATE_HZ, seed)


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [*batch[:5], *batch.wave_draws, *batch.mask_draws]


def test_batch_does_not_depend_on_what_came_before(world: Any, train_config: TrainConfig) -> None:
    straight = make_batches(world, train_config, pseudo_share=0.25)
    for epoch in range(3):
        for position in range(len(straight)):
            last = straight[epoch, position]
    alone = make_batches(world, train_config, pseudo_share=0.25)[2, len(straight) - 1]
    assert all(torch.equal(a, b) for a, b in zip(tensors(last), tensors(alone), strict=True))


def test_epochs_positions_and_seeds_differ(world: Any, train_config: TrainConfig) -> None:
    batches = make_batches(world, train_config)
    waves = [batches[0, 0].wave, batches[0, 1].wave, batches[1, 0].wave]
    waves.append(make_batches(world, train_config, seed=1)[0, 0].wave)
    assert not any(torch.equal(a, b) for i, a in enumerate(waves) for b in waves[:i])
    levels = [batches[key].wave_draws.gain_db for key in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(a, b) for i, a in enumerate(levels) for b in levels[:i])


def test_uniform_epoch_holds_each_recording_once(world: Any, train_config: TrainConfig) -> None:
    config = train_config.model_copy(update={"sampler": "uniform", "clips_per_epoch": None})
    batches = make_batches(world, config, noise=False)
    assert len(batches) == 6
    target = torch.cat([batches[0, position].target for position in range(6)])
    assert target.sum(dim=0).tolist() == [12, 12, 12, 12]


def test_batch_has_the_stated_share_of_pseudo_windows(
    world: Any, train_config: TrainConfig
) -> None:
    batch = make_batches(world, train_config, pseudo_share=0.25)[0, 0]
    assert batch.wave.shape == (8, RATE_HZ)
    assert batch.wave.dtype == torch.float32
    assert batch.weight.tolist() == [1.0] * 6 + [0.5] * 2
    assert (batch.target[6:] == 0.25).all()


def test_target_belongs_to_the_wave(world: Any, train_config: TrainConfig) -> None:
    """Each species is one tone, so the strongest frequency tells it."""
    batch = make_batches(world, train_config, noise=False)[0, 0]
    peaks_hz = torch.fft.rfft(batch.wave).abs().argmax(dim=1).double()
    tones_hz = torch.tensor([600.0, 1100.0, 1900.0, 3000.0]).double()
    nearest = (peaks_hz[:, None] - tones_hz).abs().argmin(dim=1)
    assert nearest.tolist() == batch.target.argmax(dim=1).tolist()


def test_noise_is_read_for_the_noisy_clips_only(world: Any, train_config: TrainConfig) -> None:
    batch = make_batches(world, train_config)[0, 0]
    n_noisy = int(batch.wave_draws.noise_snr_db.isfinite().sum())
    assert 0 < n_noisy < 8
    assert batch.noise.shape == (n_noisy, RATE_HZ)
    assert world.n_reads == 8 + n_noisy


def test_store_without_noise_is_said_and_gives_none(
    world: Any, train_config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        batch = make_batches(world, train_config, noise=False)[0, 0]
    assert "no recording of role `noise`" in caplog.text
    assert batch.noise.shape == (0, RATE_HZ)
    assert not batch.wave_draws.noise_snr_db.isfinite().any()


def test_processes_share_an_epoch_evenly() -> None:
    parts = [EpochKeys(5, rank, 2) for rank in range(2)]
    for keys in parts:
        keys.set_epoch(3)
    taken = [list(keys) for keys in parts]
    assert taken == [[(3, 0), (3, 2), (3, 4)], [(3, 1), (3, 3), (3, 0)]]
    assert [len(keys) for keys in parts] == [3, 3]
