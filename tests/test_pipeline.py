"""The whole graph on a small demo, in its own workspaces: twice cold, then once to no effect."""

import json
from pathlib import Path

import pandas as pd
import pytest

from bclef.config import Params
from bclef.sources.aviary import DemoConfig
from bclef.sources.world import plan_world
from tests.workspaces import run, workspace_at

pytestmark = [pytest.mark.slow, pytest.mark.pipeline, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [workspace_at(tmp_path_factory.mktemp(name), "smoke") for name in ("first", "second")]
    for workspace in made:
        run(workspace, "dvc", "repro", "--quiet")
    return made


def tables(workspace: Path) -> dict[str, bytes]:
    found = (workspace / "data").rglob("*.parquet")
    # Scores are compared as metrics: two processes need not agree in the last bit of a float.
    made_by_training = {"oof", "scores", "pseudo", "evaluation"}
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in found
        if not made_by_training & set(path.parts)
    }


def numbers(tree: object, name: str = "") -> dict[str, float]:
    if isinstance(tree, dict):
        parts = [numbers(value, f"{name}.{key}") for key, value in tree.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {name: float(tree)} if isinstance(tree, int | float) else {}


def test_it_leaves_a_model_its_scores_and_a_report(workspaces: list[Path]) -> None:
    first = workspaces[0]
    for name in ("model.onnx", "openvino/model.xml", "labels.csv", "ATTRIBUTION.csv"):
        assert (first / "models/export" / name).stat().st_size
    scores = json.loads((first / "metrics/evaluate.json").read_text())["soundscape"]
    for metric in ("macro_roc_auc", "padded_cmap"):
        assert scores[metric]["low"] <= scores[metric]["value"] <= scores[metric]["high"]
    assert "</html>" in (first / "reports/index.html").read_text()


def test_every_planted_fault_is_found_and_no_other(workspaces: list[Path]) -> None:
    first = workspaces[0]
    truth = plan_world(Params.for_stage("fetch", None, first).section(DemoConfig, "demo")).truth
    clips = pd.read_parquet(first / "data/clips.parquet").set_index("recording_id")
    usable = set(pd.read_parquet(first / "data/splits.parquet")["recording_id"])
    reasons = {"silent": "silent", "truncated": "truncated", "corrupt": "not_audio", "gone": "gone"}
    broken = truth[truth["fault"].isin(list(reasons))]
    found = clips["error"].dropna()
    assert set(found.index) == set(broken["recording_id"])
    for row in broken.itertuples():
        assert found[row.recording_id] == reasons[row.fault]
        assert clips.loc[row.recording_id, "detail"]
    copies = clips[clips["duplicate_of"].notna()]
    pairs = {
        (frozenset((row.Index, row.duplicate_of)), row.duplicate_kind)
        for row in copies.itertuples()
    }
    planted = truth[truth["fault"].isin(["exact_duplicate", "reencoded_duplicate"])]
    assert len(planted)
    assert pairs == {
        (frozenset((row.recording_id, row.of)), row.fault.removesuffix("_duplicate"))
        for row in planted.itertuples()
    }
    assert not usable & (set(copies.index) | set(found.index))


def test_two_cold_runs_give_the_same_tables(workspaces: list[Path]) -> None:
    first, second = (tables(workspace) for workspace in workspaces)
    assert len(first) >= 8
    assert first == second


def test_two_cold_runs_give_the_same_scores(workspaces: list[Path]) -> None:
    for name in ("evaluate", "pretrain", "finetune/0", "distill/2"):
        first, second = (
            numbers(json.loads((workspace / f"metrics/{name}.json").read_text()))
            for workspace in workspaces
        )
        assert first == pytest.approx(second, abs=1e-4)


def test_a_second_run_has_nothing_to_do(workspaces: list[Path]) -> None:
    assert "Running stage" not in run(workspaces[0], "dvc", "repro")
