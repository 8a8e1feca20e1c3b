"""The torch front ends against the numpy twin, against torchaudio, and exported."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
import torchaudio
from torch.nn import functional

from bclef.config import ConfigError
from bclef.frontend import FrontEndConfig, log_mel, mel_filters
from bclef.graphs import openvino_core
from bclef.spectrogram import FactoredLogMel, LogMel

SAMPLE_RATE_HZ = 32_000
SETTINGS = {
    "n_fft": 2048, "win_samples": 2048, "hop_samples": 512, "n_mels": 128, "f_min_hz": 20.0,
    "f_max_hz": 16000.0, "mel_scale": "htk", "mel_norm": None, "normalise_window": False,
    "power": 2, "wave_scaling": "none", "top_db": 80.0, "scaling": "zmm", "padding": "reflect",
    "channels": "mono", "image_size": None,
}  # fmt: skip
L23 = {
    "f_min_hz": 0.0, "mel_scale": "slaney", "mel_norm": "slaney", "scaling": "n255",
    "padding": "zeros",
}  # fmt: skip
L23_LOW = {**L23, "n_fft": 1024, "win_samples": 1024, "f_min_hz": 50.0, "f_max_hz": 14000.0}
J24 = {
    "n_fft": 1536, "win_samples": 1024, "hop_samples": 717, "n_mels": 224, "f_min_hz": 90.0,
    "f_max_hz": 14000.0, "wave_scaling": "std", "top_db": None, "scaling": "n40",
    "channels": "ramp",
}  # fmt: skip
PUBLISHED = {
    "C22": {"f_min_hz": 50.0, "f_max_hz": 14000.0, "top_db": None, "scaling": "none"},
    "H21 A": {
        "n_fft": 1024, "win_samples": 1024, "hop_samples": 320, "n_mels": 64, "f_min_hz": 50.0,
        "f_max_hz": 14000.0, "top_db": None, "scaling": "n80",
    },
    "H21 B": {"n_mels": 256, "f_min_hz": 16.0, "scaling": "n80"},
    "V23 and V25": {"normalise_window": True},
    "L23 sed_v2s": {**L23, "hop_samples": 417, "scaling": "n80", "channels": "deltas"},
    "L23 sed_b3ns": {**L23_LOW, "hop_samples": 535, "channels": "deltas"},
    "L23 sed_seresnext26t, cnn_b0ns": {**L23, "hop_samples": 627},
    "L23 sed_resnet34": {**L23, "hop_samples": 717},
    "L23 cnn_v2s": {
        **L23_LOW, "hop_samples": 320, "n_mels": 64, "scaling": "n80", "channels": "deltas",
    },
    "L23 cnn_b3ns": {**L23_LOW, "hop_samples": 535, "scaling": "n80", "channels": "deltas"},
    "L23 cnn_resnet34d": {**L23, "hop_samples": 627, "channels": "deltas"},
    "J24 and T24": J24,
    "W25": {
        "n_fft": 4096, "win_samples": 4096, "hop_samples": 1252, "n_mels": 224, "f_min_hz": 0.0,
        "wave_scaling": "peak", "channels": "repeat",
    },
    "W26 128 x 384": {"hop_samples": 417, "f_min_hz": 0.0, "power": 1, "wave_scaling": "peak"},
    "W26 160 x 512": {
        "hop_samples": 313, "n_mels": 160, "f_min_hz": 0.0, "power": 1, "wave_scaling": "peak",
    },
}  # fmt: skip
"""The front ends of published systems, by the keys of docs/formulas.md."""
FRAMES_OF_5_S = {
    "C22": 313, "H21 A": 501, "H21 B": 313, "V23 and V25": 313, "L23 sed_v2s": 384,
    "L23 sed_b3ns": 300, "L23 sed_seresnext26t, cnn_b0ns": 256, "L23 sed_resnet34": 224,
    "L23 cnn_v2s": 501, "L23 cnn_b3ns": 300, "L23 cnn_resnet34d": 256, "J24 and T24": 224,
    "W25": 128, "W26 128 x 384": 384, "W26 160 x 512": 512,
}  # fmt: skip
OTHERS = {
    "hop beyond the frame": {"n_fft": 256, "win_samples": 256, "hop_samples": 300, "n_mels": 20},
    "hop beyond the frame, zeros": {
        "n_fft": 256, "win_samples": 256, "hop_samples": 300, "n_mels": 20, "padding": "zeros",
    },
    "resized": {**J24, "image_size": (256, 100)},
    "resized deltas": {**L23, "hop_samples": 417, "channels": "deltas", "image_size": (64, 200)},
}  # fmt: skip


def front_end(**changes: object) -> FrontEndConfig:
    return FrontEndConfig(**{**SETTINGS, **changes})


def birdlike(n_clips: int, n_samples: int = 32_000) -> torch.Tensor:
    """Returns sweeps over noise, float32 [n_clips, n_samples], of unlike levels."""
    rng = np.random.default_rng(5)
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    sweep = np.sin(2 * np.pi * (3000 * time_s + 1500 * np.sin(20 * time_s)))
    noise = 0.03 * rng.standard_normal((n_clips, n_samples))
    return torch.from_numpy(np.geomspace(1, 1e-3, n_clips)[:, None] * (sweep + noise)).float()


def image_by_torchaudio(wave: torch.Tensor, config: FrontEndConfig) -> torch.Tensor:
    """Returns the image of a published system, out of the parts that its author used."""
    divisor = {
        "none": torch.ones(1),
        "peak": wave.abs().amax(1, keepdim=True),
        "std": wave.std(1, keepdim=True),
    }[config.wave_scaling]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE_HZ, config.n_fft, config.win_samples, config.hop_samples,
            config.f_min_hz, config.f_max_hz, n_mels=config.n_mels, power=float(config.power),
            normalized=config.normalise_window, norm=config.mel_norm, mel_scale=config.mel_scale,
            pad_mode={"reflect": "reflect", "zeros": "constant"}[config.padding],
        )(wave / divisor)  # fmt: skip
    # With an axis for channels, torchaudio takes the maximum over each clip.
    s = torchaudio.transforms.AmplitudeToDB("power", config.top_db)(mel[:, None])
    z = (s - s.mean((2, 3), keepdim=True)) / (s.std((2, 3), keepdim=True) + 1e-6)
    low, high = z.amin((2, 3), keepdim=True), z.amax((2, 3), keepdim=True)
    image = {
        "none": s,
        "n80": (s + 80) / 80,
        "n40": (s - 40) / 80,
        "n255": s / 255,
        "zmm": (z - low) / (high - low + 1e-6),
    }[config.scaling]
    delta = torchaudio.functional.compute_deltas(image, win_length=5)
    ramp = torch.linspace(0, 1, config.n_mels)[:, None].expand_as(image)
    parts = {
        "mono": [image],
        "repeat": [image, image, image],
        "ramp": [image, image, ramp],
        "deltas": [image, delta, torchaudio.functional.compute_deltas(delta, win_length=5)],
    }[config.channels]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("name", PUBLISHED)
def test_image_equals_that_of_the_published_system(kind, name):
    config, wave = front_end(**PUBLISHED[name]), birdlike(3)
    wave[1, :16_000] = 0  # a short clip, padded: digital silence is at the floor of E1
    # Unscaled decibels are some hundred times the numbers of a scaled image.
    atol = 2e-3 if config.scaling == "none" else 5e-5
    torch.testing.assert_close(
        kind(config, SAMPLE_RATE_HZ)(wave), image_by_torchaudio(wave, config), rtol=0, atol=atol
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_five_seconds_have_the_published_number_of_frames(name):
    config = front_end(**PUBLISHED[name])
    assert config.image_shape(160_000) == (config.n_mels, FRAMES_OF_5_S[name])


def test_twenty_seconds_of_w25_have_512_frames():
    assert front_end(**PUBLISHED["W25"]).image_shape(640_000) == (224, 512)


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("name", PUBLISHED | OTHERS)
def test_torch_image_equals_the_numpy_twin(kind, name):
    config, wave = front_end(**(PUBLISHED | OTHERS)[name]), birdlike(3)
    image = kind(config, SAMPLE_RATE_HZ)(wave)
    assert image.dtype == torch.float32
    assert image.shape == (3, config.n_channels, *config.image_shape(32_000))
    # Without a limit to the range, float32 shows its rounding in what is 140 dB down.
    atol = {"none": 2e-3}.get(config.scaling, 1e-5 if config.top_db else 1e-4)
    twin = log_mel(wave.numpy(), config, SAMPLE_RATE_HZ)
    np.testing.assert_allclose(image.numpy(), twin, rtol=0, atol=atol)


@pytest.mark.parametrize("n_samples", [32_000, 20_001])
@pytest.mark.parametrize("image_size", [(64, 200), (256, 17), (128, 63)])
def test_resized_image_equals_bilinear_interpolation_of_torch(image_size, n_samples):
    wave = birdlike(2, n_samples)
    plain = LogMel(front_end(), SAMPLE_RATE_HZ)(wave)
    resized = LogMel(front_end(image_size=image_size), SAMPLE_RATE_HZ)(wave)
    expected = functional.interpolate(plain, image_size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("channels", ["repeat", "ramp", "deltas"])
def test_channels_do_not_share_their_memory(channels):
    """A mask that is drawn into one channel in place must not show in another."""
    image = LogMel(front_end(channels=channels), SAMPLE_RATE_HZ)(birdlike(2))
    before = image.clone()
    image[0, 0] = 7
    assert torch.equal(image[:, 1:], before[:, 1:])
    assert torch.equal(image[1], before[1])


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
    config, wave = front_end(win_samples=1600, normalise_window=True), birdlike(2)
    expected = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE_HZ, 2048, 1600, 512, 20.0, 16000.0, n_mels=128, normalized=True
    )(wave)
    actual = LogMel(config, SAMPLE_RATE_HZ).mel(wave).transpose(1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n_fft", [16, 18, 22, 96, 640, 1000, 1024, 1536, 4096])
def test_any_even_length_of_transform_can_be_factored(n_fft):
    config = front_end(n_fft=n_fft, win_samples=n_fft, hop_samples=50, n_mels=4, scaling="none")
    wave = birdlike(1, 3_000)
    plain, factored = LogMel(config, SAMPLE_RATE_HZ), FactoredLogMel(config, SAMPLE_RATE_HZ)
    torch.testing.assert_close(factored(wave), plain(wave), rtol=0, atol=1e-3)


def test_factors_of_2048_are_64_and_32_and_only_half_of_the_rows_are_made():
    module = FactoredLogMel(front_end(), SAMPLE_RATE_HZ)
    assert (module.n_first, module.n_second, module.n_rows) == (64, 32, 33)
    assert module.filters.shape == (33 * 32, 128)


@pytest.mark.parametrize(
    ("n_fft", "factors"), [(1024, (64, 16)), (1536, (48, 32)), (4096, (128, 32)), (22, (11, 2))]
)
def test_factors_are_those_with_the_fewest_multiplications(n_fft, factors):
    module = FactoredLogMel(front_end(n_fft=n_fft, win_samples=16), SAMPLE_RATE_HZ)
    assert (module.n_first, module.n_second) == factors


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("wave_scaling", ["none", "peak", "std"])
@pytest.mark.parametrize("scaling", ["n80", "zscore", "zmm"])
def test_image_of_a_clip_is_the_same_alone_and_in_any_batch(kind, scaling, wave_scaling):
    config = front_end(
        scaling=scaling, wave_scaling=wave_scaling, channels="deltas", image_size=(96, 80)
    )
    module, wave = kind(config, SAMPLE_RATE_HZ), birdlike(5)
    together, reversed_ = module(wave), module(wave.flip(0)).flip(0)
    alone = torch.cat([module(clip[None]) for clip in wave])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, reversed_, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
def test_silent_clip_is_exactly_zero_after_zscore(kind):
    image = kind(front_end(scaling="zscore"), SAMPLE_RATE_HZ)(torch.zeros(2, 20_000))
    assert not image.any()


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_and_constant_give_finite_images(kind, name, level):
    image = kind(front_end(**PUBLISHED[name]), SAMPLE_RATE_HZ)(torch.full((2, 6_000), level))
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("kind", [LogMel, FactoredLogMel])
@pytest.mark.parametrize("name", ["J24 and T24", "resized deltas"])
def test_autocast_does_not_lower_the_precision(kind, name):
    module, wave = kind(front_end(**(PUBLISHED | OTHERS)[name]), SAMPLE_RATE_HZ), birdlike(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = module(wave)
    assert image.dtype == torch.float32
    assert torch.equal(image, module(wave))


EXPORTED = {
    "V23": PUBLISHED["V23 and V25"],
    "L23 sed_b3ns": PUBLISHED["L23 sed_b3ns"],
    "J24 resized": {**J24, "image_size": (256, 100)},
    "W26 resized and repeated": {
        **PUBLISHED["W26 128 x 384"], "channels": "repeat", "image_size": (96, 200),
    },
    "L23 resized deltas": {**L23, "channels": "deltas", "image_size": (128, 50)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_image_equals_that_of_torch_in_batches_of_any_size(name, tmp_path):
    config, file = front_end(**EXPORTED[name]), tmp_path / "front-end.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter, of torch
        torch.onnx.export(
            FactoredLogMel(config, SAMPLE_RATE_HZ).eval(),
            (torch.zeros(2, 32_000),),
            file,
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    session = onnxruntime.InferenceSession(file)
    compiled = openvino_core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    clipped = (20 * birdlike(1)).clamp(-1, 1)
    for wave in (birdlike(1), torch.cat([birdlike(3), torch.zeros(1, 32_000), clipped])):
        expected = LogMel(config, SAMPLE_RATE_HZ)(wave).numpy()
        (by_onnx,) = session.run(None, {session.get_inputs()[0].name: wave.numpy()})
        np.testing.assert_allclose(by_onnx, expected, rtol=0, atol=1e-4)
        by_openvino = compiled(wave.numpy())[0]
        np.testing.assert_allclose(by_openvino, expected, rtol=0, atol=1e-4)


def test_constants_are_no_part_of_the_weights():
    assert FactoredLogMel(front_end(), SAMPLE_RATE_HZ).state_dict() == {}


def test_bands_without_a_bin_are_logged_and_not_warned_about(caplog):
    LogMel(front_end(n_fft=512, win_samples=512), SAMPLE_RATE_HZ)
    assert "of 128 mel bands hold no bin" in caplog.text


def test_too_high_a_band_and_too_short_a_clip_are_refused():
    with pytest.raises(ConfigError, match="f_max_hz"):
        LogMel(front_end(), 16_000)
    with pytest.raises(ConfigError, match=r"f_max_hz: found 16386.0, expected at most 16000.0"):
        FactoredLogMel(front_end(f_min_hz=16.0, f_max_hz=16386.0), SAMPLE_RATE_HZ)  # H21 B
    with pytest.raises(ConfigError, match="too short"):
        LogMel(front_end(), SAMPLE_RATE_HZ)(torch.zeros(1, 1024))
