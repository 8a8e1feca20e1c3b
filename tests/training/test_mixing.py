from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from bclef.config import ConfigError
from bclef.mixing import (
    LabelRule,
    Labels,
    MixDraw,
    WaveMixDraw,
    draw_image_mix,
    draw_selective_mix,
    draw_wave_mix,
    mix_labels,
    mix_signals,
    mix_waves,
)
from tests.augmentations import assert_equal, settings

ALWAYS = {"probability": 1.0, "match_level": "none", "gain_min_db": 0.0, "gain_max_db": 0.0}
"""Every clip is mixed, with the partner as it is."""


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def waves(n_clips: int = 4, n_samples: int = 500) -> Tensor:
    levels = torch.tensor([0.3, 0.02, 0.1, 0.05, 0.2])[:n_clips, None]
    return levels * torch.randn(n_clips, n_samples, generator=generator(5))


def labels(n_clips: int = 4) -> Labels:
    draw = generator(6)
    target = torch.rand(n_clips, 6, generator=draw) * (torch.rand(n_clips, 6, generator=draw) > 0.5)
    mask = (torch.rand(n_clips, 6, generator=draw) > 0.3).float()
    return Labels(target, mask, torch.rand(n_clips, generator=draw))


def drawn(n_clips: int = 4, seed: int = 0, **overrides: Any) -> WaveMixDraw:
    mixup = settings(mixup={**ALWAYS, **overrides}).mixup
    return draw_wave_mix(mixup, n_clips, generator(seed))


def both(draw: WaveMixDraw) -> tuple[MixDraw, MixDraw]:
    return draw.second, draw.third


def pair(partner_share: float = 0.5, rule: LabelRule = "union", share: float = 0.5) -> MixDraw:
    """Row 0 with row 1 as its partner."""
    return MixDraw(
        torch.tensor([0]),
        torch.tensor([1]),
        torch.tensor([0.5]),
        torch.tensor([partner_share]),
        torch.tensor([share]),
        rule,
    )


def nothing() -> MixDraw:
    none, empty = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return MixDraw(none, none, empty, empty, empty, "union")


def test_mean_of_two_with_union_of_labels_at_full_scale_is_e16() -> None:
    draw = drawn(signal="mean", labels="union", normalise_peak=True)
    x, y = waves().numpy(), labels().target.numpy()
    partner = draw.second.partner.numpy()[np.argsort(draw.second.rows.numpy())]
    mean = (x + x[partner]) / 2
    expected = mean / np.abs(mean).max(axis=1, keepdims=True)
    assert_equal(mix_waves(waves(), draw), expected)
    found = mix_labels(labels(), both(draw))
    assert_equal(found.target, np.minimum(y + y[partner], 1))


def test_blend_in_drawn_shares_of_signal_labels_and_weight_is_e17() -> None:
    draw = drawn(signal="blend", labels="blend", beta=1.0)
    x, (y, _, w) = waves().numpy(), (each.numpy() for each in labels())
    lam, partner = draw.second.own_share.numpy(), draw.second.partner.numpy()
    expected = lam[:, None] * x + (1 - lam)[:, None] * x[partner]
    assert len(np.unique(lam)) == 4
    assert_equal(mix_waves(waves(), draw), expected)
    found = mix_labels(labels(), both(draw))
    assert_equal(found.target, lam[:, None] * y + (1 - lam)[:, None] * y[partner])
    assert_equal(found.weight, lam * w + (1 - lam) * w[partner])


def test_partner_at_a_gain_in_amplitude_with_the_larger_label_is_e18() -> None:
    limits_db: dict[str, Any] = {"gain_min_db": 20 * np.log10(0.2).item(), "gain_max_db": 0.0}
    draw = drawn(signal="add", labels="max", gain_draw="amplitude", **limits_db)
    x, y = waves().numpy(), labels().target.numpy()
    partner, share = draw.second.partner.numpy(), draw.second.partner_share.numpy()
    assert_equal(mix_waves(waves(), draw), x + share[:, None] * x[partner])
    found = mix_labels(labels(), both(draw)).target
    assert_equal(found, np.maximum(y, y[partner]))
    many = drawn(n_clips=4000, signal="add", gain_draw="amplitude", **limits_db)
    quarters = np.histogram(many.second.partner_share, bins=4, range=(0.2, 1.0))[0] / 4000
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


def test_one_draw_of_gain_in_decibels_for_the_batch_is_e18_level_two() -> None:
    limits_db: dict[str, Any] = {"gain_draw": "db", "gain_min_db": -20.0, "gain_max_db": 0.0}
    draw = drawn(signal="add", per_batch=True, **limits_db)
    (share,) = np.unique(draw.second.partner_share)
    assert 0.1 <= share <= 1
    shares = [drawn(seed=s, signal="add", per_batch=True, **limits_db) for s in range(400)]
    exponents = [-np.log10(each.second.partner_share[0].item()) for each in shares]
    quarters = np.histogram(exponents, bins=4, range=(0.0, 1.0))[0] / 400
    np.testing.assert_allclose(quarters, 0.25, atol=0.08)


def test_beta_blend_may_go_with_the_larger_label_and_then_averages_weights() -> None:
    draw = drawn(signal="blend", labels="max", beta=4.0)
    y, _, w = (each.numpy() for each in labels())
    partner, found = draw.second.partner.numpy(), mix_labels(labels(), both(draw))
    assert_equal(found.target, np.maximum(y, y[partner]))
    assert_equal(found.weight, (w + w[partner]) / 2)


def test_sum_of_three_with_averaged_weights_is_e19() -> None:
    draw = drawn(signal="add", labels="union", third_probability=1.0)
    x, (y, _, w) = waves().numpy(), (each.numpy() for each in labels())
    second, third = draw.second.partner.numpy(), draw.third.partner.numpy()
    assert_equal(mix_waves(waves(), draw), x + x[second] + x[third])
    found = mix_labels(labels(), both(draw))
    assert_equal(found.target, np.minimum(y + y[second] + y[third], 1))
    assert_equal(found.weight, (w + w[second] + w[third]) / 3)


def test_mean_of_three_weighs_all_alike() -> None:
    draw = drawn(signal="mean", labels="blend", third_probability=1.0)
    second, third = draw.second.partner, draw.third.partner
    mixed, target = mix_waves(waves(), draw), labels().target
    torch.testing.assert_close(mixed, (waves() + waves()[second] + waves()[third]) / 3)
    found = mix_labels(labels(), both(draw)).target
    torch.testing.assert_close(found, (target + target[second] + target[third]) / 3)


def test_matched_partner_is_brought_to_the_level_of_the_clip_plus_the_gain() -> None:
    draw = drawn(signal="add", match_level="rms", gain_min_db=6.0, gain_max_db=6.0)
    added = mix_waves(waves(), draw) - waves()
    found = added.square().mean(1) / waves().square().mean(1)
    np.testing.assert_allclose(10 * found.log10(), 6.0, atol=1e-3)


def test_mean_of_waves_brought_to_one_peak_is_e16() -> None:
    loud, soft = waves()[0].numpy() * 3, waves()[1].numpy() / 5
    draw = WaveMixDraw(pair(), nothing(), match_level="peak", normalise_peak=True)
    found = mix_waves(torch.tensor(np.stack([loud, soft])), draw)[0]
    expected = (loud / np.abs(loud).max() + soft / np.abs(soft).max()) / 2
    np.testing.assert_allclose(found, expected / np.abs(expected).max(), atol=1e-6)


def test_class_counts_after_mixing_where_both_knew_it_or_one_holds_it() -> None:
    target = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    found = mix_labels(Labels(target, mask, torch.ones(2)), [pair()])
    assert found.mask.tolist() == [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]


def test_row_without_partner_stays_to_the_last_bit() -> None:
    draw = WaveMixDraw(pair(), nothing(), match_level="rms", normalise_peak=True)
    mixed, joined = mix_waves(waves(), draw), mix_labels(labels(), [pair()])
    assert torch.equal(mixed[1:], waves()[1:])
    assert not torch.equal(mixed[0], waves()[0])
    for before, after in zip(labels(), joined, strict=True):
        assert torch.equal(before[1:], after[1:])


def test_partners_are_mixed_in_as_they_were_before() -> None:
    circle = MixDraw(
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
        torch.full((2,), 0.5),
        torch.full((2,), 0.5),
        torch.full((2,), 0.5),
        "blend",
    )
    expected = (waves()[0] + waves()[1]) / 2
    torch.testing.assert_close(mix_signals(waves(), circle)[1], expected)
    target = labels().target
    found = mix_labels(labels(), [circle]).target
    torch.testing.assert_close(found[1], (target[0] + target[1]) / 2)


@pytest.mark.parametrize("match_level", ["none", "rms", "peak"])
def test_silence_stays_finite_and_gets_its_partner(
    match_level: Literal["none", "rms", "peak"],
) -> None:
    wave = torch.stack([torch.zeros(500), waves()[0], torch.zeros(500)])
    for partner in (1, 2):
        mix = pair()._replace(partner=torch.tensor([partner]))
        draw = WaveMixDraw(mix, nothing(), match_level=match_level, normalise_peak=False)
        torch.testing.assert_close(mix_waves(wave, draw)[0], wave[partner] / 2)
        draw = draw._replace(normalise_peak=True)
        assert mix_waves(wave, draw).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_type_of_signals_is_kept(dtype: torch.dtype) -> None:
    draw = drawn(third_probability=1.0, match_level="rms", normalise_peak=True)
    mixed = mix_waves(waves().to(dtype), draw)
    assert mixed.dtype == mix_signals(waves().to(dtype), draw.second).dtype == dtype
    torch.testing.assert_close(mixed.float(), mix_waves(waves(), draw), atol=0.02, rtol=0)


def test_signals_are_left_alone() -> None:
    wave, given = waves(), labels()
    draw = drawn(third_probability=1.0, normalise_peak=True)
    mix_waves(wave, draw)
    mix_signals(wave, draw.second)
    mix_labels(given, both(draw))
    assert torch.equal(wave, waves())
    assert all(torch.equal(a, b) for a, b in zip(given, labels(), strict=True))


def test_no_clip_is_mixed_with_itself_nor_twice_with_the_same() -> None:
    for seed in range(30):
        draw = drawn(n_clips=3, seed=seed, third_probability=1.0)
        partners = torch.stack([draw.second.rows, draw.second.partner, draw.third.partner])
        assert partners.sort(dim=0).values.tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_partners_are_drawn_evenly() -> None:
    counts = torch.zeros(5, 5)
    for seed in range(400):
        draw = drawn(n_clips=5, seed=seed).second
        counts[draw.rows, draw.partner] += 1
    np.testing.assert_allclose(counts + 100 * torch.eye(5), 100, atol=40)


def test_chances_of_mixup_are_those_stated() -> None:
    draw = drawn(n_clips=8000, probability=0.3, third_probability=0.25)
    assert len(draw.second.rows) / 8000 == pytest.approx(0.3, abs=0.02)
    assert len(draw.third.rows) / len(draw.second.rows) == pytest.approx(0.25, abs=0.03)
    assert torch.isin(draw.third.rows, draw.second.rows).all()
    batches = [drawn(n_clips=3, seed=s, probability=0.3, per_batch=True) for s in range(800)]
    sizes = [len(each.second.rows) for each in batches]
    assert set(sizes) == {0, 3}
    assert np.mean(sizes) / 3 == pytest.approx(0.3, abs=0.05)


def test_gains_are_uniform_in_decibels_within_their_range() -> None:
    draw = drawn(n_clips=4000, signal="add", gain_min_db=-6.0, gain_max_db=6.0)
    gains_db = 20 * draw.second.partner_share.log10()
    quarters = np.histogram(gains_db, bins=4, range=(-6.0, 6.0))[0] / 4000
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


def test_shares_of_a_blend_follow_the_beta_distribution() -> None:
    share = drawn(n_clips=8000, signal="blend", beta=4.0).second.own_share
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / 36, rel=0.06)  # of Beta(4, 4)


def test_batch_too_small_for_partners_is_not_mixed() -> None:
    assert len(drawn(n_clips=1, third_probability=1.0).second.rows) == 0
    two = drawn(n_clips=2, third_probability=1.0)
    assert two.second.partner.tolist() == [1, 0]
    assert len(two.third.rows) == 0
    assert len(drawn(n_clips=0).second.rows) == 0
    assert torch.equal(mix_waves(waves(1), drawn(n_clips=1)), waves(1))


def test_selective_mixup_blends_every_clip_with_a_permuted_partner() -> None:
    config = settings(selective_mixup={"probability": 1.0, "beta": 1.0}).selective_mixup
    draw = draw_selective_mix(config, 4, 4, generator())
    assert draw.rows.tolist() == [0, 1, 2, 3]
    assert sorted(draw.partner.tolist()) == [4, 5, 6, 7]
    assert draw.labels == "blend"
    assert draw.own_share.unique().numel() == 4
    orders = {
        tuple(draw_selective_mix(config, 4, 4, generator(s)).partner.tolist()) for s in range(200)
    }
    assert len(orders) == 24


def test_selective_mixup_is_drawn_for_whole_batches_and_needs_partners() -> None:
    config = settings(selective_mixup={"probability": 0.8, "beta": 1.0}).selective_mixup
    sizes = [len(draw_selective_mix(config, 3, 2, generator(s)).rows) for s in range(600)]
    assert set(sizes) == {0, 3}
    assert np.mean(sizes) / 3 == pytest.approx(0.8, abs=0.05)
    assert len(draw_selective_mix(config, 3, 0, generator(1)).rows) == 0


def test_images_blend_as_e17() -> None:
    image = torch.rand(4, 2, 5, 6, generator=generator())
    config = settings(image_mixup={"probability": 1.0, "labels": "blend"}).image_mixup
    draw = draw_image_mix(config, 4, generator())
    lam, partner = draw.own_share.numpy()[:, None, None, None], draw.partner.numpy()
    expected = lam * image.numpy() + (1 - lam) * image.numpy()[partner]
    assert_equal(mix_signals(image, draw), expected)


def test_images_of_one_draw_share_their_share() -> None:
    group = {"probability": 0.5, "labels": "union", "per_batch": True}
    config = settings(image_mixup=group).image_mixup
    draws = [draw_image_mix(config, 4, generator(seed)) for seed in range(20)]
    assert {len(each.rows) for each in draws} == {0, 4}
    assert all(each.own_share.unique().numel() <= 1 for each in draws)
    assert all((each.label_share == 0.5).all() for each in draws)
    assert len(draw_image_mix(config, 1, generator(1)).rows) == 0


def test_third_partner_of_a_blend_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"third_probability 0\.5 goes with signal mean or add"):
        settings(mixup={"signal": "blend", "third_probability": 0.5})


def test_inverted_gains_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gain_min_db 3\.0 exceeds gain_max_db 1\.0"):
        settings(mixup={"gain_min_db": 3.0, "gain_max_db": 1.0})
