"""A stage with items says which one it wants, instead of a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages import item_argument

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
