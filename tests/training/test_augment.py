import math

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor

from bclef.augment import (
    MaskDraws,
    add_noise,
    apply_masks,
    change_level,
    draw_masks,
    draw_waves,
    mix_masks,
    mix_targets,
    mix_waves,
)
from bclef.training import TrainConfig

INFINITE = torch.full((1,), math.inf)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rms(wave: Tensor) -> Tensor:
    return wave.square().mean(dim=-1).sqrt()


def waves(n_clips: int = 4, n_samples: int = 2000) -> Tensor:
    return 0.1 * torch.randn(n_clips, n_samples, generator=generator(5))


def test_noise_has_the_stated_ratio_to_the_clip() -> None:
    wave, noise = waves(3), torch.randn(2, 2000, generator=generator(1))
    snr_db = torch.tensor([10.0, math.inf, -3.0])
    added = add_noise(wave, noise, snr_db) - wave
    found_db = 20 * torch.log10(rms(wave) / rms(added))
    torch.testing.assert_close(found_db[[0, 2]], snr_db[[0, 2]], atol=1e-3, rtol=0)
    assert torch.equal(added[1], torch.zeros(2000))


def test_noise_rows_go_to_the_noisy_clips_in_order() -> None:
    noise = torch.stack([torch.full((8,), 1.0), torch.full((8,), -1.0)])
    result = add_noise(torch.ones(3, 8), noise, torch.tensor([0.0, math.inf, 0.0]))
    torch.testing.assert_close(result[:, 0], torch.tensor([2.0, 1.0, 0.0]))


def test_mixed_clip_is_the_mean_of_two_at_equal_level() -> None:
    wave = waves(2) * torch.tensor([[1.0], [0.01]])
    result = mix_waves(wave, torch.tensor([1, 1]), torch.zeros(2))
    expected = (wave[0] + wave[1] * rms(wave[0]) / rms(wave[1])) / 2
    torch.testing.assert_close(result[0], expected)
    assert torch.equal(result[1], wave[1])


def test_partner_is_louder_by_the_drawn_level() -> None:
    wave = waves(2)
    added = mix_waves(wave, torch.tensor([1, 1]), torch.tensor([6.0, 0.0]))[0] * 2 - wave[0]
    assert (20 * torch.log10(rms(added) / rms(wave[0]))).item() == pytest.approx(6.0, abs=1e-3)


def test_labels_of_mixed_clips_add_up_to_at_most_one() -> None:
    target = torch.tensor([[1.0, 0.0, 0.3], [1.0, 1.0, 0.3], [0.0, 0.0, 0.8]])
    result = mix_targets(target, torch.tensor([1, 1, 0]))
    expected = torch.tensor([[1.0, 1.0, 0.6], [1.0, 1.0, 0.3], [1.0, 0.0, 1.0]])
    torch.testing.assert_close(result, expected)


def test_class_counts_after_mixing_where_both_knew_it_or_one_holds_it() -> None:
    target = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    mask = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    partner = torch.tensor([1, 1])
    result = mix_masks(mask, mix_targets(target, partner), partner)
    assert result.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_level_changes_by_decibels() -> None:
    result = change_level(torch.ones(2, 3), torch.tensor([-6.0, 0.0]))
    torch.testing.assert_close(result[:, 0], torch.tensor([0.5011872, 1.0]))


@pytest.mark.parametrize("silent_noise", [False, True])
def test_silence_stays_finite(silent_noise: bool) -> None:
    wave = torch.stack([torch.zeros(2000), waves(1)[0]])
    noise = torch.zeros(2, 2000) if silent_noise else waves(2)
    result = add_noise(wave, noise, torch.zeros(2))
    mixed = mix_waves(wave, torch.tensor([1, 0]), torch.full((2,), 6.0))
    for each in (result, mixed):
        assert each.shape == wave.shape
        assert each.dtype == torch.float32
        assert torch.isfinite(each).all()
    assert torch.equal(result[0], wave[0])
    torch.testing.assert_close(mixed[0], wave[1] / 2)


def test_effects_leave_their_arguments_alone() -> None:
    wave, noise = waves(2), waves(2)
    before, noise_before = wave.clone(), noise.clone()
    mix_waves(wave, torch.tensor([1, 0]), torch.zeros(2))
    add_noise(wave, noise, torch.zeros(2))
    change_level(wave, torch.ones(2))
    assert torch.equal(wave, before)
    assert torch.equal(noise, noise_before)


def test_mask_covers_its_share_of_each_axis_with_the_mean_of_the_image() -> None:
    mel = torch.arange(2 * 10 * 20, dtype=torch.float32).view(2, 1, 10, 20)
    zero = torch.zeros(2, 1)
    draws = MaskDraws(
        time_first=torch.full((2, 1), 0.5),
        time_width=torch.tensor([[0.2], [0.0]]),
        frequency_first=zero,
        frequency_width=torch.tensor([[0.3], [0.0]]),
    )
    masked = apply_masks(mel, draws)
    changed = masked[0, 0] != mel[0, 0]
    assert changed[:3].all()
    assert changed[:, 10:14].all()
    assert int(changed.sum()) == 3 * 20 + 4 * 7
    assert (masked[0, 0][changed] == mel[0].mean()).all()
    assert torch.equal(masked[1], mel[1])


def test_draws_depend_on_the_generator_alone(train_config: TrainConfig) -> None:
    torch.manual_seed(1)
    first = (*draw_waves(train_config, 8, generator(3)), *draw_masks(train_config, 8, generator(4)))
    torch.manual_seed(2)
    again = (*draw_waves(train_config, 8, generator(3)), *draw_masks(train_config, 8, generator(4)))
    other = (*draw_waves(train_config, 8, generator(9)), *draw_masks(train_config, 8, generator(8)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_draws_follow_their_probabilities_and_ranges(train_config: TrainConfig) -> None:
    n = 4000
    draws = draw_waves(train_config, n, generator())
    noisy = draws.noise_snr_db.isfinite()
    assert (draws.partner != torch.arange(n)).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert noisy.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert draws.noise_snr_db[noisy].min() >= 0
    assert draws.noise_snr_db[noisy].max() <= 20
    assert draws.partner_level_db.abs().max() <= 6
    masks = draw_masks(train_config, n, generator())
    assert (masks.time_width > 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert masks.time_width.max() <= 0.2
    assert (masks.time_first + masks.time_width).max() <= 1


def test_nothing_is_drawn_at_probability_zero(train_config: TrainConfig) -> None:
    zero = {"mixup_probability": 0.0, "noise_probability": 0.0, "mask_probability": 0.0}
    off = train_config.model_copy(update=zero)
    draws = draw_waves(off, 50, generator())
    assert torch.equal(draws.partner, torch.arange(50))
    assert not draws.noise_snr_db.isfinite().any()
    assert not draw_masks(off, 50, generator()).time_width.any()


def test_inverted_range_of_ratios_is_refused(train_config: TrainConfig) -> None:
    tree = train_config.model_dump() | {"noise_snr_min_db": 30.0}
    with pytest.raises(ValidationError, match=r"noise_snr_min_db 30\.0 exceeds"):
        TrainConfig.model_validate(tree)
