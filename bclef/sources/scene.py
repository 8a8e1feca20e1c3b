"""A planned recording and its sound: who sings when, in what surroundings, in which file format.

A `Scene` holds all that decides a waveform, so its digest names the sound; `songs` draws the
timetable without rendering (the annotations come from it), `render_scene` makes the samples.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bclef.sources.ambience import Ambient, Place, apply_place, render_ambient
from bclef.sources.birdsong import (
    GENERA,
    Phrase,
    SongStyle,
    draw_phrase,
    random_stream,
    render_phrase,
    species_styles,
    vary,
)
from bclef.sources.oscillator import Wave

SONG_TYPES = 2
"""Songs that every species has; an individual prefers one of them."""
SONG_LEVEL_SPREAD_DB = 2.0
"""Standard deviation of the level from song to song of one bird."""


@dataclass(frozen=True)
class Nature:
    """What every song of a world follows."""

    seed: int
    """Seed of the world."""
    n_species_by_genus: tuple[int, ...]
    """Species of each genus of `GENERA`."""
    species_contrast: float
    """How far the species of a genus stand apart; 1 is the reference."""
    individual_variation: float
    """How much regions and individuals of a species differ; 1 is the reference."""


@dataclass(frozen=True)
class Bird:
    """One bird that sings in a recording."""

    species: tuple[int, int]
    """Genus and number of the species in it."""
    region: str
    individual: str
    snr_db: float
    """RMS of a song over that of the noise floor (1-8 kHz)."""
    absorption_db_per_khz: float
    from_s: float
    until_s: float
    """Songs start within this time and end before it is over."""


@dataclass(frozen=True)
class Scene:
    """All that decides the waveform of a recording but its sample rate."""

    name: str
    """Names the random streams."""
    duration_s: float
    birds: tuple[Bird, ...]
    ambients: tuple[Ambient, ...]
    place: Place


@dataclass(frozen=True)
class Song:
    """One song in a recording."""

    bird: Bird
    start_s: float
    level_db: float
    phrase: Phrase

    @property
    def end_s(self) -> float:
        """End of the last note."""
        return self.start_s + self.phrase.duration_s


@lru_cache(maxsize=256)
def song_types(nature: Nature, genus: int, species: int) -> tuple[SongStyle, ...]:
    """Returns the songs of one species, `SONG_TYPES` of them.

    Args:
        nature: what all songs of the world follow.
        genus: position in `GENERA`.
        species: number of the species in its genus.
    """
    rng = random_stream(nature.seed, "genus", genus)
    style = species_styles(
        GENERA[genus], nature.n_species_by_genus[genus], nature.species_contrast, rng
    )[species]
    rng = random_stream(nature.seed, "song types", genus, species)
    return tuple(vary(style, 1.2, rng) for _ in range(SONG_TYPES))


@lru_cache(maxsize=4096)
def individual_styles(nature: Nature, bird: Bird) -> tuple[SongStyle, ...]:
    """Returns the songs of one individual: its species' under its region's and its own accent.

    Args:
        nature: what all songs of the world follow.
        bird: species, region and individual count.
    """
    key = (nature.seed, bird.species, bird.region)
    amount = nature.individual_variation
    styles = []
    for number, style in enumerate(song_types(nature, *bird.species)):
        regional = vary(style, 0.7 * amount, random_stream(*key, number))
        styles.append(vary(regional, 0.7 * amount, random_stream(*key, bird.individual, number)))
    return tuple(styles)


def songs(scene: Scene, nature: Nature) -> list[Song]:
    """Returns every song of `scene` by bird and start; a bird that finds no room sings none.

    Args:
        scene: the recording.
        nature: what all songs of the world follow.
    """
    timetable = []
    for number, bird in enumerate(scene.birds):
        rng = random_stream(nature.seed, scene.name, "bird", number)
        styles = individual_styles(nature, bird)
        usual = int(rng.integers(len(styles)))
        start_s = bird.from_s
        while start_s < bird.until_s:
            style = styles[usual if rng.uniform() < 0.8 else int(rng.integers(len(styles)))]
            phrase = draw_phrase(style, rng)
            level_db = bird.snr_db + float(rng.normal(0.0, SONG_LEVEL_SPREAD_DB))
            song = Song(bird, start_s, level_db, phrase)
            if song.end_s > bird.until_s:
                break
            timetable.append(song)
            start_s = song.end_s + style.pause_s * float(rng.uniform(0.4, 1.6))
    return timetable


def render_scene(scene: Scene, nature: Nature, sample_rate_hz: int) -> Wave:
    """Returns the sound of `scene`, float32 [T] in units of the noise floor.

    Args:
        scene: the recording.
        nature: what all songs of the world follow.
        sample_rate_hz: rate of the sound.
    """
    rng = random_stream(nature.seed, scene.name, "surroundings")
    wave = np.zeros(round(scene.duration_s * sample_rate_hz), np.float32)
    for song in songs(scene, nature):
        sound = render_phrase(song.phrase, sample_rate_hz, song.bird.absorption_db_per_khz)
        first = round(song.start_s * sample_rate_hz)
        part = wave[first : first + len(sound)]
        part += sound[: len(part)] * np.float32(10 ** (song.level_db / 20))
    wave = apply_place(wave, scene.place, sample_rate_hz, rng)
    for ambient in scene.ambients:
        wave += render_ambient(ambient, len(wave), sample_rate_hz, rng)
    return wave
