"""Songs of invented birds: a grammar, its variation, and its sound.

A `SongStyle` is a short list of numbers. A genus has one, its species are spread around it, and
regions, individuals and song types vary the species' in turn, so kin sound alike. A `Phrase` is
one song as two slow curves, pitch and level; `render_phrase` makes the sound of it. Drawing is
apart from rendering: how long a song lasts is known without making a sample of it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from bclef.sources.oscillator import STEP, interpolate, n_steps, phase

CONTROL_HZ = 4000
"""Rate of the curves of a `Phrase`: fast enough for trills of some hundred hertz."""
TOP_HZ = 12_000.0
"""No harmonic is rendered above this frequency, nor above 0.45 of the sample rate."""
LONGEST_PHRASE_S = 4.0
CONTOUR_POINTS = 5
N_HARMONICS = 8

Curve = NDArray[np.float32]


@dataclass(frozen=True)
class SongStyle:
    """The grammar of a song: notes of a few kinds, each a pitch contour under an envelope."""

    pitch_hz: float
    """Middle pitch of the first kind of note."""
    span_octaves: float
    """How far a contour moves in pitch; contours themselves lie within about [-1, 1]."""
    note_s: float
    gap_s: float
    n_notes: float
    """Notes of a song, rounded when it is sung."""
    step_octaves: float
    """Distance in pitch between kinds of notes."""
    fm_hz: float
    fm_octaves: float
    """Rate and depth of the warble inside a note."""
    am_hz: float
    am_depth: float
    """Rate and depth (0-1) of the pulsing inside a note."""
    tilt_db: float
    """Loss per octave of the harmonics; 60 leaves a pure tone."""
    pause_s: float
    """Mean silence between two songs."""
    contours: tuple[tuple[float, ...], ...]
    """Pitch contours by kind of note, at equal steps over the note."""
    order: tuple[int, ...]
    """Kinds of the notes, repeated until the song ends."""


GENERA: tuple[SongStyle, ...] = (
    # whistles, pure and slow
    SongStyle(2600, 0.12, 0.30, 0.12, 5, 0.22, 6, 0.004, 5, 0.1, 32, 2.2,
              ((-1, 0.2, 0.6, 0.4, 0), (1, 0.4, 0, -0.3, -0.5)), (0, 1)),
    # trills of steep falling sweeps
    SongStyle(4600, 0.55, 0.055, 0.035, 18, 0.10, 20, 0.004, 9, 0.2, 26, 2.0,
              ((1, 0.6, 0, -0.6, -1),), (0,)),
    # buzzes: fast warble
    SongStyle(5800, 0.15, 0.42, 0.20, 4, 0.20, 75, 0.11, 18, 0.3, 24, 2.4,
              ((0, 0.3, 0.5, 0.2, -0.4), (-0.8, -0.2, 0.2, 0.5, 0.9)), (0, 0, 1)),
    # hoots, low
    SongStyle(720, 0.16, 0.34, 0.22, 4, 0.15, 7, 0.012, 6, 0.2, 15, 3.0,
              ((-0.8, 0.3, 0.6, 0.3, -0.6), (0, 0.2, 0.2, 0, -0.3)), (0, 1, 1)),
    # nasal calls: stacks of harmonics
    SongStyle(1150, 0.30, 0.17, 0.11, 4, 0.12, 30, 0.02, 55, 0.45, 5, 2.2,
              ((-0.9, 0.5, 0.9, 0.4, -0.8), (0.4, 0.6, 0.2, -0.4, -1)), (0, 0, 1)),
    # warbles: quick leaps between kinds of notes
    SongStyle(3600, 0.38, 0.10, 0.045, 14, 0.26, 25, 0.015, 12, 0.2, 22, 2.6,
              ((-1, -0.2, 0.5, 0.8, 0.2), (0.9, 0.1, -0.5, -0.3, 0.4), (0, 0.8, -0.6, 0.5, -0.4)),
              (0, 1, 0, 2, 1, 2)),
    # lisps, thin and high
    SongStyle(7800, 0.14, 0.16, 0.10, 6, 0.10, 45, 0.018, 30, 0.5, 40, 2.2,
              ((0.5, 0.3, 0, -0.2, -0.5), (-0.4, 0.1, 0.4, 0.3, 0)), (0, 0, 1)),
    # rattles: pulsed, broad
    SongStyle(2200, 0.25, 0.36, 0.10, 4, 0.10, 60, 0.06, 34, 0.97, 6, 2.6,
              ((0.3, 0.2, 0, -0.3, -0.8), (-0.5, 0, 0.4, 0.3, 0)), (0, 1)),
)  # fmt: skip

SPECIES_SPREAD = {
    "pitch_hz": 0.24, "span_octaves": 0.40, "note_s": 0.40, "gap_s": 0.45, "n_notes": 0.35,
    "step_octaves": 0.50, "fm_hz": 0.35, "fm_octaves": 0.50, "am_hz": 0.40, "tilt_db": 0.25,
    "pause_s": 0.15,
}  # fmt: skip
"""Half the range of each number over the species of a genus, as a natural logarithm."""
INDIVIDUAL_SPREAD = {
    "pitch_hz": 0.06, "span_octaves": 0.22, "note_s": 0.13, "gap_s": 0.18, "n_notes": 0.25,
    "step_octaves": 0.25, "fm_hz": 0.10, "fm_octaves": 0.25, "am_hz": 0.12, "tilt_db": 0.15,
    "pause_s": 0.30,
}  # fmt: skip
"""Standard deviation of each number over the individuals of a species, as a logarithm."""
SPECIES_BEND = 0.55
INDIVIDUAL_BEND = 0.20
"""Standard deviations of the points of a contour, between species and between individuals."""


def random_stream(*key: object) -> np.random.Generator:
    """Returns the generator named by `key`: the same one in every process and order.

    Args:
        key: numbers and strings; their `repr` is hashed.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def species_styles(
    genus: SongStyle, n_species: int, contrast: float, rng: np.random.Generator
) -> list[SongStyle]:
    """Returns the styles of the species of one genus, evenly spread in every number.

    A Latin hypercube: along each number the species stand at equal steps, each time in another
    order, so no two of them coincide by chance.

    Args:
        genus: style in the middle.
        n_species: how many.
        contrast: multiplies `SPECIES_SPREAD`; 0 makes all species equal but for their contours.
        rng: draws the orders and the bends of the contours.
    """
    steps = np.linspace(-1.0, 1.0, n_species) if n_species > 1 else np.zeros(1)
    factors = {
        name: np.exp(contrast * spread * rng.permutation(steps))
        for name, spread in SPECIES_SPREAD.items()
    }
    return [
        replace(
            genus,
            **{name: getattr(genus, name) * float(f[k]) for name, f in factors.items()},
            contours=_bent(genus.contours, contrast * SPECIES_BEND, rng),
            order=tuple(int(kind) for kind in rng.permutation(genus.order)),
        )
        for k in range(n_species)
    ]


def vary(style: SongStyle, amount: float, rng: np.random.Generator) -> SongStyle:
    """Returns `style` as another individual sings it.

    Args:
        style: the common style.
        amount: multiplies `INDIVIDUAL_SPREAD`; 0 returns an equal style.
        rng: draws the deviations.
    """
    factors = np.exp(amount * rng.normal(0.0, list(INDIVIDUAL_SPREAD.values())))
    changed = {
        name: getattr(style, name) * float(factor)
        for name, factor in zip(INDIVIDUAL_SPREAD, factors, strict=True)
    }
    return replace(style, **changed, contours=_bent(style.contours, amount * INDIVIDUAL_BEND, rng))


def _bent(
    contours: Sequence[Sequence[float]], amount: float, rng: np.random.Generator
) -> tuple[tuple[float, ...], ...]:
    bent = np.asarray(contours) + rng.normal(0.0, amount, (len(contours), CONTOUR_POINTS))
    return tuple(tuple(float(point) for point in contour) for contour in bent)


def style_vector(style: SongStyle) -> NDArray[np.float64]:
    """Returns the logarithms of the varied numbers of `style`, float64 [len(SPECIES_SPREAD)]."""
    return np.log([getattr(style, f.name) for f in fields(style) if f.name in SPECIES_SPREAD])


@dataclass(frozen=True)
class Phrase:
    """One song as curves at `CONTROL_HZ`."""

    pitch_hz: Curve
    """Fundamental, float32 [n]."""
    level: Curve
    """Amplitude within [0, 1], float32 [n]; 0 between notes."""
    tilt_db: float
    """Loss per octave of the harmonics."""

    @property
    def duration_s(self) -> float:
        """Length from the first note's onset to the end of the last one."""
        return len(self.level) / CONTROL_HZ


def draw_phrase(style: SongStyle, rng: np.random.Generator) -> Phrase:
    """Returns one song in `style`; two songs of one bird differ a little.

    Args:
        style: the bird's style.
        rng: draws the number of notes, their timing and their loudness.
    """
    period_s = style.note_s + style.gap_s
    n_notes = max(1, round(style.n_notes * float(np.exp(rng.normal(0.0, 0.12)))))
    n_notes = max(1, min(n_notes, int((LONGEST_PHRASE_S + style.gap_s) / period_s)))
    notes_s = style.note_s * np.exp(rng.normal(0.0, 0.04, n_notes))
    gaps_s = style.gap_s * np.exp(rng.normal(0.0, 0.06, n_notes))
    starts_s = np.concatenate(([0.0], np.cumsum(notes_s + gaps_s)[:-1]))
    times_s = np.arange(int((starts_s[-1] + notes_s[-1]) * CONTROL_HZ)) / CONTROL_HZ
    note = np.searchsorted(starts_s, times_s, side="right") - 1
    share = (times_s - starts_s[note]) / notes_s[note]

    kinds = np.resize(np.asarray(style.order), n_notes)
    table = _contour_table(style.contours)
    column = np.minimum((share * (table.shape[1] - 1)).astype(np.int64), table.shape[1] - 1)
    octaves = style.span_octaves * table[kinds[note], column]
    octaves += (style.step_octaves * kinds + rng.normal(0.0, 0.012, n_notes))[note]
    octaves += style.fm_octaves * np.sin(2 * np.pi * style.fm_hz * times_s)

    level = np.clip(np.minimum(share, 1.0 - share) / 0.18, 0.0, 1.0) ** 1.5
    level *= 1.0 - style.am_depth * (0.5 + 0.5 * np.cos(2 * np.pi * style.am_hz * times_s))
    level *= np.clip(1.0 + rng.normal(0.0, 0.12, n_notes), 0.4, 1.4)[note]
    pitch_hz = style.pitch_hz * np.exp2(octaves)
    return Phrase(pitch_hz.astype(np.float32), level.astype(np.float32), style.tilt_db)


def _contour_table(contours: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Returns the contours at 64 steps, float64 [kinds, 64], smoothly joined."""
    steps = np.linspace(0.0, CONTOUR_POINTS - 1, 64)
    return np.stack([np.interp(steps, np.arange(CONTOUR_POINTS), c) for c in contours])


def render_phrase(phrase: Phrase, sample_rate_hz: int, absorption_db_per_khz: float) -> Curve:
    """Returns the sound of `phrase` with an RMS of 1 over its sounding parts.

    Args:
        phrase: the song.
        sample_rate_hz: rate of the sound.
        absorption_db_per_khz: loss of the air between bird and microphone; dulls far birds.

    Returns:
        float32 [round(duration_s * sample_rate_hz)].
    """
    n_samples = round(phrase.duration_s * sample_rate_hz)
    at = np.arange(n_steps(n_samples)) * (STEP * CONTROL_HZ / sample_rate_hz)
    control = np.arange(len(phrase.level))
    pitch_hz = np.interp(at, control, phrase.pitch_hz)
    level = np.interp(at, control, phrase.level)
    angle = phase(pitch_hz, n_samples, sample_rate_hz)
    wave = np.zeros(n_samples, np.float32)
    power = np.zeros(len(at))
    for harmonic in range(1, N_HARMONICS + 1):
        hz = harmonic * pitch_hz
        loss_db = phrase.tilt_db * np.log2(harmonic) + absorption_db_per_khz * (hz / 1000 - 1)
        amplitude = level * (hz < min(TOP_HZ, 0.45 * sample_rate_hz)) * 10 ** (-loss_db / 20)
        if amplitude.max() > 1e-3:
            power += amplitude**2 / 2
            tone = np.sin(np.float32(harmonic) * angle)
            wave += np.multiply(tone, interpolate(amplitude, n_samples), out=tone)
    sounding = level > 0.1
    rms = float(np.sqrt(power[sounding].mean())) if sounding.any() else 0.0
    return np.multiply(wave, np.float32(1 / max(rms, 1e-6)), out=wave)
