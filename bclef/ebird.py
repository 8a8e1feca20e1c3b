"""An edition of the eBird taxonomy, as eBird and the competitions hand it out: a file of the user.

Codes and names change from year to year, so names are joined within one edition and the run may pin
its bytes. A subspecies, form or domestic kind is reported as its species; what is then still no
species (a hybrid, a pair that cannot be told apart) has no code here. Capitals in codes do not
matter.
"""

import csv
import hashlib
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bclef.taxonomy import TaxonomyError, scientific_form

_LOG = logging.getLogger(__name__)
_COLUMNS = ("CATEGORY", "SPECIES_CODE", "SCI_NAME", "REPORT_AS")
_ADVICE = "an eBird taxonomy is the CSV file that eBird offers for download, saved as UTF-8"


@dataclass(frozen=True)
class EbirdSpecies:
    """A species of the edition."""

    code: str
    """Such as `gretit1`."""
    scientific_name: str
    """In `scientific_form`."""


class Ebird:
    """The species that each name and each code of an edition stands for.

    Args:
        rows: Taxa with the columns CATEGORY, SPECIES_CODE, SCI_NAME and REPORT_AS; others are
            passed over.

    Raises:
        TaxonomyError: One code in two rows, two species of one name, or no species at all.
    """

    def __init__(self, rows: Iterable[Mapping[str, str]]) -> None:
        taxa: dict[str, Mapping[str, str]] = {}
        for row in rows:
            if taxa.setdefault(row["SPECIES_CODE"].casefold(), row) is not row:
                raise TaxonomyError(f"code {row['SPECIES_CODE']!r} stands in two rows")
        self._of_code: dict[str, EbirdSpecies] = {}
        self._of_name: dict[str, EbirdSpecies] = {}
        for code in taxa:
            if (species := _species(code, taxa)) is None:
                continue
            self._of_code[code] = species
            name = scientific_form(taxa[code]["SCI_NAME"])
            if name == species.scientific_name or name not in self._of_name:
                self._of_name[name] = species
        if not self._of_code:
            raise TaxonomyError("no row has CATEGORY 'species'")
        _check_names(self._of_code.values())

    @classmethod
    def read(cls, path: Path, sha256: str | None) -> "Ebird":
        """Returns the edition in the CSV file at `path`.

        Args:
            path: UTF-8, with or without byte order mark, columns in any order.
            sha256: What the bytes must hash to, 64 hex digits; None takes any.

        Raises:
            TaxonomyError: No such file, another edition than the one pinned, other columns, or
                contents that contradict themselves.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TaxonomyError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise TaxonomyError(
                f"{path}: found SHA-256 {found}, expected {sha256.lower()}: another edition, or a "
                "damaged file; taxonomy.ebird_sha256 pins it"
            )
        _LOG.info("eBird taxonomy %s, SHA-256 %s", path, found)
        try:
            return cls(_rows(content, path))
        except (TaxonomyError, csv.Error) as error:
            raise TaxonomyError(f"{path}: {error}") from error

    def species(self, scientific_name: str) -> EbirdSpecies | None:
        """Returns the species called `scientific_name`, its subspecies' names included, if any."""
        name = scientific_form(scientific_name)
        if name in self._of_name:
            return self._of_name[name]
        words = name.split()
        # A subspecies that the edition does not list. "Anas crecca x discors" has four words.
        return self._of_name.get(" ".join(words[:2])) if len(words) == 3 else None

    def species_of_code(self, code: str) -> EbirdSpecies | None:
        """Returns the species that `code` is reported as, if the edition has that code."""
        return self._of_code.get(code.casefold())


def _check_names(species: Iterable[EbirdSpecies]) -> None:
    """Refuses two species of one name."""
    codes: dict[str, str] = {}
    for each in species:
        first = codes.setdefault(each.scientific_name, each.code)
        if first != each.code:
            raise TaxonomyError(
                f"the species {first!r} and {each.code!r} are both called {each.scientific_name!r}"
            )


def _rows(content: bytes, path: Path) -> list[dict[str, str]]:
    """Returns the needed columns of the rows that have a code."""
    # Common names of older editions are not all UTF-8; the columns that are read are plain ASCII.
    text = content.decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [column or "" for column in reader.fieldnames or []]
    if missing := [column for column in _COLUMNS if column not in columns]:
        raise TaxonomyError(
            f"no column {', '.join(missing)}; found {','.join(columns)!r}; {_ADVICE}"
        )
    rows = []
    for number, row in enumerate(reader, start=2):
        texts = {column: (row[column] or "").strip() for column in _COLUMNS}
        if not any(texts.values()):
            continue
        if not (texts["SPECIES_CODE"] and texts["SCI_NAME"] and texts["CATEGORY"]):
            raise TaxonomyError(f"row {number} lacks its code, name or category: {texts}")
        rows.append(texts)
    return rows


def _species(code: str, taxa: Mapping[str, Mapping[str, str]]) -> EbirdSpecies | None:
    """Returns what the taxon `code` is reported as, if that is a species."""
    passed = [code]
    while target := taxa[passed[-1]]["REPORT_AS"].casefold():
        if target not in taxa or target in passed:
            return None
        passed.append(target)
    taxon = taxa[passed[-1]]
    if taxon["CATEGORY"].lower() != "species":
        return None
    return EbirdSpecies(taxon["SPECIES_CODE"], scientific_form(taxon["SCI_NAME"]))
