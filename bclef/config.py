"""Loader of params.yaml: typed, frozen, strict sections, and only what dvc.yaml declares.

It holds no section: each stands beside the code that reads it, else every new param would rerun
every stage. A stage sees the keys that its entry in dvc.yaml names and no others, because a param
read without being declared is one that DVC does not know to rerun the stage for. Numbers follow
YAML 1.2, as DVC writes them: `1e-05` is a float, `no` is a string.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, conint, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bclef.declared import DEFAULT_FILE, declared_params
from bclef.dotted import Tree, covers, frozen, grafted, leaves, lookup, overridden
from bclef.faults import (
    ConfigError,
    inherited_faults,
    phase_entries,
    section_faults,
    shown,
    validation_faults,
)

__all__ = ["ConfigError", "Params", "Scalar", "Section", "Seed", "parse_yaml", "read_yaml"]

Scalar: TypeAlias = bool | int | float | str | None
S = TypeVar("S", bound="Section")
T = TypeVar("T")
Seed = conint(strict=True, ge=0, lt=2**32)
"""What numpy takes as a seed; for `Params.value`."""
_PHASES = "phases"
"""Key of the list of phases in the section of a training."""
Own = TypeVar("Own", bound="Section")


class Section(BaseModel):
    """Base of all configuration classes: frozen, keyword-only, strict, without unknown keys.

    Fields have no defaults, and each is followed by a docstring with its unit and range. An int is
    taken for a float; a bool is no int and a string never a number. Lists become tuples.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, tree: object) -> object:
        return frozen(tree)

    @classmethod
    def from_tree(cls, tree: object, where: str, key: str = "") -> Self:
        """Returns `tree`, as read from YAML or JSON, as a section of this class.

        Args:
            tree: The mapping that stands under `key`.
            where: File that the messages name.
            key: Dotted key that the messages put before each field.

        Raises:
            ConfigError: All faults of the section, one a line.
        """
        _refuse(
            {f"{where}: {place}": said for place, said in section_faults(cls, tree, key).items()}
        )
        return cls.model_validate(tree)


@dataclass(frozen=True)
class Params:
    """The params that one stage declares in dvc.yaml."""

    stage: str
    """Name of the stage, without its item."""
    tree: Tree
    """Declared subtrees, at their places."""
    files: Mapping[str, str]
    """File that each declared dotted key comes from."""

    @classmethod
    def for_stage(cls, stage: str, item: str | None, root: Path) -> "Params":
        """Returns what `root`/dvc.yaml declares for `stage`, read from the params files there.

        Args:
            stage: Name under `stages:`.
            item: Name after the `@` of a matrix or foreach stage, such as `0`; else None.
            root: Folder of dvc.yaml.

        Raises:
            ConfigError: No such stage or item, a template that cannot be filled, or a declared key
                that its file lacks.
        """
        tree: dict[str, Any] = {}
        files: dict[str, str] = {}
        contents: dict[str, dict[str, Any]] = {}
        faults: dict[str, str] = {}
        for file, key in declared_params(read_yaml(root / "dvc.yaml"), stage, item):
            if file not in contents:
                contents[file] = read_yaml(root / file)
            for name in contents[file] if key is None else [key]:
                try:
                    tree = grafted(tree, name, lookup(contents[file], name))
                except KeyError:
                    faults[f"{file}: {name}"] = f"missing, but declared for {stage!r} in dvc.yaml"
                if files.setdefault(name, file) != file:
                    faults[f"{file}: {name}"] = (
                        f"stage {stage!r} has that key from {files[name]} too"
                    )
        _refuse(faults)
        return cls(stage, tree, files)

    def section(self, cls: type[S], key: str) -> S:
        """Returns the section at dotted `key` as a `cls`.

        Raises:
            ConfigError: Undeclared, or all faults of the section, one a line.
        """
        return cls.from_tree(self._declared(key), self._file(key), key)

    def value(self, key: str, kind: type[T]) -> T:
        """Returns the value at dotted `key`, a `kind` such as int or tuple[str, ...].

        Raises:
            ConfigError: Undeclared, or of another kind.
        """
        found = frozen(self._declared(key))
        try:
            return TypeAdapter(kind).validate_python(found, strict=True)
        except ValidationError as error:
            faults = validation_faults(error, None, found, key)
            _refuse({f"{self._file(key)}: {place}": said for place, said in faults.items()})
            raise

    def phases(
        self, shared: type[S], own: type[Own], key: str, base: str = "train"
    ) -> tuple[tuple[S, ...], Own]:
        """Returns the settings of each phase of one training, and what all of it has besides.

        Section `base` is a whole `shared`. Section `key` may repeat any key of it, where null means
        inherit, and holds the keys of `own` too. Each mapping in its list `phases` overrides the
        result once more for one phase, and there null is a value; without a list (null) there is
        one phase. Sections within sections are merged, lists replaced whole.

        Raises:
            ConfigError: Either section is undeclared, or all faults of both, one a line.
            ValueError: A field is in both classes, or called `phases`.
        """
        known = {_PHASES, *shared.model_fields}
        if both := sorted(own.model_fields.keys() & known):
            raise ValueError(f"{shared.__name__} and {own.__name__} both have {both}")
        common, training = self._mapping(base), self._mapping(key)
        overrides = {k: v for k, v in training.items() if k in shared.model_fields}
        rest = {k: v for k, v in training.items() if k not in known}
        merged = overridden(common, overrides, null_inherits=True)
        entries, faults = phase_entries(training, f"{key}.{_PHASES}", own.model_fields)
        phases = {
            place: overridden(merged, entry, null_inherits=False)
            for place, entry in entries.items()
        }
        faults |= section_faults(own, rest, key, also_known=known)
        faults |= inherited_faults(shared, [(base, common), (key, merged)], phases)
        _refuse({f"{self._file(key)}: {place}": said for place, said in faults.items()})
        return tuple(map(shared.model_validate, phases.values())), own.model_validate(rest)

    def flat(self) -> dict[str, Scalar]:
        """Returns {dotted key: value} of all declared leaves; a list is a leaf, as JSON text."""
        return {
            key: value if isinstance(value, Scalar) else json.dumps(value, default=str)
            for key, value in leaves(self.tree)
        }

    def _declared(self, key: str) -> Any:
        """Returns what stands at `key`, refusing a key that no declared one covers."""
        if not any(covers(name, key) for name in self.files):
            raise ConfigError(
                f"{DEFAULT_FILE}: {key}: stage {self.stage!r} reads it but does not declare it; "
                f"add {key!r} to the params of {self.stage!r} in dvc.yaml"
            )
        try:
            return lookup(self.tree, key)
        except KeyError:
            raise ConfigError(f"{self._file(key)}: {key}: missing") from None

    def _mapping(self, key: str) -> Tree:
        found = self._declared(key)
        if not isinstance(found, Mapping):
            raise ConfigError(f"{self._file(key)}: {key}: expected section, got {shown(found)}")
        return found

    def _file(self, key: str) -> str:
        return next(file for name, file in self.files.items() if covers(name, key))


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in `path` by the rules of YAML 1.2; empty for an empty file.

    Raises:
        ConfigError: No such file, not YAML, a repeated key, or no mapping.
    """
    try:
        return parse_yaml(path, str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error


def parse_yaml(source: Path | bytes, where: str) -> dict[str, Any]:
    """Returns the mapping in `source` as `read_yaml` does.

    Args:
        source: A file or its content.
        where: What messages call it.

    Raises:
        ConfigError: Not YAML, a repeated key, or no mapping.
        FileNotFoundError: No such file.
    """
    try:
        tree = YAML(typ="safe", pure=True).load(source)
    except YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{where}: expected key: value lines, got {shown(tree)}")
    return tree or {}


def _refuse(faults: Mapping[str, str]) -> None:
    """Raises all `faults` {place: what is wrong} as one error, if there are any."""
    if faults:
        raise ConfigError("\n".join(f"{place}: {said}" for place, said in faults.items()))
