from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from bclef.augment import (
    AugmentConfig,
    Clips,
    Draws,
    augment_images,
    augment_waves,
    draw,
    mixed_labels,
)
from bclef.config import ConfigError
from tests.augmentations import NOISE, PARAMS, settings, tree_of

RATE_HZ = 8000
SAMPLES = 4000

EVERYTHING: dict[str, Any] = {
    "mixup": {"probability": 0.6, "third_probability": 0.5, "signal": "mean", "labels": "union"},
    "noise": [{**NOISE, "probability": 0.5}, {**NOISE, "kind": "pink", "probability": 0.5}],
    "filtering": {"probability": 0.5},
    "low_pass": {"probability": 0.5},
    "gain": {"probability": 0.5, "transition_share": 0.5},
    "pitch_shift": {"probability": 0.5},
    "time_shift": {"probability": 0.5},
    "selective_mixup": {"probability": 1.0},
    "image_mixup": {"probability": 0.5, "labels": "blend"},
    "tilt": {"probability": 0.5},
    "power": {"probability": 0.5},
    "masks": {"time_probability": 0.5, "frequency_probability": 0.5, "n_time": 2},
}
"""Every change of waves and of images, each for some of the rows."""

KINDS = sorted(EVERYTHING)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def clips(n_rows: int) -> Clips:
    random = generator(5)
    return Clips(
        0.1 * torch.randn(n_rows, SAMPLES, generator=random),
        (torch.rand(n_rows, 6, generator=random) > 0.7).float(),
        (torch.rand(n_rows, 6, generator=random) > 0.2).float(),
        torch.rand(n_rows, generator=random),
    )


def recorded(draws: Draws) -> Tensor:
    """Noise as a loader gives it: of its seed, for the draws of recordings alone."""
    seeds = [seed for each in draws.noise if each.kind == "recordings" for seed in each.seed]
    rows = [torch.randn(SAMPLES, generator=generator(int(seed) % 2**32)) for seed in seeds]
    return torch.stack(rows) if rows else torch.zeros(0, SAMPLES)


def images_of(waves: Tensor) -> Tensor:
    """A front end: magnitudes of short frames, [R, 1, M, F]."""
    return torch.fft.rfft(waves.unfold(1, 200, 200)).abs().transpose(1, 2)[:, None]


def augmented(batch: Clips, draws: Draws) -> tuple[Clips, Clips]:
    """The batch after the changes of waves, and after those of images."""
    waves = augment_waves(batch, recorded(draws), draws, RATE_HZ)
    return waves, augment_images(waves._replace(signal=images_of(waves.signal)), draws)


def tensors(part: object) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from tensors(each)


def moved(part: Any, device: str) -> Any:
    if isinstance(part, Tensor):
        return part.to(device)
    if not isinstance(part, tuple):
        return part
    parts = [moved(each, device) for each in part]
    return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)


def test_settings_are_those_of_params_yaml() -> None:
    tree = tree_of()
    assert AugmentConfig.from_tree(tree, "params.yaml", "train").model_dump() == {
        **tree,
        "noise": (),
    }
    with pytest.raises(ConfigError, match="masks"):
        AugmentConfig.from_tree({**tree, "masks": None}, str(PARAMS))


def test_everything_drawn_is_on_the_cpu_and_depends_on_the_generator_alone() -> None:
    config = settings(**EVERYTHING)
    torch.manual_seed(1)
    first = draw(config, 8, 4, generator(3))
    torch.manual_seed(2)
    again, other = draw(config, 8, 4, generator(3)), draw(config, 8, 4, generator(4))
    pairs = list(zip(tensors(first), tensors(again), strict=True))
    assert len(pairs) > 40
    assert all(torch.equal(a, b) and a.device.type == "cpu" for a, b in pairs)
    for group, changed in zip(first[1:], other[1:], strict=True):
        same = [a.equal(b) for a, b in zip(tensors(group), tensors(changed), strict=True)]
        assert not all(same)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_batches_of_any_size_keep_shape_and_are_finite(kind: str | None) -> None:
    config = settings(**(EVERYTHING if kind is None else {kind: EVERYTHING[kind]}))
    for n_clips, n_partners in [(1, 0), (2, 1), (5, 3)]:
        batch, draws = clips(n_clips + n_partners), draw(config, n_clips, n_partners, generator(1))
        for silent in (False, True):
            before = batch._replace(signal=batch.signal * (not silent))
            waves, images = augmented(before, draws)
            assert waves.signal.shape == batch.signal.shape
            assert images.signal.shape == images_of(batch.signal).shape
            for each in tensors((waves, images)):
                assert each.dtype == torch.float32
                assert each.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_group_changes_what_it_is_about(kind: str) -> None:
    batch, draws = clips(8), draw(settings(**{kind: EVERYTHING[kind]}), 6, 2, generator(1))
    waves, images = augmented(batch, draws)
    changes_waves = kind in ("mixup", "noise", "filtering", "low_pass", "gain") or "shift" in kind
    assert torch.equal(waves.signal, batch.signal) != changes_waves
    assert torch.equal(images.signal, images_of(waves.signal)) == changes_waves
    assert torch.equal(images.target, batch.target) != ("mixup" in kind)


def test_arguments_are_left_alone() -> None:
    config = settings(**EVERYTHING)
    batch, draws = clips(8), draw(config, 6, 2, generator(1))
    noise = recorded(draws)
    waves = augment_waves(batch, noise, draws, RATE_HZ)
    images = waves._replace(signal=images_of(waves.signal))
    augment_images(images, draws)
    again = draw(config, 6, 2, generator(1))
    for a, b in [
        (batch, clips(8)),
        (draws, again),
        (noise, recorded(again)),
        (images, waves._replace(signal=images_of(waves.signal))),
    ]:
        assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_nothing_drawn_gives_back_the_very_tensors() -> None:
    batch, draws = clips(5), draw(settings(), 5, 0, generator())
    waves = augment_waves(batch, torch.zeros(0, SAMPLES), draws, RATE_HZ)
    assert all(a is b for a, b in zip(waves, batch, strict=True))
    images = waves._replace(signal=images_of(waves.signal))
    assert all(a is b for a, b in zip(augment_images(images, draws), images, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_labels_can_be_mixed_without_the_signals(seed: int) -> None:
    batch, draws = clips(8), draw(settings(**EVERYTHING), 6, 2, generator(seed))
    images = augmented(batch, draws)[1]
    found = mixed_labels(batch.target, batch.mask, batch.weight, draws)
    for a, b in zip(found, images[1:], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(found.weight, batch.weight)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_process_that_takes_what_its_rows_need_gets_the_same_clips(seed: int, n_ranks: int) -> None:
    batch, draws = clips(12), draw(settings(**EVERYTHING), 9, 3, generator(seed))
    whole = augmented(batch, draws)[1]
    for rank in range(n_ranks):
        kept = torch.arange(rank, 9, n_ranks)
        rows = draws.needed(kept)
        assert torch.equal(rows[: len(kept)], kept)
        assert rows.unique().numel() == len(rows)
        taken = draws.take(rows)
        assert taken.n_rows == len(rows)
        own = augmented(Clips(*(each[rows] for each in batch)), taken)[1]
        for a, b in zip(own, whole, strict=True):
            torch.testing.assert_close(a[: len(kept)], b[kept], atol=1e-4, rtol=1e-4)


def test_needed_rows_are_partners_as_far_as_they_are_mixed_by_then() -> None:
    draws = draw(settings(**{**EVERYTHING, "noise": []}), 4, 2, generator())

    def pairs(*both: tuple[int, int]) -> Any:
        rows, partner = torch.tensor(both, dtype=torch.int64).view(-1, 2).T
        share = torch.full((len(rows),), 0.5)
        return draws.selective._replace(
            rows=rows,
            partner=partner,
            own_share=share,
            partner_share=share,
            label_share=share,
        )

    draws = draws._replace(
        image_mixup=pairs((0, 1), (1, 2)),
        selective=pairs((1, 4)),
        mixup=draws.mixup._replace(second=pairs((4, 5), (3, 2)), third=pairs((4, 2))),
    )
    # 2 is mixed into 1 only after 1 is into 0, yet it is 4's third.
    assert draws.needed(torch.tensor([0])).tolist() == [0, 1, 4, 2, 5]
    assert draws.needed(torch.tensor([3])).tolist() == [3, 2]
    assert draws.needed(torch.tensor([2])).tolist() == [2]
    taken = draws.take(torch.tensor([0, 1, 4, 2, 5]))
    assert taken.image_mixup.rows.tolist() == [0, 1]
    assert taken.image_mixup.partner.tolist() == [1, 3]
    assert taken.mixup.second.rows.tolist() == [2]
    assert taken.mixup.second.partner.tolist() == [4]
    assert len(draws.take(torch.tensor([3])).mixup.second.rows) == 0


def test_partners_that_no_kept_row_blends_in_are_not_needed() -> None:
    off = {**EVERYTHING, "selective_mixup": {"probability": 0.0}}
    draws = draw(settings(**off), 6, 6, generator())
    assert sorted(draws.needed(torch.arange(6)).tolist()) == list(range(6))


def test_selective_partner_is_blended_in_with_its_noise() -> None:
    noise = {**NOISE, "low": -20.0, "high": -20.0}
    draws = draw(settings(noise=[noise], selective_mixup={"probability": 1.0}), 1, 1, generator())
    batch = clips(2)
    waves, images = augmented(batch, draws)
    lam = draws.selective.own_share
    spectra = images_of(waves.signal)
    assert draws.noise[0].rows.tolist() == [0, 1]
    torch.testing.assert_close(images.signal[0], lam * spectra[0] + (1 - lam) * spectra[1])
    assert torch.equal(images.signal[1], spectra[1])


def test_everything_happens_on_the_device_of_the_clips() -> None:
    # These read numbers back, and the meta device has none.
    reading = {"filtering", "low_pass", "pitch_shift", "noise"}
    config = settings(**{name: EVERYTHING[name] for name in KINDS if name not in reading})
    draws = moved(draw(config, 6, 2, generator(1)), "meta")
    batch = moved(clips(8), "meta")
    noise = [{**NOISE, "mode": mode, "low": 0.0, "high": 0.0} for mode in ("snr_rms", "blend")]
    added = draw(settings(noise=noise), 6, 2, generator(1))
    draws = draws._replace(noise=moved(added.noise, "meta"))
    waves = augment_waves(batch, torch.zeros(16, SAMPLES, device="meta"), draws, RATE_HZ)
    images = waves._replace(signal=images_of(waves.signal))
    assert all(each.device.type == "meta" for each in tensors(augment_images(images, draws)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_what_the_cpu_gives() -> None:
    adders = [{**NOISE, "probability": 0.5}]  # made noise differs with the kind of device
    batch = clips(8)
    draws = draw(settings(**{**EVERYTHING, "noise": adders}), 6, 2, generator(1))
    expected = augmented(batch, draws)[1]
    own = moved(draws, "cuda")
    waves = augment_waves(moved(batch, "cuda"), recorded(draws).cuda(), own, RATE_HZ)
    images = augment_images(waves._replace(signal=images_of(waves.signal)), own)
    for a, b in zip(moved(images, "cpu"), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
