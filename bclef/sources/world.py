"""The planted world of the demo: who recorded which bird where, and what is wrong with it.

`plan_world` is pure and quick: it renders nothing. Every recording is drawn from streams named by
the seed and by what it is, not by its place in a sequence, so more soundscapes or other recordists'
recordings leave the rest as it was.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.random import Generator
from pydantic import Field

from bclef.config import Section
from bclef.sources.ambience import Ambient, Place
from bclef.sources.birdsong import LONGEST_PHRASE_S, random_stream
from bclef.sources.encoding import FileFormat, Plan
from bclef.sources.people import Recordist, plan_recordists
from bclef.sources.scene import Bird, Nature, Scene
from bclef.sources.taxa import N_SPECIES_BY_GENUS, TAXA, Taxon

N_RARE = 3
"""Target species with a quarter of the usual number of recordings."""
SITES = {"quiet": ("S01", "S02", "S03", "S04", "S05", "S06"), "annotated": ("S07", "S08", "S09")}
"""Recorders of soundscapes; the annotated ones stand elsewhere."""
SCENE_ROOM_S = LONGEST_PHRASE_S + 0.5
"""A bird that has this long sings at least once."""


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
    plan: Plan | None
    """None for a recording that is announced but gone."""


@dataclass
class Draft:
    """A world that is being planned."""

    config: DemoConfig
    items: list[Item] = field(default_factory=list)
    truth: list[dict[str, str | None]] = field(default_factory=list)

    def note(self, item: Item, fault: str, detail: str, of: Item | None = None) -> None:
        """Records a planted fault.

        Args:
            item: The faulty recording.
            fault: Its kind.
            detail: What the truth is.
            of: The recording that it repeats.
        """
        other = None if of is None else str(of.row["recording_id"])
        self.truth.append(
            {
                "recording_id": str(item.row["recording_id"]),
                "fault": fault,
                "of": other,
                "detail": detail,
            }
        )


def recording_id(*key: object) -> str:
    """Returns the id of the recording named by `key`; it tells nothing of what is in it."""
    return f"demo-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"


def focal_items(config: DemoConfig) -> list[Item]:
    """Returns the recordings of single birds, all without faults."""
    recordists = plan_recordists(config.seed, config.n_recordists)
    return [
        focal_item(config, recordists, taxon, number)
        for taxon, n_recordings in zip(TAXA, _n_recordings(config), strict=True)
        for number in range(n_recordings)
    ]


def _n_recordings(config: DemoConfig) -> list[int]:
    """Returns the number of recordings of each of `TAXA`: unequal, at least two."""
    rng = random_stream(config.seed, "counts")
    targets = [taxon.label for taxon in TAXA if taxon.is_target]
    rare = set(rng.permutation(targets)[:N_RARE].tolist())
    counts = []
    for taxon in TAXA:
        usual = config.recordings_per_species
        if not taxon.is_target:
            usual = config.other_recordings_per_species
        weight = 0.25 if taxon.label in rare else float(np.exp(rng.normal(0.0, 0.3)))
        counts.append(max(2, round(usual * weight)))
    return counts


def focal_item(
    config: DemoConfig, recordists: list[Recordist], taxon: Taxon, number: int | str
) -> Item:
    """Returns recording `number` of `taxon`.

    Args:
        config: the world.
        recordists: who may have made it.
        taxon: the bird in front.
        number: names the recording among those of its species.
    """
    rng = random_stream(config.seed, "focal", taxon.label, number)
    recordist = recordists[_choice(rng, [person.weight for person in recordists])]
    site = recordist.sites[int(rng.integers(len(recordist.sites)))]
    duration_s = round(float(rng.uniform(20, 40) if rng.uniform() < 0.07 else rng.uniform(5, 12)), 2)
    clearness = float(rng.beta(2.0, 1.6) * (0.6 + 0.4 * recordist.skill))
    span_db = config.focal_snr_high_db - config.focal_snr_low_db
    snr_db = config.focal_snr_low_db + span_db * clearness
    front = _focal_bird(rng, taxon, site.region, site.name, duration_s, snr_db)
    behind = [other for other in _other_taxa(rng, taxon) if rng.uniform() < 0.3]
    back = [_back_bird(rng, front, other, duration_s) for other in behind]
    scene = Scene(
        f"focal/{taxon.label}/{number}",
        duration_s,
        (front, *back),
        _ambients(rng, {"wind": 0.3, "insects": 0.2, "rain": 0.05, "hum": 0.1, "handling": 0.12}),
        Place(
            float(rng.uniform(-5.0, -1.5)),
            recordist.low_cut_hz,
            recordist.treble_db,
            float(rng.uniform(0.2, 0.9)),
            float(rng.uniform(-20, -4)),
        ),
    )
    # A listener names the birds behind that he can hear well.
    heard = [o.label for o, bird in zip(behind, back, strict=True) if bird.snr_db > snr_db - 16]
    row = recordist.row(site, rng) | {
        "recording_id": recording_id("focal", taxon.label, number),
        "role": "focal",
        "label": taxon.label,
        "scientific_name": taxon.scientific_name,
        "common_name": taxon.common_name,
        "secondary_labels": sorted(heard),
        "rating": _rating(rng, clearness),
        "duration_s": float(round(duration_s)),
        "annotated": False,
    }
    return Item(row, Plan(scene, recordist.file_format(rng)))


def _focal_bird(
    rng: Generator, taxon: Taxon, region: str, site: str, duration_s: float, snr_db: float
) -> Bird:
    from_s = float(rng.uniform(0.1, max(0.2, min(2.0, duration_s - SCENE_ROOM_S))))
    until_s = duration_s
    if rng.uniform() < 0.3:  # the bird falls silent, the recorder runs on
        until_s = max(from_s + SCENE_ROOM_S, duration_s * float(rng.uniform(0.4, 0.8)))
    individual = f"{site}/{rng.integers(3)}"
    absorption = float(rng.uniform(0.1, 0.6))
    return Bird(
        taxon.species, region, individual, snr_db, absorption, from_s, min(until_s, duration_s)
    )


def _other_taxa(rng: Generator, taxon: Taxon) -> list[Taxon]:
    """Returns two species that may sing behind `taxon`."""
    others = [other for other in TAXA if other.label != taxon.label]
    return [others[int(k)] for k in rng.choice(len(others), 2, replace=False)]


def _back_bird(rng: Generator, front: Bird, taxon: Taxon, duration_s: float) -> Bird:
    from_s = float(rng.uniform(0.0, max(0.1, duration_s - SCENE_ROOM_S)))
    snr_db = front.snr_db - float(rng.uniform(6, 22))
    individual = f"{front.individual}/behind"
    return Bird(taxon.species, front.region, individual, snr_db, 1.0, from_s, duration_s)


def soundscape_items(config: DemoConfig) -> list[Item]:
    """Returns the soundscapes, those without annotations first."""
    counts = {"quiet": config.n_soundscapes, "annotated": config.n_annotated_soundscapes}
    items = []
    for kind, n_soundscapes in counts.items():
        deck = _Deck(random_stream(config.seed, "deck", kind))
        items += [_soundscape_item(config, kind, number, deck) for number in range(n_soundscapes)]
    return items


class _Deck:
    """Deals species: in each round every target twice and every other species once."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng
        self._cards: list[Taxon] = []

    def deal(self, n_taxa: int) -> list[Taxon]:
        """Returns at most `n_taxa` species, none twice."""
        dealt: dict[str, Taxon] = {}
        for _ in range(n_taxa):
            if not self._cards:
                cards = [taxon for taxon in TAXA for _ in range(1 + taxon.is_target)]
                self._cards = [cards[int(k)] for k in self._rng.permutation(len(cards))]
            taxon = self._cards.pop()
            dealt[taxon.label] = taxon
        return list(dealt.values())


def _soundscape_item(config: DemoConfig, kind: str, number: int, deck: _Deck) -> Item:
    rng = random_stream(config.seed, "soundscape", kind, number)
    site = SITES[kind][int(rng.integers(len(SITES[kind])))]
    n_birds = 0 if rng.uniform() < 0.08 else 1 + int(rng.poisson(config.birds_per_soundscape - 1))
    birds = [_far_bird(config, rng, taxon, site) for taxon in deck.deal(n_birds)]
    # The place belongs to the site: the same ground, trees and recorder every day.
    at_site = random_stream(config.seed, "site", site)
    scene = Scene(
        f"soundscape/{kind}/{number}",
        config.soundscape_s,
        tuple(birds),
        _ambients(rng, {"wind": 0.5, "insects": 0.45, "rain": 0.15, "hum": 0.1}),
        Place(
            float(at_site.uniform(-5, -2) + rng.normal(0, 0.4)),
            float(at_site.uniform(60, 250)),
            float(at_site.uniform(-8, 2)),
            float(at_site.uniform(0.5, 1.3)),
            float(at_site.uniform(-6, 2)),
        ),
    )
    day = int(rng.integers(28)) + 1
    row = {
        "recording_id": recording_id("soundscape", kind, number),
        "role": "soundscape",
        "secondary_labels": [],
        "recordist": "Aviary Survey",
        "group_id": site,
        "latitude_deg": round(float(at_site.uniform(-20, -16)), 4),
        "longitude_deg": round(float(at_site.uniform(-58, -55)), 4),
        "recorded_on": f"2024-{5 if kind == 'annotated' else 9:02d}-{day:02d}",
        "licence": "CC BY 4.0",
        "attribution": f"Aviary Survey, site {site} (synthetic), CC BY 4.0",
        "duration_s": config.soundscape_s,
        "annotated": kind == "annotated",
    }
    return Item(row, Plan(scene, FileFormat("flac", 32_000, "mono", float(rng.uniform(-14, -3)))))


def _far_bird(config: DemoConfig, rng: Generator, taxon: Taxon, site: str) -> Bird:
    from_s = float(rng.uniform(0, config.soundscape_s - SCENE_ROOM_S))
    until_s = min(config.soundscape_s, from_s + SCENE_ROOM_S + float(rng.exponential(12)))
    snr_db = float(rng.uniform(config.soundscape_snr_low_db, config.soundscape_snr_high_db))
    absorption = float(rng.uniform(0.5, 2.0))
    individual = f"{site}/{rng.integers(4)}"
    return Bird(taxon.species, f"around {site}", individual, snr_db, absorption, from_s, until_s)


def noise_items(config: DemoConfig) -> list[Item]:
    """Returns the recordings without birds."""
    recordists = plan_recordists(config.seed, config.n_recordists)
    return [_noise_item(config, recordists, number) for number in range(config.n_noise)]


def _noise_item(config: DemoConfig, recordists: list[Recordist], number: int) -> Item:
    rng = random_stream(config.seed, "noise", number)
    recordist = recordists[_choice(rng, [person.weight for person in recordists])]
    site = recordist.sites[int(rng.integers(len(recordist.sites)))]
    shares = {"wind": 0.5, "insects": 0.4, "rain": 0.3, "hum": 0.25, "handling": 0.3}
    place = Place(float(rng.uniform(-6, -1)), 100.0, recordist.treble_db, 0.3, -20.0)
    scene = Scene(f"noise/{number}", config.noise_s, (), _ambients(rng, shares), place)
    row = recordist.row(site, rng) | {
        "recording_id": recording_id("noise", number),
        "role": "noise",
        "secondary_labels": [],
        "duration_s": config.noise_s,
        "annotated": False,
    }
    return Item(row, Plan(scene, recordist.file_format(rng)))


def _ambients(rng: Generator, shares: dict[str, float]) -> tuple[Ambient, ...]:
    """Returns the sounds that are no birds, each present with its share."""
    loud_db = {"wind": 12.0, "insects": 2.0, "rain": 2.0, "hum": 6.0, "handling": 8.0}
    return tuple(
        Ambient(kind, loud_db[kind] - float(rng.uniform(0, 18)))
        for kind, share in shares.items()
        if rng.uniform() < share
    )


def _rating(rng: Generator, clearness: float) -> float:
    """Returns a rating in half steps that follows how clear the bird is; 0 is unrated."""
    if rng.uniform() < 0.12:
        return 0.0
    return float(np.clip(round(2 * (1 + 4.2 * clearness + rng.normal(0, 0.5))) / 2, 0.5, 5.0))


def _choice(rng: Generator, weights: list[float]) -> int:
    return int(rng.choice(len(weights), p=np.asarray(weights) / sum(weights)))


def truth_frame(rows: list[dict[str, str | None]]) -> pd.DataFrame:
    """Returns the planted faults, columns `recording_id`, `fault`, `of`, `detail`."""
    columns = ["recording_id", "fault", "of", "detail"]
    return pd.DataFrame(rows, columns=columns).astype("string")
