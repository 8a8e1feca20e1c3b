"""What a source adds to the words of the client that it asks through."""

from collections.abc import Iterator
from contextlib import contextmanager

from bclef.sources.protocol import SourceError, SourceStoppedError


@contextmanager
def naming_address(url: str, setting: str) -> Iterator[None]:
    """Lets errors of a source say which address was asked, and which param it comes from.

    Args:
        url: What is asked, without its query, in which a key may stand.
        setting: Dotted name of the param.

    Raises:
        SourceError: One that came from within.
        SourceStoppedError: Likewise.
    """
    try:
        yield
    except (SourceError, SourceStoppedError) as error:
        kind = SourceStoppedError if isinstance(error, SourceStoppedError) else SourceError
        raise kind(f"{error}; asked was {url}, see {setting}") from error
