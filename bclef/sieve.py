"""Which listed recordings a run keeps: rule by rule, each dropped row with its reason."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Literal, get_args

import pandas as pd
from pydantic import AfterValidator, Field

from bclef.config import Section
from bclef.events import same_events
from bclef.normal_forms import Licence, licence_form, without_version
from bclef.tables import Schema

CapBy = Literal["rating", "newest", "listed"]
_ROLES = ("focal", "soundscape", "noise")

REJECTED = Schema(
    name="rejected",
    key=("recording_id", "reason", "detail"),
    columns={
        "recording_id": "string",
        "source": "string",
        "stage": "string",
        "reason": "string",
        "detail": "string",
    },
)
"""An id that was listed twice is in `recordings` once and here once: the id alone is no key."""


def _known_form(text: str) -> str:
    """Returns the normal form of a licence in params, where a slip of the pen must not pass."""
    form = licence_form(text)
    if form == "unknown" and text.strip().lower() != "unknown":
        known = ", ".join(get_args(Licence))
        raise ValueError(f"{text!r} is no licence; known are {known}, a version may follow")
    return form


class LicencesConfig(Section):
    """Section `licences`: under which terms recordings may come in."""

    allow: (
        Annotated[tuple[Annotated[str, AfterValidator(_known_form)], ...], Field(min_length=1)]
        | None
    )
    """Licences that the run accepts, in any spelling; `CC-BY` is every version of it, `CC-BY-4.0`
    that one. A licence that is not known is out unless `unknown` stands here. Null accepts all."""

    def accepts(self, form: str) -> bool:
        """Returns whether recordings of the licence `form`, from `licence_form`, may come in."""
        return self.allow is None or form in self.allow or without_version(form) in self.allow


class Sieve:
    """The recordings that are still in, and those that are out with their reasons.

    Args:
        recordings: In one form (see `normal_forms.in_one_form`), with a unique index.
    """

    def __init__(self, recordings: pd.DataFrame) -> None:
        self.kept = recordings
        """Rows that are still in."""
        self.dropped: list[pd.DataFrame] = []
        """The others, rule by rule, with the columns of REJECTED."""

    @property
    def is_focal(self) -> pd.Series:
        """Whether each row of `kept` is a focal recording: only those are chosen by species."""
        return self.kept["role"] == "focal"

    def drop(self, is_out: pd.Series, reason: str, details: pd.Series) -> None:
        """Moves the rows where `is_out` is true from `kept` to `dropped`; null is false."""
        chosen = is_out.fillna(False).astype(bool)
        out = self.kept.loc[chosen, ["recording_id", "source"]]
        self.dropped.append(out.assign(stage="metadata", reason=reason, detail=details[chosen]))
        self.kept = self.kept[~chosen]

    def drop_copies(self, originals: pd.Series, reason: str, details: pd.Series) -> None:
        """Drops the rows that repeat another, whose secondary labels theirs join.

        Args:
            originals: Id of the row that each one repeats, and which stays; null where none.
            reason: As for `drop`.
            details: As for `drop`.
        """
        is_copy = originals.notna()
        copies = self.kept[is_copy]
        self.drop(is_copy, reason, details)
        more: dict[str, list[str]] = {}
        for original, (_, own, others) in zip(originals[is_copy], labels_of(copies), strict=True):
            more.setdefault(original, []).extend(others if own is None else [own, *others])
        if more:
            merged = [
                other_labels(own, [*others, *more.get(recording_id, [])])
                for recording_id, own, others in labels_of(self.kept)
            ]
            secondary = pd.Series(merged, self.kept.index, "object")
            self.kept = self.kept.assign(secondary_labels=secondary)

    def drop_listed_again(self) -> None:
        """Drops all but the first row of each id."""
        recording_id = self.kept["recording_id"]
        number = recording_id.groupby(recording_id).cumcount() + 1
        details = "row " + number.astype("string") + " of this id: " + self.kept["source"] + " "
        originals = recording_id.where(number > 1)
        self.drop_copies(originals, "listed_again", details + self.kept["url"])

    def drop_same_event(self, sources: Sequence[str]) -> None:
        """Drops what one person seems to have uploaded to a collection of a later source too."""
        originals = same_events(self.kept[self.is_focal], sources).reindex(self.kept.index)
        self.drop_copies(originals, "same_event", "kept as " + originals)

    def drop_unusable(self) -> None:
        """Drops what no run can use: without an id, of an unknown role, focal without any name."""
        recording_id, source = self.kept["recording_id"], self.kept["source"]
        self.kept = self.kept.assign(recording_id=recording_id.fillna(source + "/unnamed"))
        self.drop(recording_id.isna(), "no_id", self.kept["url"].fillna("neither id nor url"))
        role = self.kept["role"]
        self.drop(~role.isin(_ROLES), "unknown_role", "role " + role)
        label = self.kept["label"].fillna("neither label nor scientific name")
        self.drop(self.is_focal & self.kept["label"].isna(), "no_label", label)

    def drop_licences(self, config: LicencesConfig) -> None:
        """Drops, in every role, what is not under a licence that the run accepts."""
        if config.allow is None:
            return
        licence = self.kept["licence"]
        accepted = {form for form in licence.unique() if config.accepts(form)}
        self.drop(~licence.isin(accepted), "licence", licence)

    def drop_low_rated(self, min_rating: float) -> None:
        """Drops focal recordings rated lower than `min_rating`; unrated ones stay."""
        rating = self.kept["rating"]
        is_low = self.is_focal & (rating > 0) & (rating < min_rating)
        self.drop(is_low, "low_rating", "rated " + rating.astype("string"))

    def drop_others(self, targets: Collection[str]) -> None:
        """Drops the focal recordings of species that are not in `targets`."""
        label = self.kept["label"]
        self.drop(self.is_focal & ~label.isin(targets), "species_not_asked_for", label)

    def drop_rare(self, min_recordings: int, targets: Collection[str]) -> None:
        """Drops species with fewer than `min_recordings`, but for those in `targets`."""
        label = self.kept["label"].where(self.is_focal)
        n_rows = label.map(label.value_counts())
        is_rare = ~label.isin(targets) & (n_rows < min_recordings)
        self.drop(is_rare, "species_too_rare", label + ": " + _whole(n_rows) + " recordings")

    def drop_over_cap(self, max_recordings: int, cap_by: CapBy, primary: str) -> None:
        """Drops all but `max_recordings` of each species: of source `primary` last of all.

        Args:
            max_recordings: How many stay.
            cap_by: Which come first within a source: the best rated, the newest, or those that it
                lists first; of equals the lowest id.
            primary: Name of the source that the others only add to.
        """
        order = {
            "rating": self.kept["rating"].fillna(0),
            "newest": self.kept["recorded_on"],
            "listed": pd.Series(range(len(self.kept), 0, -1), self.kept.index),
        }
        focal = self.kept.assign(is_primary=self.kept["source"] == primary, order=order[cap_by])[
            self.is_focal
        ]
        best_first = focal.sort_values(
            ["is_primary", "order", "recording_id"], ascending=[False, False, True]
        )
        rank = (best_first.groupby("label").cumcount() + 1).reindex(self.kept.index)
        details = self.kept["label"] + ": place " + _whole(rank) + f" by {cap_by}"
        self.drop(rank > max_recordings, "species_over_cap", details)


def labels_of(recordings: pd.DataFrame) -> Iterator[tuple[str, str | None, list[str]]]:
    """Gives id, label and secondary labels of each row."""
    labels = (None if pd.isna(label) else label for label in recordings["label"])
    yield from zip(recordings["recording_id"], labels, recordings["secondary_labels"], strict=True)


def other_labels(own: str | None, labels: Iterable[str]) -> list[str]:
    """Returns each of `labels` once, in their order, without the label `own`."""
    return [label for label in dict.fromkeys(labels) if label != own]


def _whole(numbers: pd.Series) -> pd.Series:
    """Returns whole `numbers` as text; null stays null."""
    return numbers.astype("Int64").astype("string")
