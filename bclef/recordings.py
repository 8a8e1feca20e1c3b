"""The recordings of a run: what the sources listed, put into one form, filtered and capped.

Sources know their own formats; everything that must hold across sources happens here: accepted
names, one label per species, one row per id. The decision worth knowing: no row is lost silently.
Each row that a source listed is either in `recordings` or in `rejected`, with its reason.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
from pydantic import Field

from bclef.config import ConfigError, Section
from bclef.labelling import backgrounds_of, labelled, relabelled
from bclef.naming import SpeciesNames
from bclef.nomenclature import Taxonomy
from bclef.normal_forms import clean_text, in_one_form, typed
from bclef.sieve import REJECTED, CapBy, LicencesConfig, Sieve
from bclef.sources.protocol import Listing
from bclef.tables import Schema
from bclef.targets import target_labels
from bclef.taxonomy import CLASSES

_LOG = logging.getLogger(__name__)

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
"""Names that a warning shows."""

_NAMES = {"common_name": "string?", "taxon_class": "string?"}
"""Columns that a listing may have besides those of RECORDINGS; they go to the classes table."""


class MetadataConfig(Section):
    """Section `metadata`: which recordings a run uses."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Names of the sources, in order: of an id that two sources list, the first one's row stays."""
    species: Annotated[tuple[str, ...], Field(min_length=1)] | str | None
    """Labels or scientific names of the target classes, however rare; or the name of a source whose
    own class list they are, such as `competition` (the first one's); null takes every species."""
    keep_others: bool
    """Whether species outside `species` are kept, for pretraining only."""
    min_recordings: int = Field(ge=1)
    """Fewest recordings of a species that `species` does not ask for."""
    max_recordings: int | None = Field(ge=1)
    """Most recordings of one species; those of the first source stay first. Null: no limit."""
    cap_by: CapBy
    """Which of a source's recordings stay under that limit: best rated, newest, or those listed
    first, which of several competitions are those of the first; then by id."""
    min_rating: float = Field(ge=0, le=5)
    """Lowest rating, 0 to 5; unrated recordings are always kept."""
    drop_same_event: bool
    """Whether a recording goes that the same person made of the same species on the same day as
    one of another collection, where both state their length or place and it agrees (1 s, 0.02
    degrees), and the other does not differ."""


@dataclass(frozen=True)
class Metadata:
    """The tables of the metadata stage; see the schema constants for their columns."""

    recordings: pd.DataFrame
    classes: pd.DataFrame
    rejected: pd.DataFrame
    annotations: pd.DataFrame
    species_names: pd.DataFrame

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
            "n_unmapped_names": self.unmapped_names().size,
        }

    def unmapped_names(self) -> pd.Series:
        """Returns the names that the eBird taxonomy lacks, sorted; none if there is no such."""
        is_unmapped = self.species_names["how"] == "unmapped"
        return self.species_names.loc[is_unmapped, "label"].drop_duplicates().sort_values()


def build_recordings(
    listings: Mapping[str, Listing],
    config: MetadataConfig,
    licences: LicencesConfig,
    taxonomy: Taxonomy,
) -> Metadata:
    """Returns the tables of recordings, classes, rejected rows, annotations and names of a run.

    A row under another licence than `licences` allows gives nothing to the recordings: no labels to
    another row of its id, and no first place before it either.

    Args:
        listings: What each source lists, by its name, in the order of preference.
        config: What to keep.
        licences: Under which terms.
        taxonomy: Accepted scientific names, and codes.

    Raises:
        ConfigError: A species asked for is not listed, or none of its recordings may be kept.
    """
    listed = in_one_form(
        [listing.recordings for listing in listings.values()], {**RECORDINGS.columns, **_NAMES}
    )
    names = SpeciesNames(listed[listed["role"] == "focal"], taxonomy)
    annotations = _annotations(listings)
    backgrounds = backgrounds_of(listed)
    sieve = Sieve(labelled(listed, backgrounds, names))
    sieve.drop_unusable()
    sieve.drop_licences(licences)
    sieve.drop_listed_again()
    sieve.drop_low_rated(config.min_rating)
    if config.drop_same_event:
        sieve.drop_same_event(config.sources)
    usable = set(sieve.kept.loc[sieve.is_focal, "label"])
    targets = target_labels(config.species, listings, names, usable)
    _choose(sieve, config, targets)
    stated = [
        typed(listing.rejected.assign(source=source), REJECTED.columns)
        for source, listing in listings.items()
    ]
    metadata = Metadata(
        recordings=_by_key(sieve.kept, RECORDINGS),
        classes=_classes(sieve.kept[sieve.is_focal], names, targets),
        rejected=_rejected([*stated, *sieve.dropped]),
        annotations=_annotations_by_label(annotations, names, sieve.kept["recording_id"]),
        species_names=names.table(_mentioned(backgrounds, annotations)),
    )
    if (unmapped := metadata.unmapped_names()).size:
        _LOG.warning(
            "the eBird taxonomy lacks %d names, which are labels as they stand: %s ...; %s",
            unmapped.size,
            ", ".join(unmapped[:_MOST_SHOWN]),
            "data/species_names.parquet lists them, taxonomy.synonyms takes other names for them",
        )
    return metadata


def _choose(sieve: Sieve, config: MetadataConfig, targets: set[str] | None) -> None:
    """Drops what is not asked for, what is too rare, and what is too much."""
    if targets is not None and not config.keep_others:
        sieve.drop_others(targets)
    sieve.drop_rare(config.min_recordings, targets or set())
    if config.max_recordings is not None:
        sieve.drop_over_cap(config.max_recordings, config.cap_by, config.sources[0])


def _by_key(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Returns the columns of `schema`, sorted by its key, the first of rows with one key only."""
    unique = rows[list(schema.columns)].drop_duplicates(list(schema.key))
    return unique.sort_values(list(schema.key)).reset_index(drop=True)


def _rejected(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Returns the rows of all parts; of equal ones all but the first are numbered, none is lost."""
    rows = pd.concat(parts, ignore_index=True)
    number = rows.groupby(list(REJECTED.key)).cumcount() + 1
    numbered = rows["detail"] + " (row " + number.astype("string") + " of this kind)"
    return _by_key(rows.assign(detail=rows["detail"].mask(number > 1, numbered)), REJECTED)


def _annotations(listings: Mapping[str, Listing]) -> pd.DataFrame:
    """Returns all annotations as listed, with their source."""
    rows = pd.concat(
        [
            typed(listing.annotations, ANNOTATIONS.columns).assign(source=name)
            for name, listing in listings.items()
        ],
        ignore_index=True,
    )
    return rows.assign(
        recording_id=clean_text(rows["recording_id"]), label=clean_text(rows["label"])
    )


def _annotations_by_label(
    annotations: pd.DataFrame, names: SpeciesNames, kept_ids: pd.Series
) -> pd.DataFrame:
    """Returns those of kept recordings; of rows that differ in their end only, the longest."""
    kept = annotations[annotations["recording_id"].isin(kept_ids)]
    kept = kept.assign(label=relabelled(kept["label"], names))
    longest = kept.groupby(list(ANNOTATIONS.key), as_index=False).agg(end_s=("end_s", "max"))
    return _by_key(longest, ANNOTATIONS)


def _mentioned(backgrounds: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """Returns how many recordings mention each name besides their own, by source and place."""
    columns = {"recording_id": "row", "label": "text"}
    places = {"background": backgrounds, "annotation": annotations.rename(columns=columns)}
    rows = pd.concat([rows.assign(place=place) for place, rows in places.items()])
    return rows.groupby(["source", "place", "text"], as_index=False).agg(
        n_recordings=("row", "nunique")
    )


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
