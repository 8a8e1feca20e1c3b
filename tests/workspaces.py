"""Workspaces of their own for tests that run stages, and the running of commands there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def environment_for(workspace: Path, **more: str) -> dict[str, str]:
    """The environment of a user there, apart from that of whoever runs the tests."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("DVC_")}
    return environment | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(workspace),
        "BCLEF_TRACKING": "spool",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **more,
    }


def attempt(workspace: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command, whatever comes of it."""
    return subprocess.run(
        command, cwd=workspace, env=environment_for(workspace, **environment),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def run(workspace: Path, *command: str, **environment: str) -> str:
    """Runs a command that has to succeed, and returns what it printed."""
    finished = attempt(workspace, *command, **environment)
    assert finished.returncode == 0, f"{' '.join(command)}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def workspace_at(place: Path, *recipes: str) -> Path:
    """Copies what git tracks, without results, as a repository with recipes applied."""
    names = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"),
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, place / name)
    run(place, "git", "init", "--quiet")
    run(place, sys.executable, "-m", "bclef.recipe", "--apply", *recipes)
    return place
