"""The invented birds of the demo: names only; what they sing is in `birdsong`."""

from dataclasses import dataclass

N_TARGETS_PER_GENUS = 3
"""The first species of each genus are the targets; the others serve pretraining."""

_GENERA = {
    "Calamora": ("Flutebird", "montana palustris solitaria grisea vernalis"),
    "Tremulix": ("Triller", "sylvatica minor aurita rufescens campestris"),
    "Stridulora": ("Buzzwing", "arida lineata maxima fulva"),
    "Ululanta": ("Hooter", "nocturna crepera insularis pallida"),
    "Nasarion": ("Honker", "robustus vulgaris cristatus borealis"),
    "Vagicanta": ("Rambler", "loquax aurata riparia mutabilis australis"),
    "Tenuivox": ("Lisper", "exilis subtilis glacialis parva sericea"),
    "Crotalix": ("Rattler", "horrida nigra tessellata orientalis"),
}
"""Common noun and epithets by genus, in the order of `birdsong.GENERA`."""
_OLD_NAMES = {
    "Calamora palustris": "Sibilora palustris",
    "Tenuivox exilis": "Microphona exilis",
    "Nasarion borealis": "Nasarion septentrionalis",
}
"""Names before a revision; taxonomy/synonyms.csv has the same pairs."""


@dataclass(frozen=True)
class Taxon:
    """One species of the demo."""

    label: str
    scientific_name: str
    common_name: str
    old_name: str | None
    """The name before a revision; some recordings still bear it."""
    species: tuple[int, int]
    """Genus and number of the species in it."""
    is_target: bool

    @property
    def old_label(self) -> str | None:
        """The label that belonged to the old name."""
        return _label(self.old_name) if self.old_name else None


def _label(scientific_name: str) -> str:
    """Returns a label in the manner of eBird codes: three letters of each word."""
    genus, epithet = scientific_name.lower().split()
    return f"{genus[:3]}{epithet[:3]}1"


def _taxa() -> tuple[Taxon, ...]:
    taxa = []
    for genus_number, (genus, (noun, epithets)) in enumerate(_GENERA.items()):
        for number, epithet in enumerate(epithets.split()):
            name = f"{genus} {epithet}"
            taxa.append(
                Taxon(
                    label=_label(name),
                    scientific_name=name,
                    common_name=f"{epithet.capitalize()} {noun}",
                    old_name=_OLD_NAMES.get(name),
                    species=(genus_number, number),
                    is_target=number < N_TARGETS_PER_GENUS,
                )
            )
    return tuple(taxa)


TAXA = _taxa()
"""All species of the demo; the same whatever the seed."""
N_SPECIES_BY_GENUS = tuple(len(epithets.split()) for _, epithets in _GENERA.values())
TARGET_LABELS = tuple(sorted(taxon.label for taxon in TAXA if taxon.is_target))
