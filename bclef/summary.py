"""The last lines of `make repro`: what came out, where it lies, what to type next."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bclef.reportinputs import read_metrics
from bclef.reportscores import MEASURES, comparisons, system_scores

PREDICT = "bclef predict RECORDINGS... --model models/export -o detections.csv"


def summary_lines(root: Path) -> list[str]:
    """Returns about ten lines on the run in folder `root`, as far as it has got.

    Raises:
        TableError: A metrics file is not a JSON object.
    """
    evaluation = read_metrics(root).get("evaluate", {})
    return [*_scores(evaluation), "", *_places(root), *_next(root)]


def _scores(evaluation: Mapping[str, Any]) -> list[str]:
    """A line per system with its macro ROC-AUC, then how they compare, and what is left out."""
    systems = system_scores(evaluation)
    told = [f"  Note: {note}." for note in evaluation.get("notes", [])]
    if not systems:
        return ["No scores yet: the stage evaluate has not run, or had nothing to score.", *told]
    lines = [f"{MEASURES['macro_roc_auc']}, with 95 % intervals over recordings"]
    for system in systems:
        test = "annotated soundscapes" if system.is_soundscape else "held-out clips"
        if estimate := system.estimates.get("macro_roc_auc"):
            lines.append(f"  {system.name:<15} {test:<22} {estimate.text()}")
    lines += [f"  {verdict[0].upper()}{verdict[1:]}." for _, _, verdict in comparisons(evaluation)]
    return [*lines, *told]


def _places(root: Path) -> list[str]:
    places = {"Model": "models/export", "Report": "reports/index.html"}
    return [
        f"{name + ':':<8} {place if (root / place).exists() else 'not made yet'}"
        for name, place in places.items()
    ]


def _next(root: Path) -> list[str]:
    if not (root / "models/export/model.json").exists():
        return ["Next:    dvc repro"]
    return [
        f"Next:    {PREDICT}",
        "         dvc exp run -S train.lr=1e-3 ; dvc metrics diff ; mlflow ui --backend-store-uri sqlite:///mlflow.db",
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join(summary_lines(Path())) + "\n")
