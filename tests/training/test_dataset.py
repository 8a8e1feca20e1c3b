"""Batches: functions of (seed, epoch, position) alone, however many processes share them."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from bclef.augment import Clips, augment_images, augment_waves
from bclef.clipsampling import SamplingError, labelled_recordings
from bclef.config import read_yaml
from bclef.crops import n_samples_by_id, window_crops
from bclef.dataset import (
    Batch,
    BatchConfig,
    BatchKey,
    EpochKeys,
    TrainingBatches,
    batch_loader,
    seeded_generator,
)
from bclef.store import Store
from bclef.streams import PseudoWindows, clip_sources
from bclef.taxonomy import ClassList

RATE_HZ = 8000
CLASSES = ClassList(("ani", "bee", "cro", "dov"))
NOISE = {"kind": "recordings", "recordings": "*", "mode": "snr_rms", "low": 0.0, "high": 20.0}
PARAMS = Path(__file__).parents[2] / "params.yaml"


def batch_config(overrides: Mapping[str, object]) -> BatchConfig:
    """Settings of batches of 8 clips of 1 s, with mixup and noise."""
    train = read_yaml(PARAMS)["train"]
    tree = {name: value for name, value in train.items() if name in BatchConfig.model_fields}
    adders = [{**NOISE, "probability": 0.5}]
    fixed = {"window_s": 1.0, "batch_size": 8, "clips_per_epoch": 32, "noise": adders}
    return BatchConfig.from_tree({**tree, **fixed, **overrides}, "test")


ALL_KINDS: dict[str, object] = {
    "scored_labels": ["bee", "cro"],
    "scored_share": 0.25,
    "noise_share": 0.125,
    "rating_weight": True,
    "selective_mixup": {"probability": 0.8, "beta": 1.0},
    "image_mixup": {"probability": 0.5, "per_batch": False, "labels": "blend", "beta": 1.0},
    "gain": {"probability": 0.5, "range_db": 12.0, "transition_share": 0.5},
}


def make_batches(
    store: Any,
    overrides: Mapping[str, object] | None = None,
    *,
    pseudo_share: float = 0.0,
    seed: int = 0,
) -> TrainingBatches:
    config, index = batch_config(overrides or {}), store.index
    recordings = labelled_recordings(index, CLASSES)
    recordings["rating"] = np.linspace(0, 5, len(recordings), dtype=np.float32)
    sources = clip_sources(store, recordings, CLASSES, config, RATE_HZ)
    if pseudo_share:
        windows = pd.DataFrame({"recording_id": [f"s{i}" for i in range(8)], "start_s": 0.0})
        windows = windows.assign(weight=1.0, **dict.fromkeys(CLASSES.labels, 0.25))
        pseudo = PseudoWindows(
            window_crops(windows, n_samples_by_id(index), RATE_HZ, RATE_HZ), windows, CLASSES, 0.5
        )
        sources = replace(sources, pseudo=pseudo, pseudo_share=pseudo_share)
    return TrainingBatches(store, sources, config, RATE_HZ, seed)


def key(epoch: int, position: int) -> BatchKey:
    return BatchKey(epoch, position, rank=0, n_ranks=1)


def values(part: object) -> list[object]:
    """All that a batch holds, tensors as bytes and shapes."""
    if isinstance(part, Tensor):
        return [part.dtype, tuple(part.shape), part.numpy().tobytes()]
    return [value for each in part for value in values(each)] if isinstance(part, tuple) else [part]


def test_batch_does_not_depend_on_what_came_before(world: Any) -> None:
    straight = make_batches(world, ALL_KINDS, pseudo_share=0.25)
    for epoch in range(3):
        for position in range(len(straight)):
            last = straight[key(epoch, position)]
    alone = make_batches(world, ALL_KINDS, pseudo_share=0.25)[key(2, len(straight) - 1)]
    assert values(last) == values(alone)


def test_epochs_positions_and_seeds_differ(world: Any) -> None:
    """In their clips, in the places of these and in their augmentation."""
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    drawn = [make_batches(world, seed=seed)[key(*place)] for seed, *place in keys]
    for parts in ([batch.wave for batch in drawn], [batch.draws for batch in drawn]):
        assert len({str(values(part)) for part in parts}) == len(keys)


def test_each_epoch_has_another_order(world: Any) -> None:
    batches = make_batches(world, {"sampler": "uniform"})
    orders = [torch.cat([batches[key(e, p)].target for p in range(4)]) for e in range(2)]
    assert not torch.equal(*orders)


def test_no_two_draws_share_a_generator(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy's seed sequences take (1, 2) and (1, 2, 0) for the same."""
    seeds: list[int] = []

    def spy(*numbers: int) -> torch.Generator:
        generator = seeded_generator(*numbers)
        seeds.append(generator.initial_seed())
        return generator

    monkeypatch.setattr("bclef.dataset.seeded_generator", spy)
    batches = make_batches(world, ALL_KINDS, pseudo_share=0.25)
    for epoch in range(2):
        for position in range(len(batches)):
            batches[key(epoch, position)]
    assert len(seeds) == len(set(seeds)) == 2 * (5 + len(batches))


def test_uniform_epoch_holds_each_recording_once(world: Any) -> None:
    batches = make_batches(world, {"sampler": "uniform", "clips_per_epoch": None})
    assert len(batches) == 6
    target = torch.cat([batches[key(0, position)].target for position in range(6)])
    assert target.sum(dim=0).tolist() == [12, 12, 12, 12]


def test_batch_is_mixed_by_the_stated_shares(world: Any) -> None:
    kinds = {"scored_labels": ["bee"], "scored_share": 0.25, "noise_share": 0.125}
    batches = make_batches(world, kinds, pseudo_share=0.25)
    for position in range(len(batches)):
        batch = batches[key(0, position)]
        assert batch.wave.shape == (8, RATE_HZ)
        assert batch.wave.dtype == batch.noise.dtype == torch.int16
        assert (batch.target[:3].sum(dim=1) == 1).all()
        assert batch.target[3:5].tolist() == [[0, 1, 0, 0]] * 2
        assert (batch.target[5:7] == 0.25).all()
        assert not batch.target[7].any()
        assert batch.weight.tolist() == [1.0] * 5 + [0.5] * 2 + [1.0]
    assert len(make_batches(world, {**kinds, "clips_per_epoch": None})) == -(-48 // 5)


def test_target_belongs_to_the_wave(world: Any) -> None:
    """Each species is one tone, so the strongest frequency tells it."""
    batch = make_batches(world)[key(0, 0)]
    peaks_hz = torch.fft.rfft(batch.wave.float()).abs().argmax(dim=1).double()
    tones_hz = torch.tensor([600.0, 1100.0, 1900.0, 3000.0]).double()
    nearest = (peaks_hz[:, None] - tones_hz).abs().argmin(dim=1)
    assert nearest.tolist() == batch.target.argmax(dim=1).tolist()


def test_partners_of_selective_mixup_are_scored_clips_in_turn(world: Any) -> None:
    off = {"probability": 0.0, "beta": 1.0}
    certain = {"scored_labels": ["bee", "cro"], "selective_mixup": {**off, "probability": 1.0}}
    batches = make_batches(world, certain)
    partners = []
    for position in range(3):
        batch = batches[key(0, position)]
        assert (batch.n_kept, len(batch.wave)) == (8, 16)
        partners.append(batch.target[8:])
        assert batch.draws.selective.rows.tolist() == list(range(8))
        assert sorted(batch.draws.selective.partner.tolist()) == list(range(8, 16))
    # 24 partners are all 24 recordings of either species, once each.
    assert torch.cat(partners).sum(dim=0).tolist() == [0, 12, 12, 0]
    names = {wave.numpy().tobytes() for p in range(3) for wave in batches[key(0, p)].wave[8:]}
    assert len(names) == 24
    never = {"scored_labels": ["bee", "cro"], "selective_mixup": off}
    assert len(make_batches(world, never)[key(0, 0)].wave) == 8


def test_only_what_is_needed_is_read(world: Any) -> None:
    batch = make_batches(world)[key(0, 0)]
    n_noisy = len(batch.draws.noise[0].rows)
    assert 0 < n_noisy < 8
    assert batch.noise.shape == (n_noisy, RATE_HZ)
    assert world.n_reads == 8 + n_noisy


def test_noise_stands_adder_by_adder(world: Any) -> None:
    for number in range(6):
        world.waves[f"n{number}"][:] = number + 1
    adders = [
        {**NOISE, "recordings": "n[012]", "probability": 0.5},
        {**NOISE, "kind": "white", "probability": 0.5},
        {**NOISE, "recordings": "n5", "probability": 0.5},
    ]
    batch = make_batches(world, {"noise": adders})[key(0, 0)]
    n_first, n_white, n_last = (len(drawn.rows) for drawn in batch.draws.noise)
    assert min(n_first, n_white, n_last) > 0
    assert len(batch.noise) == n_first + n_last
    assert set(batch.noise[:n_first, 0].tolist()) <= {1, 2, 3}
    assert (batch.noise[n_first:] == 6).all()


def test_adder_that_matches_nothing_is_said_and_off(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    adders = [{**NOISE, "recordings": name, "probability": 1.0} for name in ("esc50*", "n*")]
    with caplog.at_level(logging.WARNING):
        batch = make_batches(world, {"noise": adders})[key(0, 0)]
    assert "no recording of role `noise` is like 'esc50*'" in caplog.text
    assert "'n*'" not in caplog.text
    assert [len(drawn.rows) for drawn in batch.draws.noise] == [0, 8]
    assert batch.noise.shape == (8, RATE_HZ)


def test_what_there_are_no_recordings_for_is_said_and_off(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.index = world.index[world.index["role"] != "noise"]
    with caplog.at_level(logging.WARNING):
        batch = make_batches(world, {**ALL_KINDS, "scored_labels": ["elsewhere"]})[key(0, 0)]
    for said in ("no recording holds a scored label", "noise_share is off", "is like '*'"):
        assert said in caplog.text
    assert (len(batch.wave), len(batch.noise)) == (8, 0)
    assert (batch.target.sum(dim=1) == 1).all()


def augmented(batch: Batch) -> Clips:
    """The kept clips after all augmentation; the image is the wave itself, as one band."""
    clips = Clips(batch.wave.float() / 32768, batch.target, batch.mask, batch.weight)
    clips = augment_waves(clips, batch.noise.float() / 32768, batch.draws, RATE_HZ)
    clips = augment_images(clips._replace(signal=clips.signal[:, None, None]), batch.draws)
    return Clips(*(part[: batch.n_kept] for part in clips))


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_processes_share_the_clips_of_one_batch(world: Any, n_ranks: int) -> None:
    batches = make_batches(world, ALL_KINDS, pseudo_share=0.25)
    for position in range(len(batches)):
        whole = batches[key(1, position)]
        expected = augmented(whole)
        assert whole.total_weight == pytest.approx(float(expected.weight.sum()), rel=1e-6)
        for rank in range(n_ranks):
            part = batches[BatchKey(1, position, rank, n_ranks)]
            for own, of_all in zip(augmented(part), expected, strict=True):
                torch.testing.assert_close(own, of_all[rank::n_ranks], rtol=0, atol=1e-6)
            assert part.total_weight == pytest.approx(whole.total_weight / n_ranks)


def test_more_processes_than_clips_are_refused(world: Any) -> None:
    with pytest.raises(SamplingError, match="batch_size 8 is too small for 9 processes"):
        make_batches(world)[BatchKey(0, 0, 0, 9)]


def test_shares_that_leave_nothing_are_refused(world: Any) -> None:
    with pytest.raises(SamplingError, match="no place for labelled recordings"):
        make_batches(world, {"scored_share": 0.5}, pseudo_share=0.5)


@pytest.mark.parametrize("key", ["scored_share", "noise_share", "pseudo_share"])
def test_share_that_rounds_to_no_clip_is_refused(world: Any, key: str) -> None:
    """Of 8 clips .06 is half a one."""
    shares = {"scored_share": 0.25, "noise_share": 0.125, "pseudo_share": 0.25, key: 0.06}
    pseudo_share = shares.pop("pseudo_share")
    with pytest.raises(SamplingError, match=rf"batch of 8 .* one of its shares: .*{key} 0\.06\b"):
        make_batches(world, shares, pseudo_share=pseudo_share)


def test_keys_are_those_of_an_epoch_and_begin_where_told_once() -> None:
    keys = EpochKeys(4, 1, 2)
    keys.set_epoch(3)
    keys.start_at(2)
    assert list(keys) == [(3, 2, 1, 2), (3, 3, 1, 2)]
    keys.set_epoch(4)
    assert list(keys) == [BatchKey(4, position, 1, 2) for position in range(4)]
    assert len(keys) == 4


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_batches_also_after_resume(
    world_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has been read here before, so a shared handle would show."""
    with Store(world_dir) as store:
        batches = make_batches(store, ALL_KINDS, pseudo_share=0.25)

        def loaded(n_workers: int, first: int) -> list[list[object]]:
            monkeypatch.setenv("BCLEF_LOADER_WORKERS", str(n_workers))
            keys = EpochKeys(len(batches), rank=0, n_ranks=1)
            loader = batch_loader(batches, keys)
            found = []
            for epoch in range(2):
                keys.set_epoch(epoch)
                keys.start_at(first if epoch == 0 else 0)
                found += [values(batch) for batch in loader]
            return found

        straight = loaded(0, 0)
        assert len(straight) == 2 * len(batches) == 8
        assert loaded(2, 0) == straight
        assert loaded(2, 3) == loaded(0, 3) == straight[3:]
