import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from bclef.config import ConfigError
from bclef.noises import NoiseDraw, NoiseKind, NoiseMode, add_noises, draw_noises, made
from tests.augmentations import NOISE, assert_equal, settings


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def waves(n_clips: int = 3, seed: int = 5) -> Tensor:
    return 0.1 * torch.randn(n_clips, 2000, generator=generator(seed))


def drawn(
    rows: list[int], amount: float, mode: NoiseMode, kind: NoiseKind = "recordings"
) -> NoiseDraw:
    return NoiseDraw(
        torch.tensor(rows),
        torch.full((len(rows),), amount),
        torch.arange(len(rows)),
        kind,
        mode,
    )


def with_noise(wave: Tensor, noise: Tensor, draw: NoiseDraw) -> Tensor:
    """The waves with the noise of one adder."""
    return add_noises(wave, noise, (draw,))


def rms(wave: Tensor) -> Tensor:
    return wave.square().mean(dim=-1).sqrt()


def test_noise_has_the_stated_ratio_to_the_clip_by_root_mean_square() -> None:
    draw = drawn([0, 2], 0.0, "snr_rms")._replace(amount=torch.tensor([10.0, -3.0]))
    added = with_noise(waves(), 7 * waves(2, 1), draw) - waves()
    found_db = 20 * torch.log10(rms(waves()) / rms(added))
    torch.testing.assert_close(found_db[[0, 2]], draw.amount, atol=1e-3, rtol=0)
    assert torch.equal(added[1], torch.zeros(2000))


def test_peak_ratio_is_e21() -> None:
    x, n, snr_db = waves().numpy(), waves(1, 1).numpy(), 12.0
    peak = np.abs(x[1]).max() / 10 ** (snr_db / 20)
    found = with_noise(waves(), waves(1, 1), drawn([1], snr_db, "snr_peak"))
    assert_equal(found[1], x[1] + n[0] * peak / np.abs(n[0]).max())


def test_share_is_e22_for_clip_and_noise_at_full_scale() -> None:
    a, x, n = 0.4, waves()[0] / waves()[0].abs().max(), waves(1, 1)
    expected = (1 - a) * x.numpy() + a * (n[0] / n[0].abs().max()).numpy()
    found = with_noise(x[None], n, drawn([0], a, "blend"))
    assert_equal(found[0], expected)


def test_share_is_the_same_at_any_level_of_either() -> None:
    draw = drawn([0], 0.4, "blend")
    found = with_noise(waves(1) / 50, 3 * waves(1, 1), draw)
    torch.testing.assert_close(found * 50, with_noise(waves(1), waves(1, 1), draw))


def test_amplitude_is_the_level_of_the_noise_whatever_the_clip() -> None:
    clips = torch.stack([waves(1)[0], torch.zeros(2000)])
    added = with_noise(clips, waves(2, 1), drawn([0, 1], -30.0, "amplitude")) - clips
    np.testing.assert_allclose(20 * torch.log10(rms(added)), -30.0, atol=1e-3)


@pytest.mark.parametrize("mode", ["snr_rms", "snr_peak"])
@pytest.mark.parametrize("silent", ["clip", "noise", "both"])
def test_nothing_is_added_to_or_of_silence_at_a_ratio(mode: NoiseMode, silent: str) -> None:
    wave = waves(1) * (silent == "noise")
    noise = waves(1, 1) * (silent == "clip")
    assert torch.equal(with_noise(wave, noise, drawn([0], 0.0, mode)), wave)


@pytest.mark.parametrize("mode", ["blend", "amplitude"])
def test_silence_stays_finite(mode: NoiseMode) -> None:
    amount = -20.0 if mode == "amplitude" else 0.5
    for wave, noise in [(0, 0), (0, 1), (1, 0)]:
        result = with_noise(wave * waves(1), noise * waves(1, 1), drawn([0], amount, mode))
        assert result.isfinite().all()
        assert result.any() == (wave or (noise and mode == "amplitude"))


def test_recorded_noise_goes_to_the_draws_in_order() -> None:
    noise = torch.stack([torch.full((8,), value) for value in (1.0, -1.0, 1.0)])
    draws = (
        drawn([0, 2], 0.0, "snr_rms"),
        drawn([1], -200.0, "amplitude", "white"),
        drawn([0], 0.0, "snr_rms"),
    )
    result = add_noises(torch.ones(3, 8), noise, draws)
    torch.testing.assert_close(result[:, 0], torch.tensor([4.0, 1.0, 0.0]))


def test_rows_of_noise_must_be_as_many_as_drawn() -> None:
    with pytest.raises(ValueError, match=r"3 rows of recorded noise for draws of \[2\]"):
        add_noises(waves(), waves(), (drawn([0, 2], 0.0, "snr_rms"),))


def test_no_noise_leaves_the_clips_themselves() -> None:
    wave = waves()
    assert add_noises(wave, torch.zeros(0, 2000), ()) is wave
    assert add_noises(wave, torch.zeros(0, 2000), (drawn([], 0.0, "snr_rms"),)) is wave


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["recordings", "white", "pink"])
def test_type_of_clips_is_kept(kind: NoiseKind, dtype: torch.dtype) -> None:
    n_recorded = 2 if kind == "recordings" else 0
    noise = waves(n_recorded, 1)
    for mode in ("snr_rms", "snr_peak", "blend", "amplitude"):
        found = add_noises(waves().to(dtype), noise, (drawn([0, 1], 0.0, mode, kind),))
        assert found.dtype == dtype
        assert found.isfinite().all()


def test_noise_leaves_its_arguments_alone() -> None:
    wave, noise = waves(2), waves(2, 1)
    for mode in ("snr_rms", "snr_peak", "blend", "amplitude"):
        with_noise(wave, noise, drawn([0, 1], 0.0, mode))
    assert torch.equal(wave, waves(2))
    assert torch.equal(noise, waves(2, 1))


@pytest.mark.parametrize(("kind", "slope"), [("white", 0.0), ("pink", -1.0)])
def test_power_of_made_noise_falls_as_its_colour(kind: NoiseKind, slope: float) -> None:
    noise = made(torch.zeros(1, 2**17), drawn([0], 0.0, "snr_rms", kind))
    assert rms(noise).item() == pytest.approx(1.0, abs=0.2)
    power = np.abs(np.fft.rfft(noise[0].numpy())) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(6, 16)]
    fitted = np.polyfit(np.arange(10), np.log2(octaves), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("kind", ["white", "pink"])
def test_made_noise_of_a_row_depends_on_its_seed_alone(kind: NoiseKind) -> None:
    draw = drawn([2, 0], 0.0, "snr_rms", kind)
    draw = draw._replace(seed=torch.tensor([2**62, 5]))
    pair, alone = made(waves(), draw), made(waves(), draw._replace(seed=torch.tensor([5])))
    torch.testing.assert_close(pair[1], alone[0])
    assert (pair[0] - pair[1]).abs().mean() > 0.5


def test_noises_are_drawn_by_their_chances_and_ranges() -> None:
    adders = [{**NOISE, "probability": 0.3}, {**NOISE, "mode": "blend", "low": 0.25, "high": 0.75}]
    first, second = draw_noises(settings(noise=adders).noise, 4000, generator(), at_most_one=False)
    assert len(first.rows) / 4000 == pytest.approx(0.3, abs=0.03)
    assert (first.kind, first.mode) == ("recordings", "snr_rms")
    assert second.rows.tolist() == list(range(4000))
    quarters = np.histogram(first.amount, bins=4, range=(0.0, 20.0))[0] / len(first.rows)
    np.testing.assert_allclose(quarters, 0.25, atol=0.05)
    assert 0.25 <= second.amount.min() < second.amount.max() <= 0.75
    assert second.seed.unique().numel() == 4000
    assert (second.seed >= 0).all()
    assert second.seed.dtype == torch.int64


def test_at_most_one_noise_is_one_choice_by_shares() -> None:
    adders = [{**NOISE, "probability": share} for share in (0.25, 0.5)]
    config = settings(noise=adders, noise_at_most_one=True)
    draws = draw_noises(config.noise, 4000, generator(), at_most_one=True)
    assert not torch.isin(draws[0].rows, draws[1].rows).any()
    assert [len(each.rows) / 4000 for each in draws] == pytest.approx([0.25, 0.5], abs=0.03)
    each_alone = draw_noises(config.noise, 4000, generator(), at_most_one=False)
    assert torch.isin(each_alone[0].rows, each_alone[1].rows).any()


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"low": 30.0}, r"low 30\.0 exceeds high 20\.0"),
        ({"mode": "blend"}, r"high 20\.0 of mode blend must lie between 0\.0 and 1\.0"),
        ({"mode": "amplitude"}, r"must lie between -120\.0 and 0\.0"),
        ({"low": -90.0}, r"must lie between -40\.0 and 60\.0"),
        ({"recordings": ""}, "recordings"),
    ],
)
def test_amounts_outside_their_range_are_refused(faults: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(noise=[{**NOISE, **faults}])


def test_shares_of_one_choice_add_up_to_at_most_one() -> None:
    adders = [{**NOISE, "probability": 0.6}] * 2
    assert len(settings(noise=adders).noise) == 2
    with pytest.raises(ConfigError, match=r"add up to 1\.2, more than 1"):
        settings(noise=adders, noise_at_most_one=True)
    tenths = [{**NOISE, "probability": 0.1}] * 10
    assert settings(noise=tenths, noise_at_most_one=True).noise_at_most_one
