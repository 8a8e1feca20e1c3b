"""The target classes of a run: which of the listed species are to be recognised."""

import logging
from collections.abc import Collection, Mapping

from bclef.config import ConfigError
from bclef.faults import nearest
from bclef.naming import SpeciesNames
from bclef.sources.protocol import Listing

_LOG = logging.getLogger(__name__)

_MOST_SHOWN = 5
"""Species that a message names."""


def target_labels(
    asked_for: tuple[str, ...] | str | None,
    listings: Mapping[str, Listing],
    names: SpeciesNames,
    usable: Collection[str],
) -> set[str] | None:
    """Returns the labels of the species asked for; None when every species is.

    Args:
        asked_for: What `metadata.species` says.
        listings: What each source lists, by its name.
        names: Labels of all names that they use.
        usable: Labels of the focal recordings that are left.

    Raises:
        ConfigError: A species asked for is not listed, or none of its recordings is left; or a
            source has no class list.
    """
    if asked_for is None:
        return None
    if isinstance(asked_for, str):
        return _classes_of_source(asked_for, listings, names, usable)
    listed = names.all_labels
    targets, unlisted, barred = set(), [], []
    for species in asked_for:
        label = names.label(species)
        targets.add(label)
        if label not in listed:
            unlisted.append(species)
        elif label not in usable:
            barred.append(species)
    known = listed | set(names.scientific_names.values())
    faults = [f"no source lists {species!r}; {nearest(species, known)}" for species in unlisted]
    faults += [
        f"no recording of {species!r} passes; see licences.allow and metadata.min_rating"
        for species in barred
    ]
    if not faults:
        return targets
    lines = [f"metadata.species: {fault}" for fault in faults[:_MOST_SHOWN]]
    if n_more := len(faults) - len(lines):
        lines.append(f"metadata.species: so it is with {n_more} more; null takes every species")
    raise ConfigError("\n".join(lines))


def _classes_of_source(
    source: str, listings: Mapping[str, Listing], names: SpeciesNames, usable: Collection[str]
) -> set[str]:
    """Returns those of a source's own classes that have `usable` recordings, of any source."""
    having = [name for name, listing in listings.items() if listing.classes is not None]
    if source not in having:
        raise ConfigError(
            f"metadata.species: found {source!r}, expected null, a list of species, or a source of "
            f"this run that has a class list: {', '.join(having) or 'none has'}"
        )
    labels = {names.label(each) for each in listings[source].classes or ()}
    if lacking := sorted(labels.difference(usable)):
        _LOG.warning(
            "metadata.species: %d of the %d classes of %s have no recording that may be used and "
            "are left out: %s%s",
            len(lacking), len(labels), source, ", ".join(lacking[:_MOST_SHOWN]),
            " ..." if len(lacking) > _MOST_SHOWN else "",
        )  # fmt: skip
    return labels.intersection(usable)
