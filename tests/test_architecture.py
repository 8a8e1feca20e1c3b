"""The shape of the code: floors, sizes, names, stages, and what readers of tables ask of writers.

Convention for tables: the writer of a table holds `RECORDINGS = Schema("RECORDINGS", ...)`. A
reader does not import it; a module-level dict of constants `RECORDINGS_NEEDS = {column: dtype}`
names what it reads, and is compared with the schema here.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from bclef.config import read_yaml
from bclef.dotted import leaves

REPOSITORY = Path(__file__).parents[1]

FLOORS = {
    0: "audio codehash columns config containers declared dotted faults lifetime parallel pools "
    "provenance ranks redaction stage tables tracking",
    1: "archive clips duplicates ebird events failures features fingerprints labelling leaks "
    "matches meters naming nomenclature normal_forms rawfiles recordings rejections sidecars sieve "
    "skipped sources splits store suspicion targets taxonomy windowscores",
    2: "augment averaging backbones chances checkpoints clipsampling cropplaces crops dataset "
    "frontend heads holdout imagechanges intervals levels losses metrics mixing modelfiles "
    "models noises objective optimisers rowwise schedules scorecards selection spectrogram "
    "streams trainconfig transit truth wavechanges",
    3: "baseline distillation finetuning handover inference launching phasetraining postprocess "
    "pretraining pseudolabels training "
    "trainings trainingsetup validation",
    4: "cli credits dataview detections evaluation export exportfolder figures graphs ledger "
    "outoffold parity recipe report reportdata reportinputs reportscores runtime scanning shipping "
    "soundscapes spools summary",
}
"""Modules of bclef by floor. A module imports its own floor or a lower one; 0 is the ground."""

FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}

FORBIDDEN_NAMES = {"sr", "duration", "offset", "start", "end", "length", "hop", "gain"}
"""Physical quantities without their unit."""

MODULE_NAME = re.compile(
    r"(?!.*(^|_)(utils?|common|misc|core|base|constants|helpers?|tools|old|new|v\d+)(_|$))"
    r"[a-z_]*[a-z]"
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((REPOSITORY / "bclef").rglob("*.py"))}
STAGES = {
    path.stem: path
    for path in sorted((REPOSITORY / "stages").glob("*.py"))
    if path.stem != "__init__"
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Yields the modules of bclef and stages that a file imports, anywhere in it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bclef")
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "stages")
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if name in MODULES]
            if node.module.split(".")[0] in ("bclef", "stages"):
                yield from modules if modules else [node.module]


def floor(module: str) -> int:
    """Returns the floor of a module of bclef; a module of a sub-package stands on its floor."""
    return FLOOR.get(module.split(".")[1], max(FLOORS)) if "." in module else 0


def test_every_module_has_a_floor_and_every_entry_a_module() -> None:
    assert {name.split(".")[1] for name in MODULES if "." in name} == FLOOR.keys()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_upward_or_from_stages(module: str) -> None:
    upward = [
        name
        for name in imports(MODULES[module])
        if name.startswith("stages") or floor(name) > floor(module)
    ]
    assert not upward


def test_imports_have_no_cycle() -> None:
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of the cycle


@pytest.mark.parametrize("path", [*MODULES.values(), *STAGES.values()], ids=module_name)
def test_imports_are_absolute(path: Path) -> None:
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
    assert not [node.lineno for node in nodes if node.level]


@pytest.mark.parametrize("path", [*MODULES.values(), *STAGES.values()], ids=module_name)
def test_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("module", MODULES)
def test_module_name_says_what_is_in_it(module: str) -> None:
    assert MODULE_NAME.fullmatch(module.rpartition(".")[2])


def is_quantity(annotation: ast.expr | None) -> bool:
    """Returns whether an annotation lets in numbers; `start: Path` is no quantity."""
    words = re.findall(r"\w+", ast.unparse(annotation)) if annotation else ["float"]
    return not {"int", "float", "NDArray", "ArrayLike", "Floats", "Wave", "Tensor"}.isdisjoint(
        words
    )


def physical_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yields the names of arguments, fields and table columns, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and is_quantity(node.annotation):
            yield node.arg, node.lineno
        elif isinstance(node, ast.AnnAssign) and is_quantity(node.annotation):
            yield ast.unparse(node.target), node.lineno
    for columns in [*schemas(tree).values(), *needs(tree).values()]:
        yield from ((column, 0) for column in columns)


@pytest.mark.parametrize("path", [*MODULES.values(), *STAGES.values()], ids=module_name)
def test_physical_quantities_carry_their_unit(path: Path) -> None:
    bare = [(name, line) for name, line in physical_names(parsed(path)) if name in FORBIDDEN_NAMES]
    assert not bare


def test_params_carry_their_unit() -> None:
    params = leaves(read_yaml(REPOSITORY / "params.yaml"))
    assert not [key for key, _ in params if key.rpartition(".")[2] in FORBIDDEN_NAMES]


def dict_constant(node: ast.expr) -> dict[str, str]:
    """Returns a dict display of constants; a part such as `**OTHER` is left out."""
    if not isinstance(node, ast.Dict):
        return {}
    pairs = zip(node.keys, node.values, strict=True)
    return {
        str(key.value): str(value.value)
        for key, value in pairs
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }


def constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def schemas(tree: ast.Module) -> dict[str, dict[str, str]]:
    """Returns {name: columns} of the module-level `NAME = Schema("NAME", key, {...})`."""
    found = {}
    for name, value in constants(tree):
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "Schema":
            arguments = {word.arg: word.value for word in value.keywords}
            columns = arguments.get("columns", value.args[-1] if value.args else None)
            found[name] = dict_constant(columns) if columns is not None else {}
    return found


def needs(tree: ast.Module) -> dict[str, dict[str, str]]:
    """Returns {table: columns} of the module-level `TABLE_NEEDS = {...}`."""
    return {
        name.removesuffix("_NEEDS"): dict_constant(value)
        for name, value in constants(tree)
        if name.endswith("_NEEDS")
    }


SCHEMAS = {
    name: columns for path in MODULES.values() for name, columns in schemas(parsed(path)).items()
}


@pytest.mark.parametrize("path", [*MODULES.values(), *STAGES.values()], ids=module_name)
def test_reader_needs_what_the_writer_writes(path: Path) -> None:
    for table, columns in needs(parsed(path)).items():
        assert columns, f"{table}_NEEDS is no dict of constants"
        assert table in SCHEMAS, f"{table}_NEEDS: no schema {table}; there are {sorted(SCHEMAS)}"
        written = {column: SCHEMAS[table].get(column, "absent") for column in columns}
        assert columns == written


@pytest.mark.parametrize("path", MODULES.values(), ids=module_name)
def test_schema_is_called_as_its_constant_but_for_capitals(path: Path) -> None:
    for name, value in constants(parsed(path)):
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "Schema":
            words = {word.arg: word.value for word in value.keywords}
            first = words.get("name", value.args[0] if value.args else None)
            assert isinstance(first, ast.Constant)
            assert str(first.value).upper() == name


def pipeline() -> dict[str, dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = read_yaml(REPOSITORY / "dvc.yaml")["stages"]
    return stages


def test_every_stage_has_one_script_and_every_script_one_stage() -> None:
    assert pipeline().keys() == STAGES.keys()


@pytest.mark.parametrize("name", pipeline())
def test_stage_runs_its_script_and_depends_on_its_own_code_hash(name: str) -> None:
    definition = pipeline()[name]
    body = definition.get("do", definition)
    item = [f" ${{item.{axis}}}" for axis in definition.get("matrix", [])]
    item += [" ${key}"] if "foreach" in definition else []
    assert body["cmd"] == f"python -m stages.{name}{''.join(item)}"
    assert definition.get("desc") or body.get("desc")
    hashes = [entry for entry in body["deps"] if str(entry).startswith("codehash/")]
    assert hashes == ([] if name == "code" else [f"codehash/{name}.txt"])


def test_stage_code_writes_the_hash_of_every_other_stage() -> None:
    outs = [next(iter(entry)) for entry in pipeline()["code"]["outs"]]
    assert sorted(outs) == sorted(f"codehash/{name}.txt" for name in STAGES if name != "code")


@pytest.mark.parametrize("name", STAGES)
def test_stage_script_calls_itself_by_its_own_name(name: str) -> None:
    text = ast.unparse(parsed(STAGES[name]))
    names = re.findall(r"\bstage\('(\w+)'", text)
    assert names == ([] if name == "code" else [name])


def code_lines(path: Path) -> set[int]:
    """Returns the numbers of the lines that hold more than comments and docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {token.start[0] for token in tokens if token.type not in skipped and token.string}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize("name", STAGES)
def test_stage_script_has_at_most_40_lines_of_code(name: str) -> None:
    assert len(code_lines(STAGES[name])) <= 40


def test_outputs_keep_the_run_cache() -> None:
    for name, definition in pipeline().items():
        options = [
            entry_options
            for entry in definition.get("do", definition).get("outs", [])
            if isinstance(entry, dict)
            for entry_options in entry.values()
        ]
        assert not [given for given in options if given.get("persist")], name
        assert name == "code" or all(given.get("cache", True) for given in options), name
