"""A local stand-in for Xeno-canto's API v3, with faults that can be switched on.

It was written from a description of the real API alone, without a look at the client in `bclef`.
`python -m tests.xeno_canto_server --help` starts it by hand; in a test:

    world = make_world(seed=1, species=["Turdus merula"], recordings=30)
    with serve(world, Faults(trouble=(Trouble("503", every=7),))) as server:
        ...  # ask server.base_url with key=local-key
        assert server.transfers[world.recordings[0].number] == 1
"""

from tests.xeno_canto_server.faults import CALM, Faults, Trouble
from tests.xeno_canto_server.handler import Request
from tests.xeno_canto_server.server import Server, serve
from tests.xeno_canto_server.world import Recording, World, make_world

__all__ = [
    "CALM",
    "Faults",
    "Recording",
    "Request",
    "Server",
    "Trouble",
    "World",
    "make_world",
    "serve",
]
