"""The demo aviary as a source: invented birds, rendered when they are fetched."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from bclef.codehash import fingerprint
from bclef.sources.aviary import DemoConfig, Item
from bclef.sources.encoding import write_recording
from bclef.sources.protocol import LISTED_REJECTED, FetchError, Listing, listed_frame
from bclef.sources.world import plan_world

RENDERING = tuple(
    f"bclef.sources.{name}" for name in ("oscillator", "birdsong", "ambience", "scene", "encoding")
)
"""Modules that turn a plan into bytes; what they are is part of every url."""


@cache
def _code() -> str:
    return fingerprint(*RENDERING)


@dataclass(frozen=True)
class DemoSource:
    """Lists a planted world and renders its recordings.

    A recording's url names the rendering code and all that decides its sound, so it changes
    whenever the sound would, and only then.
    """

    config: DemoConfig

    @property
    def name(self) -> str:
        """The source's name."""
        return "demo"

    @property
    def is_remote(self) -> bool:
        """False: rendering fans out."""
        return False

    def list_recordings(self) -> Listing:
        """Returns every recording of the world, planted faults among them."""
        world = plan_world(self.config)
        rows = [item.row | {"source": self.name, "url": self._url(item)} for item in world.items]
        return Listing(
            listed_frame(rows), world.annotations.copy(), listed_frame([], LISTED_REJECTED)
        )

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Renders the recording at `url` into `path`; the bytes are the same in every process.

        Raises:
            FetchError: `gone` for the recording that was announced in vain; `unknown` for a url
                of another world or of other rendering code.
        """
        del max_bytes  # nothing that the demo renders is large
        wanted = PurePosixPath(url).stem
        items = {item.row["recording_id"]: item for item in plan_world(self.config).items}
        item = items.get(wanted)
        if item is None or url != self._url(item):
            raise FetchError("unknown", f"{url} is not of the demo world that params describe now")
        if item.plan.damage == "gone":
            raise FetchError("gone", f"{url} was announced, but there is nothing to be had")
        write_recording(item.plan, self.config.nature(), path)

    def _url(self, item: Item) -> str:
        what = repr((self.config.nature(), item.plan)).encode()
        digest = hashlib.sha256(what).hexdigest()[:16]
        return f"demo://{_code()}/{digest}/{item.row['recording_id']}{item.plan.suffix}"
