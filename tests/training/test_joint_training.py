"""Training by two processes on this machine's loopback, against training by one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bclef.models import ModelSpec, build_model
from bclef.phasetraining import _own_copy
from bclef.training import TrainConfig

REPOSITORY = Path(__file__).parents[2]
PHASES: tuple[dict[str, Any], ...] = (
    {"epochs": 2, "clips_per_epoch": 40, "accumulate_batches": 2, "select": "best"},
    {"epochs": 2, "trainable": "head", "swa_epochs": 1, "ema_decay": None},
)


@pytest.fixture
def make_settings(
    world_dir: Path, spec: ModelSpec, train_config: TrainConfig, tmp_path: Path
) -> Callable[..., Path]:
    """A function that makes a folder with settings: no batch norms, no dropout, two phases."""

    def make(name: str, devices: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        normless = {"backbone": "convnext_zepto_rms", "dropout": 0.0}
        model = spec.model.model_copy(update=normless)
        phases = [train_config.model_copy(update=own | {"devices": devices}) for own in PHASES]
        settings = {
            "phases": [config.model_dump(mode="json") for config in phases],
            "spec": spec.model_copy(update={"model": model}).model_dump(mode="json"),
            "store": str(world_dir),
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        return folder

    return make


def start(folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    alike = {
        "BCLEF_LOADER_WORKERS": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.training.joint_training", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | alike | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_ends_well(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert output == "", "Lightning keeps quiet"


def calls(folder: Path) -> list[str]:
    """`RANK WORD` of all processes in the order in which they came."""
    path = folder / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(call: str, folder: Path) -> None:
    end_s = time.monotonic() + 300
    while call not in calls(folder):
        assert time.monotonic() < end_s
        time.sleep(0.05)


def assert_trained_alike(one: Path, two: Path) -> None:
    curves = [pd.read_json(folder / "history-0.json", orient="records") for folder in (one, two)]
    assert curves[0].columns.tolist() == curves[1].columns.tolist()
    np.testing.assert_allclose(*(curve["train_loss"] for curve in curves), rtol=0, atol=1e-4)
    np.testing.assert_allclose(*(curve.fillna(0) for curve in curves), rtol=1e-3, atol=1e-4)
    assert curves[0]["train_loss"].nunique() == 4, "something is learnt"
    weights = [torch.load(folder / "weights-0.pt", weights_only=True) for folder in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_as_one(make_settings: Callable[..., Path]) -> None:
    """With mixup, noise and masks, a last step of one batch, and a phase of other settings."""
    alone, together = make_settings("alone", 1), make_settings("together", 2)
    for process in [start(alone), start(together)]:
        assert_ends_well(process)
    assert_trained_alike(alone, together)
    first, second = ([call for call in calls(together) if call[0] == rank] for rank in "01")
    assert first == calls(alone)
    assert second == ["1 start", "1 leave"], "the second process validates and reports nothing"
    assert not list(together.glob("*-1.[jp]*")), "it ends after training"
    assert calls(together)[-1] == "1 leave", "it waits until the first has validated"


@pytest.mark.slow
def test_two_processes_of_a_launcher_that_are_killed_go_on_as_one(
    make_settings: Callable[..., Path],
) -> None:
    """Started as by torchrun, each with its rank; the second ends when the first is killed."""
    alone, together = make_settings("alone", 1), make_settings("together", 2)
    launched = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "TORCHELASTIC_RUN_ID": "none",
        "WAIT_AFTER_EPOCH": "2",
    }
    ranks = [{**launched, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    single, first, second = start(alone), *[start(together, rank) for rank in ranks]
    assert_ends_well(single)
    wait_for("0 epoch 2", together)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate(timeout=100)[1]
    assert second.returncode != 0
    assert_ends_well(start(together))
    assert calls(together).count("0 start") == 2
    assert_trained_alike(alone, together)


@pytest.mark.slow
def test_first_process_that_ends_because_the_second_has_died_says_so(
    make_settings: Callable[..., Path],
) -> None:
    """It is killed at once, for it may wait for the other for ever."""
    folder = make_settings("together", 2)
    process = start(folder, {"WAIT_AFTER_EPOCH": "1"})
    wait_for("0 epoch 1", folder)
    second = int((folder / "pid-1.txt").read_text())
    os.kill(second, signal.SIGKILL)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert f"PID {second} terminated with code -9" in errors


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_batch_norms_on_the_cpu_are_said_to_be_apart(
    spec: ModelSpec, train_config: TrainConfig, caplog: pytest.LogCaptureFixture, trainable: str
) -> None:
    """But for frozen ones, which every process sees alike."""
    fabric: Any = SimpleNamespace(world_size=2, device=torch.device("cpu"), is_global_zero=True)
    config = train_config.model_copy(update={"trainable": trainable})
    _own_copy(build_model(spec, seed=0), config, fabric)
    warned = "batch norms see the clips of their own process alone" in caplog.text
    assert warned == (trainable == "all")


def free_port() -> str:
    """A port of the loopback that nothing listens on; asked by a process that may use sockets."""
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return found.stdout.strip()
