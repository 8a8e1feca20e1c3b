"""A recipe reaches params.yaml exactly as it is written, through the shell and through Hydra."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides
from hypothesis import given
from hypothesis import strategies as st

from bclef.config import ConfigError, read_yaml
from bclef.dotted import grafted, leaves
from bclef.recipe import main, override, read_recipe, read_recipes

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
NAMES = [
    f"{path.stem}{variant}{small}"
    for path in RECIPES
    for variant in ("", *(f":{name}" for name in read_recipe(path.stem, REPOSITORY).variants))
    for small in ("", "-small")
]

VALUES: list[object] = [
    None, True, False, 0, -3, 1e-05, 1e300, float("inf"), "", "yes", "null", "1e-5", "0123", "a,b",
    "it's", "x:y=z{1}", "[a]", "back\\slash", "back\\", "\\'", "$x", "a=b", "#", "*", "~", "(a)",
    "2026-11-20", [], [1, "a'b", [None]], {"k": "v", "deep": {"l": [1.5, True]}},
    [{"kind": "recordings", "recordings": "*nocall*", "low": -3.0, "high": 1e-05}, {"kind": None}],
    [{"loss": "bce", "epochs": 3, "noise": [{"low": 0}], "mixup": {"p": 0.5}}, {}],
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(
        "# kept\ntrain: {lr: 0.1, name: a, band_hz: [1, 2]}\nx: null\n"
    )
    (tmp_path / "recipes/small.yaml").write_text("train.lr: 1e-5\ntrain.name: 'it''s'\n")
    (tmp_path / "recipes/wide.yaml").write_text("train.lr: 2\ntrain.band_hz: [50, 14000]\n")
    return tmp_path


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.chdir(root)
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_survives_the_shell_and_hydra(root: Path, value: object) -> None:
    printed = f"-S {override('x', value)}"
    split = subprocess.run(
        ["bash", "-c", "printf '%s\\n' $(cat)"],
        input=printed,
        capture_output=True,
        text=True,
        check=True,
    )
    flag, argument = split.stdout.splitlines()
    assert flag == "-S"
    apply_overrides(root / "params.yaml", [argument])
    found = read_yaml(root / "params.yaml")["x"]
    assert found == value
    # `dvc exp run -S` first splits off the file, which stands before a colon.
    assert to_path_overrides([argument]) == {"params.yaml": [argument]}
    assert type(found) is type(value)


@given(st.text(st.sampled_from("'\\\"ab,:={}[]$#&*?!|>%@`~^()\u00e9"), max_size=8))
def test_any_string_without_space_survives_hydra(text: str) -> None:
    from dvc.utils.hydra import to_hydra_overrides  # noqa: PLC0415 - private, needed only here

    if "${" in text:
        with pytest.raises(ConfigError):
            override("x", text)
    else:
        (parsed,) = to_hydra_overrides([override("x", text)])
        assert str(parsed.value()) == text


@pytest.mark.parametrize("value", ["a b", "a\tb", "a\nb", "${seed}", ["ok", "a b"], {"k": " "}])
def test_whitespace_and_interpolation_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"train\.name: found .* by hand"):
        override("train.name", value)


def test_date_is_refused_because_params_have_none(root: Path) -> None:
    (root / "recipes/day.yaml").write_text("x: 2026-11-20\n")
    value = read_recipes(["day"], root)["x"]
    with pytest.raises(ConfigError, match="x: found date 2026-11-20; quote it"):
        override("x", value)


def test_key_of_a_mapping_that_hydra_would_misread_is_refused() -> None:
    with pytest.raises(ConfigError, match="found key 'a b'"):
        override("x", {"a b": 1})


def test_recipes_print_as_one_line_and_the_later_wins(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(root, monkeypatch, "small", "wide")
    assert code == 0
    assert out == "-S train.name='it\\'s' -S train.lr=2 -S train.band_hz=[50,14000]\n"
    assert "-S train.lr=1e-05" in run(root, monkeypatch, "wide", "small")[1]


def test_apply_writes_the_values_and_keeps_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(root, monkeypatch, "--apply", "small", "wide")[:2] == (0, "")
    text = (root / "params.yaml").read_text()
    assert text.startswith("# kept\n")
    assert read_yaml(root / "params.yaml") == {
        "train": {"lr": 2, "name": "it's", "band_hz": [50, 14000]},
        "x": None,
    }


def test_unknown_recipe_lists_the_known_ones_on_stderr(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(root, monkeypatch, "smoll")
    assert (code, out) == (2, "")
    assert "no recipe 'smoll'; known are small, wide" in err


VARIED = """\
# Two networks, one recipe.
# source: ours
train.lr: 3
train.noise: [{kind: white, low: 1.0}, {kind: recordings, low: 2.0}]
variants:
  tiny: &tiny {train.lr: 4, train.name: tiny}
  wide: {<<: *tiny, train.name: wide, train.noise: [{kind: pink, low: 0.5, high: 3.0}]}
  plain: {}
"""


@pytest.fixture
def varied(root: Path) -> Path:
    params = (root / "params.yaml").read_text()
    noise = "noise: [{kind: old, low: 9.0, high: 9.0}, {kind: old, low: 9.0}, {kind: old}]}"
    (root / "params.yaml").write_text(params.replace("band_hz: [1, 2]}", f"band_hz: [1], {noise}"))
    (root / "recipes/net.yaml").write_text(VARIED)
    return root


@pytest.mark.parametrize(
    ("name", "lr", "net"),
    [
        ("net", 4, "tiny"),
        ("net:tiny", 4, "tiny"),
        ("net:wide", 4, "wide"),
        ("net-small", 1e-05, "it's"),
        ("net:wide-small", 1e-05, "it's"),
    ],
)
def test_variant_overrides_its_recipe_and_small_overrides_both(
    varied: Path, name: str, lr: float, net: str
) -> None:
    overrides = read_recipes([name], varied)
    assert (overrides["train.lr"], overrides["train.name"]) == (lr, net)
    assert len(overrides["train.noise"]) == (1 if "wide" in name else 2)
    assert "variants" not in overrides


def test_variant_without_overrides_is_the_recipe_itself(varied: Path) -> None:
    assert read_recipes(["net:plain"], varied)["train.lr"] == 3


def test_list_of_mappings_replaces_the_old_one_whole(
    varied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(varied, monkeypatch, "--apply", "net:wide")[:2] == (0, "")
    noise = read_yaml(varied / "params.yaml")["train"]["noise"]
    assert noise == [{"kind": "pink", "low": 0.5, "high": 3.0}]


def test_later_name_wins_over_a_small_one_before_it(varied: Path) -> None:
    assert read_recipes(["net-small", "wide"], varied)["train.lr"] == 2


def test_override_of_a_part_after_one_of_the_whole_stays_after_it(root: Path) -> None:
    (root / "recipes/a.yaml").write_text("train.lr: 1\ntrain: {lr: 5, name: b}\n")
    (root / "recipes/b.yaml").write_text("train.lr: 7\n")
    assert list(read_recipes(["a", "b"], root).items())[-1] == ("train.lr", 7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net:wid", "recipe 'net' has no variant 'wid'; known are tiny, wide, plain"),
        ("net:", "recipe 'net' has no variant ''; known are tiny, wide, plain"),
        ("net:wid-small", "recipe 'net' has no variant 'wid'"),
        ("net-small:wide", "found 'net-small:wide'; -small goes last: 'net:wide-small'"),
        ("small:x", "recipe 'small' has no variant 'x'; it has none"),
        ("nett-small", "no recipe 'nett'; known are net, small, wide"),
    ],
)
def test_unknown_variant_lists_the_known_ones(
    varied: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    code, out, err = run(varied, monkeypatch, name)
    assert (code, out) == (2, "")
    assert said in err


def test_recipe_whose_name_ends_in_small_is_itself(root: Path) -> None:
    (root / "recipes/very-small.yaml").write_text("train.lr: 8\n")
    assert read_recipes(["very-small"], root) == {"train.lr": 8}


def test_unknown_key_of_a_variant_is_named_with_the_variant(
    varied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (varied / "recipes/net.yaml").write_text(
        VARIED.replace("train.noise: [{kind: pink", "x.y: [{k")
    )
    assert (
        "recipes/net.yaml: variants.wide: x.y: not in params.yaml"
        in (run(varied, monkeypatch, "net:wide")[2])
    )


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ("[a]", "variants: expected dotted keys, got list ['a']"),
        ("{a: null}", "variants.a: expected dotted keys, got null"),
    ],
)
def test_variants_that_are_no_mappings_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, variants: str, said: str
) -> None:
    (root / "recipes/odd.yaml").write_text(f"variants: {variants}\n")
    code, _, err = run(root, monkeypatch, "odd")
    assert code == 2
    assert f"odd.yaml: {said}" in err


def test_list_names_recipes_variants_and_what_they_are(
    varied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(varied, monkeypatch, "--list")[:2] == (
        0,
        "net    Two networks, one recipe.\n       variants: tiny, wide, plain\nsmall\nwide\n",
    )


@pytest.mark.parametrize("arguments", [[], ["--list", "small"]])
def test_names_or_list_and_not_both(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    code, _, err = run(root, monkeypatch, *arguments)
    assert code == 2
    assert "either names of recipes, or --list" in err


def test_recipe_outside_of_a_project_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(tmp_path, monkeypatch, "small")
    assert code == 2
    assert "no dvc.yaml" in err


def test_recipe_works_from_a_folder_below_the_project(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "deep").mkdir()
    assert run(root / "deep", monkeypatch, "wide")[0] == 0


def test_keys_that_params_do_not_have_are_named_all_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "recipes/odd.yaml").write_text("train.lrr: 1\nzzz: 2\ntrain: null\n")
    code, out, err = run(root, monkeypatch, "odd")
    assert (code, out) == (2, "")
    assert "recipes/odd.yaml: train.lrr: not in params.yaml, did you mean 'train.lr'?" in err
    assert "recipes/odd.yaml: zzz: not in params.yaml" in err
    assert "odd.yaml: train: " not in err


def test_environment_is_filled_in_and_has_a_default(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "recipes/real.yaml").write_text("x: ['{env:BCLEF_TEST|../shared/audio}/species', 1]\n")
    monkeypatch.delenv("BCLEF_TEST", raising=False)
    assert run(root, monkeypatch, "real")[1] == "-S x=['../shared/audio/species',1]\n"
    monkeypatch.setenv("BCLEF_TEST", "/data")
    assert run(root, monkeypatch, "real")[1] == "-S x=['/data/species',1]\n"
    monkeypatch.setenv("BCLEF_TEST", "/my data")
    assert "found '/my data/species'" in run(root, monkeypatch, "real")[2]


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.invalid")
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(
        ["git", *who, *arguments], cwd=root, env=os.environ | alone, check=True,
        capture_output=True,
    )  # fmt: skip


@pytest.fixture
def committed(root: Path) -> Path:
    """The project as it is, committed."""
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    return root


@pytest.mark.parametrize("flags", [(), ("--apply",)])
def test_what_an_earlier_recipe_left_is_named_with_both_values(
    committed: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    assert run(committed, monkeypatch, "--apply", "wide") == (0, "", "")
    code, out, err = run(committed, monkeypatch, *flags, "small")
    assert code == 0
    assert out == ("" if flags else "-S train.lr=1e-05 -S train.name='it\\'s'\n")
    assert err.splitlines() == [
        "warning: params.yaml differs from the last commit in what the recipe does not set:",
        "  train.band_hz: [50, 14000], committed [1, 2]",
        "`git checkout params.yaml` begins anew; `dvc exp run --temp` leaves the workspace alone",
    ]


def test_recipe_over_itself_or_in_another_notation_is_no_difference(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(committed, monkeypatch, "--apply", "small", "wide")[0] == 0
    assert run(committed, monkeypatch, "small", "wide")[2] == ""
    (committed / "params.yaml").write_text(
        "x:\ntrain:\n  name: 'a'\n  lr: 1.0e-1\n  band_hz: [1, 2]\n"
    )
    assert run(committed, monkeypatch, "small")[2] == ""


def test_override_of_a_whole_section_leaves_nothing_of_it(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (committed / "recipes/whole.yaml").write_text("train: {lr: 5, name: b, band_hz: [3]}\n")
    assert run(committed, monkeypatch, "--apply", "wide")[0] == 0
    assert run(committed, monkeypatch, "whole")[2] == ""


def test_five_differences_are_named_and_the_others_counted(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = committed / "params.yaml"
    more = "".join(f"k{number}: {number}\n" for number in range(5))
    params.write_text(params.read_text().replace("x: null\n", f"x: '{'long' * 20}'\n{more}"))
    lines = run(committed, monkeypatch, "small")[2].splitlines()
    assert lines[1] == f'  x: "{"long" * 14}..., committed null'
    assert lines[2:6] == [f"  k{number}: {number}, committed nothing" for number in range(4)]
    assert lines[6] == "  and 1 more"
    assert len(lines) == 8


def test_project_below_the_top_of_its_repository_is_compared_with_itself(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = committed / "inner"
    shutil.copytree(committed, inner, ignore=lambda *_: {".git", "inner"})
    (inner / "params.yaml").write_text("train: {lr: 0.1, name: a, band_hz: [1, 2]}\nx: 1\n")
    git(committed, "add", ".")
    git(committed, "commit", "--quiet", "--message", "another")
    assert run(inner, monkeypatch, "wide")[2] == ""


@pytest.mark.parametrize("state", ["no git", "no commit", "no params", "no yaml", "no repository"])
def test_without_anything_committed_there_is_nothing_to_warn_of(
    root: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    if state != "no repository":
        git(root, "init", "--quiet")
    if state in {"no params", "no yaml"}:
        params = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text("a: b: c" if state == "no yaml" else params)
        git(root, "add", "dvc.yaml" if state == "no params" else ".")
        git(root, "commit", "--quiet", "--message", "all")
        (root / "params.yaml").write_text(params)
    if state == "no git":
        monkeypatch.setenv("PATH", str(root))
    assert run(root, monkeypatch, "--apply", "wide") == (0, "", "")
    assert run(root, monkeypatch, "small")[::2] == (0, "")


def test_there_is_a_recipe_to_test() -> None:
    assert RECIPES


@pytest.mark.parametrize("name", NAMES)
def test_recipe_of_the_repository_gives_its_own_values_back(name: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text((REPOSITORY / "params.yaml").read_text())
    overrides: dict[str, Any] = read_recipes([name], REPOSITORY)
    expected = read_yaml(params)
    for key, value in leaves(overrides):
        expected = grafted(expected, key, value)
    apply_overrides(params, [override(key, value) for key, value in overrides.items()])
    assert read_yaml(params) == expected


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_of_the_repository_says_source_time_and_score(path: Path) -> None:
    head = path.read_text().split("\n\n")[0].lower()
    comment = "".join(line for line in head.splitlines() if line.startswith("#"))
    assert {word for word in ("source", "time", "score") if word not in comment} == set()
