"""What dvc.yaml says of a stage: its items and the params that it declares, without importing DVC.

`dvc.api` takes a second to import; a stage needs only the names of its params.
"""

import itertools
import re
from typing import Any

from bclef.dotted import Tree, lookup
from bclef.faults import ConfigError, nearest

DEFAULT_FILE = "params.yaml"
"""The params file of entries that name none."""

_TEMPLATE = re.compile(r"\$\{\s*([^}]*?)\s*\}")


def declared_params(
    definitions: Tree, stage: str, item: str | None
) -> list[tuple[str, str | None]]:
    """Returns (params file, dotted key) of all that a stage declares; key None is the whole file.

    Args:
        definitions: The tree of dvc.yaml.
        stage: Name under `stages:`.
        item: Name after the `@`, or None for a stage without items.

    Raises:
        ConfigError: No such stage or item, or a template that the item has no value for.
    """
    values = _item_values(definitions, stage, item)
    definition = definitions["stages"][stage]
    declared: list[tuple[str, str | None]] = []
    for entry in definition.get("do", definition).get("params", []):
        by_file = entry if isinstance(entry, dict) else {DEFAULT_FILE: [entry]}
        for file, keys in by_file.items():
            for key in keys or [None]:
                filled = None if key is None else _filled(key, values, stage)
                declared.append((_filled(file, values, stage), filled))
    return declared


def stage_items(definition: Tree) -> dict[str, dict[str, Any]]:
    """Returns {item name: template values} of a matrix or foreach stage; empty for a plain one.

    Names are made as DVC makes them: values joined by `-`, lists and mappings named by index.
    """
    if "matrix" in definition:
        return _matrix_items(definition["matrix"])
    each = definition.get("foreach", {})
    if isinstance(each, dict):
        return {_text(key): {"item": value, "key": _text(key)} for key, value in each.items()}
    composite = any(isinstance(value, list | dict) for value in each)
    return {
        str(index) if composite else _text(value): {"item": value}
        for index, value in enumerate(each)
    }


def _matrix_items(matrix: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    items = {}
    for cells in itertools.product(*(enumerate(values) for values in matrix.values())):
        values = dict(zip(matrix, (value for _, value in cells), strict=True))
        name = "-".join(
            f"{axis}{index}" if isinstance(value, list | dict) else _text(value)
            for axis, (index, value) in zip(matrix, cells, strict=True)
        )
        items[name] = {"item": values, "key": name}
    return items


def _item_values(definitions: Tree, stage: str, item: str | None) -> dict[str, Any]:
    """Returns what the templates of a stage stand for when it runs as `item`."""
    stages = definitions.get("stages") or {}
    if stage not in stages:
        raise ConfigError(f"dvc.yaml: no stage {stage!r}, {nearest(stage, stages)}")
    items = stage_items(stages[stage])
    if item is None and not items:
        return {}
    if item not in items:
        known = f"its items are {', '.join(items)}" if items else "it has none"
        raise ConfigError(f"dvc.yaml: stages.{stage}: found item {item!r}, {known}")
    return items[item]


def _filled(text: str, values: Tree, stage: str) -> str:
    """Returns `text` with each `${name}` replaced by the value of that name."""

    def fill(match: re.Match[str]) -> str:
        try:
            return _text(lookup(values, match[1]))
        except KeyError:
            raise ConfigError(
                f"dvc.yaml: stages.{stage}.params: {text!r}: nothing is called {match[1]!r} there"
            ) from None

    return _TEMPLATE.sub(fill, text)


def _text(value: object) -> str:
    """Returns a value as DVC puts it into names and templates."""
    return str(value).lower() if isinstance(value, bool) else str(value)
