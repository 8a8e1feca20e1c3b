"""Names of species: class lists in a fixed order, and synonyms for taxa that were renamed.

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
import pandas as pd
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
    """The accepted scientific name of each name in a table of synonyms.

    Case, white space and Unicode form do not matter; chains are followed to their end.

    Args:
        accepted: Accepted name (or the next one in a chain) of each name, as written.

    Raises:
        TaxonomyError: A name with two accepted names, or a circle of names.
    """

    def __init__(self, accepted: Mapping[str, str]) -> None:
        steps: dict[str, str] = {}
        for name, target in accepted.items():
            key, step = scientific_form(name), scientific_form(target)
            if steps.setdefault(key, step) != step:
                raise TaxonomyError(f"synonyms: {key!r} is both {steps[key]!r} and {step!r}")
        steps = {name: step for name, step in steps.items() if name != step}
        self._accepted = {name: _end_of_chain(name, steps) for name in steps}

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

    def accepted_all(self, scientific_names: pd.Series) -> pd.Series:
        """Returns the accepted name of each of `scientific_names`; null stays null."""
        unique = scientific_names.dropna().unique()
        return scientific_names.map({name: self.accepted(name) for name in unique}).astype("string")


def _end_of_chain(name: str, steps: Mapping[str, str]) -> str:
    """Returns the last name reached from `name` by `steps`."""
    passed = [name]
    while passed[-1] in steps:
        passed.append(steps[passed[-1]])
        if passed[-1] in passed[:-1]:
            raise TaxonomyError(f"synonyms go round in a circle: {' -> '.join(passed)}")
    return passed[-1]


class SpeciesNames:
    """One label and one accepted name for each species that a set of recordings names.

    Sources and years disagree: one species under two labels, one label under an old and a new name.
    Of several labels of an accepted name the one that was given with this very name wins, then the
    most frequent, then the first in the alphabet; so with the names of one label. A recording with
    a name only takes the label of that name, or the name itself where no source gives a label.

    Args:
        labels: Label of each recording as listed, may be null.
        scientific_names: Scientific name of each recording as listed, may be null.
        synonyms: Accepted names.
    """

    def __init__(self, labels: pd.Series, scientific_names: pd.Series, synonyms: Synonyms) -> None:
        self._synonyms = synonyms
        accepted = synonyms.accepted_all(scientific_names)
        name_of_label = labels.map(_most_frequent(labels, accepted)).astype("string")
        accepted = accepted.fillna(name_of_label)
        is_accepted = accepted == scientific_names.astype("string").map(scientific_form, "ignore")
        label_of_name = _most_frequent(accepted, labels, is_accepted)
        unified = accepted.map(label_of_name).astype("string").fillna(labels).fillna(accepted)
        self._label_of_name: dict[str, str] = _most_frequent(accepted, unified)
        self.scientific_names = _most_frequent(unified, accepted)
        """The accepted name of each label, but of those that no source names."""
        self._label_of_label = _most_frequent(labels, unified) | {
            label: label for label in unified.dropna().unique()
        }
        self.labels = unified
        """The label of each recording, in the order and with the index of the arguments."""

    def label(self, text: str) -> str:
        """Returns the label that `text`, a label or a name, stands for; `text` if it is unknown."""
        if text in self._label_of_label:
            return self._label_of_label[text]
        return self._label_of_name.get(self._synonyms.accepted(text), text)


def _most_frequent(
    keys: pd.Series, values: pd.Series, preferred: pd.Series | None = None
) -> dict[str, str]:
    """Returns the value that stands most often beside each key, `preferred` ones first."""
    pairs = pd.DataFrame({"key": keys, "value": values})
    pairs["preferred"] = False if preferred is None else preferred.fillna(False).astype(bool)
    counts = (
        pairs.dropna()
        .groupby(["key", "value"], as_index=False)
        .agg(preferred=("preferred", "max"), n_rows=("preferred", "size"))
    )
    best = counts.sort_values(
        ["preferred", "n_rows", "value"], ascending=[False, False, True]
    ).drop_duplicates("key")
    return dict(zip(best["key"], best["value"], strict=True))
