"""Log-mel front end as data: its settings, mel filters, and a numpy twin of the torch module.

The module that trains and the one that is exported live in `spectrogram`; this one needs no torch
and is what both are measured against. Everything here is per clip: the level, the dynamic range and
the scaling of a clip never depend on the clips beside it in a batch.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bclef.config import ConfigError, Section

EPSILON = 1e-6
"""Keeps every divisor that is zero for a silent clip above zero."""

FLOOR = 1e-10
"""Least mel power or magnitude, so that silence is -100 dB and not minus infinity."""

PAD_MODES: Mapping[str, Literal["reflect", "constant"]] = {
    "reflect": "reflect",
    "zeros": "constant",
}
"""What numpy and torch call the settings of `padding`."""

FIXED_SCALINGS = {
    "none": (0.0, 1.0),
    "n80": (80.0, 80.0),
    "n40": (-40.0, 80.0),
    "n255": (0.0, 255.0),
}
"""Scalings that are the same for every clip: what to add to the decibels, then the divisor."""


class FrontEndConfig(Section):
    """How a waveform becomes a log-mel image.

    Source:
        docs/formulas.md E1 and E2, which name the published systems of each choice.
    """

    n_fft: int = Field(ge=16, le=16384, multiple_of=2)
    """Length of the Fourier transform, samples."""
    win_samples: int = Field(ge=16)
    """Length of the periodic Hann window, at most `n_fft`; it stands in the middle of the frame."""
    hop_samples: int = Field(ge=1)
    """Samples from one frame to the next."""
    n_mels: int = Field(ge=1)
    """Number of mel bands."""
    f_min_hz: float = Field(ge=0)
    """Lower edge of the lowest band, Hz."""
    f_max_hz: float = Field(gt=0)
    """Upper edge of the highest band, Hz, at most half the sample rate."""
    mel_scale: Literal["htk", "slaney"]
    """`htk` is logarithmic throughout, `slaney` is linear below 1 kHz."""
    mel_norm: Literal["slaney"] | None
    """`slaney` gives each band the same area; null gives each the same peak, 1."""
    normalise_window: bool
    """Divide the transform by the root of the summed squared window: a constant shift in dB."""
    power: Literal[1, 2]
    """1: mel of the magnitude; 2: mel of the power. Decibels are 10 log10 of either."""
    wave_scaling: Literal["none", "peak", "std"]
    """Each clip as it is, over its greatest absolute sample, or over its standard deviation."""
    top_db: float | None = Field(gt=0)
    """Dynamic range below the maximum of the clip, dB; null keeps all of it."""
    scaling: Literal["none", "n80", "n40", "n255", "zscore", "zmm"]
    """`n80` (S+80)/80, `n40` (S-40)/80, `n255` S/255; per clip: `zscore`, `zmm` to 0..1."""
    padding: Literal["reflect", "zeros"]
    """What stands before and after a clip where a frame reaches out of it: its mirror or zeros."""
    channels: Literal["mono", "repeat", "ramp", "deltas"]
    """1, or 3: all equal; the third a ramp of 0..1 over the bands; the image and its `deltas`."""
    image_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None
    """(bands, frames) that the scaled image is interpolated to, bilinear; null leaves it."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.win_samples > self.n_fft:
            raise ValueError(f"win_samples {self.win_samples} exceeds n_fft {self.n_fft}")
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"f_min_hz {self.f_min_hz} is not below f_max_hz {self.f_max_hz}")
        return self

    @property
    def n_channels(self) -> int:
        """Number of channels of an image, 1 or 3."""
        return 1 if self.channels == "mono" else 3

    def n_frames(self, n_samples: int) -> int:
        """Returns the number of spectra of a clip of `n_samples`, centred on 0, hop, 2 hop ...

        Raises:
            ConfigError: The clip is too short to be mirrored at its ends.
        """
        if self.padding == "reflect" and n_samples <= self.n_fft // 2:
            raise ConfigError(
                f"frontend.n_fft: a clip of {n_samples} samples is too short for n_fft "
                f"{self.n_fft}; expected more than {self.n_fft // 2} samples, a smaller n_fft, or "
                "frontend.padding zeros"
            )
        return 1 + n_samples // self.hop_samples

    def image_shape(self, n_samples: int) -> tuple[int, int]:
        """Returns (bands, frames) of the image of a clip of `n_samples`.

        Raises:
            ConfigError: The clip is too short to be mirrored at its ends.
        """
        n_frames = self.n_frames(n_samples)
        return self.image_size or (self.n_mels, n_frames)

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Refuses a sample rate that cannot hold the highest band.

        Raises:
            ConfigError: `f_max_hz` lies above half of `sample_rate_hz`.
        """
        if self.f_max_hz > sample_rate_hz / 2:
            raise ConfigError(
                f"frontend.f_max_hz: found {self.f_max_hz}, expected at most "
                f"{sample_rate_hz / 2}, half of the sample rate {sample_rate_hz}"
            )


def analysis_window(config: FrontEndConfig) -> npt.NDArray[np.float64]:
    """Returns the window of one frame, float64 [n_fft]: Hann in the middle, zeros beside it."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.win_samples) / config.win_samples)
    before = (config.n_fft - config.win_samples) // 2
    window = np.pad(hann, (before, config.n_fft - config.win_samples - before))
    return window / np.sqrt(np.sum(window**2)) if config.normalise_window else window


def mel_filters(config: FrontEndConfig, sample_rate_hz: int) -> npt.NDArray[np.float32]:
    """Returns the mel filter bank, float32 [n_fft // 2 + 1, n_mels], triangles on the Hz axis.

    A band narrower than the bins are apart may hold none of them; its column is then zero.

    Raises:
        ConfigError: `f_max_hz` lies above half of `sample_rate_hz`.
    """
    config.check_sample_rate(sample_rate_hz)
    low, high = _to_mel(np.array([config.f_min_hz, config.f_max_hz]), config.mel_scale)
    edges_hz = _to_hz(np.linspace(low, high, config.n_mels + 2), config.mel_scale)
    bins_hz = np.linspace(0, sample_rate_hz / 2, config.n_fft // 2 + 1)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / np.diff(edges_hz)[:-1]
    falling = (edges_hz[2:] - bins_hz) / np.diff(edges_hz)[1:]
    filters = np.maximum(0, np.minimum(rising, falling))
    if config.mel_norm == "slaney":
        filters *= 2 / (edges_hz[2:] - edges_hz[:-2])
    return filters.astype(np.float32)


def log_mel(
    wave: npt.NDArray[np.floating],
    config: FrontEndConfig,
    sample_rate_hz: int,
    dtype: type[np.float32] | type[np.float64] = np.float64,
) -> npt.NDArray[np.floating]:
    """Returns the images of `wave`, `dtype` [B, n_channels, bands, frames].

    Log-mel with its range cut, scaled, interpolated to `image_size`, then given its channels.

    Args:
        wave: Clips, [B, T], full scale at 1.
        config: The front end.
        sample_rate_hz: Sample rate of `wave`.
        dtype: Precision of the calculation.

    Raises:
        ConfigError: A clip too short to be mirrored, or bands above half the sample rate.

    Source:
        docs/formulas.md E1 and E2.
    """
    config.n_frames(wave.shape[1])
    filters = mel_filters(config, sample_rate_hz).astype(dtype)
    spectra = _spectra(_scale_wave(wave.astype(dtype), config), config)
    mel = np.abs(spectra) ** config.power @ filters
    decibels = 10 * np.log10(np.maximum(mel, FLOOR))
    if config.top_db is not None:
        decibels = np.maximum(decibels, decibels.max((1, 2), keepdims=True) - config.top_db)
    image = _scale(decibels, config.scaling).swapaxes(1, 2)
    if config.image_size is not None:
        bands, frames = map(interpolation, image.shape[1:], config.image_size)
        image = bands.astype(image.dtype) @ image @ frames.T.astype(image.dtype)
    return _with_channels(image[:, None], config.channels)


@lru_cache(maxsize=32)
def interpolation(n_from: int, n_to: int) -> npt.NDArray[np.float64]:
    """Returns the weights of linear interpolation of `n_from` values at `n_to` places.

    A place is the middle of one of `n_to` equal parts of the whole, as in torch's `interpolate`
    with `align_corners=False`; beyond the first and the last value it takes theirs.

    Returns:
        float64 [n_to, n_from], read-only; each row sums to 1.
    """
    places = (np.arange(n_to) + 0.5) * n_from / n_to - 0.5
    distances = np.clip(places, 0, n_from - 1)[:, None] - np.arange(n_from)
    weights = np.maximum(0, 1 - np.abs(distances))
    weights.setflags(write=False)  # All callers share it.
    return weights


def _spectra(
    wave: npt.NDArray[np.floating], config: FrontEndConfig
) -> npt.NDArray[np.complexfloating]:
    half = config.n_fft // 2
    padded = np.pad(wave, ((0, 0), (half, half)), mode=PAD_MODES[config.padding])
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft, axis=1)
    window = analysis_window(config).astype(wave.dtype)
    return np.fft.rfft(frames[:, :: config.hop_samples] * window)


def _with_channels(image: npt.NDArray[np.floating], channels: str) -> npt.NDArray[np.floating]:
    if channels == "mono":
        return image
    second = third = image
    if channels == "ramp":
        ramp = np.linspace(0, 1, image.shape[2], dtype=image.dtype)
        third = np.broadcast_to(ramp[:, None], image.shape)
    elif channels == "deltas":
        second = _deltas(image)
        third = _deltas(second)
    return np.concatenate([image, second, third], axis=1)


def _deltas(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Slopes along time, per frame: least-squares lines through 5 frames, ends repeated."""
    padded = np.pad(image, ((0, 0), (0, 0), (0, 0), (2, 2)), mode="edge")
    near = padded[..., 3:-1] - padded[..., 1:-3]
    far = padded[..., 4:] - padded[..., :-4]
    return (near + 2 * far) / 10


def _scale_wave(wave: npt.NDArray[np.floating], config: FrontEndConfig) -> npt.NDArray[np.floating]:
    if config.wave_scaling == "peak":
        return wave / (np.abs(wave).max(axis=1, keepdims=True) + EPSILON)
    if config.wave_scaling == "std":
        return wave / np.maximum(wave.std(axis=1, keepdims=True), EPSILON)
    return wave


def _scale(decibels: npt.NDArray[np.floating], scaling: str) -> npt.NDArray[np.floating]:
    if scaling in FIXED_SCALINGS:
        shift_db, divisor = FIXED_SCALINGS[scaling]
        return (decibels + shift_db) / divisor
    # Measured from the maximum, a silent clip is exactly zero, whatever a mean of -100s rounds to.
    below = decibels - decibels.max((1, 2), keepdims=True)
    standard = (below - below.mean((1, 2), keepdims=True)) / (
        below.std((1, 2), keepdims=True) + EPSILON
    )
    if scaling == "zscore":
        return standard
    least, most = standard.min((1, 2), keepdims=True), standard.max((1, 2), keepdims=True)
    return (standard - least) / (most - least + EPSILON)


_SLANEY_BREAK_HZ = 1000.0
_SLANEY_HZ_PER_MEL = 200 / 3
_SLANEY_LOG_STEP = np.log(6.4) / 27
"""Above the break, 27 mels multiply the frequency by 6.4."""


def _to_mel(hz: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    above = np.log(np.maximum(hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.minimum(hz, _SLANEY_BREAK_HZ) / _SLANEY_HZ_PER_MEL + above


def _to_hz(mel: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = np.exp(np.maximum(mel - break_mel, 0) * _SLANEY_LOG_STEP)
    return np.minimum(mel, break_mel) * _SLANEY_HZ_PER_MEL * above
