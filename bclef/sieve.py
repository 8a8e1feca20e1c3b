"""Which listed recordings a run keeps: rule by rule, each dropped row with its reason."""

from collections.abc import Collection

import pandas as pd

from bclef.normal_forms import Licence, without_version

_ROLES = ("focal", "soundscape", "noise")


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
        out = self.kept.loc[chosen, ["recording_id"]]
        self.dropped.append(out.assign(stage="metadata", reason=reason, detail=details[chosen]))
        self.kept = self.kept[~chosen]

    def drop_unusable(self, licences: Collection[Licence] | None, min_rating: float) -> None:
        """Drops what no run can use, and what this one does not accept by licence or rating."""
        role = self.kept["role"]
        self.drop(~role.isin(_ROLES), "unknown_role", "role " + role)
        label = self.kept["label"].fillna("neither label nor scientific name")
        self.drop(self.is_focal & self.kept["label"].isna(), "no_label", label)
        licence = self.kept["licence"]
        if licences is not None:
            self.drop(~licence.map(without_version).isin(licences), "licence", licence)
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

    def drop_over_cap(self, max_recordings: int) -> None:
        """Drops all but the best rated `max_recordings` of each species; of equals the later id."""
        focal = self.kept[self.is_focal]
        best_first = focal.assign(rating=focal["rating"].fillna(0)).sort_values(
            ["rating", "recording_id"], ascending=[False, True]
        )
        rank = (best_first.groupby("label").cumcount() + 1).reindex(self.kept.index)
        details = self.kept["label"] + ": place " + _whole(rank) + " by rating"
        self.drop(rank > max_recordings, "species_over_cap", details)


def _whole(numbers: pd.Series) -> pd.Series:
    """Returns whole `numbers` as text; null stays null."""
    return numbers.astype("Int64").astype("string")
