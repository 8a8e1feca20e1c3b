"""What is wrong with a section, said for the person who edits params.yaml: one line per fault."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bclef.dotted import Tree


class ConfigError(Exception):
    """Params or dvc.yaml do not say what the code needs; the message has a line for each fault."""


_KINDS = {
    "int_type": "int",
    "float_type": "float",
    "bool_type": "bool",
    "string_type": "str",
    "tuple_type": "list",
    "model_type": "section",
    "model_attributes_type": "section",
    "dict_type": "section",
}
"""What pydantic's type errors expected, in the words of a params file."""


def section_faults(
    cls: type[BaseModel], tree: object, key: str, also_known: Iterable[str] = ()
) -> dict[str, str]:
    """Returns {full dotted key: what is wrong with it} for `tree` as a `cls`; empty when it is one.

    Args:
        cls: The section's class.
        tree: What stands in the file under `key`.
        key: Dotted key of the section; empty at the top of a file.
        also_known: Keys to suggest for a misspelt one, beside the fields of `cls`.
    """
    try:
        cls.model_validate(tree)
    except ValidationError as error:
        return validation_faults(error, cls, tree, key, also_known)
    return {}


def inherited_faults(
    cls: type[BaseModel], layers: Iterable[tuple[str, Tree]], ends: Mapping[str, Tree]
) -> dict[str, str]:
    """Returns the faults of trees that inherit from each other, each named where it first stands.

    That keys of a layer do not go together is a fault only where an end inherits them like that:
    nothing is done by the layer itself.

    Args:
        cls: What each tree should be.
        layers: Dotted key and whole tree of each layer; each inherits from the one before.
        ends: Dotted key and whole tree of all that inherit from the last layer.
    """
    faults: dict[str, str] = {}
    above: dict[str, str] = {}
    of_ends = {section_faults(cls, tree, "").get("") for tree in ends.values()}
    for key, tree in (*layers, *ends.items()):
        all_found = section_faults(cls, tree, "").items()
        found = {at: said for at, said in all_found if at or said in of_ends}
        faults |= {place_at(key, at): said for at, said in found.items() if above.get(at) != said}
        above = above if key in ends else found
    return faults


def phase_entries(
    listed: Tree, key: str, of_training: Iterable[str]
) -> tuple[dict[str, Tree], dict[str, str]]:
    """Returns {dotted key: overrides} of each phase that a training has, and what is wrong.

    Args:
        listed: The section of the training, with or without the list.
        key: Dotted key of the list.
        of_training: Keys that no phase may override.
    """
    name = key.rpartition(".")[2]
    if name not in listed:
        return {}, {key: "missing"}
    found = listed[name]
    if found is None:
        return {key: {}}, {}
    if not isinstance(found, list) or not found:
        return {}, {key: f"expected list of phases, or null for one, got {shown(found)}"}
    entries: dict[str, Tree] = {}
    faults: dict[str, str] = {}
    for number, entry in enumerate(found):
        place = place_at(key, number)
        if not isinstance(entry, Mapping):
            faults[place] = f"expected section, got {shown(entry)}"
            continue
        of_all = [name for name in of_training if name in entry]
        faults |= {
            f"{place}.{name}": "holds for all phases, write it above them" for name in of_all
        }
        entries[place] = {k: v for k, v in entry.items() if k not in of_all}
    return entries, faults


def validation_faults(
    error: ValidationError,
    cls: type[BaseModel] | None,
    tree: object,
    key: str,
    also_known: Iterable[str] = (),
) -> dict[str, str]:
    """Returns the faults in `error`, which validating `tree` as a `cls` (None: no model) raised."""
    faults: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        path = _path_in_tree(detail, tree)
        known = [*_fields_at(cls, path[:-1]), *(also_known if len(path) == 1 else ())]
        faults.setdefault(place_at(key, *path), []).append(_sentence(detail, known))
    # Each branch of a union reports a fault of its own: any one of them would have done.
    return {place: " or ".join(dict.fromkeys(said)) for place, said in faults.items()}


def place_at(*parts: str | int) -> str:
    """Returns the dotted key of `parts`, an index in brackets: `train.noise[0].low`."""
    texts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts if part != ""]
    return "".join(texts).removeprefix(".")


_MOST_NAMES = 20
"""Known names that advice lists."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns advice about an unknown `word`: the nearest of `known`, or else what is known."""
    names = sorted(known)
    if close := get_close_matches(word, names, n=1):
        return f"did you mean {close[0]!r}?"
    if not names:
        return "nothing is expected there"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"known are {', '.join(names[:_MOST_NAMES])}{more}"


def shown(value: object) -> str:
    """Returns `value` with its type, as a message names what it found."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"section with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple):
        value = list(value)
    return f"{type(value).__name__} {value!r}"


def _sentence(detail: ErrorDetails, known: Sequence[str]) -> str:
    kind, found = detail["type"], detail["input"]
    expected = detail["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return f"unknown key, {nearest(str(detail['loc'][-1]), known)}"
    if kind == "literal_error":
        choices = detail["ctx"]["expected"].replace(" or ", ", ")
        return f"{found!r} is none of [{choices}]"
    if kind == "value_error":
        return expected
    if kind in _KINDS:
        expected = f"expected {_KINDS[kind]}"
    return f"{expected}, got {shown(found)}"


def _path_in_tree(detail: ErrorDetails, tree: object) -> list[str | int]:
    """Returns the place of a fault, without the names pydantic gives to the branches of a union."""
    path: list[str | int] = []
    for part in detail["loc"]:
        places = range(len(tree)) if isinstance(tree, list | tuple) else tree
        if isinstance(places, Mapping | range) and part in places:
            tree = tree[part]  # type: ignore[index]  # `places` says that it can
            path.append(part)
        elif detail["type"] == "missing" and part == detail["loc"][-1]:
            path.append(part)
    return path


def _fields_at(cls: type[BaseModel] | None, path: Sequence[str | int]) -> list[str]:
    """Returns the field names of the section that stands at `path` below a `cls`."""
    for part in path:
        if cls is not None and isinstance(part, str) and part in cls.model_fields:
            cls = _section_in(cls.model_fields[part].annotation)
    return [] if cls is None else list(cls.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
