"""The user's own audio as a source: folders of files, or tables that name files.

Paths in every table are relative to the folder of that table. An id says role and path; the url
holds the SHA-256 of the content besides, so a file that changes is a new one to the pipeline.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from bclef.config import Section
from bclef.sources.census import Census, root_of, same_file
from bclef.sources.files import copy_verified, leaves_folder, main_workspace
from bclef.sources.protocol import (
    LISTED_ANNOTATIONS,
    LISTED_REJECTED,
    FetchError,
    Listing,
    SourceError,
    listed_frame,
)
from bclef.sources.sheets import DETAIL_COLUMNS, SheetRow, read_sheet

_URL = re.compile(r"folder:(?P<role>focal|soundscape|noise)/(?P<sha256>[0-9a-f]{64})/(?P<path>.+)")


class FolderConfig(Section):
    """Section `folder`: where the user's audio is.

    Paths are relative to the main workspace (`$DVC_ROOT`, else the working directory), absolute,
    or begin with `~`; null means there is none.
    """

    focal: str | None
    """Folder with one folder of recordings a species, named by label or scientific name; or a CSV
    with `path` and `label` or `scientific_name`."""
    soundscapes: str | None
    """Folder of soundscapes, at any depth; or a CSV with `path`."""
    annotations: str | None
    """CSV with `path,start_s,end_s,label`. A soundscape is annotated when this names it; a row with
    an empty label says that nobody sings in it."""
    noise: str | None
    """Folder of recordings without birds, at any depth; or a CSV with `path`."""
    details: str | None
    """CSV with `path` and whatever else is known of files found in folders."""


@dataclass(frozen=True)
class FolderSource:
    """Lists and copies the user's own recordings."""

    config: FolderConfig

    @property
    def name(self) -> str:
        """The source's name."""
        return "folder"

    @property
    def is_remote(self) -> bool:
        """False: copying fans out."""
        return False

    def list_recordings(self) -> Listing:
        """Returns every audio file of the three roles; what cannot be used is among `rejected`.

        Raises:
            SourceError: a path of the section is missing or unusable, or a folder has no audio.
        """
        if self.config.annotations and not self.config.soundscapes:
            raise SourceError("folder.annotations is given, but folder.soundscapes is null")
        census = Census(self._details())
        for role, place in self._places().items():
            census.count(role, place)
        annotations = census.annotate(self._place(self.config.annotations))
        rows = [row | {"source": self.name} for row in census.rows.values()]
        return Listing(
            listed_frame(rows),
            listed_frame(annotations, LISTED_ANNOTATIONS),
            listed_frame(census.rejected, LISTED_REJECTED),
        )

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Copies the file at `url` to `path`.

        Raises:
            FetchError: `unknown` url; the file is `gone`, `unreadable`, `too_large` or `changed`.
        """
        parts = _URL.fullmatch(url)
        place = self._places().get(parts["role"]) if parts else None
        relative = os.fsdecode(unquote_to_bytes(parts["path"])) if parts else ""
        if parts is None or place is None or leaves_folder(relative):
            raise FetchError("unknown", f"{url} is not of the folders that params name now")
        copy_verified(root_of(place) / relative, path, parts["sha256"], max_bytes)

    def _places(self) -> dict[str, Path]:
        """Returns the folder or table of each role that has one.

        Raises:
            SourceError: no role has one, or there is nothing at a path.
        """
        stated = {
            "focal": self.config.focal,
            "soundscape": self.config.soundscapes,
            "noise": self.config.noise,
        }
        places = {role: place for role, text in stated.items() if (place := self._place(text))}
        if not places:
            raise SourceError(
                "folder: focal, soundscapes and noise are all null; name one at least"
            )
        return places

    def _place(self, text: str | None) -> Path | None:
        if text is None:
            return None
        place = main_workspace() / Path(text).expanduser()
        if not place.exists():
            raise SourceError(
                f"folder: {text!r}: nothing at {place}; expected a folder or CSV file"
            )
        return place

    def _details(self) -> dict[str, SheetRow]:
        place = self._place(self.config.details)
        rows = read_sheet(place, DETAIL_COLUMNS, ()) if place else []
        return {same_file(row.path): row for row in rows}
