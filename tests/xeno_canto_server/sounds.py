"""The bytes of a recording, from its species and take alone."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from bclef.sources.ambience import Place
from bclef.sources.aviary import draw_ambients
from bclef.sources.birdsong import GENERA, random_stream
from bclef.sources.scene import Bird, Nature, Scene, render_scene
from tests.xeno_canto_server.world import Recording, World

Wave = NDArray[np.float32]

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/x-wav",
    "flac": "audio/flac",
    "ogg": "application/octet-stream",
}


def render(world: World, recording: Recording, container: str, edition: int) -> bytes:
    """Returns the file of `recording`.

    Args:
        world: what is sung where.
        recording: one of it.
        container: `mp3`, `wav`, `flac` or `ogg`.
        edition: another number is another sound.
    """
    make = _chirps if world.audio == "chirps" else _birds
    wave = make(world, recording, edition)
    wave *= np.float32(0.7 / max(float(np.abs(wave).max()), 1e-9))
    file = io.BytesIO()
    soundfile.write(file, wave, recording.sample_rate_hz, format=container.upper())
    return file.getvalue()


def _chirps(world: World, recording: Recording, edition: int) -> Wave:
    """Returns one second of the species' sweep, three times at moments of the recording's own."""
    rng = random_stream(world.seed, "chirp", recording.species)
    low_hz, high_hz = rng.uniform(1_000, 9_000, 2)
    rate_hz = recording.sample_rate_hz
    rng = random_stream(world.seed, "moments", recording.species, recording.take, edition)
    wave = np.zeros(round(recording.length_s * rate_hz), np.float32)
    times_s = np.arange(round(0.2 * rate_hz)) / rate_hz
    for third in range(3):
        accent = float(np.exp(rng.normal(0, 0.05)))
        sweep_hz = accent * (low_hz + (high_hz - low_hz) * times_s / 0.4)
        first = round((third + float(rng.uniform(0, 0.35))) * rate_hz / 3)
        part = wave[first : first + len(times_s)]
        syllable = np.hanning(len(times_s)) * np.sin(2 * np.pi * sweep_hz * times_s)
        part += syllable[: len(part)].astype(np.float32)
    return wave


def _birds(world: World, recording: Recording, edition: int) -> Wave:
    rng = random_stream(world.seed, "scene", recording.species, recording.take, edition)
    snr_db = float(rng.uniform(5, 30))
    nature = Nature(world.seed, _n_species_by_genus(world), 1.0, 1.0)
    front = (recording.species, snr_db)
    behind = [(name, snr_db - float(rng.uniform(6, 16))) for name in recording.background]
    birds = [
        Bird(
            species=_voice(world, name),
            region=recording.country,
            individual=f"{recording.recordist}/{recording.locality}/{rng.integers(3)}",
            snr_db=level_db,
            absorption_db_per_khz=float(rng.uniform(0.1, 0.6)),
            from_s=float(rng.uniform(0.0, 0.4)),
            until_s=recording.length_s,
        )
        for name, level_db in (front, *behind)
        if name in world.species
    ]
    scene = Scene(
        name=f"{recording.species}/{recording.take}/{edition}",
        duration_s=recording.length_s,
        birds=tuple(birds),
        ambients=draw_ambients(rng, {"wind": 0.3, "insects": 0.2, "rain": 0.05, "hum": 0.1}),
        place=Place(
            slope_db_per_octave=float(rng.uniform(-5.0, -1.5)),
            low_cut_hz=float(rng.uniform(60, 300)),
            treble_db=float(rng.uniform(-6, 4)),
            reverb_s=float(rng.uniform(0.2, 0.9)),
            wet_db=float(rng.uniform(-20, -4)),
        ),
    )
    return render_scene(scene, nature, recording.sample_rate_hz)


def _voice(world: World, species: str) -> tuple[int, int]:
    """Returns genus and species of the song; neighbours in the list sing in other manners."""
    number = world.species.index(species)
    return number % len(GENERA), number // len(GENERA)


def _n_species_by_genus(world: World) -> tuple[int, ...]:
    n_species = len(world.species)
    return tuple(len(range(genus, n_species, len(GENERA))) for genus in range(len(GENERA)))
