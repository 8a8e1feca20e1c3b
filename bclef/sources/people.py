"""The people who record in the demo: where they go, what they own, how they license."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from bclef.sources.birdsong import random_stream
from bclef.sources.encoding import Container, FileFormat, Layout

REGIONS = ("north", "east", "south")
"""Dialects: birds of one region share an accent."""

_FIRST = ("Ana", "Bjorn", "Chidi", "Dana", "Emeka", "Farah", "Goran", "Hilde", "Ilse", "Jonas")
_LAST = ("Abara", "Bergstrom", "Castillo", "Dvorak", "Eriksen", "Fontaine", "Guzman", "Horvat",
         "Ivanova", "Jansen")  # fmt: skip
_FORMATS: tuple[tuple[Container, int, Layout], ...] = (
    ("wav", 44_100, "mono"),
    ("wav", 48_000, "mono"),
    ("flac", 44_100, "mono"),
    ("wav", 44_100, "stereo"),
    ("wav", 48_000, "mono"),
    ("wav", 22_050, "mono"),
    ("wav", 44_100, "mono"),
    ("mp3", 44_100, "mono"),
    ("flac", 48_000, "stereo"),
)
"""Recorders, dealt in turn to the recordists."""
_LICENCES = ("CC BY-NC-SA 4.0", "CC BY 4.0", "CC BY-NC-SA 3.0", "CC0 1.0", "CC BY-NC-ND 4.0")


@dataclass(frozen=True)
class Site:
    """A place that a recordist goes to."""

    name: str
    region: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True)
class Recordist:
    """One person, with the recorder that all of the person's recordings come from."""

    name: str
    weight: float
    """Recordings in proportion to other recordists' (Zipf-like)."""
    skill: float
    """0 to 1: how near the birds this person gets."""
    sites: tuple[Site, ...]
    recorder: tuple[Container, int, Layout]
    treble_db: float
    low_cut_hz: float
    licence: str

    def file_format(self, rng: Generator) -> FileFormat:
        """Returns the format of one recording; its level is drawn from `rng`, some are clipped."""
        peak_dbfs = 3.0 if rng.uniform() < 0.04 else float(-rng.gamma(2.0, 3.0)) - 0.3
        return FileFormat(*self.recorder, peak_dbfs)

    def row(self, site: Site, rng: Generator) -> dict[str, object]:
        """Returns the metadata that come from this person; the day is drawn from `rng`."""
        year, month, day = (
            int(rng.integers(*bounds)) for bounds in ((2012, 2025), (3, 9), (1, 29))
        )
        return {
            "recordist": self.name,
            "latitude_deg": site.latitude_deg,
            "longitude_deg": site.longitude_deg,
            "recorded_on": f"{year}-{month:02d}-{day:02d}",
            "licence": self.licence,
            "attribution": f"{self.name}, demo aviary (synthetic), {self.licence}",
        }


def plan_recordists(seed: int, n_recordists: int) -> list[Recordist]:
    """Returns the recordists of a world, the most active first.

    Args:
        seed: the world's.
        n_recordists: at most 100.
    """
    return [_recordist(seed, number) for number in range(n_recordists)]


def _recordist(seed: int, number: int) -> Recordist:
    rng = random_stream(seed, "recordist", number)
    n_sites = int(rng.integers(1, 4))
    return Recordist(
        name=f"{_FIRST[number % 10]} {_LAST[(number + number // 10) % 10]}",
        weight=1 / (number + 2),
        skill=float(rng.uniform()),
        sites=tuple(_site(f"{number}-{k}", rng) for k in range(n_sites)),
        recorder=_FORMATS[number % len(_FORMATS)],
        treble_db=float(rng.uniform(-6, 4)),
        low_cut_hz=float(rng.uniform(60, 300)),
        licence=_LICENCES[int(rng.integers(len(_LICENCES)))],
    )


def _site(name: str, rng: Generator) -> Site:
    region = int(rng.integers(len(REGIONS)))
    latitude_deg = round(float(rng.uniform(-20, -16)), 4)
    longitude_deg = round(float(-60 + 2 * region + rng.uniform(0, 2)), 4)
    return Site(name, REGIONS[region], latitude_deg, longitude_deg)


def draw_outing(recordists: Sequence[Recordist], rng: Generator) -> tuple[Recordist, Site]:
    """Returns who makes a recording, and where.

    Args:
        recordists: the people, chosen by their weights.
        rng: draws both.
    """
    weights = np.array([person.weight for person in recordists])
    recordist = recordists[int(rng.choice(len(weights), p=weights / weights.sum()))]
    return recordist, recordist.sites[int(rng.integers(len(recordist.sites)))]
