import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from onnx import TensorProto, helper

from bclef.shipping import ShipReport, follow, ship
from bclef.tracking import SPOOL_DIRECTORY, Spool, open_spool

# What MLflow and its database layer warn of is theirs to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

CLOSED_PORT = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workspace(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BCLEF_TRACKING", "spool")
    monkeypatch.setenv("BCLEF_PIPELINE_ID", "pipeline-1")
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def opened(workspace: Path, stage: str = "finetune@0", **params: float) -> Spool:
    return open_spool(workspace, root=workspace, stage=stage, params=params)


def runs(workspace: Path, kind: str = "stage") -> list[Run]:
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("bclef")
    return client.search_runs(
        [experiment.experiment_id], f"tags.kind = '{kind}'", order_by=["start_time"]
    )


def history(workspace: Path, run: Run, name: str) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def spools(workspace: Path, place: str = ".") -> list[Path]:
    return sorted((workspace / SPOOL_DIRECTORY / place).glob("*.jsonl"))


def test_a_run_arrives_whole(workspace: Path) -> None:
    spool = opened(workspace, **{"train.lr": 1e-5, "train.epochs": 2})
    spool.log_metrics({"loss": 0.5}, step=0)
    spool.log_metrics({"loss": 0.25}, step=1)
    plot = workspace / "plots" / "loss.csv"
    plot.parent.mkdir()
    plot.write_text("epoch,loss\n")
    spool.log_artifact(plot)
    spool.close("FINISHED")
    plot.unlink()  # as a temporary workspace vanishes
    assert ship(workspace, wait_s=0) == ShipReport(shipped=1, kept=0, bad=0, reason=None)
    [run] = runs(workspace)
    assert run.info.run_name == "finetune@0"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.lr": "1e-05", "train.epochs": "2"}
    assert history(workspace, run, "loss") == [(0, 0.5), (1, 0.25)]
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    assert [f.path for f in client.list_artifacts(run.info.run_id, "plots")] == ["plots/loss.csv"]
    assert (workspace / "mlruns").is_dir()
    assert spools(workspace) == []
    assert [path.name for path in spools(workspace, "done")] == [f"{spool.identity}.jsonl"]


def test_stages_of_a_pipeline_are_children_of_one_run(workspace: Path) -> None:
    for stage in ("splits", "finetune@0"):
        spool = opened(workspace, stage, seed=7)
        spool.log_summary({"score": 0.5})
        spool.close("FINISHED")
    ship(workspace, wait_s=0)
    [parent] = runs(workspace, "pipeline")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(workspace)} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.info.end_time == max(run.info.end_time for run in runs(workspace))
    assert parent.data.params == {"seed": "7"}
    assert parent.data.metrics == {"splits.score": 0.5, "finetune-0.score": 0.5}


def test_pipelines_are_apart(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(workspace).close("FINISHED")
    monkeypatch.setenv("BCLEF_PIPELINE_ID", "pipeline-2")
    opened(workspace).close("FINISHED")
    ship(workspace, wait_s=0)
    assert len(runs(workspace, "pipeline")) == 2


def test_a_failed_stage_fails_its_pipeline_whichever_ships_last(workspace: Path) -> None:
    opened(workspace, "splits").close("FAILED", "no groups")
    ship(workspace, wait_s=0)
    opened(workspace, "report").close("FINISHED")
    ship(workspace, wait_s=0)
    [parent] = runs(workspace, "pipeline")
    assert parent.info.status == "FAILED"
    assert runs(workspace)[0].data.tags["error"] == "no groups"


def test_a_stage_that_succeeds_when_rerun_mends_its_pipeline(workspace: Path) -> None:
    opened(workspace, "splits").close("FAILED", "no groups")
    time.sleep(0.005)
    opened(workspace, "splits").close("FINISHED")
    ship(workspace, wait_s=0)
    assert runs(workspace, "pipeline")[0].info.status == "FINISHED"


def test_a_live_run_is_shipped_as_it_grows(workspace: Path) -> None:
    spool = opened(workspace)
    spool.log_metrics({"loss": 1.0}, step=0)
    assert ship(workspace, wait_s=0) == ShipReport(shipped=0, kept=1, bad=0, reason=None)
    [run] = runs(workspace)
    assert run.info.status == "RUNNING"
    assert runs(workspace, "pipeline")[0].info.status == "RUNNING"
    spool.log_metrics({"loss": 0.5}, step=1)
    ship(workspace, wait_s=0)
    assert history(workspace, run, "loss") == [(0, 1.0), (1, 0.5)]
    spool.close("FINISHED")
    assert ship(workspace, wait_s=0).shipped == 1
    assert [run.info.status for run in runs(workspace)] == ["FINISHED"]


def test_a_line_still_being_written_waits_for_its_end(workspace: Path) -> None:
    spool = opened(workspace)
    [path] = spools(workspace)
    line = json.dumps({"k": "m", "t": 1, "step": 0, "v": {"loss": 0.5}})
    with path.open("a") as file:
        file.write(line[:20])
        file.flush()
        ship(workspace, wait_s=0)
        file.write(line[20:] + "\n")
    spool.close("FINISHED")
    ship(workspace, wait_s=0)
    [run] = runs(workspace)
    assert history(workspace, run, "loss") == [(0, 0.5)]


def test_a_dead_stage_is_marked_killed_at_its_last_line(workspace: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from bclef.tracking import open_spool\n"
        "here = Path.cwd(); s = open_spool(here, root=here, stage='finetune@0', params={})\n"
        "s.log_metrics({'loss': 0.5}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    [path] = spools(workspace)
    died_ms = path.stat().st_mtime_ns // 1_000_000
    assert ship(workspace, wait_s=0).shipped == 1
    [run] = runs(workspace)
    assert (run.info.status, run.info.end_time) == ("KILLED", died_ms)
    assert run.data.metrics == {"loss": 0.5}
    assert runs(workspace, "pipeline")[0].info.status == "KILLED"


def silent_spool(workspace: Path, host: str) -> Path:
    """A spool without an end that no process holds."""
    opened(workspace).close("FINISHED")
    [path] = spools(workspace)
    header = json.loads(path.read_text().splitlines()[0]) | {"host": host}
    path.write_text(json.dumps(header) + "\n")
    return path


def test_a_run_of_another_host_is_not_declared_dead(workspace: Path) -> None:
    path = silent_spool(workspace, "elsewhere")
    assert ship(workspace, wait_s=0).kept == 1
    assert [run.info.status for run in runs(workspace)] == ["RUNNING"]
    path.write_text(path.read_text() + json.dumps({"k": "m", "t": 1, "step": 0, "v": {"a": 1}}))
    assert path.exists()


def test_a_run_of_another_host_that_was_silent_for_days_is(workspace: Path) -> None:
    path = silent_spool(workspace, "elsewhere")
    os.utime(path, (time.time() - 4 * 86400,) * 2)
    assert ship(workspace, wait_s=0).shipped == 1
    assert [run.info.status for run in runs(workspace)] == ["KILLED"]


def test_a_silent_run_of_this_host_is_declared_dead(workspace: Path) -> None:
    silent_spool(workspace, socket.gethostname())
    ship(workspace, wait_s=0)
    assert [run.info.status for run in runs(workspace)] == ["KILLED"]


def contents(workspace: Path) -> list[object]:
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    return [
        (
            dict(run.info) | {"tags": run.data.tags, "params": run.data.params},
            {
                name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(i, name)]
                for i in [run.info.run_id]
                for name in run.data.metrics
            },
        )
        for kind in ("pipeline", "stage")
        for run in runs(workspace, kind)
    ]


def test_a_replay_changes_nothing(workspace: Path) -> None:
    for stage, status in (("splits", "FAILED"), ("report", "FINISHED")):
        spool = opened(workspace, stage, seed=7)
        spool.log_metrics({"loss": 0.5, "nothing": float("nan")}, step=3)
        spool.log_summary({"score": 0.5})
        spool.close(status)
    ship(workspace, wait_s=0)
    before = contents(workspace)
    for path in spools(workspace, "done"):
        path.rename(workspace / SPOOL_DIRECTORY / path.name)
    assert ship(workspace, wait_s=0).shipped == 2
    assert repr(contents(workspace)) == repr(before)


def test_params_that_a_killed_shipper_left_out_are_made_up_for(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(workspace, seed=7).close("FINISHED")
    with monkeypatch.context() as patch:
        patch.setattr("bclef.ledger.Ledger.log_params", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ship(workspace, wait_s=0)
    assert runs(workspace)[0].data.params == {}
    ship(workspace, wait_s=0)
    assert [run.data.params for run in runs(workspace)] == [{"seed": "7"}]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


BROKEN = {
    "empty": "",
    "not JSON": "{\n",
    "no header": '{"k": "m", "t": 1, "step": 0, "v": {}}\n',
    "no object": "[1, 2]\n",
    "unknown record": '{"k": "?", "t": 1}\n',
    "no number": '{"k": "m", "t": 1, "step": 0, "v": {"loss": "low"}}\n',
    "a name that MLflow refuses": '{"k": "m", "t": 1, "step": 0, "v": {"a[0]": 1}}\n',
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_bad_spool_is_put_aside_and_stops_no_other(workspace: Path, fault: str) -> None:
    opened(workspace).close("FINISHED")
    [good] = spools(workspace)
    bad = workspace / SPOOL_DIRECTORY / "0bad.jsonl"
    header = good.read_text().splitlines(keepends=True)[0].replace(good.stem, "0bad")
    has_header = fault in {"unknown record", "no number", "a name that MLflow refuses"}
    bad.write_text((header if has_header else "") + BROKEN[fault])
    os.utime(bad, (0, 0))  # the first to be tried
    assert ship(workspace, wait_s=0) == ShipReport(shipped=1, kept=0, bad=1, reason=None)
    assert [path.stem for path in spools(workspace, "bad")] == ["0bad"]
    assert (workspace / SPOOL_DIRECTORY / "bad" / "0bad.reason.txt").read_text().strip()
    assert ship(workspace, wait_s=0) == ShipReport(shipped=0, kept=0, bad=0, reason=None)


@pytest.mark.network
@pytest.mark.enable_socket
def test_a_dead_server_loses_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("splits", "report"):
        opened(workspace, stage).close("FINISHED")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", CLOSED_PORT)
        started_s = time.monotonic()
        report = ship(workspace, wait_s=0)
        assert time.monotonic() - started_s < 60  # with MLflow's own settings it is minutes
    assert (report.shipped, report.kept, report.bad) == (0, 2, 0)
    assert report.reason
    assert report.reason.startswith(CLOSED_PORT)
    assert ship(workspace, wait_s=0).shipped == 2


def test_a_second_shipper_waits_only_for_the_time_given(workspace: Path) -> None:
    opened(workspace).close("FINISHED")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    lock = workspace / SPOOL_DIRECTORY / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        started_s = time.monotonic()
        report = ship(workspace, wait_s=0.2)
        assert 0.2 <= time.monotonic() - started_s < 30
        assert (report.shipped, report.kept) == (0, 1)
        assert "another process" in str(report.reason)
        holder.communicate()
    assert ship(workspace, wait_s=0).shipped == 1


@pytest.mark.slow
def test_two_shippers_at_once_ship_each_run_once(workspace: Path) -> None:
    for fold in range(6):
        opened(workspace, f"finetune@{fold}").close("FINISHED")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "bclef.shipping"]
    both = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(runs(workspace)) == 6
    assert len(runs(workspace, "pipeline")) == 1


def test_nothing_to_ship_is_no_work(tmp_path: Path) -> None:
    assert ship(tmp_path, wait_s=0) == ShipReport(shipped=0, kept=0, bad=0, reason=None)
    assert list(tmp_path.iterdir()) == []


def test_the_exported_model_is_logged_and_registered_once(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = workspace / "models" / "export"
    export.mkdir(parents=True)
    wave = helper.make_tensor_value_info("wave", TensorProto.FLOAT, ["N", 8])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["wave"], ["probability"])], "g", [wave], [probability]
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), export / "model.onnx")
    (export / "labels.csv").write_text("label\n")
    spool = opened(workspace, "export")
    spool.log_model(export)
    spool.close("FINISHED")
    shutil.rmtree(export)
    with monkeypatch.context() as patch:
        patch.setattr("bclef.ledger.Ledger.end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ship(workspace, wait_s=0)
    assert ship(workspace, wait_s=0) == ShipReport(shipped=1, kept=0, bad=0, reason=None)
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    [version] = client.search_model_versions("name = 'bclef'")
    [run] = runs(workspace)
    assert version.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    info = mlflow.models.get_model_info("models:/bclef/1")
    [given], [given_back] = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (given.name, given.type, given.shape) == ("wave", np.dtype("float32"), (-1, 8))
    assert (given_back.name, given_back.shape) == ("probability", (-1, 8))


def test_the_follower_ships_while_a_stage_lives_and_then_ends(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bclef.shipping._FOLLOW_EVERY_S", 0.05)
    monkeypatch.setattr("bclef.shipping._IDLE_S", 0.3)
    spool = opened(workspace)
    spool.log_metrics({"loss": 0.5})
    seen: list[str] = []

    def sleep_and_look(_: float, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(0.02)
        seen.extend(run.info.status for run in runs(workspace))
        if seen[-1] == "RUNNING":
            spool.close("FINISHED")

    monkeypatch.setattr("bclef.shipping.time.sleep", sleep_and_look)
    follow(workspace)
    assert seen[0] == "RUNNING"
    assert [run.info.status for run in runs(workspace)] == ["FINISHED"]


def test_a_second_follower_leaves_at_once(workspace: Path) -> None:
    opened(workspace).close("FINISHED")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    lock = workspace / SPOOL_DIRECTORY / "follow.lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        follow(workspace)
        holder.communicate()
    assert len(spools(workspace)) == 1
