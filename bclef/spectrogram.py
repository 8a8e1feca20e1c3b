"""Log-mel front end in torch: `LogMel` to train with, `FactoredLogMel` to export.

Both take their settings and constants from `frontend` and give its numpy twin's image. They
calculate in float32 under any autocast: half precision cannot hold the range of a power spectrum.
"""

import logging

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bclef.frontend import (
    EPSILON,
    FIXED_SCALINGS,
    FLOOR,
    PAD_MODES,
    FrontEndConfig,
    analysis_window,
    interpolation,
    mel_filters,
)

_LOG = logging.getLogger(__name__)

_CLIP = (1, 2)
"""Axes of [B, F, M] that belong to one clip."""


class LogMel(nn.Module):
    """Log-mel images of raw waves, by the fast Fourier transform.

    The constants are buffers, so they move with the module, but no part of its state dict.

    Args:
        config: The front end.
        sample_rate_hz: Sample rate of the waves.

    Raises:
        ConfigError: `config.f_max_hz` lies above half of `sample_rate_hz`.
    """

    window: Tensor
    filters: Tensor
    bands: Tensor
    ramp: Tensor

    def __init__(self, config: FrontEndConfig, sample_rate_hz: int) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = sample_rate_hz
        self._keep("window", analysis_window(config))
        filters = mel_filters(config, sample_rate_hz)
        self._keep("filters", filters)
        if n_empty := int((filters.max(axis=0) == 0).sum()):
            _LOG.warning("frontend: %d of %d mel bands hold no bin", n_empty, config.n_mels)
        n_bands = config.n_mels
        if config.image_size is not None:
            n_bands = config.image_size[0]
            self._keep("bands", interpolation(config.n_mels, n_bands))
        if config.channels == "ramp":
            self._keep("ramp", np.linspace(0, 1, n_bands)[:, None])

    def forward(self, wave: Tensor) -> Tensor:
        """Returns float32 [B, n_channels, bands, frames] of `wave` [B, T], full scale at 1.

        Bands and frames are those of `FrontEndConfig.image_shape`.

        Raises:
            ConfigError: The clips are too short to be mirrored at their ends.
        """
        self.config.n_frames(wave.shape[1])
        with torch.autocast(wave.device.type, enabled=False):
            mel = self.mel(_scale_wave(wave.float(), self.config.wave_scaling))
            decibels = 10 * mel.clamp(min=FLOOR).log10()
            if self.config.top_db is not None:
                least = decibels.amax(_CLIP, keepdim=True) - self.config.top_db
                decibels = torch.maximum(decibels, least)
            image = _scale(decibels, self.config.scaling).transpose(1, 2).unsqueeze(1)
            return self._with_channels(self._resized(image))

    def mel(self, wave: Tensor) -> Tensor:
        """Returns mel power (or magnitude), float32 [B, F, n_mels], of float32 `wave` [B, T]."""
        spectrum = torch.stft(
            wave,
            self.config.n_fft,
            hop_length=self.config.hop_samples,
            window=self.window,
            center=True,
            pad_mode=PAD_MODES[self.config.padding],
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return (power if self.config.power == 2 else power.sqrt()) @ self.filters

    def _resized(self, image: Tensor) -> Tensor:
        if self.config.image_size is None:
            return image
        frames = interpolation(image.shape[-1], self.config.image_size[1]).astype(np.float32)
        return self.bands @ image @ torch.from_numpy(frames.T).to(image.device)

    def _with_channels(self, image: Tensor) -> Tensor:
        if self.config.channels == "mono":
            return image
        second = third = image
        if self.config.channels == "ramp":
            third = self.ramp.expand_as(image)
        elif self.config.channels == "deltas":
            second = _deltas(image)
            third = _deltas(second)
        return torch.cat([image, second, third], dim=1)

    def _keep(self, name: str, values: npt.NDArray[np.floating]) -> None:
        self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)


class FactoredLogMel(LogMel):
    """`LogMel` as matrix products, which every runtime exports and runs fast.

    A transform of length P Q is one of length P over each column of the frame written as P rows of
    Q samples, a twiddle factor, and one of length Q over each row: bin k = i + P j from row i,
    column j. Real input needs only the rows i <= P / 2; the bins above the middle, which come out
    too, are mirror images. The mel matrix is re-indexed to that order and meets each bin once.

    Source:
        Cooley and Tukey 1965, doi 10.1090/S0025-5718-1965-0178586-1; one step, not recursive.
    """

    first: Tensor
    twiddle_real: Tensor
    twiddle_imag: Tensor
    second_real: Tensor
    second_imag: Tensor

    def __init__(self, config: FrontEndConfig, sample_rate_hz: int) -> None:
        super().__init__(config, sample_rate_hz)
        self.n_first, self.n_second = _factors(config.n_fft)
        self.n_rows = self.n_first // 2 + 1
        row, column = np.arange(self.n_rows)[:, None], np.arange(self.n_second)
        first = _roots(self.n_first, row * np.arange(self.n_first))
        twiddle = _roots(config.n_fft, row * column)
        second = _roots(self.n_second, column[:, None] * column)
        self._keep("first", np.concatenate([first.real, first.imag]))
        self._keep("twiddle_real", twiddle.real)
        self._keep("twiddle_imag", twiddle.imag)
        # [re, im] times these gives the real and the imaginary part of a complex product.
        self._keep("second_real", np.concatenate([second.real, -second.imag]))
        self._keep("second_imag", np.concatenate([second.imag, second.real]))
        bins = (row + self.n_first * column).ravel()
        bins = np.minimum(bins, config.n_fft - bins)
        met_first = np.zeros((bins.size, 1))
        met_first[np.unique(bins, return_index=True)[1]] = 1
        self._keep("filters", self.filters.numpy()[bins] * met_first)

    def mel(self, wave: Tensor) -> Tensor:
        """Returns mel power (or magnitude), float32 [B, F, n_mels], of float32 `wave` [B, T]."""
        frames = self._frames(wave) * self.window
        half = self.first @ frames.unflatten(-1, (self.n_first, self.n_second))
        real, imag = half[..., : self.n_rows, :], half[..., self.n_rows :, :]
        turned = torch.cat(
            [
                real * self.twiddle_real - imag * self.twiddle_imag,
                real * self.twiddle_imag + imag * self.twiddle_real,
            ],
            dim=-1,
        )
        power = (turned @ self.second_real).square() + (turned @ self.second_imag).square()
        power = power.flatten(-2)
        return (power if self.config.power == 2 else power.sqrt()) @ self.filters

    def _frames(self, wave: Tensor) -> Tensor:
        """Returns the frames of `wave`, [B, F, n_fft], from slices alone.

        Cut into rows of one hop, frame f begins with row f: a few shifted copies side by side hold
        whole frames, for any hop. A gather of single samples is much slower.
        """
        n_fft, hop_samples = self.config.n_fft, self.config.hop_samples
        n_frames, n_rows = self.config.n_frames(wave.shape[1]), -(-n_fft // hop_samples)
        padded = functional.pad(wave, (n_fft // 2, n_fft // 2), mode=PAD_MODES[self.config.padding])
        n_needed = (n_frames + n_rows - 1) * hop_samples
        padded = functional.pad(padded, (0, max(0, n_needed - padded.shape[1])))[:, :n_needed]
        rows = padded.unflatten(1, (-1, hop_samples))
        shifted = [rows[:, start : start + n_frames] for start in range(n_rows)]
        return torch.cat(shifted, dim=-1)[..., :n_fft]


def _factors(n_fft: int) -> tuple[int, int]:
    """Returns (P, Q) with P Q = `n_fft` and the fewest multiplications, least P + 2 Q.

    Of pairs with as many it takes one whose rows fill vector registers of 16 floats, if there is
    one: 1536 as 48 x 32 and not 64 x 24, which OpenVINO takes a seventh longer for.
    """
    pairs = [(n_fft // q, q) for q in range(1, n_fft + 1) if n_fft % q == 0]
    return min(pairs, key=lambda pair: (pair[0] + 2 * pair[1], pair[1] % 16 != 0))


def _roots(order: int, power: npt.NDArray[np.int64]) -> npt.NDArray[np.complex128]:
    """Returns the `order`-th root of one of a forward transform, to each `power`."""
    # The remainder keeps the angle small, and so exact in float64.
    return np.exp(-2j * np.pi * (power % order) / order)


def _scale_wave(wave: Tensor, scaling: str) -> Tensor:
    if scaling == "peak":
        return wave / (wave.abs().amax(1, keepdim=True) + EPSILON)
    if scaling == "std":
        return wave / wave.std(1, correction=0, keepdim=True).clamp(min=EPSILON)
    return wave


def _scale(decibels: Tensor, scaling: str) -> Tensor:
    if scaling in FIXED_SCALINGS:
        shift_db, divisor = FIXED_SCALINGS[scaling]
        return (decibels + shift_db) / divisor
    # Measured from the maximum, a silent clip is exactly zero, whatever a mean of -100s rounds to.
    below = decibels - decibels.amax(_CLIP, keepdim=True)
    centred = below - below.mean(_CLIP, keepdim=True)
    standard = centred / (centred.square().mean(_CLIP, keepdim=True).sqrt() + EPSILON)
    if scaling == "zscore":
        return standard
    least, most = standard.amin(_CLIP, keepdim=True), standard.amax(_CLIP, keepdim=True)
    return (standard - least) / (most - least + EPSILON)


def _deltas(image: Tensor) -> Tensor:
    """Slopes along time, per frame: least-squares lines through 5 frames, ends repeated."""
    first, last = image[..., :1], image[..., -1:]
    padded = torch.cat([first, first, image, last, last], dim=-1)
    near = padded[..., 3:-1] - padded[..., 1:-3]
    far = padded[..., 4:] - padded[..., :-4]
    return (near + 2 * far) / 10
