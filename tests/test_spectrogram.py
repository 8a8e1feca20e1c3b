"""The torch front ends against the numpy twin and against torchaudio."""

import numpy as np
import pytest
import torch
import torchaudio

from bclef.config import ConfigError
from bclef.frontend import FrontEndConfig, log_mel, mel_filters
from bclef.spectrogram import FactoredLogMel, LogMel

SAMPLE_RATE_HZ = 32_000
PUBLISHED = {
    "2023-1st": {},
    "2023-2nd sed_v2s": {"hop_samples": 417, "mel_scale": "slaney", "mel_norm": "slaney"},
    "2021-2nd A": {"n_fft": 1024, "win_samples": 1024, "hop_samples": 320, "n_mels": 64},
    "2024-3rd": {
        "n_fft": 1536, "win_samples": 1024, "hop_samples": 717, "n_mels": 224, "f_min_hz": 90.0,
        "f_max_hz": 14000.0, "wave_scaling": "std", "top_db": None, "scaling": "n40",
    },
    "2025-1st": {"n_fft": 4096, "win_samples": 4096, "hop_samples": 1252, "n_mels": 224},
    "2026-1st, magnitude": {"power": 1, "hop_samples": 417, "wave_scaling": "peak"},
    "hop beyond the frame": {"n_fft": 256, "win_samples": 256, "hop_samples": 300, "n_mels": 20},
}  # fmt: skip


def front_end(**changes: object) -> FrontEndConfig:
    settings = {
        "n_fft": 2048,
        "win_samples": 2048,
        "hop_samples": 512,
        "n_mels": 128,
        "f_min_hz": 20.0,
        "f_max_hz": 16000.0,
        "mel_scale": "htk",
        "mel_norm": None,
        "normalise_window": True,
        "power": 2,
        "wave_scaling": "none",
        "top_db": 80.0,
        "scaling": "zmm",
    }
    return FrontEndConfig(**{**settings, **changes})


def birdlike(n_clips: int, n_samples: int = 32_000) -> torch.Tensor:
    """Returns sweeps over noise, float32 [n_clips, n_samples], of unlike levels."""
    rng = np.random.default_rng(5)
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    sweep = np.sin(2 * np.pi * (3000 * time_s + 1500 * np.sin(20 * time_s)))
    noise = 0.03 * rng.standard_normal((n_clips, n_samples))
    return torch.from_numpy(np.geomspace(1, 1e-3, n_clips)[:, None] * (sweep + noise)).float()


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("name", PUBLISHED)
def test_torch_image_equals_the_numpy_twin(kind, name):
    config, wave = front_end(**PUBLISHED[name]), birdlike(3)
    image = kind(config, SAMPLE_RATE_HZ)(wave)
    twin = log_mel(wave.numpy(), config, SAMPLE_RATE_HZ)
    assert image.dtype == torch.float32
    assert image.shape == (3, 1, config.n_mels, config.n_frames(32_000))
    # Without a limit to the range, float32 shows its rounding in what is 140 dB down.
    atol = 1e-5 if config.top_db else 1e-4
    np.testing.assert_allclose(image[:, 0].numpy(), twin, rtol=0, atol=atol)


def test_mel_matrix_equals_that_of_torchaudio():
    for mel_scale in ("htk", "slaney"):
        for mel_norm in (None, "slaney"):
            config = front_end(mel_scale=mel_scale, mel_norm=mel_norm)
            ours = mel_filters(config, SAMPLE_RATE_HZ)
            theirs = torchaudio.functional.melscale_fbanks(
                1025, 20.0, 16000.0, 128, SAMPLE_RATE_HZ, mel_norm, mel_scale
            )
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * ours.max())


def test_mel_power_equals_that_of_torchaudio():
    config, wave = front_end(win_samples=1600), birdlike(2)
    expected = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE_HZ, 2048, 1600, 512, 20.0, 16000.0, n_mels=128, normalized=True
    )(wave)
    actual = LogMel(config, SAMPLE_RATE_HZ).mel(wave).transpose(1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n_fft", [16, 18, 22, 96, 640, 1536])
def test_any_even_length_of_transform_can_be_factored(n_fft):
    config = front_end(n_fft=n_fft, win_samples=n_fft, hop_samples=50, n_mels=4, scaling="none")
    wave = birdlike(1, 3_000)
    plain, factored = LogMel(config, SAMPLE_RATE_HZ), FactoredLogMel(config, SAMPLE_RATE_HZ)
    torch.testing.assert_close(factored(wave), plain(wave), rtol=0, atol=1e-3)


def test_factors_of_2048_are_64_and_32_and_only_half_of_the_rows_are_made():
    module = FactoredLogMel(front_end(), SAMPLE_RATE_HZ)
    assert (module.n_first, module.n_second, module.n_rows) == (64, 32, 33)
    assert module.filters.shape == (33 * 32, 128)


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("scaling", ["n80", "zscore", "zmm"])
def test_image_of_a_clip_is_the_same_alone_and_in_any_batch(kind, scaling):
    module, wave = kind(front_end(scaling=scaling), SAMPLE_RATE_HZ), birdlike(5)
    together, reversed_ = module(wave), module(wave.flip(0)).flip(0)
    alone = torch.cat([module(clip[None]) for clip in wave])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, reversed_, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
def test_silent_clip_is_exactly_zero_after_zscore(kind):
    image = kind(front_end(scaling="zscore"), SAMPLE_RATE_HZ)(torch.zeros(2, 20_000))
    assert not image.any()


def test_autocast_does_not_lower_the_precision():
    module, wave = FactoredLogMel(front_end(), SAMPLE_RATE_HZ), birdlike(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = module(wave)
    assert torch.equal(image, module(wave))


def test_constants_are_no_part_of_the_weights():
    assert FactoredLogMel(front_end(), SAMPLE_RATE_HZ).state_dict() == {}


def test_bands_without_a_bin_are_logged_and_not_warned_about(caplog):
    LogMel(front_end(n_fft=512, win_samples=512), SAMPLE_RATE_HZ)
    assert "of 128 mel bands hold no bin" in caplog.text


def test_too_high_a_band_and_too_short_a_clip_are_refused():
    with pytest.raises(ConfigError, match="f_max_hz"):
        LogMel(front_end(), 16_000)
    with pytest.raises(ConfigError, match="too short"):
        LogMel(front_end(), SAMPLE_RATE_HZ)(torch.zeros(1, 1024))
