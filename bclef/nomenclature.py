"""The tables of names that a run is given: synonyms, and an eBird taxonomy if the user has one."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from bclef.config import Section
from bclef.ebird import Ebird
from bclef.taxonomy import Synonyms


class TaxonomyConfig(Section):
    """Section `taxonomy`: the tables of names. Stage metadata watches the folder `taxonomy`."""

    synonyms: str = Field(min_length=1)
    """CSV file with the columns `name,accepted_name`: renamed species, and renamed labels."""
    ebird: str | None = Field(min_length=1)
    """CSV file of an eBird taxonomy; species that no source labels get its codes. Null: none."""
    ebird_sha256: str | None = Field(pattern="^[0-9a-fA-F]{64}$")
    """SHA-256 of that file, 64 hex digits, which pins the edition; null takes any."""

    @model_validator(mode="after")
    def _pin_has_a_file(self) -> "TaxonomyConfig":
        if self.ebird_sha256 is not None and self.ebird is None:
            raise ValueError("ebird_sha256 pins a file, but ebird is null")
        return self


@dataclass(frozen=True)
class Taxonomy:
    """The tables of names of a run."""

    synonyms: Synonyms
    ebird: Ebird | None

    @classmethod
    def read(cls, config: TaxonomyConfig) -> "Taxonomy":
        """Returns the tables that `config` names.

        Raises:
            TaxonomyError: A table is not there, is another edition, or is at fault.
        """
        ebird = config.ebird and Ebird.read(Path(config.ebird), config.ebird_sha256)
        return cls(Synonyms.read(Path(config.synonyms)), ebird or None)

    def accepted(self, scientific_name: str) -> str:
        """Returns the accepted name of the species; of a subspecies in the edition too."""
        name = self.synonyms.accepted(scientific_name)
        species = self.ebird.species(name) if self.ebird else None
        return self.synonyms.accepted(species.scientific_name) if species else name

    def code(self, accepted_name: str) -> str | None:
        """Returns the eBird code of a species, by the accepted name or else by another of its."""
        for name in self.synonyms.same_species(accepted_name) if self.ebird else []:
            if self.ebird and (species := self.ebird.species(name)):
                return species.code
        return None

    def name_of_code(self, code: str) -> str | None:
        """Returns the accepted name of the species with that eBird code."""
        species = self.ebird.species_of_code(code) if self.ebird else None
        return self.synonyms.accepted(species.scientific_name) if species else None

    def __contains__(self, scientific_name: object) -> bool:
        in_edition = (
            self.ebird is not None
            and isinstance(scientific_name, str)
            and self.ebird.species(scientific_name) is not None
        )
        return in_edition or scientific_name in self.synonyms
