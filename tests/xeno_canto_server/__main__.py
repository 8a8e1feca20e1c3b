"""Runs the server by hand, to try the source `xeno_canto` without a key."""

import errno
import json
import logging
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import click

from tests.xeno_canto_server.faults import CALM, Faults, with_setting
from tests.xeno_canto_server.server import Server, serve
from tests.xeno_canto_server.world import World, make_world


@click.command()
@click.option("--port", default=8765, show_default=True, help="0 takes any free one.")
@click.option("--species", multiple=True, help="A scientific name. Without any, twelve invented.")
@click.option("--recordings", default=20, show_default=True, help="Recordings of each species.")
@click.option("--grown", default=0, show_default=True, help="More of each, uploaded today.")
@click.option("--strays", default=2, show_default=True, help="Unknown birds; and soundscapes.")
@click.option("--seed", default=1, show_default=True, help="Draws recordings and their sounds.")
@click.option(
    "--audio",
    default="birds",
    show_default=True,
    type=click.Choice(["birds", "chirps"]),
    help="Birds can be trained on; chirps are one second of WAV.",
)
@click.option("--key", default="local-key", show_default=True, help="What opens the search.")
@click.option("--no-key", is_flag=True, help="Let everybody in.")
@click.option("--calm", is_flag=True, help="No restricted, removed or odd rows either.")
@click.option(
    "--fault",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A switch of faults.py, such as hops=3, shift=insert, 503_every=7, file_reset_first=2.",
)
def main(  # noqa: PLR0913 - one argument an option
    *,
    port: int,
    species: tuple[str, ...],
    recordings: int,
    grown: int,
    strays: int,
    seed: int,
    audio: str,
    key: str,
    no_key: bool,
    calm: bool,
    settings: tuple[str, ...],
) -> None:
    """Serves invented recordings as Xeno-canto's API v3 would, until Ctrl-C."""
    faults = CALM if calm else Faults()
    try:
        for setting in settings:
            faults = with_setting(faults, setting)
        world = make_world(
            seed, species or 12, recordings, "birds" if audio == "birds" else "chirps", strays
        ).grown(grown, datetime.now(UTC).date())
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keys = () if no_key else (key,)
    with _served(world, faults, keys, port) as server:
        click.echo(f"{server.base_url} holds {len(world.recordings)} recordings of:")
        for name in world.species:
            click.echo(f"  {name}")
        click.echo("Ctrl-C ends it. To train on it, in another terminal:\n")
        click.echo(_training_line(server.base_url, world.species, key))
        try:
            wait_for_ever()
        except KeyboardInterrupt:
            click.echo("")


@contextmanager
def _served(world: World, faults: Faults, keys: Sequence[str], port: int) -> Iterator[Server]:
    """Runs the server.

    Raises:
        ClickException: another one has the port.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serve(world, faults, keys, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise click.ClickException(f"port {port} is in use; give --port") from error
        yield server


def wait_for_ever() -> None:
    """Lets the threads of the server work until the user interrupts."""
    threading.Event().wait()


def _training_line(base_url: str, species: tuple[str, ...], key: str) -> str:
    names = shlex.quote(f"xeno_canto.species={json.dumps(species, ensure_ascii=False)}")
    return (
        f"XC_API_KEY={shlex.quote(key)} dvc exp run $(python -m bclef.recipe xeno-canto) "
        f"-S xeno_canto.base_url={base_url} -S xeno_canto.search_interval_s=0 "
        f"-S xeno_canto.file_interval_s=0 -S {names}\n"
    )


if __name__ == "__main__":
    main()
