"""Recipes: a published system as a flat file of overrides, printed as arguments for `dvc exp run`.

    dvc exp run $(python -m bclef.recipe 2023-1st) -S train.lr=1e-3
    python -m bclef.recipe --apply smoke && dvc repro

The shell splits the output of `$(...)` at whitespace and removes no quotes from it, so values are
quoted by the rules of Hydra, which reads them, and not by those of the shell.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bclef.config import ConfigError, read_yaml
from bclef.dotted import covers, leaves
from bclef.faults import nearest

_ENVIRONMENT = re.compile(r"\{env:(\w+)\|([^{}]*)\}")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def read_recipes(names: Sequence[str], root: Path) -> dict[str, Any]:
    """Returns {dotted key: value} of the recipes `names`, of which a later one wins.

    `{env:NAME|default}` in a string becomes the environment variable NAME, or else the default.

    Args:
        names: Files in `root`/recipes, without suffix.
        root: Folder of params.yaml.

    Raises:
        ConfigError: No such recipe, or a key that params.yaml does not have.
    """
    known = sorted(path.stem for path in (root / "recipes").glob("*.yaml"))
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no recipe {unknown[0]!r}; known are {', '.join(known) or 'none'}")
    places = [key for key, _ in leaves(read_yaml(root / "params.yaml"))]
    overrides: dict[str, Any] = {}
    faults = []
    for name in names:
        recipe = read_yaml(root / "recipes" / f"{name}.yaml")
        for key in recipe:
            if not any(covers(key, leaf) for leaf in places):
                advice = nearest(key, places)
                faults.append(f"recipes/{name}.yaml: {key}: not in params.yaml, {advice}")
        overrides |= recipe
    if faults:
        raise ConfigError("\n".join(faults))
    return {key: _with_environment(value) for key, value in overrides.items()}


def override(key: str, value: object) -> str:
    """Returns `key=value` as `dvc exp run -S` takes it, without any space in it.

    Raises:
        ConfigError: Whitespace or `${` in a string, or a value that params.yaml cannot hold.
    """
    return f"{key}={_quoted(key, value)}"


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--apply", is_flag=True, help="Write the values into params.yaml instead.")
def main(names: tuple[str, ...], apply: bool) -> None:
    """Print the recipes NAME... as -S arguments of `dvc exp run`; of two values the later wins."""
    root = next(
        (at for at in (Path.cwd(), *Path.cwd().parents) if (at / "dvc.yaml").exists()), None
    )
    if root is None:
        raise click.UsageError(f"no dvc.yaml in {Path.cwd()} or above it; run this in the project")
    try:
        overrides = [override(key, value) for key, value in read_recipes(names, root).items()]
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if not apply:
        click.echo(" ".join(f"-S {argument}" for argument in overrides))
        return
    # A second of import, which printing does not need.
    from dvc.utils.hydra import apply_overrides  # noqa: PLC0415

    apply_overrides(root / "params.yaml", overrides)


def _with_environment(value: Any) -> Any:
    """Returns `value` with `{env:NAME|default}` filled in, in lists and mappings too."""
    if isinstance(value, str):
        return _ENVIRONMENT.sub(lambda match: os.environ.get(match[1]) or match[2], value)
    if isinstance(value, Mapping):
        return {key: _with_environment(item) for key, item in value.items()}
    return [_with_environment(item) for item in value] if isinstance(value, list) else value


def _quoted(key: str, value: object) -> str:
    """Returns `value` in Hydra's grammar."""
    if isinstance(value, Mapping):
        if odd := [name for name in value if not _IDENTIFIER.fullmatch(str(name))]:
            raise ConfigError(f"{key}: found key {odd[0]!r}, expected letters, digits and _")
        items = (f"{name}:{_quoted(key, item)}" for name, item in value.items())
        return f"{{{','.join(items)}}}"
    if isinstance(value, list):
        return f"[{','.join(_quoted(key, item) for item in value)}]"
    if isinstance(value, str):
        return _quoted_text(key, value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    raise ConfigError(f"{key}: found {type(value).__name__} {value}; quote it, if it is a string")


def _quoted_text(key: str, text: str) -> str:
    if re.search(r"\s|\$\{", text):
        raise ConfigError(
            f"{key}: found {text!r}; `dvc exp run $(...)` breaks at whitespace and fills in `${{`, "
            "so write this value into params.yaml by hand"
        )
    # A backslash is itself, unless it stands before a quote: there each one counts double.
    inner = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{inner}'"


if __name__ == "__main__":
    main()
