"""What recordings exist: species, people, places, licences, files. Pure; nothing is rendered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from itertools import product
from typing import Literal

from numpy.random import Generator

from bclef.sources.birdsong import random_stream

Audio = Literal["chirps", "birds"]

FIRST_NUMBER, LAST_NUMBER = 9_000_000, 999_999_999
"""Of the invented recordings; real ones are below."""
_GENERA = ("Mel", "Cor", "Strid", "Tan", "Ul", "Phal")
_EPITHETS = ("fict", "invent", "somni", "nebul", "umbr", "conject")

PEOPLE = (
    ("Ana Exemplo", "Brazil"),
    ("Bjørn Eksempel", "Norway"),
    ("Chidi Example", "United States"),
    ("Dana Příklad", "Brazil"),
    ("Emilia Ejemplo", "Bolivia"),
    ("Farah Example", "United States"),
    ("Gustavo Ejemplo", "Bolivia"),
    ("李 例", "Brazil"),
)
"""Recordists and their countries, the most active first."""
COUNTRIES = {
    "Bolivia": (-18.0, -64.0, "america"),
    "Brazil": (-16.0, -56.0, "america"),
    "Norway": (61.0, 9.0, "europe"),
    "United States": (38.0, -98.0, "america"),
}
"""A point well inside each country (degrees north, degrees east) and its area."""
LICENCES = {
    "by-nc-sa/4.0": 0.63,
    "by-nc-nd/4.0": 0.25,
    "by-nc-nd/3.0": 0.04,
    "by-nc-nd/2.5": 0.04,
    "by-sa/4.0": 0.01,
    "by-nc-sa/3.0": 0.01,
    "zero/1.0": 0.01,
    "by/4.0": 0.01,
}
"""Shares that were found among 657 recordings of 2023 species."""
CONTAINERS = {"mp3": 0.65, "wav": 0.25, "flac": 0.05, "ogg": 0.05}
QUALITIES = {"A": 0.4, "B": 0.3, "C": 0.15, "D": 0.07, "E": 0.03, "no score": 0.05}
SOUND_TYPES = {"song": 0.5, "call": 0.3, "call, song": 0.1, "flight call": 0.05, "dawn song": 0.05}
STRAYS = (("Mystery", "mystery", "birds"), ("Sonus", "naturalis", "soundscape"))
"""What is listed under a country, but is no species."""


@dataclass(frozen=True)
class Recording:
    """One recording as it is in truth, whatever shape the server gives it."""

    number: int
    """The XC number."""
    take: int
    """Its place among the recordings of its species; with the species it decides the sound."""
    genus: str
    epithet: str
    group: str
    recordist: str
    country: str
    locality: str
    latitude_deg: float
    longitude_deg: float
    sound_type: str
    quality: str
    length_s: float
    recorded_on: date
    uploaded_on: date
    background: tuple[str, ...]
    licence: str
    """Part of the licence's address, such as `by-nc-sa/4.0`."""
    container: str
    sample_rate_hz: int
    subspecies: str = ""

    @property
    def species(self) -> str:
        """The scientific name."""
        return f"{self.genus} {self.epithet}"

    @property
    def english(self) -> str:
        """An English name, made from the scientific one."""
        return f"{self.epithet.capitalize()} {self.genus}"

    @property
    def area(self) -> str:
        """The continent."""
        return COUNTRIES[self.country][2]


@dataclass(frozen=True)
class World:
    """Every recording that a server holds, oldest first."""

    seed: int
    species: tuple[str, ...]
    audio: Audio
    recordings: tuple[Recording, ...]

    def of(self, species: str) -> list[Recording]:
        """Returns the recordings of one species, oldest first."""
        return [item for item in self.recordings if item.species == species]

    def grown(self, n_each: int, uploaded_on: date) -> "World":
        """Returns this world with `n_each` more recordings of every species, uploaded that day."""
        more = []
        for name in self.species:
            first = len(self.of(name))
            more += [_draw(self, name, first + k) for k in range(n_each)]
        dated = [replace(item, uploaded_on=uploaded_on) for item in more]
        return self._with(dated)

    def _with(self, drawn: Sequence[Recording]) -> "World":
        """Returns this world and `drawn`, with numbers that are new to it.

        A number is of all that decides the sound, so another world has others and a larger one of
        the same seed and species keeps those that were there.
        """
        taken = {item.number for item in self.recordings}
        numbers: dict[tuple[str, int], int] = {}
        for item in by_take(self.species, drawn):
            number = self._number(item)
            while number in taken:
                number += 1
            taken.add(number)
            numbers[item.species, item.take] = number
        new = [replace(item, number=numbers[item.species, item.take]) for item in drawn]
        return replace(self, recordings=(*self.recordings, *new))

    def _number(self, item: Recording) -> int:
        text = repr((self.seed, self.audio, self.species, item.species, item.take))
        place = int.from_bytes(sha256(text.encode()).digest()[:8])
        return FIRST_NUMBER + place % (LAST_NUMBER - FIRST_NUMBER)


def make_world(
    seed: int = 1,
    species: Sequence[str] | int = 12,
    recordings: int | Mapping[str, int] = 20,
    audio: Audio = "chirps",
    strays: int = 0,
) -> World:
    """Returns a world; the same arguments give the same one.

    Args:
        seed: draws everything.
        species: scientific names, or how many to invent.
        recordings: of each species, or by species.
        audio: `chirps` are one second of noise-free WAV, quickly made; `birds` are recordings of
            5 to 12 seconds with background and noise, good enough to train on.
        strays: recordings of an unknown bird and soundscapes, so many of each.

    Raises:
        ValueError: the species are not different names of two words, or too many to invent.
    """
    names = tuple(invented(species, seed) if isinstance(species, int) else species)
    if len(set(names)) != len(names) or any(len(name.split()) != 2 for name in names):
        raise ValueError(f"species must be different names of two words, but are {list(names)}")
    world = World(seed, names, audio, ())
    drawn = [
        _draw(world, name, take)
        for name in names
        for take in range(recordings if isinstance(recordings, int) else recordings[name])
    ]
    for genus, epithet, group in STRAYS:
        name = f"{genus} {epithet}"
        drawn += [replace(_draw(world, name, take), group=group) for take in range(strays)]
    drawn.sort(key=lambda item: (item.uploaded_on, item.species, item.take))
    return world._with(drawn)


def by_take(species: Sequence[str], recordings: Iterable[Recording]) -> list[Recording]:
    """Returns `recordings` with the first takes of all species first: more takes come at the end.

    Args:
        species: in their order; others follow in that of the alphabet.
        recordings: any.
    """
    place = {name: k for k, name in enumerate(species)}
    return sorted(
        recordings,
        key=lambda item: (item.take, place.get(item.species, len(place)), item.species),
    )


def invented(n_species: int, seed: int) -> list[str]:
    """Returns so many Latin names that no bird has.

    Raises:
        ValueError: there are not so many.
    """
    rng = random_stream(seed, "names")
    genera = [f"{stem}{end}" for stem, end in product(_GENERA, ("ivox", "icanta"))]
    epithets = [f"{stem}{end}" for stem, end in product(_EPITHETS, ("aris", "osus"))]
    n_names = len(genera) * len(epithets)
    if n_species > n_names:
        raise ValueError(f"{n_species} species are asked for, only {n_names} can be invented")
    pairs = [f"{genus} {epithet}" for genus, epithet in product(genera, epithets)]
    return [pairs[int(k)] for k in rng.permutation(len(pairs))[:n_species]]


def _draw(world: World, species: str, take: int) -> Recording:
    rng = random_stream(world.seed, "recording", species, take)
    recordist, country = _recordist(world, species, take, rng)
    latitude_deg, longitude_deg, _ = COUNTRIES[country]
    recorded_on = date(2012, 1, 1) + timedelta(days=int(rng.integers(4600)))
    chirps = world.audio == "chirps"
    genus, epithet = species.split()
    others = [name for name in world.species if name != species]
    n_behind = min(len(others), int(rng.choice([0, 1, 2], p=[0.75, 0.17, 0.08])))
    site = int(rng.integers(1, 4))
    return Recording(
        number=0,
        take=take,
        genus=genus,
        epithet=epithet,
        group="birds",
        recordist=recordist,
        country=country,
        locality=f"Old Mill {site}, Example County",
        latitude_deg=round(latitude_deg + site + float(rng.normal(0, 0.01)), 4),
        longitude_deg=round(longitude_deg + site / 2 + float(rng.normal(0, 0.01)), 4),
        sound_type=_pick(SOUND_TYPES, rng),
        quality=_pick(QUALITIES, rng),
        length_s=1.0 if chirps else round(float(rng.uniform(5, 12)), 2),
        recorded_on=recorded_on,
        uploaded_on=recorded_on + timedelta(days=int(rng.integers(1, 300))),
        background=tuple(others[int(k)] for k in rng.permutation(len(others))[:n_behind]),
        licence=_pick(LICENCES, rng),
        container="wav" if chirps else _pick(CONTAINERS, rng),
        sample_rate_hz=int(rng.choice([44_100, 48_000])),
    )


def _recordist(world: World, species: str, take: int, rng: Generator) -> tuple[str, str]:
    """Returns who recorded it and where; the first takes of a species are by different people."""
    if take < len(PEOPLE):
        order = random_stream(world.seed, "people", species).permutation(len(PEOPLE))
        return PEOPLE[int(order[take])]
    weights = [1 / (rank + 2) for rank in range(len(PEOPLE))]
    return PEOPLE[int(rng.choice(len(PEOPLE), p=[w / sum(weights) for w in weights]))]


def _pick(shares: Mapping[str, float], rng: Generator) -> str:
    weights = list(shares.values())
    return str(rng.choice(list(shares), p=[weight / sum(weights) for weight in weights]))
