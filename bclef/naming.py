"""One label and one accepted name for each species, whatever sources and years call it.

A label is what a source states, else the eBird code where the user supplies an eBird taxonomy, else
the accepted name itself. The decision worth knowing: what a source states is never overruled by an
edition of eBird, since the same code means another species in another year.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

import pandas as pd

from bclef.nomenclature import Taxonomy
from bclef.normal_forms import names_one_species
from bclef.tables import Schema
from bclef.taxonomy import scientific_form

SPECIES_NAMES = Schema(
    name="species_names",
    key=("source", "place", "listed"),
    columns={
        "source": "string",
        "place": "string",
        "listed": "string",
        "scientific_name": "string?",
        "listed_label": "string?",
        "accepted_name": "string?",
        "label": "string",
        "how": "string",
        "n_recordings": "int64",
    },
)
"""Every name that a source lists, as it lists it, and what became of it.

`listed`: the label and the scientific name, with ` / ` between them where both are stated. `place`:
`recording` (the names of the focal recordings), `background` (secondary labels) or `annotation`.
`how` the label was found: see `How`.
"""

How = Literal[
    "source_label", "same_species", "synonym", "ebird", "unmapped", "name_only", "unlisted"
]
"""`source_label`: as the source states it. `same_species`: what other recordings of the species
bear, or another spelling of it. `synonym`: the same by way of the table of synonyms. `ebird`: a
code of the edition. `unmapped`: the edition has no such species, so the name is the label.
`name_only`: likewise, without an edition. `unlisted`: in the background or annotated only, of no
listed species.
"""

_PREFERRED = 3
"""Rank of a label beside the very name of the species; see `SpeciesNames`."""
_STATED, _OF_EDITION, _OF_FORM = 2, 1, 0


class _Stated(NamedTuple):
    """What one source lists as the label and the name of some recordings, and what that means."""

    source: str
    listed_label: str | None
    listed_name: str | None
    n_recordings: int
    label: str | None
    """Null where the label was but a name."""
    name: str | None
    """In `scientific_form`."""
    species: str | None
    """Accepted name; null where nothing but the label tells the species."""


class SpeciesNames:
    """The label and the accepted name of each species that a set of recordings names.

    Of several labels of an accepted name the one that was given with this very name wins, then the
    most frequent, then the first in the alphabet; so with the names of one label. A label that is
    known as a name, such as a folder `Parus major`, is taken as the name. Labels that differ in
    capitals only, and not in what names stand beside them, are one. A name that leaves the species
    open, such as `Insecta`, `Gryllus sp.` or `Unidentified cicada`, unites nothing. A code that the
    edition reports as another, such as that of a subspecies, gives way to any other label, and to
    the species' own code as soon as a recording of the species bears no label.

    Args:
        recordings: Columns source, label and scientific_name as listed; the last two may be null.
        taxonomy: Accepted names and codes.
    """

    def __init__(self, recordings: pd.DataFrame, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy
        self._stated = _species_stated(_as_stated(recordings, taxonomy), taxonomy)
        self._labelled = frozenset((row.species, row.label) for row in self._stated if row.label)
        self._label_of_species = _most_frequent(
            _vote(row, taxonomy) for row in self._stated if row.species
        )
        self._spelling = _most_frequent(
            (_folded(row.label), row.label, _STATED, row.n_recordings)
            for row in self._stated
            if not row.species
        )
        unified = [(row, self._unified(row)) for row in self._stated]
        self._label_of_pair = {(row.listed_label, row.listed_name): to for row, to in unified}
        self.all_labels = frozenset(to for _, to in unified)
        """The labels of all recordings."""
        self._label_of_label = _most_frequent(
            (row.label, to, _STATED, row.n_recordings) for row, to in unified
        ) | {label: label for label in self.all_labels}
        for label, to in sorted(self._label_of_label.items()):
            self._spelling.setdefault(label.casefold(), to)
        self.scientific_names = _most_frequent(
            (to, row.species or row.name, _STATED, row.n_recordings) for row, to in unified
        )
        """The accepted name of each label, but of those that no source names."""

    def _unified(self, row: _Stated) -> str:
        if row.species:
            return self._label_of_species[row.species]
        return self._spelling[row.label.casefold()] if row.label else str(row.name)

    def labels(self, recordings: pd.DataFrame) -> pd.Series:
        """Returns the label of each of the recordings that the names were made from."""
        pairs = zip(
            _or_none(recordings["label"]), _or_none(recordings["scientific_name"]), strict=True
        )
        labels = [self._label_of_pair.get(pair) for pair in pairs]
        return pd.Series(labels, recordings.index, "string")

    def label(self, text: str) -> str:
        """Returns the label that `text`, a label or a name, stands for; `text` if it is unknown."""
        return self._resolved(text)[0]

    def _resolved(self, text: str) -> tuple[str, How]:
        label = self._taxonomy.synonyms.replaced(text)
        if label in self._label_of_label:
            found = self._label_of_label[label]
            return found, "source_label" if found == text else _way(text, label)
        name = self._taxonomy.accepted(label)
        if name in self._label_of_species:
            return self._label_of_species[name], _way(scientific_form(text), name)
        if label.casefold() in self._spelling:
            return self._spelling[label.casefold()], _way(text, label)
        coded = self._taxonomy.name_of_code(label)
        if coded in self._label_of_species:
            return self._label_of_species[coded], "ebird"
        return self._taxonomy.code(coded or name) or label, "unlisted"

    def table(self, mentioned: pd.DataFrame) -> pd.DataFrame:
        """Returns the table of names, columns of SPECIES_NAMES, sorted by its key.

        Args:
            mentioned: Columns source, place, text and n_recordings: the names of other places.
        """
        rows: list[tuple[object, ...]] = []
        for row in self._stated:
            stated = (row.source, "recording", row.listed_name, row.listed_label)
            meant = (row.species or row.name, self._unified(row), self._how(row))
            rows.append((*stated, *meant, row.n_recordings))
        for source, place, text, n_recordings in mentioned.itertuples(index=False):
            label, how = self._resolved(text)
            name, listed_label = (text, None) if " " in text else (None, text)
            meant = (self.scientific_names.get(label), label, how)
            rows.append((source, place, name, listed_label, *meant, n_recordings))
        columns = [column for column in SPECIES_NAMES.columns if column != "listed"]
        table = pd.DataFrame(rows, columns=columns)
        table = table.astype(dict.fromkeys(columns[:-1], "string"))
        labels, names = table["listed_label"], table["scientific_name"]
        table["listed"] = (labels + " / " + names).fillna(labels).fillna(names)
        table = table.sort_values(list(SPECIES_NAMES.key), ignore_index=True)
        return table[list(SPECIES_NAMES.columns)]

    def _how(self, row: _Stated) -> How:
        label = self._unified(row)
        if label == row.listed_label:
            return "source_label"
        if row.label is None and (row.species, label) not in self._labelled:
            if row.species and label != row.species:
                return "ebird"
            return "unmapped" if self._taxonomy.ebird else "name_only"
        if row.listed_label and _folded(row.label) != _folded(row.listed_label):
            return "synonym"
        return _way(row.name, row.species)


def _vote(row: _Stated, taxonomy: Taxonomy) -> tuple[str | None, str, int, int]:
    """Returns the species of `row`, the label it speaks for, with which rank and how often."""
    if row.label is None:
        # How many they are does not count: what a source states they do not overrule.
        return row.species, taxonomy.code(str(row.species)) or str(row.species), _OF_EDITION, 0
    coded = taxonomy.ebird and taxonomy.ebird.species_of_code(row.label)
    if coded and coded.code.casefold() != row.label.casefold():
        return row.species, row.label, _OF_FORM, row.n_recordings
    rank = _PREFERRED if row.name == row.species else _STATED
    return row.species, row.label, rank, row.n_recordings


def _folded(text: str | None) -> str | None:
    return text and text.casefold()


def _way(listed: str | None, meant: str | None) -> How:
    return "same_species" if listed is None or listed == meant else "synonym"


def _as_stated(recordings: pd.DataFrame, taxonomy: Taxonomy) -> list[_Stated]:
    """Returns what is listed, the label of each null where it is but a name."""
    columns = [_or_none(recordings[name]) for name in ("source", "label", "scientific_name")]
    counts = Counter(zip(*columns, strict=True))
    listed_names = {taxonomy.accepted(name) for _, _, name in counts if name}
    stated = []
    for (source, label, listed_name), n in sorted(counts.items(), key=str):
        if label is None and listed_name is None:
            continue
        meant = label and taxonomy.synonyms.replaced(label)
        name = listed_name and scientific_form(listed_name)
        if meant and " " in meant and _is_known(meant, listed_names, taxonomy):
            name, meant = name or scientific_form(meant), None
        meant = meant and _spelled(meant, name, taxonomy)
        stated.append(_Stated(str(source), label, listed_name, n, meant, name, None))
    return stated


def _spelled(label: str, name: str | None, taxonomy: Taxonomy) -> str:
    """Returns a species' code as the edition spells it; any other label as it stands."""
    coded = taxonomy.ebird and taxonomy.ebird.species_of_code(label)
    if not coded or coded.code.casefold() != label.casefold():
        return label
    species = taxonomy.accepted(coded.scientific_name)
    return coded.code if name is None or taxonomy.accepted(name) == species else label


def _is_known(name: str, listed_names: Collection[str], taxonomy: Taxonomy) -> bool:
    return name in taxonomy or taxonomy.accepted(name) in listed_names


def _species_stated(stated: list[_Stated], taxonomy: Taxonomy) -> list[_Stated]:
    """Returns `stated` with species; a label without a name has it from others or its code."""
    named = [
        row._replace(species=taxonomy.accepted(row.name))
        if row.name and names_one_species(row.name)
        else row
        for row in stated
    ]
    by_label = _most_frequent((row.label, row.species, _STATED, row.n_recordings) for row in named)
    by_spelling = _most_frequent(
        (_folded(row.label), row.species, _STATED, row.n_recordings) for row in named
    )
    return [
        row
        if row.name or row.label is None
        else row._replace(
            species=by_label.get(row.label)
            or by_spelling.get(row.label.casefold())
            or taxonomy.name_of_code(row.label)
        )
        for row in named
    ]


def _or_none(texts: pd.Series) -> list[str | None]:
    return [None if pd.isna(text) else str(text) for text in texts]


def _most_frequent(
    votes: Iterable[tuple[str | None, str | None, int, int]],
) -> dict[str, str]:
    """Returns the value that stands most often beside each key, of the highest rank first.

    Args:
        votes: Key, value, its rank, and how often they stand together; a vote without key or value
            does not count.
    """
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for key, value, rank, n in votes:
        if key and value:
            highest, total = counts.get((key, value), (rank, 0))
            counts[key, value] = max(highest, rank), total + n
    # The best comes last of its key, and so stays in the mapping.
    order = sorted(counts.items(), key=lambda item: item[0][1], reverse=True)
    order.sort(key=lambda item: item[1])
    return {key: value for (key, value), _ in order}
