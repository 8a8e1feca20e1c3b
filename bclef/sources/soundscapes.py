"""Soundscapes of the demo, by a recorder left alone, and its recordings without birds."""

from collections.abc import Sequence

from numpy.random import Generator

from bclef.sources.ambience import Place
from bclef.sources.aviary import ROOM_S, DemoConfig, Item, draw_ambients, recording_id
from bclef.sources.birdsong import random_stream
from bclef.sources.encoding import FileFormat, Plan
from bclef.sources.people import Recordist, draw_outing
from bclef.sources.scene import Bird, Scene
from bclef.sources.taxa import TAXA, Taxon

SITES = {"quiet": ("S01", "S02", "S03", "S04", "S05", "S06"), "annotated": ("S07", "S08", "S09")}
"""Recorders of soundscapes; the annotated ones stand elsewhere."""


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
        draw_ambients(rng, {"wind": 0.5, "insects": 0.45, "rain": 0.15, "hum": 0.1}),
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
    from_s = float(rng.uniform(0, config.soundscape_s - ROOM_S))
    until_s = min(config.soundscape_s, from_s + ROOM_S + float(rng.exponential(12)))
    snr_db = float(rng.uniform(config.soundscape_snr_low_db, config.soundscape_snr_high_db))
    absorption = float(rng.uniform(0.5, 2.0))
    individual = f"{site}/{rng.integers(4)}"
    return Bird(taxon.species, f"around {site}", individual, snr_db, absorption, from_s, until_s)


def noise_items(config: DemoConfig, recordists: Sequence[Recordist]) -> list[Item]:
    """Returns the recordings without birds."""
    return [_noise_item(config, recordists, number) for number in range(config.n_noise)]


def _noise_item(config: DemoConfig, recordists: Sequence[Recordist], number: int) -> Item:
    rng = random_stream(config.seed, "noise", number)
    recordist, site = draw_outing(recordists, rng)
    shares = {"wind": 0.5, "insects": 0.4, "rain": 0.3, "hum": 0.25, "handling": 0.3}
    place = Place(float(rng.uniform(-6, -1)), 100.0, recordist.treble_db, 0.3, -20.0)
    scene = Scene(f"noise/{number}", config.noise_s, (), draw_ambients(rng, shares), place)
    row = recordist.row(site, rng) | {
        "recording_id": recording_id("noise", number),
        "role": "noise",
        "secondary_labels": [],
        "duration_s": config.noise_s,
        "annotated": False,
    }
    return Item(row, Plan(scene, recordist.file_format(rng)))
