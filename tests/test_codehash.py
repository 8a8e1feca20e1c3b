"""A stage's hash moves with the code that it imports, and with nothing else."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from bclef.codehash import closure, fingerprint, write_code_hashes

REPOSITORY = Path(__file__).parents[1]

FILES = {
    "bclef/__init__.py": "",
    "bclef/top.py": '"""Doc."""\nfrom bclef import left\nfrom bclef.left import name\nX = 1\n',
    "bclef/left.py": "name = 2\n",
    "bclef/lazy.py": "def f():\n    from bclef.deep.inner import g\n    return g\n",
    "bclef/typed.py": "from typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    import bclef.hinted\n",
    "bclef/hinted.py": "import torch\n",
    "bclef/deep/__init__.py": "",
    "bclef/deep/inner.py": "from . import sibling\nfrom .. import upward\ng = 3\n",
    "bclef/deep/sibling.py": "",
    "bclef/upward.py": "",
    "bclef/tracking.py": "import bclef.recorded\n",
    "bclef/recorded.py": "",
    "bclef/alone.py": "",
    "stages/__init__.py": "",
    "stages/code.py": "import bclef.alone\n",
    "stages/one.py": "from bclef.top import X\nfrom bclef import tracking, codehash\n",
    "stages/two.py": "import bclef.lazy\nimport bclef.typed\n",
}

Edit = Callable[[str, str], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed(root: Path, name: str, text: str) -> set[str]:
    """Returns the stages whose closure changes when file `name` reads `text`."""
    before = {stage: closure(stage, root) for stage in ("one", "two")}
    (root / name).write_text(text)
    return {stage for stage, hashes in before.items() if closure(stage, root) != hashes}


def test_closure_follows_imports_of_names_and_modules_and_adds_parents(root: Path) -> None:
    assert list(closure("one", root)) == [
        "bclef", "bclef.left", "bclef.top", "stages", "stages.one"
    ]  # fmt: skip


def test_closure_follows_imports_in_functions_under_type_checking_and_relative_ones(
    root: Path,
) -> None:
    assert list(closure("two", root)) == [
        "bclef",
        "bclef.deep",
        "bclef.deep.inner",
        "bclef.deep.sibling",
        "bclef.hinted",
        "bclef.lazy",
        "bclef.typed",
        "bclef.upward",
        "stages",
        "stages.two",
    ]


def test_tracking_and_what_only_it_imports_are_left_out(root: Path) -> None:
    assert not {"bclef.tracking", "bclef.recorded", "bclef.codehash"} & closure("one", root).keys()
    assert changed(root, "bclef/tracking.py", "import bclef.alone\nX = 5\n") == set()


def test_edit_of_code_reruns_exactly_the_stages_that_import_it(root: Path) -> None:
    assert changed(root, "bclef/left.py", "name = 3\n") == {"one"}
    assert changed(root, "bclef/deep/inner.py", "g = 4\n") == {"two"}
    assert changed(root, "bclef/__init__.py", "X = 4\n") == {"one", "two"}
    assert changed(root, "bclef/alone.py", "X = 4\n") == set()


@pytest.mark.parametrize(
    "text",
    [
        '# comment\n"""Other\n\ndoc."""\n\nfrom bclef import left\n'
        "from bclef.left import (\n    name,\n)\nX = (1)  # why\n",
        "from bclef import left\nfrom bclef.left import name\nX = 1\n",
        'from bclef import left\nfrom bclef.left import name\nX = 1\n"""About X."""\n',
    ],
)
def test_comments_docstrings_and_layout_do_not_count(root: Path, text: str) -> None:
    assert changed(root, "bclef/top.py", text) == set()


def test_documenting_an_empty_module_changes_nothing(root: Path) -> None:
    assert changed(root, "bclef/__init__.py", '"""The package."""\n') == set()


@pytest.mark.parametrize("head", ["class A:", "def f():", "async def f():"])
def test_body_of_nothing_but_a_docstring_equals_pass(root: Path, head: str) -> None:
    (root / "bclef/left.py").write_text(f"name = 2\n{head}\n    pass\n")
    assert changed(root, "bclef/left.py", f'name = 2\n{head}\n    """Doc."""\n') == set()
    assert changed(root, "bclef/left.py", f"name = 2\n{head}\n    name\n") == {"one"}


@pytest.mark.parametrize(
    "text",
    [
        "name = 2.0\n",
        "name = '2'\n",
        "name = -2\n",
        "name: int = 2\n",
        "name = None\n",
        "name2 = 2\n",
    ],
)
def test_every_change_of_code_counts(root: Path, text: str) -> None:
    assert changed(root, "bclef/left.py", text) == {"one"}


def test_string_that_is_a_value_is_no_docstring(root: Path) -> None:
    (root / "bclef/left.py").write_text('name = "a"\n')
    assert changed(root, "bclef/left.py", 'name = "b"\n') == {"one"}


def test_unknown_stage_and_broken_module_are_errors(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="three"):
        closure("three", root)
    (root / "bclef/left.py").write_text("name =\n")
    with pytest.raises(SyntaxError) as caught:
        closure("one", root)
    assert caught.value.filename == str(root / "bclef/left.py")


def test_files_hold_hashes_by_module_and_versions_where_they_are_imported(root: Path) -> None:
    write_code_hashes(root, root / "codehash")
    assert sorted(path.name for path in (root / "codehash").iterdir()) == ["one.txt", "two.txt"]
    one = (root / "codehash/one.txt").read_text().splitlines()
    assert one == [f"{digest} {module}" for module, digest in closure("one", root).items()]
    two = (root / "codehash/two.txt").read_text().splitlines()
    assert two[-1] == f"torch {version('torch').partition('+')[0]}"
    assert len(two) == len(closure("two", root)) + 1


def test_hash_is_the_same_under_every_python(root: Path) -> None:
    # Newer versions add fields such as type_params; a tree with an empty one more is that tree.
    script = (
        "import ast; ast.FunctionDef._fields += ('type_params_to_come',);"
        "ast.FunctionDef.type_params_to_come = [];"
        "from bclef.codehash import closure; from pathlib import Path;"
        f"print(closure('two', Path({str(root)!r})) )"
    )
    newer = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert newer.stdout.strip() == str(closure("two", root))


def test_hash_is_of_the_tree_without_positions_and_empty_fields(root: Path) -> None:
    tree = "Module(body=[Assign(targets=[Name(id='name', ctx=Store())], value=Constant(value=2))])"
    expected = hashlib.sha256(tree.encode()).hexdigest()[:16]
    assert closure("one", root)["bclef.left"] == expected


def test_fingerprint_takes_a_package_as_all_its_modules() -> None:
    package = fingerprint("bclef")
    assert package != fingerprint("bclef.tables")
    assert fingerprint("bclef.tables") == fingerprint("bclef.tables")
    assert len(package) == 16
    assert fingerprint("bclef.tables", "bclef.config") != fingerprint("bclef.tables")
    with pytest.raises(FileNotFoundError, match=r"bclef\.nothing"):
        fingerprint("bclef.nothing")


def test_committed_hashes_are_current(tmp_path: Path) -> None:
    committed = REPOSITORY / "codehash"
    if not committed.is_dir():
        pytest.skip("codehash/ is written by the first `dvc repro`")
    write_code_hashes(REPOSITORY, tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    found = {path.name: path.read_text() for path in committed.glob("*.txt")}
    assert found == fresh, "run `dvc repro code` and commit codehash/"
