"""The planted world of the demo, faults included. Pure and quick: nothing is rendered here.

The truth of every planted fault is in `World.truth`: tests can ask whether the pipeline found it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pandas as pd

from bclef.sources.aviary import DemoConfig, Item, recording_id
from bclef.sources.birdsong import random_stream
from bclef.sources.encoding import Damage, FileFormat
from bclef.sources.focal import focal_item, focal_items
from bclef.sources.people import Recordist, plan_recordists
from bclef.sources.protocol import LISTED_ANNOTATIONS, listed_frame
from bclef.sources.scene import songs
from bclef.sources.soundscapes import noise_items, soundscape_items
from bclef.sources.taxa import TAXA, Taxon

_DAMAGES: tuple[tuple[Damage, FileFormat], ...] = (
    ("silent", FileFormat("wav", 44_100, "mono", -1.0)),
    ("silent", FileFormat("mp3", 48_000, "mono", -1.0)),
    ("truncated", FileFormat("wav", 48_000, "mono", -3.0)),
    ("truncated", FileFormat("wav", 44_100, "stereo", -6.0)),
    ("html", FileFormat("mp3", 44_100, "mono", -1.0)),
    ("garbage", FileFormat("wav", 44_100, "mono", -1.0)),
    ("gone", FileFormat("mp3", 44_100, "mono", -1.0)),
)
"""One extra recording for each."""
_COPY_FORMATS = (
    FileFormat("mp3", 48_000, "mono", -7.0),
    FileFormat("wav", 22_050, "mono", -2.0),
    FileFormat("flac", 44_100, "mono", -12.0),
    FileFormat("wav", 32_000, "mono", -1.0),
)
"""One re-encoded copy for each."""


@dataclass(frozen=True)
class World:
    """All that there is to know about a demo world."""

    items: tuple[Item, ...]
    """Every recording that is announced."""
    annotations: pd.DataFrame
    """Who sings when in the annotated soundscapes, columns `protocol.LISTED_ANNOTATIONS`."""
    truth: pd.DataFrame
    """Planted faults, one row each: `recording_id`, `fault`, `of` (a copy's original), `detail`."""


@lru_cache(maxsize=4)
def plan_world(config: DemoConfig) -> World:
    """Returns the world that `config` asks for, with every kind of fault planted in it."""
    recordists = plan_recordists(config.seed, config.n_recordists)
    focal = focal_items(config, recordists)
    draft = _Draft(config, recordists, {str(item.row["recording_id"]): item for item in focal})
    draft.plant()
    soundscapes = soundscape_items(config)
    return World(
        (*draft.items.values(), *soundscapes, *noise_items(config, recordists)),
        _annotations(config, soundscapes),
        pd.DataFrame(
            draft.truth, columns=["recording_id", "fault", "of", "detail"], dtype="string"
        ),
    )


def _annotations(config: DemoConfig, soundscapes: list[Item]) -> pd.DataFrame:
    """Returns one row a song in the annotated soundscapes."""
    label_of = {taxon.species: taxon.label for taxon in TAXA}
    rows = [
        {
            "recording_id": item.row["recording_id"],
            "start_s": round(song.start_s, 3),
            "label": label_of[song.bird.species],
            "end_s": round(song.end_s, 3),
        }
        for item in soundscapes
        if item.row["annotated"]
        for song in songs(item.plan.scene, config.nature())
    ]
    return listed_frame(rows, LISTED_ANNOTATIONS)


@dataclass
class _Draft:
    """Focal recordings in which faults are being planted."""

    config: DemoConfig
    recordists: list[Recordist]
    items: dict[str, Item]
    truth: list[tuple[str, str, str | None, str]] = field(default_factory=list)

    def plant(self) -> None:
        """Plants every kind of fault; no recording of its own bears two of them."""
        victims = self._victims()
        self._mislabel(victims)
        self._rename()
        self._rewire(victims)
        self._copy_exactly(victims)
        self._reencode(victims)
        self._damage()

    def _victims(self) -> Iterator[Item]:
        """Yields target recordings in a random order; those of renamed species are left alone."""
        labels = {taxon.label for taxon in TAXA if taxon.is_target and not taxon.old_name}
        ids = sorted(key for key, item in self.items.items() if item.row["label"] in labels)
        order = random_stream(self.config.seed, "victims").permutation(len(ids))
        return iter([self.items[ids[int(k)]] for k in order])

    def _note(self, item: Item, fault: str, detail: str, of: Item | None = None) -> None:
        original = None if of is None else str(of.row["recording_id"])
        self.truth.append((str(item.row["recording_id"]), fault, original, detail))

    def _put(self, item: Item) -> Item:
        self.items[str(item.row["recording_id"])] = item
        return item

    def _mislabel(self, victims: Iterator[Item]) -> None:
        labels = {taxon.label for taxon in TAXA if taxon.is_target}
        n_targets = sum(item.row["label"] in labels for item in self.items.values())
        for _ in range(max(1, round(self.config.wrong_label_share * n_targets))):
            item = next(victims)
            wrong = self._put(replace(item, row=item.row | _names(_relative(item))))
            self._note(wrong, "wrong_label", f"is {item.row['label']}")

    def _rename(self) -> None:
        """Gives every second recording of a renamed species its old name and label."""
        for taxon in TAXA:
            if taxon.old_name is None:
                continue
            ids = sorted(k for k, item in self.items.items() if item.row["label"] == taxon.label)
            old = {"label": taxon.old_label, "scientific_name": taxon.old_name}
            for key in ids[::2]:
                renamed = self._put(replace(self.items[key], row=self.items[key].row | old))
                self._note(renamed, "renamed_taxon", f"is {taxon.scientific_name}")

    def _rewire(self, victims: Iterator[Item]) -> None:
        """Makes one recording whose channels cancel out and one with a dead channel."""
        for layout in ("inverted_channel", "silent_channel"):
            item = next(victims)
            form = FileFormat("wav", 44_100, layout, -3.0)
            wired = self._put(replace(item, plan=replace(item.plan, file=form)))
            self._note(wired, layout, "channel 1 is the good one")

    def _copy_exactly(self, victims: Iterator[Item]) -> None:
        """Uploads four recordings again: two by others, one of those under another label."""
        for number in range(4):
            item = next(victims)
            row = item.row | {"recording_id": recording_id("exact copy", number)}
            if number >= 2:
                row |= self._uploader(item)
            if number == 3:
                row |= _names(_relative(item))
            copy = self._put(replace(item, row=row))
            self._note(copy, "exact_duplicate", "the same bytes", item)
            if number == 3:
                self._note(copy, "wrong_label", f"is {item.row['label']}")

    def _uploader(self, item: Item) -> dict[str, object]:
        """Returns the metadata of a recordist who is not the one of `item`."""
        others = [person for person in self.recordists if person.name != item.row["recordist"]]
        return others[0].row(others[0].sites[0], random_stream(self.config.seed, "uploader"))

    def _reencode(self, victims: Iterator[Item]) -> None:
        for number, form in enumerate(_COPY_FORMATS):
            item = next(victims)
            row = item.row | {"recording_id": recording_id("re-encoded copy", number)}
            copy = self._put(Item(row, replace(item.plan, reencoded=form)))
            detail = f"{form.container} at {form.sample_rate_hz} Hz"
            self._note(copy, "reencoded_duplicate", detail, item)

    def _damage(self) -> None:
        """Adds recordings that cannot be used, or not wholly, one for each of `_DAMAGES`."""
        targets = [taxon for taxon in TAXA if taxon.is_target and not taxon.old_name]
        for number, (damage, form) in enumerate(_DAMAGES):
            taxon = targets[number]
            item = focal_item(self.config, self.recordists, taxon, f"damaged {number}")
            item = self._put(replace(item, plan=replace(item.plan, file=form, damage=damage)))
            self._note(item, "corrupt" if damage in ("html", "garbage") else damage, damage)


def _names(taxon: Taxon) -> dict[str, object]:
    return {
        "label": taxon.label,
        "scientific_name": taxon.scientific_name,
        "common_name": taxon.common_name,
    }


def _relative(item: Item) -> Taxon:
    """Returns another target species of the genus of `item`."""
    taxon = next(taxon for taxon in TAXA if taxon.label == item.row["label"])
    kin = [t for t in TAXA if t.is_target and t.species[0] == taxon.species[0]]
    return kin[(kin.index(taxon) + 1) % len(kin)]
