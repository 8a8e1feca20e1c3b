"""The last words of a run."""

from pathlib import Path
from typing import Any

from bclef.cli import predict
from bclef.summary import PREDICT, summary_lines
from bclef.tables import write_json


def figures(value: float) -> dict[str, Any]:
    return {"macro_roc_auc": {"value": value, "low": value - 0.02, "high": value + 0.02}}


def a_run(root: Path) -> None:
    oof = {"network": figures(0.91), "baseline": figures(0.81)}
    oof["network_minus_baseline"] = {"macro_roc_auc": {"value": 0.1, "low": 0.06, "high": 0.13}}
    tree = {"soundscape": figures(0.88), "teacher": figures(0.86), "first_model": figures(0.82)}
    write_json(root / "metrics/evaluate.json", {**tree, "oof": oof, "notes": []})
    write_json(root / "metrics/finetune/0.json", {"val": 1})
    write_json(root / "models/export/model.json", {})


def test_finished_run_says_its_scores_and_what_to_type_in_about_ten_lines(tmp_path: Path) -> None:
    a_run(tmp_path)
    lines = summary_lines(tmp_path)
    assert len(lines) <= 12
    assert "  Exported model  annotated soundscapes  0.880 [0.860, 0.900]" in lines
    assert "  The networks beat the regression." in lines
    assert "Model:   models/export" in lines
    assert "Report:  reports/index.html" not in lines
    assert any(PREDICT in line for line in lines)


def test_what_could_not_be_scored_is_said_with_its_reason(tmp_path: Path) -> None:
    note = "out-of-fold scores left out: the 3 fold models held no labelled clip out"
    tree = {"soundscape": figures(0.88), "notes": [note]}
    write_json(tmp_path / "metrics/evaluate.json", tree)
    assert f"  Note: {note}." in summary_lines(tmp_path)
    write_json(tmp_path / "metrics/evaluate.json", {"notes": [note]})
    lines = summary_lines(tmp_path)
    assert "had nothing to score" in lines[0]
    assert lines[1] == f"  Note: {note}."


def test_command_that_is_named_exists() -> None:
    options = {option for parameter in predict.params for option in parameter.opts}
    assert {"--model", "-o"} <= options


def test_unfinished_run_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    lines = summary_lines(tmp_path)
    assert "has not run" in lines[0]
    assert lines[-1] == "Next:    dvc repro"
