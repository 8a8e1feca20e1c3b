"""params.yaml, dvc.yaml, the recipes and the code that reads them agree."""

import ast
import importlib
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from bclef.codehash import closure
from bclef.config import Params, Section, read_yaml
from bclef.declared import DEFAULT_FILE, declared_params, stage_items
from bclef.dotted import covers, leaves
from bclef.recipe import override, read_recipe, read_recipes, recipe_names

REPOSITORY = Path(__file__).parents[1]
RECIPES = [
    f"{name}{variant}{small}"
    for name in recipe_names(REPOSITORY)
    for variant in [f":{each}" for each in read_recipe(name, REPOSITORY).variants] or [""]
    for small in ("", "-small")
]
KINDS = {"bool": bool, "float": float, "int": int, "str": str}

Read = tuple[str, str, tuple[str, ...], str]
"""Module, method of Params, names of its classes, dotted key."""


def instances() -> Iterator[tuple[str, str | None]]:
    """Yields (stage, item) of all that `dvc repro` runs."""
    for stage, definition in read_yaml(REPOSITORY / "dvc.yaml")["stages"].items():
        for item in stage_items(definition) or [None]:
            yield stage, item


def declared_keys() -> set[str]:
    definitions = read_yaml(REPOSITORY / "dvc.yaml")
    return {
        key
        for stage, item in instances()
        for file, key in declared_params(definitions, stage, item)
        if file == DEFAULT_FILE and key is not None
    }


@cache
def parsed(module: str) -> ast.Module:
    stem = REPOSITORY.joinpath(*module.split("."))
    path = stem.with_suffix(".py") if stem.with_suffix(".py").exists() else stem / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def reads(module: str) -> list[Read]:
    """Returns the calls `.section(Class, "key")`, `.value("key", kind)`, `.phases(A, B, "key")`."""
    found = []
    for node in ast.walk(parsed(module)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        keys = [word.value for word in node.args if isinstance(word, ast.Constant)]
        if node.func.attr in ("section", "value", "phases") and keys and isinstance(keys[0], str):
            classes = [
                ast.unparse(word) for word in node.args if not isinstance(word, ast.Constant)
            ]
            found.append((module, node.func.attr, tuple(classes), keys[0]))
    return found


@cache
def stage_reads(stage: str) -> list[Read]:
    return [read for module in closure(stage, REPOSITORY) for read in reads(module)]


@cache
def named(module: str, name: str) -> type[Section]:
    """Returns the class that `name` stands for in a module, imported in a function maybe."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return getattr(importlib.import_module(str(node.module)), name)
    return getattr(importlib.import_module(module), name)


def read_all(params: Params) -> None:
    """Reads from `params` all that the stage's code reads, as the classes that it reads it as."""
    for module, method, names, key in stage_reads(params.stage):
        if not module.startswith("stages.") and not any(covers(at, key) for at in params.files):
            continue  # a library function that this stage does not call
        if method == "value":
            params.value(key, KINDS.get(names[0], object))
            continue
        classes = [named(module, name) for name in names]
        if method == "section":
            params.section(classes[0], key)
        else:
            params.phases(classes[0], classes[1], key)


def test_every_leaf_of_params_reruns_some_stage() -> None:
    declared = declared_keys()
    unread = [
        key
        for key, _ in leaves(read_yaml(REPOSITORY / "params.yaml"))
        if not any(covers(at, key) for at in declared)
    ]
    assert not unread, "no stage declares them, so `-S` on them does nothing"


@pytest.mark.parametrize(("stage", "item"), list(instances()))
def test_stage_declares_params_that_exist(stage: str, item: str | None) -> None:
    Params.for_stage(stage, item, REPOSITORY)


@pytest.mark.parametrize("stage", sorted({stage for stage, _ in instances()}))
def test_stage_declares_no_section_that_its_code_does_not_read(stage: str) -> None:
    if stage == "code":
        return
    keys = [key for *_, key in stage_reads(stage)]
    keys += ["train"] if any(method == "phases" for _, method, *_ in stage_reads(stage)) else []
    item = next(item for name, item in instances() if name == stage)
    declared = Params.for_stage(stage, item, REPOSITORY).files
    unread = [at for at in declared if not any(covers(at, key) for key in keys)]
    assert [at for at in unread if not at.startswith("folds.")] == []


def test_params_load_through_every_section_of_every_stage() -> None:
    for stage, item in instances():
        read_all(Params.for_stage(stage, item, REPOSITORY))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_through_every_section_of_every_stage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(REPOSITORY / file, tmp_path)
    overrides = read_recipes([name], REPOSITORY)
    arguments = [override(key, value) for key, value in overrides.items()]
    apply_overrides(tmp_path / "params.yaml", arguments)
    monkeypatch.setattr("bclef.config.read_yaml", cache(read_yaml))  # once, not for each stage
    for stage, item in instances():
        read_all(Params.for_stage(stage, item, tmp_path))
