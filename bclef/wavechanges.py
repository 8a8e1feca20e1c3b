"""Changes of single waves: spectrum, level, pitch, place in time.

All keep shape, dtype and device, are finite on silence, and leave their arguments alone.
"""

from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.nn import functional
from torchaudio.functional import phase_vocoder, resample

from bclef.chances import between, check_range, chosen, log_between
from bclef.config import Section
from bclef.levels import amplitude

FILTER_FFT = 1024
FILTER_HOP = 512
"""Transform of spectral changes, samples; docs/formulas.md E23."""
PITCH_FFT = 512
PITCH_HOP = 128
"""Transform of the phase vocoder, samples: short, for it moves onsets by up to a quarter of it."""
PITCH_STEPS = 100
"""Pitch ratios are whole multiples of 1 / this: within 11 cents down to 4 semitones below, and
resampled by short kernels. A ratio like 40317 : 32000 would take one of 32,000 kernels."""


class FilteringConfig(Section):
    """Random attenuation along frequency (section `train.filtering`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip."""
    min_db: float = Field(ge=-80, le=0)
    """Least gain of a control point, dB; the greatest is 0."""
    n_points: int = Field(ge=2, le=64)
    """Control points, evenly spaced from 0 Hz to half the sample rate."""


class LowPassConfig(Section):
    """High frequencies made weaker, as by distance (section `train.low_pass`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip."""
    cutoff_min_hz: float = Field(gt=0)
    """Least frequency above which levels fall, Hz; drawn uniformly in pitch."""
    cutoff_max_hz: float = Field(gt=0)
    """Greatest such frequency, Hz."""
    slope_db_per_octave: float = Field(ge=0, le=96)
    """How much they fall, dB per octave."""

    @model_validator(mode="after")
    def _cutoffs_are_a_range(self) -> Self:
        check_range(self, "cutoff_min_hz", "cutoff_max_hz")
        return self


class GainConfig(Section):
    """Change of level (section `train.gain`); moot where the front end scales waves."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip."""
    range_db: float = Field(ge=0, le=60)
    """Largest change either way, dB."""
    transition_share: float = Field(ge=0, le=1)
    """Share of those clips whose level moves from one gain to another within the clip."""


class PitchShiftConfig(Section):
    """Change of pitch at the same tempo (section `train.pitch_shift`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip."""
    range_semitones: float = Field(ge=0, le=12)
    """Largest shift either way, semitones."""


class TimeShiftConfig(Section):
    """Rolling in time: what leaves at one end comes in at the other (`train.time_shift`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip."""
    max_share: float = Field(ge=0, le=1)
    """Largest shift either way, as a share of the clip."""


class SpectrumDraw(NamedTuple):
    """K rows whose spectrum changes."""

    rows: Tensor
    """Which, int64 [K]."""
    points_db: Tensor
    """Gains of the control points, float32 [K, points]; 0 for none."""
    cutoff_hz: Tensor
    """Where the low pass sets in, float32 [K]; infinite for none."""
    slope_db_per_octave: Tensor
    """Of the low pass, float32 [K]."""


class GainDraw(NamedTuple):
    """K rows whose level changes, from a first gain to a last one between two places."""

    rows: Tensor
    """Which, int64 [K]."""
    first_db: Tensor
    """float32 [K]."""
    last_db: Tensor
    """float32 [K]; equal to the first where the gain is constant."""
    first_place: Tensor
    """Where the transition begins, as a share of the clip, float32 [K]."""
    last_place: Tensor
    """Where it ends, float32 [K]."""


class PitchDraw(NamedTuple):
    """K rows whose pitch changes."""

    rows: Tensor
    """Which, int64 [K]."""
    n_steps: Tensor
    """New pitch in units of 1 / `PITCH_STEPS` of the old one, int64 [K]."""


class ShiftDraw(NamedTuple):
    """K rows that are rolled."""

    rows: Tensor
    """Which, int64 [K]."""
    share: Tensor
    """How far towards the end, as a share of the clip, float32 [K]."""


def draw_spectrum(
    filtering: FilteringConfig, low_pass: LowPassConfig, n_rows: int, generator: Generator
) -> SpectrumDraw:
    """Returns which of `n_rows` clips are filtered or low-passed, and how."""
    filtered = chosen(filtering.probability, n_rows, generator)
    passed = chosen(low_pass.probability, n_rows, generator)
    points_db = torch.zeros(n_rows, filtering.n_points)
    n_points = len(filtered) * filtering.n_points
    points_db[filtered] = between(filtering.min_db, 0.0, n_points, generator).view(
        len(filtered), filtering.n_points
    )
    cutoff_hz = torch.full((n_rows,), torch.inf)
    limits_hz = low_pass.cutoff_min_hz, low_pass.cutoff_max_hz
    cutoff_hz[passed] = log_between(*limits_hz, len(passed), generator)
    rows = torch.cat([filtered, passed]).unique()
    slope = torch.full((len(rows),), low_pass.slope_db_per_octave)
    return SpectrumDraw(rows, points_db[rows], cutoff_hz[rows], slope)


def draw_gain(config: GainConfig, n_rows: int, generator: Generator) -> GainDraw:
    """Returns which of `n_rows` clips change level, and how."""
    rows = chosen(config.probability, n_rows, generator)
    n, range_db = len(rows), config.range_db
    first_db = between(-range_db, range_db, n, generator)
    moves = torch.rand(n, generator=generator) < config.transition_share
    last_db = torch.where(moves, between(-range_db, range_db, n, generator), first_db)
    places = torch.rand(2, n, generator=generator)
    return GainDraw(rows, first_db, last_db, places.amin(0), places.amax(0))


def draw_pitch(config: PitchShiftConfig, n_rows: int, generator: Generator) -> PitchDraw:
    """Returns which of `n_rows` clips change pitch, and by how much; those by nothing are left."""
    rows = chosen(config.probability, n_rows, generator)
    semitones = between(-config.range_semitones, config.range_semitones, len(rows), generator)
    n_steps = (PITCH_STEPS * 2 ** (semitones / 12)).round().long()
    moved = n_steps != PITCH_STEPS
    return PitchDraw(rows[moved], n_steps[moved])


def draw_shift(config: TimeShiftConfig, n_rows: int, generator: Generator) -> ShiftDraw:
    """Returns which of `n_rows` clips are rolled, and how far."""
    rows = chosen(config.probability, n_rows, generator)
    return ShiftDraw(rows, between(-config.max_share, config.max_share, len(rows), generator))


def change_spectrum(wave: Tensor, draw: SpectrumDraw, sample_rate_hz: int) -> Tensor:
    """Returns `wave` [R, T] attenuated along frequency; nothing gets louder, and nothing is cut.

    Control points are joined by straight lines in dB over the bins.

    Source:
        docs/formulas.md E23, without its last division by the peak, which is `wave_scaling: peak`;
        the original also loses the end of the clip.
    """
    if not len(draw.rows):
        return wave
    own, n_samples = wave[draw.rows].float(), wave.shape[1]
    # Up to a whole hop after the end: every sample lies under two windows, so none is divided by
    # next to nothing on the way back.
    padded = functional.pad(own, (0, -n_samples % FILTER_HOP))
    window = torch.hann_window(FILTER_FFT, device=wave.device)
    spectrum = torch.stft(
        padded, FILTER_FFT, FILTER_HOP, window=window, pad_mode="constant", return_complex=True
    )
    spectrum = spectrum * gain_curve(draw, sample_rate_hz)[:, :, None]
    filtered = torch.istft(spectrum, FILTER_FFT, FILTER_HOP, window=window, length=n_samples)
    return wave.index_copy(0, draw.rows, filtered.to(wave.dtype))


def gain_curve(draw: SpectrumDraw, sample_rate_hz: int) -> Tensor:
    """Returns the amplitude gain of each bin of the filter's transform, float32 [K, bins]."""
    n_bins = FILTER_FFT // 2 + 1
    points = functional.interpolate(
        draw.points_db[:, None], size=n_bins, mode="linear", align_corners=True
    )[:, 0]
    frequency_hz = torch.arange(n_bins, device=points.device) * (sample_rate_hz / FILTER_FFT)
    octaves = (frequency_hz / draw.cutoff_hz[:, None]).log2().clamp(min=0.0)
    return amplitude(points - draw.slope_db_per_octave[:, None] * octaves)


def change_level(wave: Tensor, draw: GainDraw) -> Tensor:
    """Returns `wave` [R, T] made louder or softer; it may then exceed full scale.

    A moving gain stays at its first value up to one place, then moves linearly in dB.
    """
    if not len(draw.rows):
        return wave
    place = torch.arange(wave.shape[1], device=wave.device) / wave.shape[1]
    span = (draw.last_place - draw.first_place).clamp(min=1 / wave.shape[1])
    moved = ((place - draw.first_place[:, None]) / span[:, None]).clamp(0.0, 1.0)
    gain_db = draw.first_db[:, None] + (draw.last_db - draw.first_db)[:, None] * moved
    changed = wave[draw.rows] * amplitude(gain_db).to(wave.dtype)
    return wave.index_copy(0, draw.rows, changed)


def shift_pitch(wave: Tensor, draw: PitchDraw) -> Tensor:
    """Returns `wave` [R, T] at another pitch; sounds stay where they are, to within a hop."""
    if not len(draw.rows):
        return wave
    result = wave.clone()
    for n_steps in draw.n_steps.unique().tolist():
        rows = draw.rows[draw.n_steps == n_steps]
        result[rows] = _at_pitch(wave[rows].float(), n_steps).to(wave.dtype)
    return result


def _at_pitch(wave: Tensor, n_steps: int) -> Tensor:
    """`wave` [K, T] stretched in time by the phase vocoder, then played back as much faster."""
    n_samples, n_bins = wave.shape[1], PITCH_FFT // 2 + 1
    n_stretched = -(-n_samples * n_steps // PITCH_STEPS)
    window = torch.hann_window(PITCH_FFT, device=wave.device)
    spectrum = torch.stft(
        wave, PITCH_FFT, PITCH_HOP, window=window, pad_mode="constant", return_complex=True
    )
    advance = torch.linspace(0, torch.pi * PITCH_HOP, n_bins, device=wave.device)[:, None]
    slower = phase_vocoder(spectrum, PITCH_STEPS / n_steps, advance)
    stretched = torch.istft(slower, PITCH_FFT, PITCH_HOP, window=window, length=n_stretched)
    return resample(stretched, n_steps, PITCH_STEPS)[:, :n_samples]


def shift_time(wave: Tensor, draw: ShiftDraw) -> Tensor:
    """Returns `wave` [R, T] rolled by whole samples."""
    if not len(draw.rows):
        return wave
    n_samples = wave.shape[1]
    n_shifted = (draw.share * n_samples).round().long()
    source = (torch.arange(n_samples, device=wave.device) - n_shifted[:, None]) % n_samples
    return wave.index_copy(0, draw.rows, wave[draw.rows].gather(1, source))
