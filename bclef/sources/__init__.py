"""Sources of recordings: each lists what it has and fetches one recording at a time."""

from collections.abc import Callable, Iterable

from bclef.config import ConfigError, Params
from bclef.sources.aviary import DemoConfig
from bclef.sources.demo import DemoSource
from bclef.sources.folder import FolderConfig, FolderSource
from bclef.sources.protocol import FetchError, Listing, Source, SourceError

__all__ = ["FetchError", "Listing", "Source", "SourceError", "open_sources"]


def open_sources(names: Iterable[str], params: Params) -> dict[str, Source]:
    """Returns the sources called `names`, in that order, each with its own section of `params`.

    Args:
        names: among `demo` and `folder`.
        params: holds the sections of the sources asked for; others need not be there.

    Raises:
        ConfigError: there is no such source, or its section is at fault.
    """
    openers: dict[str, Callable[[], Source]] = {
        "demo": lambda: DemoSource(params.section(DemoConfig, "demo")),
        "folder": lambda: FolderSource(params.section(FolderConfig, "folder")),
    }
    wanted = list(names)
    if unknown := [name for name in wanted if name not in openers]:
        raise ConfigError(f"no source is called {unknown[0]!r}; there are {', '.join(openers)}")
    return {name: openers[name]() for name in wanted}
