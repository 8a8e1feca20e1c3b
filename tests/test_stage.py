import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from bclef.config import ConfigError
from bclef.stage import stage
from bclef.tracking import SPOOL_DIRECTORY, is_locked

REPOSITORY = Path(__file__).parents[1]

DVC_YAML = """
stages:
  splits: {cmd: python -m stages.splits, params: [seed, splits]}
  finetune:
    matrix: {fold: [0, 1]}
    cmd: python -m stages.finetune ${item.fold}
    params: [seed, train, "folds.f${item.fold}"]
"""
PARAMS_YAML = """
seed: 7
splits: {n_folds: 3}
train: {lr: 1e-05, epochs: 2}
folds: {f0: true, f1: false}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text(PARAMS_YAML)
    (tmp_path / "codehash").mkdir()
    (tmp_path / "codehash" / "finetune.txt").write_text("0123456789abcdef stages.finetune\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BCLEF_TRACKING", "spool")
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers = root.handlers[:]
    loggers = [root, *map(logging.getLogger, ("bclef", "stages"))]
    levels = [logger.level for logger in loggers]
    yield tmp_path
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def records(workspace: Path) -> list[dict[str, Any]]:
    [path] = (workspace / SPOOL_DIRECTORY).glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def script(workspace: Path, body: str) -> list[str]:
    """Writes a stage script whose body runs in `run`; returns the command."""
    path = workspace / f"script{len(list(workspace.glob('script*')))}.py"
    lines = ["import os, signal, sys, time", "from pathlib import Path"]
    lines += ["from bclef.stage import stage", 'with stage("finetune", item="0") as run:']
    path.write_text("\n".join([*lines, *(f"    {line}" for line in body.splitlines())]))
    return [sys.executable, str(path)]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], word: str) -> None:
    """Waits until the process prints `word`."""
    assert process.stdout
    assert process.stdout.readline().strip() == word


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_stage_sees_what_it_declares(workspace: Path) -> None:
    with stage("finetune", item="1") as run:
        assert run.params.flat() == {
            "seed": 7,
            "train.lr": 1e-5,
            "train.epochs": 2,
            "folds.f1": False,
        }
        assert (run.root, run.dvc_root) == (workspace, workspace)
        assert run.store_root == workspace / "data" / "store"
    header = records(workspace)[0]
    assert header["stage"] == "finetune@1"
    assert header["params"]["train.lr"] == "1e-05"


def test_metrics_are_written_and_their_numbers_recorded(workspace: Path) -> None:
    with stage("finetune", item="0") as run:
        run.write_metrics({"fold0": {"score": 0.5, "n": 3, "on": True, "name": "a"}})
    with stage("splits") as run:
        run.write_metrics({"n_leaks": 0})
    written = json.loads((workspace / "metrics" / "finetune" / "0.json").read_text())
    assert written == {"fold0": {"score": 0.5, "n": 3, "on": True, "name": "a"}}
    assert json.loads((workspace / "metrics" / "splits.json").read_text()) == {"n_leaks": 0}
    recorded = [
        json.loads(line)["v"]
        for path in (workspace / SPOOL_DIRECTORY).glob("*.jsonl")
        for line in path.read_text().splitlines()
        if json.loads(line)["k"] == "m"
    ]
    taken = [values for values in recorded if "resources.wall_s" in values]
    assert len(taken) == 2
    # An interpreter with pandas, but no more than this whole test run: the unit is MiB.
    assert all(10 < values["resources.peak_memory_mib"] < 100_000 for values in taken)
    told = sorted((values for values in recorded if values not in taken), key=len)
    assert told == [{"n_leaks": 0}, {"fold0.score": 0.5, "fold0.n": 3}]


def test_an_error_of_the_project_is_a_message_and_code_1(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter2")
    command = script(
        workspace,
        "from bclef.config import ConfigError\nraise ConfigError('train.lr: hunter2 is no number')",
    )
    code, errors = ended(start(command))
    assert code == 1
    assert errors.strip().endswith("train.lr: [redacted] is no number")
    assert "Traceback" not in errors
    end = records(workspace)[-1]
    assert end["status"] == "FAILED"
    assert end["error"] == "ConfigError: train.lr: [redacted] is no number"


def test_any_other_error_keeps_its_traceback(workspace: Path) -> None:
    code, errors = ended(start(script(workspace, "raise LookupError('a bug')")))
    assert code == 1
    assert "Traceback" in errors
    assert records(workspace)[-1]["error"] == "LookupError: a bug"


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        (SystemExit(0), "FINISHED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("stop"), "FAILED"),
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_the_record_says_how_a_stage_ended(
    workspace: Path, leave: BaseException, status: str
) -> None:
    with pytest.raises(type(leave)), stage("splits"):
        raise leave
    assert records(workspace)[-1]["status"] == status


def test_sigterm_ends_a_stage_in_order_with_143(workspace: Path) -> None:
    body = "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n"
    body += "    os.kill(os.getpid(), signal.SIGTERM)\n"  # a second one must not cut this short
    body += "    Path('cleaned').touch()"
    process = start(script(workspace, body))
    said(process, "ready")
    process.terminate()
    assert ended(process)[0] == 143
    assert (workspace / "cleaned").exists()
    assert records(workspace)[-1]["status"] == "KILLED"


def test_the_old_handler_of_sigterm_comes_back(workspace: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stage("splits"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
@pytest.mark.parametrize(("by_dvc", "lives_on"), [(True, False), (False, True)])
def test_a_stage_ends_with_its_dvc_but_not_with_a_shell(
    workspace: Path, by_dvc: bool, lives_on: bool
) -> None:
    command = script(workspace, "print(os.getpid(), flush=True)\ntime.sleep(60)")
    launcher = f"import subprocess; subprocess.run({command!r})"
    parent = start([sys.executable, "-c", launcher], **({"DVC_STAGE": "x"} if by_dvc else {}))
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    [spool] = (workspace / SPOOL_DIRECTORY).glob("*.jsonl")
    end_s = time.monotonic() + (1.0 if lives_on else 20.0)
    while is_locked(spool) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert is_locked(spool) == lives_on
    if lives_on:
        os.kill(pid, signal.SIGKILL)
    parent.communicate()


def test_a_rerun_waits_for_the_orphan_of_its_stage(workspace: Path) -> None:
    orphan = subprocess.Popen(
        script(workspace, "print('ready', flush=True)\nsys.stdin.read()"),
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said(orphan, "ready")
    rerun = start(script(workspace, "print('ready', flush=True)"))
    assert rerun.stderr
    message = rerun.stderr.readline()
    assert f"finetune@0 is already at work as process {orphan.pid} on " in message
    assert rerun.poll() is None
    orphan.communicate("")
    assert ended(rerun)[0] == 0


def test_other_folds_and_other_workspaces_do_not_wait(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("experiment")
    for name in ("dvc.yaml", "params.yaml"):
        (elsewhere / name).write_text((workspace / name).read_text())
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    with stage("finetune", item="0"), stage("finetune", item="1"):
        monkeypatch.chdir(elsewhere)
        with stage("finetune", item="0") as run:
            assert (run.root, run.dvc_root) == (elsewhere, workspace)


def test_checkpoints_of_a_killed_stage_are_found_by_its_rerun(workspace: Path) -> None:
    body = "run.work_dir('tables')"
    killed = f"({body} / 'epoch').write_text('3')\nos.kill(os.getpid(), signal.SIGKILL)"
    assert ended(start(script(workspace, killed)))[0] == -signal.SIGKILL
    code, errors = ended(start(script(workspace, f"sys.exit(int(({body} / 'epoch').read_text()))")))
    assert code == 3, errors


def work_dir(item: str = "0", *parts: str) -> Path:
    """The name of the directory, which a failed stage keeps."""
    with suppress(LookupError), stage("finetune", item=item) as run:
        directory = run.work_dir(*parts)
        raise LookupError
    return directory


def test_checkpoints_are_kept_apart_by_all_that_determines_them(workspace: Path) -> None:
    first = work_dir("0", "a")
    assert work_dir("0", "a") == first
    assert first.parent == workspace / ".work" / "finetune-0"
    assert len(first.name) == 16
    others = [work_dir("0", "b"), work_dir("0", "a", "a"), work_dir("1", "a")]
    params = workspace / "params.yaml"
    params.write_text(PARAMS_YAML.replace("epochs: 2", "epochs: 3"))
    others.append(work_dir("0", "a"))
    params.write_text(PARAMS_YAML.replace("n_folds: 3", "n_folds: 4"))  # not declared
    assert work_dir("0", "a") == first
    (workspace / "codehash" / "finetune.txt").write_text("fedcba9876543210 stages.finetune\n")
    others.append(work_dir("0", "a"))
    assert len({first, *others}) == 1 + len(others)


def test_a_directory_of_another_key_is_not_used(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = work_dir()
    (directory / "epoch").touch()
    (directory / "key.json").write_text('{"code": "another"}\n')
    assert work_dir() == directory
    assert "is not of these params" in caplog.text
    assert not (directory / "epoch").exists()
    assert work_dir() == directory


def test_checkpoints_go_when_the_stage_has_succeeded_and_not_before(workspace: Path) -> None:
    directory = work_dir()
    assert directory.is_dir()
    with stage("finetune", item="0") as run:
        assert run.work_dir() == directory
        assert run.work_dir() == directory
    assert not directory.exists()


def test_checkpoints_without_a_hash_of_the_code_are_refused(workspace: Path) -> None:
    (workspace / "codehash" / "finetune.txt").unlink()
    with pytest.raises(SystemExit) as exited, stage("finetune", item="0") as run:
        run.work_dir()
    assert exited.value.code == 1
    assert isinstance(exited.value.__cause__, ConfigError)
    assert "dvc repro code" in str(exited.value.__cause__)


def test_a_place_without_dvc_yaml_is_refused(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace / "dvc.yaml").unlink()
    with pytest.raises(SystemExit) as exited, stage("splits"):
        pass
    assert exited.value.code == 1
    assert f"no dvc.yaml in {workspace}" in caplog.text


@pytest.mark.slow
def test_a_stage_does_not_wait_for_a_dead_server(workspace: Path) -> None:
    def seconds(**environment: str) -> float:
        started_s = time.monotonic()
        code, errors = ended(
            start(script(workspace, "run.log_metrics({'loss': 1})"), **environment)
        )
        assert code == 0, errors
        return time.monotonic() - started_s

    alone_s = seconds(BCLEF_TRACKING="off")
    tracked_s = seconds(
        BCLEF_TRACKING="live", MLFLOW_TRACKING_URI="http://127.0.0.1:9", PYTHONDONTWRITEBYTECODE="1"
    )
    assert tracked_s - alone_s < 20  # a stage that talks to the server waits for minutes
    assert [record["k"] for record in records(workspace)] == ["start", "m", "m", "end"]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "--follow" in process.cmdline() and process.cwd() == str(workspace):
                process.kill()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_first_of_several_processes_locks_and_writes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr("bclef.lifetime._end_with_parent", lambda _number: None)
    with suppress(LookupError), stage("finetune", item="0") as first:
        directory = first.work_dir()
        (directory / "epoch").touch()
        first.log_metrics({"loss": 1.0})
        monkeypatch.setenv(number, "1")
        before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
        with stage("finetune", item="0") as other:  # waits for no lock
            assert other.work_dir() == directory
            assert other.params == first.params
            other.log_metrics({"loss": 2.0})
            other.write_metrics({"loss": 2.0})
            other.write_plot(pd.DataFrame({"epoch": [1]}))
        monkeypatch.setenv(number, "0")
        after = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
        assert after == before
        raise LookupError
    assert (directory / "epoch").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
def test_the_other_processes_end_with_what_started_them(workspace: Path) -> None:
    """Even one that hangs, say waiting for the first one's word, and is deaf to SIGTERM."""
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    command = script(workspace, f"{body}print(os.getpid(), flush=True)\ntime.sleep(60)")
    parent = start(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"], LOCAL_RANK="1"
    )
    assert parent.stdout
    process = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    process.wait(timeout=20)
    parent.communicate()


def test_another_process_of_a_training_ends_the_stage_without_a_word(workspace: Path) -> None:
    command = script(workspace, "import logging\nlogging.getLogger('bclef').info('hello')\nexit(0)")
    assert ended(start(command, RANK="1")) == (0, "")
    assert not list(workspace.glob(f"{SPOOL_DIRECTORY}/*"))
    code, errors = ended(start(command))
    assert (code, "hello" in errors) == (0, True)
