"""What importing costs: no torch for data, no training packages for prediction."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

TORCH_FREE = [
    "archive", "audio", "baseline", "cli", "clips", "codehash", "config", "dataview",
    "detections", "duplicates", "evaluation", "frontend", "intervals", "metrics", "parallel",
    "postprocess", "pseudolabels", "recipe", "recordings", "rejections", "report", "runtime",
    "shipping", "sources", "splits", "stage", "store", "suspicion", "tables", "taxonomy",
    "tracking",
]  # fmt: skip
"""Modules whose import costs no torch, timm, lightning or mlflow (up to nine seconds)."""

LIGHT_STAGES = [
    "baseline", "code", "evaluate", "features", "fetch", "metadata", "pseudo_label", "report",
    "resample", "splits",
]  # fmt: skip
"""Stage scripts for which the same holds."""

HEAVY = ("dvc", "lightning", "mlflow", "pytorch_lightning", "timm", "torch", "torchaudio")

BASE = [
    "audio", "cli", "dataview", "detections", "metrics", "parallel", "postprocess", "rejections",
    "runtime", "suspicion", "tables", "taxonomy",
]  # fmt: skip
"""Modules that have to import where only the packages of the base install are."""


def run_python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_modules_of_the_data_stages_import_no_torch() -> None:
    light = [f"bclef.{name}" for name in TORCH_FREE] + [f"stages.{name}" for name in LIGHT_STAGES]
    script = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [word for word in {HEAVY!r} if word in sys.modules]\n"
        "    if heavy:\n"
        "        found[name] = heavy\n"
        "        break\n"
        "print(json.dumps(found))\n"
    )
    assert json.loads(run_python(script)) == {}


@pytest.mark.slow
def test_modules_of_the_base_install_import_without_the_others() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module_of = {"pyyaml": "yaml", "scikit-learn": "sklearn", "ruamel.yaml": "ruamel"}

    def packages(requirements: list[str]) -> set[str]:
        names = {re.split(r"[\[<>=~!; ]", line)[0] for line in requirements}
        return {module_of.get(name, name) for name in names}

    extras = project["optional-dependencies"]
    absent = packages(extras["train"] + extras["cluster"]) - packages(project["dependencies"])
    script = (
        "import importlib, sys\n"
        f"for name in {sorted(absent)!r}:\n"
        "    sys.modules[name] = None\n"  # importing it raises ImportError, as if not installed
        f"for name in {[f'bclef.{name}' for name in BASE]!r}:\n"
        "    importlib.import_module(name)\n"
    )
    run_python(script)
