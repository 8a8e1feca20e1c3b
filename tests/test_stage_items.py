"""Stages with items: which one they want, and what several processes do about one passed over."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bclef.tables import write_table
from bclef.taxonomy import CLASSES
from stages import item_argument
from tests.workspaces import attempt

REPOSITORY = Path(__file__).parents[1]


def test_the_item_is_what_stands_after_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/repo/stages/finetune.py", "3"])
    assert item_argument("fold") == "3"


@pytest.mark.parametrize(("items", "found"), [([], "nothing"), (["0", "1"], "0 1")])
def test_no_item_or_two_are_refused(
    monkeypatch: pytest.MonkeyPatch, items: list[str], found: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/repo/stages/finetune.py", *items])
    with pytest.raises(SystemExit, match=rf"^stages\.finetune: found {found} .* number of a fold"):
        item_argument("fold")


@pytest.mark.parametrize("name", ["finetune", "pseudo_label", "distill", "score_student"])
def test_stage_without_its_item_ends_with_one_line(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"stages.{name}"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"stages.{name}: found nothing")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "item", "folder"),
    [("finetune", "4", "models/finetune/4"), ("distill", "3", "models/distill/3")],
)
def test_folder_passed_over_is_written_by_the_first_of_several_processes(
    tmp_path: Path, name: str, item: str, folder: str
) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(REPOSITORY / file, tmp_path)
    (tmp_path / ".dvc").mkdir()
    bird = {"label": "bird1", "scientific_name": "Avis avis", "n_recordings": 3, "target": True}
    classes = pd.DataFrame([{"index": 0, "common_name": None, "taxon_class": None, **bird}])
    dtypes = {column: dtype.removesuffix("?") for column, dtype in CLASSES.columns.items()}
    write_table(classes.astype(dtypes), tmp_path / "data/classes.parquet", CLASSES)
    (tmp_path / "models/distill/2").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    launched = {"PYTHONPATH": str(REPOSITORY), "BCLEF_TRACKING": "off"}
    command = (sys.executable, "-m", f"stages.{name}", item)
    other = attempt(tmp_path, *command, **launched, RANK="1")
    assert other.returncode == 0, other.stderr
    assert sorted(tmp_path.rglob("*")) == before
    first = attempt(tmp_path, *command, **launched, RANK="0")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / folder).is_dir()
    assert (tmp_path / "metrics" / name / f"{item}.json").exists()
