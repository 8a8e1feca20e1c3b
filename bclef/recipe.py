"""Recipes: a published system as a file of overrides, printed as arguments for `dvc exp run`.

    python -m bclef.recipe --list
    dvc exp run $(python -m bclef.recipe 2023-1st) -S train.lr=1e-3
    dvc exp run $(python -m bclef.recipe 2024-3rd:mnasnet_100-small)
    python -m bclef.recipe --apply smoke && dvc repro

A file holds `dotted.key: value` lines, and maybe `variants: {name: {dotted.key: value}}`, which
override the file's own. `NAME` takes the first variant, `NAME:VARIANT` another; `-small` after
either adds recipes/small.yaml, which brings it down to the demo.

What params.yaml holds besides stays, also what an earlier recipe has left there: a warning on
stderr names what differs from the last commit.

The shell splits the output of `$(...)` at whitespace and removes no quotes from it, so values are
quoted by the rules of Hydra, which reads them, and not by those of the shell.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bclef.config import ConfigError, parse_yaml, read_yaml
from bclef.dotted import Tree, covers, differences, leaves, lookup
from bclef.faults import nearest, shown

_ENVIRONMENT = re.compile(r"\{env:(\w+)\|([^{}]*)\}")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_VARIANTS = "variants"
"""Key of a recipe that is no key of params.yaml."""
_OVERLAY = "small"
"""The recipe that brings any other down to the demo."""
_SUFFIX = f"-{_OVERLAY}"
_MOST_NAMED = 5
"""Keys that a warning names."""
_MOST_CHARACTERS = 60
"""Of a value in it."""
_GIT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Recipe:
    """A file in recipes/."""

    name: str
    """The file's name without its suffix."""
    summary: str
    """First line of its head comment."""
    overrides: dict[str, Any]
    """{dotted key: value}, the variants apart."""
    variants: dict[str, dict[str, Any]]
    """{variant: {dotted key: value}} in their order; the first one is taken if none is named."""


def read_recipe(name: str, root: Path) -> Recipe:
    """Returns the recipe `root`/recipes/`name`.yaml.

    Raises:
        ConfigError: No such recipe, or its variants are no mapping of mappings.
    """
    if name not in (known := recipe_names(root)):
        raise ConfigError(f"no recipe {name!r}; known are {', '.join(known) or 'none'}")
    path = root / "recipes" / f"{name}.yaml"
    overrides = read_yaml(path)
    variants = overrides.pop(_VARIANTS, {})
    for at, found in ((_VARIANTS, variants), *_items_at(_VARIANTS, variants)):
        if not isinstance(found, Mapping):
            raise ConfigError(f"{path}: {at}: expected dotted keys, got {shown(found)}")
    head, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    summary = head.removeprefix("#").strip() if head.startswith("#") else ""
    return Recipe(name, summary, overrides, {str(key): dict(own) for key, own in variants.items()})


def recipe_names(root: Path) -> list[str]:
    """Returns the names of all files in `root`/recipes, sorted."""
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


def read_recipes(names: Sequence[str], root: Path) -> dict[str, Any]:
    """Returns {dotted key: value} of the recipes `names`, of which a later one wins.

    `{env:NAME|default}` in a string becomes the environment variable NAME, or else the default.

    Args:
        names: `NAME` or `NAME:VARIANT` of files in `root`/recipes, either maybe with `-small`.
        root: Folder of params.yaml.

    Raises:
        ConfigError: No such recipe or variant, or a key that params.yaml does not have.
    """
    places = [key for key, _ in leaves(read_yaml(root / "params.yaml"))]
    overrides: dict[str, Any] = {}
    faults = []
    for where, layer in [layer for name in names for layer in _layers(name, root)]:
        for key, value in layer.items():
            if not any(covers(key, leaf) for leaf in places):
                faults.append(f"{where}{key}: not in params.yaml, {nearest(key, places)}")
            overrides.pop(key, None)  # Hydra goes from left to right, and keys may overlap
            overrides[key] = _with_environment(value)
    if faults:
        raise ConfigError("\n".join(faults))
    return overrides


def override(key: str, value: object) -> str:
    """Returns `key=value` as `dvc exp run -S` takes it, without any space in it.

    Raises:
        ConfigError: Whitespace or `${` in a string, or a value that params.yaml cannot hold.
    """
    return f"{key}={_quoted(key, value)}"


@click.command()
@click.argument("names", nargs=-1, metavar="NAME[:VARIANT][-small]...")
@click.option("--apply", is_flag=True, help="Write the values into params.yaml instead.")
@click.option("--list", "is_list", is_flag=True, help="Print all recipes and their variants.")
def main(names: tuple[str, ...], apply: bool, is_list: bool) -> None:
    """Print the recipes NAME... as -S arguments of `dvc exp run`; of two values the later wins.

    A recipe's first VARIANT is taken if none is named. -small brings it down to the demo.
    """
    root = next(
        (at for at in (Path.cwd(), *Path.cwd().parents) if (at / "dvc.yaml").exists()), None
    )
    if root is None:
        raise click.UsageError(f"no dvc.yaml in {Path.cwd()} or above it; run this in the project")
    if is_list == bool(names):
        raise click.UsageError("expected either names of recipes, or --list to see them")
    try:
        if is_list:
            click.echo(_listing([read_recipe(name, root) for name in recipe_names(root)]))
            return
        values = read_recipes(names, root)
        overrides = [override(key, value) for key, value in values.items()]
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    for line in _leftovers(root / "params.yaml", values):
        click.echo(line, err=True)
    if not apply:
        click.echo(" ".join(f"-S {argument}" for argument in overrides))
        return
    # A second of import, which printing does not need.
    from dvc.utils.hydra import apply_overrides  # noqa: PLC0415

    apply_overrides(root / "params.yaml", overrides)


def _listing(recipes: Sequence[Recipe]) -> str:
    width = max((len(recipe.name) for recipe in recipes), default=0) + 2
    lines = []
    for recipe in recipes:
        lines.append(f"{recipe.name:{width}}{recipe.summary}".rstrip())
        if recipe.variants:
            lines.append(f"{'':{width}}variants: {', '.join(recipe.variants)}")
    return "\n".join(lines)


def _leftovers(path: Path, overrides: Tree) -> list[str]:
    """Lines that warn of what differs from the last commit and no override sets; maybe none."""
    if (committed := _committed(path)) is None:
        return []
    present = read_yaml(path)
    left = [
        key
        for key in differences(present, committed)
        if not any(covers(own, key) for own in overrides)
    ]
    if not left:
        return []
    lines = [
        f"  {key}: {_value_at(key, present)}, committed {_value_at(key, committed)}"
        for key in left[:_MOST_NAMED]
    ]
    if n_more := len(left) - len(lines):
        lines.append(f"  and {n_more} more")
    return [
        f"warning: {path.name} differs from the last commit in what the recipe does not set:",
        *lines,
        f"`git checkout {path.name}` begins anew; `dvc exp run --temp` leaves the workspace alone",
    ]


def _committed(path: Path) -> dict[str, Any] | None:
    """What the YAML file `path` held in the last commit; None where there is none to be had."""
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        found = subprocess.run(
            command, cwd=path.parent, capture_output=True, timeout=_GIT_TIMEOUT_S, check=True
        )
        return parse_yaml(found.stdout, f"HEAD:{path.name}")
    except (OSError, subprocess.SubprocessError, ConfigError):  # no git, repository, commit or file
        return None


def _value_at(key: str, tree: Tree) -> str:
    """What stands at `key`, as a line has room for it."""
    try:
        text = json.dumps(lookup(tree, key), default=str, ensure_ascii=False)
    except KeyError:
        return "nothing"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def _layers(word: str, root: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place that messages name, overrides) of all that a word of the command line asks for."""
    is_small = word.endswith(_SUFFIX) and word not in recipe_names(root)
    name, colon, variant = word.removesuffix(_SUFFIX if is_small else "").partition(":")
    if colon and name.endswith(_SUFFIX):
        right = f"{name.removesuffix(_SUFFIX)}:{variant}{_SUFFIX}"
        raise ConfigError(f"found {word!r}; {_SUFFIX} goes last: {right!r}")
    recipe = read_recipe(name, root)
    if colon and variant not in recipe.variants:
        known = f"known are {', '.join(recipe.variants)}" if recipe.variants else "it has none"
        raise ConfigError(f"recipe {name!r} has no variant {variant!r}; {known}")
    chosen = [variant] if colon else list(recipe.variants)[:1]
    file = f"recipes/{name}.yaml: "
    return [
        (file, recipe.overrides),
        *((f"{file}{_VARIANTS}.{each}: ", recipe.variants[each]) for each in chosen),
        *(_layers(_OVERLAY, root) if is_small else ()),
    ]


def _items_at(key: str, tree: object) -> list[tuple[str, object]]:
    """(dotted key, value) of what stands in a mapping at `key`; nothing if it is none."""
    items = tree.items() if isinstance(tree, Mapping) else ()
    return [(f"{key}.{name}", value) for name, value in items]


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
