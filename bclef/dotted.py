"""Trees of params by dotted key: `train.lr` is what stands at `lr` in what stands at `train`."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Tree: TypeAlias = Mapping[str, Any]  # a YAML tree has no narrower type


def lookup(tree: Tree, key: str) -> Any:
    """Returns what stands at dotted `key` of `tree`.

    Raises:
        KeyError: Nothing does.
    """
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of everything that is not a filled mapping; a list is a leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(tree: Tree, other: Tree) -> list[str]:
    """Returns the dotted keys of leaves that have another value in `other`, or are in one only."""
    ours, theirs = dict(leaves(tree)), dict(leaves(other))
    in_both = ours.keys() & theirs.keys()
    return [key for key in ours | theirs if key not in in_both or ours[key] != theirs[key]]


def covers(declared: str, key: str) -> bool:
    """Returns whether `key` is `declared` or lies below it."""
    return key == declared or key.startswith(f"{declared}.")


def grafted(tree: Tree, key: str, value: object) -> dict[str, Any]:
    """Returns `tree` with `value` at dotted `key`; mappings on both sides are merged."""
    first, _, rest = key.partition(".")
    child = tree.get(first)
    if rest:
        value = grafted(child if isinstance(child, Mapping) else {}, rest, value)
    elif isinstance(child, Mapping) and isinstance(value, Mapping):
        value = {**child, **value}
    return {**tree, first: value}


def overridden(tree: Tree, overrides: Tree, *, null_inherits: bool) -> dict[str, Any]:
    """Returns `tree` with the values of `overrides`, mapping by mapping; a list is replaced whole.

    Args:
        tree: What is overridden.
        overrides: Its keys need not be in `tree`.
        null_inherits: Whether null keeps what `tree` has; else it is a value as any other.
    """
    result = dict(tree)
    for name, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = overridden(result[name], value, null_inherits=null_inherits)
        elif value is not None or name not in result or not null_inherits:
            result[name] = value
    return result


def frozen(tree: object) -> object:
    """Returns `tree` with a tuple for each list, at any depth."""
    if isinstance(tree, Mapping):
        return {key: frozen(value) for key, value in tree.items()}
    return tuple(map(frozen, tree)) if isinstance(tree, list | tuple) else tree
