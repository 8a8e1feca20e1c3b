"""Sources of recordings: each lists what it has and fetches one recording at a time."""

from collections.abc import Callable, Iterable
from pathlib import Path

from bclef.config import ConfigError, Params
from bclef.sources.aviary import DemoConfig
from bclef.sources.competition import CompetitionConfig, CompetitionSource
from bclef.sources.demo import DemoSource
from bclef.sources.folder import FolderConfig, FolderSource
from bclef.sources.http import HttpConfig
from bclef.sources.inaturalist import INaturalistConfig, INaturalistSource
from bclef.sources.protocol import FetchError, Listing, Source, SourceError, SourceStoppedError
from bclef.sources.xeno_canto import XenoCantoConfig, XenoCantoSource
from bclef.taxonomy import Synonyms

__all__ = ["FetchError", "Listing", "Source", "SourceError", "SourceStoppedError", "open_sources"]


def open_sources(
    names: Iterable[str], params: Params, store_root: Path, synonyms: Synonyms | None = None
) -> dict[str, Source]:
    """Returns the sources called `names`, in that order, each with its own section of `params`.

    Args:
        names: among `demo`, `folder`, `xeno_canto`, `inaturalist` and `competition`.
        params: holds the sections of the sources asked for; others need not be there.
        store_root: the audio store, where searches and downloads are kept between runs.
        synonyms: under which other names a species is searched for; for listing only.

    Raises:
        ConfigError: there is no such source, or its section is at fault.
    """
    searches, known = store_root / "searches", synonyms or Synonyms({})
    openers: dict[str, Callable[[], Source]] = {
        "demo": lambda: DemoSource(params.section(DemoConfig, "demo")),
        "folder": lambda: FolderSource(params.section(FolderConfig, "folder")),
        "xeno_canto": lambda: XenoCantoSource(
            params.section(XenoCantoConfig, "xeno_canto"),
            params.section(HttpConfig, "http"),
            searches,
            known,
        ),
        "inaturalist": lambda: INaturalistSource(
            params.section(INaturalistConfig, "inaturalist"),
            params.section(HttpConfig, "http"),
            searches,
            known,
        ),
        "competition": lambda: CompetitionSource(params.section(CompetitionConfig, "competition")),
    }
    wanted = list(names)
    if unknown := [name for name in wanted if name not in openers]:
        raise ConfigError(f"no source is called {unknown[0]!r}; there are {', '.join(openers)}")
    return {name: openers[name]() for name in wanted}
