"""What the parts of the demo's world share: its settings, its recordings, and how they are named.

Every recording is drawn from a stream named by the seed and by what it is, not by its place in a
sequence, so more soundscapes or more recordings of a species leave the rest as it was.
"""

import hashlib
from dataclasses import dataclass

from numpy.random import Generator
from pydantic import Field

from bclef.config import Section
from bclef.sources.ambience import Ambient
from bclef.sources.birdsong import LONGEST_PHRASE_S
from bclef.sources.encoding import Plan
from bclef.sources.scene import Nature
from bclef.sources.taxa import N_SPECIES_BY_GENUS

ROOM_S = LONGEST_PHRASE_S + 0.5
"""A bird that has this long sings at least once."""
_LOUD_DB = {"wind": 12.0, "insects": 2.0, "rain": 2.0, "hum": 6.0, "handling": 8.0}


class DemoConfig(Section):
    """Section `demo`: the invented world to plant."""

    seed: int = Field(ge=0)
    """Seed of the whole world, its songs included."""
    recordings_per_species: int = Field(ge=2)
    """Mean number of focal recordings of a target species; a few species have far fewer."""
    other_recordings_per_species: int = Field(ge=2)
    """Mean number of focal recordings of a species that is no target."""
    n_soundscapes: int = Field(ge=0)
    """Soundscapes without annotations."""
    n_annotated_soundscapes: int = Field(ge=1)
    """Soundscapes with annotations, at other sites than the ones without."""
    soundscape_s: float = Field(ge=10, le=3600)
    """Length of a soundscape in seconds."""
    n_noise: int = Field(ge=0)
    """Recordings without birds."""
    noise_s: float = Field(ge=1, le=600)
    """Length of a noise recording in seconds."""
    n_recordists: int = Field(ge=6, le=100)
    """People who make the focal recordings, some far more than others."""
    birds_per_soundscape: float = Field(ge=1, le=20)
    """Mean number of birds that sing in a soundscape."""
    focal_snr_low_db: float = Field(ge=-30, le=60)
    """Worst ratio of a focal bird's song to the noise floor between 1 and 8 kHz, in decibels."""
    focal_snr_high_db: float = Field(ge=-30, le=60)
    """Best ratio of a focal bird's song to the noise floor, in decibels."""
    soundscape_snr_low_db: float = Field(ge=-30, le=60)
    """Worst ratio of a bird's song to the noise floor in soundscapes, in decibels."""
    soundscape_snr_high_db: float = Field(ge=-30, le=60)
    """Best ratio of a bird's song to the noise floor in soundscapes, in decibels."""
    species_contrast: float = Field(ge=0, le=4)
    """How far the species of a genus stand apart; 1 is the reference, less is harder."""
    individual_variation: float = Field(ge=0, le=4)
    """How much regions and individuals differ within a species; 1 is the reference."""
    wrong_label_share: float = Field(ge=0, le=0.5)
    """Share of focal target recordings under the label of a relative; at least one is wrong."""

    def nature(self) -> Nature:
        """Returns what every song of this world follows."""
        return Nature(
            self.seed, N_SPECIES_BY_GENUS, self.species_contrast, self.individual_variation
        )


@dataclass(frozen=True)
class Item:
    """One recording of the world: its metadata and what decides its bytes."""

    row: dict[str, object]
    """Metadata but for url and source; columns as in `protocol.LISTED`."""
    plan: Plan


def recording_id(*key: object) -> str:
    """Returns the id of the recording named by `key`; it tells nothing of what is in it."""
    return f"demo-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"


def draw_ambients(rng: Generator, shares: dict[str, float]) -> tuple[Ambient, ...]:
    """Returns the sounds that are no birds.

    Args:
        rng: draws which and how loud.
        shares: probability of each kind.
    """
    return tuple(
        Ambient(kind, _LOUD_DB[kind] - float(rng.uniform(0, 18)))
        for kind, share in shares.items()
        if rng.uniform() < share
    )
