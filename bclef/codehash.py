"""Which code a stage runs: a hash for each module of its import closure, comments left out.

DVC does not follow imports. So stage `code` writes `codehash/<stage>.txt`, a dependency of that
stage: an edit reruns exactly the stages that import what was edited, and `git diff` names them.
Imports inside functions and under TYPE_CHECKING count; imports by computed name and data files do
not. The hash ignores positions, comments, docstrings and the Python version that parses the file.

What cannot change a result is left out: this module, and those that surround, spread, record and
ship runs.
"""

import ast
import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

_ROOTS = ("bclef", "stages")
_IGNORED = frozenset(
    {
        "bclef.codehash",
        "bclef.parallel",
        "bclef.pools",
        "bclef.provenance",
        "bclef.redaction",
        "bclef.shipping",
        "bclef.stage",
        "bclef.tracking",
    }
)
_VERSIONED = ("lightning", "onnx", "openvino", "timm", "torch")
"""Packages whose version is part of the code of the stages that import them."""


def closure(stage: str, root: Path) -> dict[str, str]:
    """Returns {module: 16 hex digits} of `stages.<stage>` and all it imports, sorted by name.

    Args:
        stage: Name of a script in `root`/stages, without suffix.
        root: Folder that holds the packages bclef and stages.

    Raises:
        FileNotFoundError: There is no such script.
        SyntaxError: A module of the closure does not parse.
    """
    return {module: _digest(tree) for module, tree in _closure(stage, root).items()}


def write_code_hashes(root: Path, directory: Path) -> None:
    """Writes `directory`/<stage>.txt for each script in `root`/stages but `code` itself.

    A line `hash module` for each module of the closure, then a line `package version` for each of
    the packages that decide results, where the closure imports it.

    Raises:
        SyntaxError: A module does not parse.
        PackageNotFoundError: A stage imports one of those packages, and it is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for script in sorted((root / "stages").glob("*.py")):
        if script.stem not in ("__init__", "code"):
            (directory / f"{script.stem}.txt").write_text(_page(script.stem, root), "utf-8")


def fingerprint(*modules: str) -> str:
    """Returns 16 hex digits over the code of `modules`, a package standing for all of its modules.

    Raises:
        FileNotFoundError: A name is no module beside this one.
    """
    root = Path(__file__).parents[1]
    digests = []
    for module in modules:
        path = _source(module, root)
        if path is None:
            raise FileNotFoundError(f"{module}: no such module under {root}")
        inside = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        digests += [
            f"{file.relative_to(root).as_posix()} {_digest(_parsed(file))}" for file in inside
        ]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _page(stage: str, root: Path) -> str:
    trees = _closure(stage, root)
    imported = {
        name.partition(".")[0]
        for module, tree in trees.items()
        for name in _imports(tree, module, root)
    }
    lines = [f"{_digest(tree)} {module}" for module, tree in trees.items()]
    # A local version such as 2.13.0+cpu names the build, which differs between machines.
    lines += [
        f"{package} {version(package).partition('+')[0]}"
        for package in _VERSIONED
        if package in imported
    ]
    return "\n".join(lines) + "\n"


def _closure(stage: str, root: Path) -> dict[str, ast.Module]:
    """Returns {module: its tree without docstrings}, sorted by name."""
    if _source(f"stages.{stage}", root) is None:
        raise FileNotFoundError(f"{root / 'stages' / stage}.py: no such stage script")
    trees: dict[str, ast.Module] = {}
    waiting = [f"stages.{stage}"]
    while waiting:
        module = waiting.pop()
        if module in trees or module in _IGNORED or module.partition(".")[0] not in _ROOTS:
            continue
        path = _source(module, root)
        if path is not None:  # else the name was an attribute of a module
            trees[module] = _parsed(path)
            waiting += [*_parents(module), *_imports(trees[module], module, root)]
    return dict(sorted(trees.items()))


def _source(module: str, root: Path) -> Path | None:
    """Returns the file of `module` below `root`, or None when the name is no module there."""
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next(filter(Path.is_file, candidates), None)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _imports(tree: ast.Module, module: str, root: Path) -> Iterator[str]:
    """Yields the names of all that `tree` imports anywhere; some may be attributes of modules."""
    path = _source(module, root)
    is_package = path is not None and path.name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from [*_parents(alias.name), alias.name]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + is_package or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from [*_parents(base), base]
            yield from (f"{base}.{alias.name}" for alias in node.names)


class _WithoutStrings(ast.NodeTransformer):
    """Removes the strings that stand as statements: docstrings of modules, defs and attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Returns None in place of a bare string."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _parsed(path: Path) -> ast.Module:
    """Returns the tree of a file without its docstrings."""
    tree = _WithoutStrings().visit(ast.parse(path.read_text("utf-8"), filename=str(path)))
    for node in ast.walk(tree):
        # An emptied block needs a statement; a module does not, so that documenting an empty
        # __init__.py changes nothing.
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _digest(tree: ast.Module) -> str:
    return hashlib.sha256(_shape(tree).encode()).hexdigest()[:16]


def _shape(node: object) -> str:
    """Returns a tree as text, like ast.dump but the same under every Python version.

    Fields that are empty are left out: which empty ones exist depends on the version.
    """
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_shape(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != []
        )
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_shape, node))}]"
    return repr(node)
