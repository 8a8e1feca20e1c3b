"""BirdCLEF competitions as a source: several years at once, of which the first named wins."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, unquote_to_bytes

import pandas as pd
from pydantic import Field

from bclef.config import Section
from bclef.sources.competition_layouts import Competition, layout_of
from bclef.sources.competition_rows import SOURCE, list_focal
from bclef.sources.competition_soundscapes import list_soundscapes
from bclef.sources.files import copy_bounded, leaves_folder, main_workspace, plain_name
from bclef.sources.kaggle import find_competition, obtain_competition
from bclef.sources.protocol import FetchError, Listing, SourceError

_URL = re.compile(r"competition:(?P<name>[^/]+)/(?P<n_bytes>\d{1,18})/(?P<path>.+)")
_PAGE = "https://www.kaggle.com/competitions/"


class CompetitionConfig(Section):
    """Section `competition`: which competitions' data is used, and where it lies.

    Of a recording that several hold, the first one's row stays: folders in order, then slugs.
    """

    folders: tuple[str, ...] | None
    """Folders of competitions, relative to the main workspace (`$DVC_ROOT`, else the working
    directory), absolute, or beginning with `~`."""
    slugs: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], ...] | None
    """Competitions by their name on Kaggle, such as birdclef-2025, found where Kaggle's tools put
    them or in `data/store/competitions`."""
    download: bool
    """Whether a slug that is not on this machine may be downloaded with the `kaggle` command."""
    soundscapes: bool
    """Whether soundscapes are listed besides focal recordings."""


@dataclass(frozen=True)
class CompetitionSource:
    """Lists and copies the recordings of competitions."""

    config: CompetitionConfig

    @property
    def name(self) -> str:
        """The source's name."""
        return SOURCE

    @property
    def is_remote(self) -> bool:
        """False: copying fans out; a download comes before the listing, as a whole."""
        return False

    def list_recordings(self) -> Listing:
        """Returns the recordings of every competition; what cannot be used is among `rejected`.

        The classes are those of the first one.

        Raises:
            SourceError: nothing is named, a folder has no known layout, two have one name, a table
                cannot be read, or a slug is not here and cannot be had.
        """
        for slug in self.config.slugs or ():
            obtain_competition(slug, _store(), self.config.download)
        competitions = self._competitions()
        if not competitions:
            raise SourceError("competition: folders and slugs are both null or empty; name one")
        for competition in competitions.values():
            layout_of(competition.root)
        listings = [list_focal(competition) for competition in competitions.values()]
        if self.config.soundscapes:
            listings += [list_soundscapes(competition) for competition in competitions.values()]
        return Listing(
            pd.concat([listing.recordings for listing in listings], ignore_index=True),
            pd.concat([listing.annotations for listing in listings], ignore_index=True),
            pd.concat([listing.rejected for listing in listings], ignore_index=True),
            listings[0].classes,
        )

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Copies the file at `url` to `path`.

        Raises:
            FetchError: `unknown` url; or a file `gone`, `unreadable`, `too_large` or `changed`.
        """
        parts = _URL.fullmatch(url)
        competition = self._competitions().get(unquote(parts["name"])) if parts else None
        relative = os.fsdecode(unquote_to_bytes(parts["path"])) if parts else ""
        if parts is None or competition is None or leaves_folder(relative):
            raise FetchError("unknown", f"{url} is of no competition that params name now")
        source = competition.root / relative
        n_bytes = copy_bounded(source, path, max_bytes)
        if n_bytes != int(parts["n_bytes"]):
            path.unlink()
            raise FetchError(
                "changed", f"{source}: {n_bytes} bytes, listed as {parts['n_bytes']}; list it again"
            )

    def _competitions(self) -> dict[str, Competition]:
        """Returns the competitions that are here, by name, folders first.

        Raises:
            SourceError: two different folders have one name.
        """
        workspace = main_workspace()
        found = [
            Competition(plain_name(folder.name), folder, None)
            for text in self.config.folders or ()
            for folder in [Path(os.path.abspath(workspace / Path(text).expanduser()))]  # noqa: PTH100  a link's own name counts
        ]
        found += [
            Competition(slug, place, _PAGE + slug)
            for slug in self.config.slugs or ()
            if (place := find_competition(slug, _store()))
        ]
        by_name: dict[str, Competition] = {}
        for competition in found:
            first = by_name.setdefault(competition.name, competition)
            if first.root.resolve() != competition.root.resolve():
                raise SourceError(
                    f"competition: {first.root} and {competition.root} have one name, which would "
                    "mix up their recordings; rename one, or name a link to it"
                )
        return by_name


def _store() -> Path:
    """Returns the folder of downloaded competitions."""
    return main_workspace() / "data" / "store" / "competitions"
