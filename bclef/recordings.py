"""The recordings of a run: what the sources listed, put into one form, filtered and capped.

Sources know their own formats; everything that must hold across sources happens here: accepted
names, one label per species, one row per id. The decision worth knowing: no row is lost silently.
Each row that a source listed is either in `recordings` or in `rejected`, with its reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
from pydantic import Field

from bclef.config import ConfigError, Section
from bclef.faults import nearest
from bclef.normal_forms import Licence, clean_text, in_one_form, typed
from bclef.sieve import Sieve
from bclef.sources.protocol import Listing
from bclef.tables import Schema
from bclef.taxonomy import CLASSES, SpeciesNames, Synonyms

RECORDINGS = Schema(
    name="recordings",
    key=("recording_id",),
    columns={
        "recording_id": "string",
        "source": "string",
        "collection": "string?",
        "role": "string",
        "label": "string?",
        "scientific_name": "string?",
        "secondary_labels": "list[string]",
        "recordist": "string?",
        "group_id": "string?",
        "latitude_deg": "float64?",
        "longitude_deg": "float64?",
        "recorded_on": "string?",
        "rating": "float32?",
        "licence": "string?",
        "attribution": "string",
        "url": "string",
        "page_url": "string?",
        "source_sha256": "string?",
        "duration_s": "float64?",
        "annotated": "bool",
        "fold": "int64?",
    },
)
"""`role` is focal, soundscape or noise; a rating of 0, or none, is unrated."""

REJECTED = Schema(
    name="rejected",
    key=("recording_id", "reason", "detail"),
    columns={"recording_id": "string", "stage": "string", "reason": "string", "detail": "string"},
)
"""An id that was listed twice is in `recordings` once and here once: the id alone is no key."""

ANNOTATIONS = Schema(
    name="annotations",
    key=("recording_id", "start_s", "label"),
    columns={
        "recording_id": "string",
        "start_s": "float64",
        "label": "string",
        "end_s": "float64",
    },
)
"""Who calls from when to when in the annotated recordings."""

_MOST_SHOWN = 5
"""Species that an error message names."""

_NAMES = {"common_name": "string?", "taxon_class": "string?"}
"""Columns that a listing may have besides those of RECORDINGS; they go to the classes table."""


class MetadataConfig(Section):
    """Section `metadata`: which recordings a run uses."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Names of the sources, in order: of an id that two sources list, the first one's row stays."""
    species: Annotated[tuple[str, ...], Field(min_length=1)] | None
    """Labels or scientific names of the target classes, however rare; null takes every species."""
    keep_others: bool
    """Whether species outside `species` are kept, for pretraining only."""
    min_recordings: int = Field(ge=1)
    """Fewest recordings of a species that `species` does not ask for."""
    max_recordings: int | None = Field(ge=1)
    """Most recordings of one species, best rated first, then by id; null for no limit."""
    min_rating: float = Field(ge=0, le=5)
    """Lowest rating, 0 to 5; unrated recordings are always kept."""
    licences: tuple[Licence, ...] | None
    """Licences, without version, that the run accepts; null accepts all, unknown ones too."""


@dataclass(frozen=True)
class Metadata:
    """The tables of the metadata stage; see the schema constants for their columns."""

    recordings: pd.DataFrame
    classes: pd.DataFrame
    rejected: pd.DataFrame
    annotations: pd.DataFrame

    def counts(self) -> dict[str, object]:
        """Returns the numbers of rows per source and role, per reason, and of classes."""
        per_source = self.recordings.groupby(["source", "role"]).size()
        n_targets = int(self.classes["target"].sum())
        return {
            "recordings": {
                source: {role: int(n) for role, n in rows.droplevel("source").items()}
                for source, rows in per_source.groupby("source")
            },
            "rejected": {
                str(reason): int(n) for reason, n in self.rejected.groupby("reason").size().items()
            },
            "n_annotations": len(self.annotations),
            "n_targets": n_targets,
            "n_others": len(self.classes) - n_targets,
        }


def build_recordings(
    listings: Mapping[str, Listing], config: MetadataConfig, synonyms: Synonyms
) -> Metadata:
    """Returns the tables of recordings, classes, rejected rows and annotations of a run.

    Args:
        listings: What each source lists, by its name, in the order of preference.
        config: What to keep.
        synonyms: Accepted scientific names.

    Raises:
        ConfigError: A species asked for is not listed, or none of its recordings may be kept.
    """
    recordings = in_one_form(
        [listing.recordings for listing in listings.values()], {**RECORDINGS.columns, **_NAMES}
    )
    is_focal = recordings["role"] == "focal"
    names = SpeciesNames(
        recordings["label"].where(is_focal), recordings["scientific_name"].where(is_focal), synonyms
    )
    sieve = Sieve(_named(recordings, names))
    _merge_listed_again(sieve)
    sieve.drop_unusable(config.licences, config.min_rating)
    targets = _targets(config, names, sieve)
    if targets is not None and not config.keep_others:
        sieve.drop_others(targets)
    sieve.drop_rare(config.min_recordings, targets or set())
    if config.max_recordings is not None:
        sieve.drop_over_cap(config.max_recordings)
    annotations = _annotations([listing.annotations for listing in listings.values()], names)
    is_kept = annotations["recording_id"].isin(sieve.kept["recording_id"])
    stated = [typed(listing.rejected, REJECTED.columns) for listing in listings.values()]
    return Metadata(
        recordings=_by_key(sieve.kept, RECORDINGS),
        classes=_classes(sieve.kept[sieve.is_focal], names, targets),
        rejected=_by_key(pd.concat([*stated, *sieve.dropped]), REJECTED),
        annotations=_by_key(annotations[is_kept], ANNOTATIONS),
    )


def _by_key(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Returns the columns of `schema`, sorted by its key, the first of rows with one key only."""
    unique = rows[list(schema.columns)].drop_duplicates(list(schema.key))
    return unique.sort_values(list(schema.key)).reset_index(drop=True)


def _named(recordings: pd.DataFrame, names: SpeciesNames) -> pd.DataFrame:
    """Returns `recordings` with one label and one name per species, in secondary labels too."""
    other_roles = recordings["label"].map(names.label, na_action="ignore").astype("string")
    labels = names.labels.fillna(other_roles)
    accepted = labels.map(names.scientific_names).astype("string")
    texts = recordings["secondary_labels"].explode().dropna().drop_duplicates()
    cleaned = clean_text(texts).fillna("")
    secondary = {
        text: names.label(clean) for text, clean in zip(texts, cleaned, strict=True) if clean
    }
    named = recordings.assign(
        label=labels,
        scientific_name=accepted.fillna(recordings["scientific_name"]),
    )
    others = [
        _others(own, [secondary[text] for text in listed if text in secondary])
        for _, own, listed in _labels_of(named)
    ]
    return named.assign(secondary_labels=pd.Series(others, index=named.index, dtype="object"))


def _others(own: str | None, labels: Iterable[str]) -> list[str]:
    """Returns each of `labels` once, in their order, without the label `own`."""
    return [label for label in dict.fromkeys(labels) if label != own]


def _merge_listed_again(sieve: Sieve) -> None:
    """Drops all but the first row of each id, and gives their labels to the first."""
    listed = sieve.kept
    number = listed.groupby("recording_id").cumcount() + 1
    details = "row " + number.astype("string") + " of this id: " + listed["source"] + " "
    sieve.drop(number > 1, "listed_again", details + listed["url"])
    more: dict[str, list[str]] = {}
    for recording_id, own, others in _labels_of(listed[number > 1]):
        more.setdefault(recording_id, []).extend(others if own is None else [own, *others])
    merged = [
        _others(own, [*others, *more.get(recording_id, [])])
        for recording_id, own, others in _labels_of(sieve.kept)
    ]
    sieve.kept = sieve.kept.assign(
        secondary_labels=pd.Series(merged, index=sieve.kept.index, dtype="object")
    )


def _labels_of(recordings: pd.DataFrame) -> Iterator[tuple[str, str | None, list[str]]]:
    """Gives id, label and secondary labels of each row."""
    labels = (None if pd.isna(label) else label for label in recordings["label"])
    yield from zip(recordings["recording_id"], labels, recordings["secondary_labels"], strict=True)


def _targets(config: MetadataConfig, names: SpeciesNames, sieve: Sieve) -> set[str] | None:
    """Returns the labels of the species asked for; None when every species is."""
    if config.species is None:
        return None
    listed = set(names.labels.dropna())
    usable = set(sieve.kept.loc[sieve.is_focal, "label"])
    targets, unlisted, barred = set(), [], []
    for species in config.species:
        label = names.label(species)
        targets.add(label)
        if label not in listed:
            unlisted.append(species)
        elif label not in usable:
            barred.append(species)
    known = listed | set(names.scientific_names.values())
    faults = [f"no source lists {species!r}; {nearest(species, known)}" for species in unlisted]
    faults += [
        f"no recording of {species!r} passes; see metadata.licences and metadata.min_rating"
        for species in barred
    ]
    if not faults:
        return targets
    lines = [f"metadata.species: {fault}" for fault in faults[:_MOST_SHOWN]]
    if n_more := len(faults) - len(lines):
        lines.append(f"metadata.species: so it is with {n_more} more; null takes every species")
    raise ConfigError("\n".join(lines))


def _annotations(listed: list[pd.DataFrame], names: SpeciesNames) -> pd.DataFrame:
    """Returns all annotations by label; of rows that differ in their end only, the longest."""
    annotations = pd.concat([typed(rows, ANNOTATIONS.columns) for rows in listed])
    key = list(ANNOTATIONS.key)
    annotations["recording_id"] = clean_text(annotations["recording_id"])
    annotations["label"] = clean_text(annotations["label"]).map(names.label).astype("string")
    return annotations.groupby(key, as_index=False).agg(end_s=("end_s", "max"))


def _classes(focal: pd.DataFrame, names: SpeciesNames, targets: set[str] | None) -> pd.DataFrame:
    """Returns the classes table of `focal` recordings.

    Raises:
        ConfigError: There are none.
    """
    if focal.empty:
        raise ConfigError("metadata: no focal recording is left of those that the sources list")
    classes = focal.groupby("label", as_index=False).agg(
        common_name=("common_name", "first"),
        taxon_class=("taxon_class", "first"),
        n_recordings=("recording_id", "size"),
    )
    accepted = classes["label"].map(names.scientific_names).astype("string")
    classes["scientific_name"] = accepted.fillna(classes["label"])
    classes["target"] = True if targets is None else classes["label"].isin(targets)
    classes = classes.sort_values(["target", "label"], ascending=[False, True], ignore_index=True)
    return classes.assign(index=classes.index)[list(CLASSES.columns)]
