"""What is wrong with a section, said for the person who edits params.yaml: one line per fault."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


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
        place = ".".join(str(part) for part in (key, *path) if part != "")
        faults.setdefault(place, []).append(_sentence(detail, known))
    # Each branch of a union reports a fault of its own: any one of them would have done.
    return {place: " or ".join(dict.fromkeys(said)) for place, said in faults.items()}


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
