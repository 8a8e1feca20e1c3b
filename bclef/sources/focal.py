"""Focal recordings of the demo: one bird in front, by a person with a recorder."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from bclef.sources.ambience import Place
from bclef.sources.aviary import ROOM_S, DemoConfig, Item, draw_ambients, recording_id
from bclef.sources.birdsong import random_stream
from bclef.sources.encoding import Plan
from bclef.sources.people import Recordist, draw_outing
from bclef.sources.scene import Bird, Scene
from bclef.sources.taxa import TAXA, Taxon

N_RARE = 3
"""Target species with a quarter of the usual number of recordings."""


def focal_items(config: DemoConfig, recordists: Sequence[Recordist]) -> list[Item]:
    """Returns the recordings of single birds, all without faults."""
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
    config: DemoConfig, recordists: Sequence[Recordist], taxon: Taxon, number: int | str
) -> Item:
    """Returns recording `number` of `taxon`.

    Args:
        config: the world.
        recordists: who may have made it.
        taxon: the bird in front.
        number: names the recording among those of its species.
    """
    rng = random_stream(config.seed, "focal", taxon.label, number)
    recordist, site = draw_outing(recordists, rng)
    duration_s = round(
        float(rng.uniform(20, 40) if rng.uniform() < 0.07 else rng.uniform(5, 12)), 2
    )
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
        draw_ambients(
            rng, {"wind": 0.3, "insects": 0.2, "rain": 0.05, "hum": 0.1, "handling": 0.12}
        ),
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
        "taxon_class": "Aves",
        "secondary_labels": sorted(heard),
        "rating": _rating(rng, clearness),
        "duration_s": float(round(duration_s)),
        "annotated": False,
    }
    return Item(row, Plan(scene, recordist.file_format(rng)))


def _focal_bird(
    rng: Generator, taxon: Taxon, region: str, site: str, duration_s: float, snr_db: float
) -> Bird:
    from_s = float(rng.uniform(0.1, max(0.2, min(2.0, duration_s - ROOM_S))))
    until_s = duration_s
    if rng.uniform() < 0.3:  # the bird falls silent, the recorder runs on
        until_s = max(from_s + ROOM_S, duration_s * float(rng.uniform(0.4, 0.8)))
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
    from_s = float(rng.uniform(0.0, max(0.1, duration_s - ROOM_S)))
    snr_db = front.snr_db - float(rng.uniform(6, 22))
    individual = f"{front.individual}/behind"
    return Bird(taxon.species, front.region, individual, snr_db, 1.0, from_s, duration_s)


def _rating(rng: Generator, clearness: float) -> float:
    """Returns a rating in half steps that follows how clear the bird is; 0 is unrated."""
    if rng.uniform() < 0.12:
        return 0.0
    return float(np.clip(round(2 * (1 + 4.2 * clearness + rng.normal(0, 0.5))) / 2, 0.5, 5.0))
