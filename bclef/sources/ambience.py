"""Sounds around the birds: noise floor, wind, rain, insects, hum, handling, and the room.

Levels are in decibels relative to the noise floor, whose RMS between 1 and 8 kHz is 1. Everything
is drawn from a passed generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.fft import irfft, next_fast_len, rfft  # four times as fast as numpy on float32

from bclef.sources.oscillator import STEP, Wave, interpolate, n_steps, phase


@dataclass(frozen=True)
class Ambient:
    """One sound that is no bird."""

    kind: str
    """A key of `AMBIENT_SOUNDS`."""
    level_db: float
    """RMS relative to the noise floor."""


@dataclass(frozen=True)
class Place:
    """What the surroundings and the equipment do to every sound of a recording."""

    slope_db_per_octave: float
    """Colour of the noise floor; 0 is white, -6 falls towards the high end."""
    low_cut_hz: float
    """Corner of the microphone's low cut."""
    treble_db: float
    """Gain of the equipment at 8 kHz relative to 2 kHz."""
    reverb_s: float
    """Time in which the reverberation falls by 60 dB."""
    wet_db: float
    """Energy of the reverberation relative to the direct sound."""


def apply_place(wave: Wave, place: Place, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns `wave` with reverberation, the noise floor added, and the equipment's response.

    Args:
        wave: float32 [T], direct sound; its unit is the RMS of the noise floor.
        place: the surroundings.
        sample_rate_hz: rate of `wave`.
        rng: draws the noise and the reverberation.

    Returns:
        float32 [T].
    """
    n_tail = int(place.reverb_s * sample_rate_hz)
    n_fft = next_fast_len(len(wave) + n_tail, real=True)
    response, colour = _spectra(place, n_fft, sample_rate_hz)
    spectrum = rfft(_tail(place, n_tail, sample_rate_hz, rng), n_fft)
    spectrum += 1
    spectrum *= rfft(wave, n_fft)
    floor = rng.standard_normal(2 * len(spectrum), dtype=np.float32).view(np.complex64)
    spectrum += np.multiply(floor, colour, out=floor)
    spectrum *= response
    return irfft(spectrum, n_fft)[: len(wave)].astype(np.float32, copy=False)


def _spectra(place: Place, n_fft: int, sample_rate_hz: int) -> tuple[Wave, Wave]:
    """Returns the equipment's response and the noise floor's amplitude, each [n_fft // 2 + 1].

    Both are smooth, so they are worked out at 1,025 frequencies and interpolated.
    """
    hz = np.linspace(0.0, sample_rate_hz / 2, 1025)
    octaves = np.log2(np.maximum(hz, 50.0) / 2000.0)
    response = 10 ** (place.treble_db * octaves / 40) * hz / np.hypot(hz, place.low_cut_hz)
    colour = 10 ** (place.slope_db_per_octave * octaves / 20)
    heard = (hz > 1000) & (hz < 8000)
    # By Parseval: the RMS of the noise within this band becomes 1.
    n_heard = n_fft / 2 * heard.sum() / len(hz)
    colour *= n_fft / 2 / np.sqrt(np.square(colour[heard]).mean() * n_heard)
    at = np.arange(n_fft // 2 + 1) * (1024 / (n_fft // 2))
    knots = np.arange(1025)
    return (
        np.interp(at, knots, response).astype(np.float32),
        np.interp(at, knots, colour).astype(np.float32),
    )


def _tail(place: Place, n_tail: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns noise that dies away, energy `wet_db`, starting 8 ms after the direct sound."""
    n_quiet = min(n_tail, int(0.008 * sample_rate_hz))
    decay = np.exp(np.linspace(0.0, -6.9, n_tail, dtype=np.float32))
    tail = rng.standard_normal(n_tail, dtype=np.float32) * decay
    # Air and leaves swallow the top first: a two-point average dulls the tail.
    tail[1:] += tail[:-1].copy()
    tail[:n_quiet] = 0.0
    energy = float(np.square(tail).sum())
    return tail * np.float32(np.sqrt(10 ** (place.wet_db / 10) / max(energy, 1e-12)))


def slow_envelope(n_samples: int, rate_hz: float, change_s: float, rng: Generator) -> Wave:
    """Returns a positive curve that wanders around 1, float32 [n_samples].

    Args:
        n_samples: its length.
        rate_hz: its rate.
        change_s: time between independent values.
        rng: draws the values.
    """
    n_knots = int(n_samples / rate_hz / change_s) + 3
    knots = np.exp(rng.normal(0.0, 0.6, n_knots))
    at = np.arange(n_samples) / (rate_hz * change_s) + rng.uniform()
    return np.interp(at, np.arange(n_knots), knots).astype(np.float32)


def wind(n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns gusts: rumble below some hundred hertz whose strength wanders."""
    n_slow = n_steps(n_samples)
    rumble = np.convolve(rng.standard_normal(n_slow), np.hanning(24), mode="same")
    rumble *= slow_envelope(n_slow, sample_rate_hz / STEP, 0.7, rng) ** 1.5
    return interpolate(rumble, n_samples)


def rain(n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns a hiss with single drops in it."""
    hiss = rng.standard_normal(n_samples, dtype=np.float32)
    hiss[1:] -= 0.7 * hiss[:-1].copy()
    n_drops = rng.poisson(rng.uniform(8, 60) * n_samples / sample_rate_hz)
    n_ring = sample_rate_hz // 200
    times_s = np.arange(n_ring) / sample_rate_hz
    pitch_hz = np.exp(rng.uniform(np.log(900), np.log(5000), (n_drops, 1)))
    drops = np.sin(2 * np.pi * pitch_hz * times_s) * np.exp(-times_s * 900)
    drops *= rng.exponential(12.0, (n_drops, 1))
    starts = rng.integers(0, max(n_samples - n_ring, 1), n_drops)
    for start, drop in zip(starts, drops, strict=True):
        hiss[start : start + n_ring] += drop[: n_samples - start].astype(np.float32)
    return hiss


def insects(n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns a chorus of one to three pulsed carriers between 3 and 9 kHz."""
    turns = 2 * np.pi * STEP / sample_rate_hz * np.arange(n_steps(n_samples))
    chorus = np.zeros(n_samples, np.float32)
    for _ in range(rng.integers(1, 4)):
        hz = rng.uniform(3000, min(9000, 0.4 * sample_rate_hz)) * np.ones(len(turns))
        hz += rng.uniform(5, 60) * np.sin(rng.uniform(2, 30) * turns)
        pulses = np.maximum(np.sin(rng.uniform(8, 60) * turns), 0.0)
        pulses *= np.clip(4 * np.sin(rng.uniform(0.3, 2.5) * turns) + rng.uniform(0, 4), 0, 1)
        voice = np.sin(phase(hz, n_samples, sample_rate_hz))
        chorus += np.multiply(voice, interpolate(pulses, n_samples), out=voice)
    return chorus


def hum(n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns mains or engine hum: harmonics of 50 to 110 Hz."""
    base_hz = rng.choice([50.0, 60.0, rng.uniform(70, 110)])
    turns = 2 * np.pi * STEP / sample_rate_hz * np.arange(n_steps(n_samples))
    sound = np.zeros(len(turns))
    for harmonic in range(1, 11):
        sound += rng.exponential() / harmonic * np.sin(harmonic * base_hz * turns)
    sound *= slow_envelope(len(turns), sample_rate_hz / STEP, 3.0, rng)
    return interpolate(sound, n_samples)


def handling(n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns thumps and scratches of a hand on the recorder."""
    sound = np.zeros(n_samples, np.float32)
    for _ in range(1 + rng.poisson(0.5 * n_samples / sample_rate_hz)):
        n_knock = min(n_samples, int(sample_rate_hz * rng.uniform(0.03, 0.25)))
        knock = rng.standard_normal(n_knock, dtype=np.float32)
        n_smooth = int(rng.choice([3, 12, 60]))
        knock = np.convolve(knock, np.ones(n_smooth) / np.sqrt(n_smooth), mode="same")
        knock *= np.exp(np.linspace(0, -5, n_knock)) * rng.exponential()
        start = rng.integers(0, n_samples - n_knock + 1)
        sound[start : start + n_knock] += knock.astype(np.float32)
    return sound


AMBIENT_SOUNDS: dict[str, Callable[[int, int, Generator], Wave]] = {
    "wind": wind,
    "rain": rain,
    "insects": insects,
    "hum": hum,
    "handling": handling,
}


def render_ambient(ambient: Ambient, n_samples: int, sample_rate_hz: int, rng: Generator) -> Wave:
    """Returns the sound of `ambient` at its level, float32 [n_samples].

    Args:
        ambient: kind and level.
        n_samples: length.
        sample_rate_hz: rate.
        rng: draws the sound.
    """
    sound = AMBIENT_SOUNDS[ambient.kind](n_samples, sample_rate_hz, rng)
    rms = float(np.sqrt(np.mean(np.square(sound))))
    return sound * np.float32(10 ** (ambient.level_db / 20) / max(rms, 1e-9))
