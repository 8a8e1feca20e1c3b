"""Names of species: class lists in a fixed order, and synonyms for names and labels that changed.

The order of labels is a type, `ClassList`, and never a bare list passed around: scores, targets and
model outputs all mean "class i" by it. Which species become classes is decided in `recordings`.
"""

import csv
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bclef.tables import Schema, read_table

CLASSES = Schema(
    name="classes",
    key=("index",),
    columns={
        "index": "int64",
        "label": "string",
        "scientific_name": "string",
        "common_name": "string?",
        "taxon_class": "string?",
        "n_recordings": "int64",
        "target": "bool",
    },
)
"""Targets first, each part sorted by label; the others serve pretraining only."""


class TaxonomyError(Exception):
    """A class list or synonym table contradicts itself, or a label is not where it has to be."""


@dataclass(frozen=True)
class ClassList:
    """Labels in the order of a model's outputs.

    Raises:
        TaxonomyError: No labels, an empty label, or one label twice.

    >>> ClassList(("gretit1", "blutit")).position("blutit")
    1
    """

    labels: tuple[str, ...]
    """Unique, non-empty labels."""

    def __post_init__(self) -> None:
        if not self.labels or "" in self.labels:
            raise TaxonomyError(f"a class list needs labels, none of them empty; got {self.labels}")
        if len(self._positions) < len(self.labels):
            twice = sorted(label for label in self._positions if self.labels.count(label) > 1)
            raise TaxonomyError(f"labels stand twice in a class list: {', '.join(twice)}")

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {label: position for position, label in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self._positions

    def position(self, label: str) -> int:
        """Returns the place of `label` in the list.

        Raises:
            TaxonomyError: `label` is not in the list.
        """
        if label not in self._positions:
            raise TaxonomyError(f"label {label!r} is none of the {len(self)} classes")
        return self._positions[label]

    def targets(
        self, label_sets: Sequence[Collection[str]], *, ignore_unknown: bool = False
    ) -> NDArray[np.float32]:
        """Returns 1 where a row's set holds the class and 0 elsewhere, float32 [N, C].

        Args:
            label_sets: The labels of each row; a label may stand twice, a row may be empty.
            ignore_unknown: Whether labels outside the list are passed over.

        Raises:
            TaxonomyError: A label outside the list, and `ignore_unknown` is false.
        """
        targets = np.zeros((len(label_sets), len(self)), np.float32)
        for row, labels in enumerate(label_sets):
            for label in labels:
                if label in self._positions or not ignore_unknown:
                    targets[row, self.position(label)] = 1
        return targets


def read_classes(path: Path, target_only: bool = True) -> ClassList:
    """Returns the class list in the classes table at `path`.

    Args:
        path: The Parquet file.
        target_only: False for a pretraining list, which holds the other species after the targets.

    Raises:
        TableError: No such table, or its columns are not as expected.
        TaxonomyError: The table holds no class of that kind, or a label twice.
    """
    classes = read_table(path, CLASSES)
    chosen = classes[classes["target"]] if target_only else classes
    return ClassList(tuple(chosen["label"]))


def scientific_form(name: str) -> str:
    """Returns `name` in NFC, single spaces, first letter capital and all others small.

    >>> scientific_form("  TURDUS   merula ")
    'Turdus merula'
    """
    return " ".join(unicodedata.normalize("NFC", name).split()).capitalize()


class Synonyms:
    """What a table of synonyms has in place of a scientific name, or of a label.

    An entry of two or more words is a name: case, white space and Unicode form do not matter. One
    of a single word is a label, and stands for exactly this label; it may be replaced by another
    label, or by a name. Chains are followed to their end.

    Args:
        accepted: Accepted name or label (or the next one in a chain) of each, as written.

    Raises:
        TaxonomyError: Two accepted names of one, a label in place of a name, or a circle.
    """

    def __init__(self, accepted: Mapping[str, str]) -> None:
        steps: dict[str, str] = {}
        for name, target in accepted.items():
            key, step = _entry(name), _entry(target)
            if steps.setdefault(key, step) != step:
                raise TaxonomyError(f"synonyms: {key!r} is both {steps[key]!r} and {step!r}")
            if " " in key and " " not in step:
                raise TaxonomyError(
                    f"synonyms: the name {key!r} cannot be replaced by the label {step!r}; the "
                    "label goes first, the name that it stands for second"
                )
        steps = {name: step for name, step in steps.items() if name != step}
        ends = {name: _end_of_chain(name, steps) for name in steps}
        self._accepted = {name: end for name, end in ends.items() if " " in name}
        self._replaced = {label: end for label, end in ends.items() if " " not in label}
        self._names: dict[str, list[str]] = {}
        for name, end in sorted(self._accepted.items()):
            self._names.setdefault(end, [end]).append(name)

    @classmethod
    def read(cls, path: Path) -> "Synonyms":
        """Returns the synonyms in the CSV file at `path`, columns `name,accepted_name`.

        Raises:
            TaxonomyError: No such file, other columns, an empty field, a contradiction, a circle.
        """
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TaxonomyError(f"{path}: not a readable UTF-8 CSV file: {error}") from error
        if columns != ["name", "accepted_name"]:
            found = ",".join(columns)
            raise TaxonomyError(f"{path}: found columns {found!r}, expected 'name,accepted_name'")
        accepted: dict[str, str] = {}
        for number, row in enumerate(rows, start=2):
            name, target = row["name"], row["accepted_name"]
            if None in row or not (name or "").strip() or not (target or "").strip():
                raise TaxonomyError(f"{path}: row {number} needs two names, found {row}")
            if accepted.setdefault(name, target) != target:
                raise TaxonomyError(f"{path}: row {number}: {name!r} has two accepted names")
        return cls(accepted)

    def accepted(self, scientific_name: str) -> str:
        """Returns the accepted name of `scientific_name`, in `scientific_form`."""
        name = scientific_form(scientific_name)
        return self._accepted.get(name, name)

    def same_species(self, scientific_name: str) -> list[str]:
        """Returns every name that the table has for the species: the accepted one, then sorted.

        A source may still file a species under an old name, so all of them are asked for.
        """
        accepted = self.accepted(scientific_name)
        return list(self._names.get(accepted, [accepted]))

    def replaced(self, label: str) -> str:
        """Returns the label or the name that the table has in place of `label`; else `label`."""
        return self._replaced.get(label, label)

    def __contains__(self, scientific_name: object) -> bool:
        return isinstance(scientific_name, str) and self.accepted(scientific_name) in self._names


def _entry(text: str) -> str:
    """Returns a label as it stands, and a name in `scientific_form`."""
    words = unicodedata.normalize("NFC", text).split()
    return words[0] if len(words) == 1 else scientific_form(text)


def _end_of_chain(name: str, steps: Mapping[str, str]) -> str:
    """Returns the last name reached from `name` by `steps`."""
    passed = [name]
    while passed[-1] in steps:
        passed.append(steps[passed[-1]])
        if passed[-1] in passed[:-1]:
            raise TaxonomyError(f"synonyms go round in a circle: {' -> '.join(passed)}")
    return passed[-1]
