import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bclef.provenance import provenance
from bclef.redaction import redact, redact_bytes
from bclef.tracking import (
    SPOOL_DIRECTORY,
    Spool,
    WorkspaceError,
    clean_name,
    find_dvc_root,
    is_locked,
    open_spool,
)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "BCLEF_PIPELINE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BCLEF_TRACKING", "spool")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(workspace: Path, **params: str | float | None) -> Spool:
    return open_spool(workspace, root=workspace, stage="finetune@0", params=params)


def records(workspace: Path) -> list[dict[str, Any]]:
    [path] = (workspace / SPOOL_DIRECTORY).glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def copies(workspace: Path) -> Path:
    [path] = (workspace / SPOOL_DIRECTORY).glob("*.jsonl")
    return path.with_suffix("")


def test_a_run_is_one_record_a_line(workspace: Path) -> None:
    before_ms = time.time_ns() // 1_000_000
    spool = opened(workspace, **{"train.lr": 1e-5, "train.warmup": None})
    spool.log_metrics({"loss": 0.5}, step=3)
    spool.log_summary({"score": 1})
    spool.close("FINISHED")
    start, metric, summary, end = records(workspace)
    assert before_ms <= start.pop("t") <= end.pop("t") <= time.time_ns() // 1_000_000
    assert start["id"] == spool.identity
    assert start["stage"] == "finetune@0"
    assert start["params"] == {"train.lr": "1e-05", "train.warmup": "None"}
    assert (start["pid"], start["cwd"]) == (os.getpid(), str(workspace))
    assert start["host"]
    assert (metric["k"], metric["step"], metric["v"]) == ("m", 3, {"loss": 0.5})
    assert summary["summary"]
    assert end == {"k": "end", "status": "FINISHED", "error": None}


def test_lines_are_there_before_the_run_ends(workspace: Path) -> None:
    spool = opened(workspace)
    spool.log_metrics({"loss": 0.5})
    assert [record["k"] for record in records(workspace)] == ["start", "m"]
    spool.close("FINISHED")


def test_nothing_is_written_after_the_end(workspace: Path) -> None:
    spool = opened(workspace)
    spool.close("FINISHED")
    spool.log_metrics({"loss": 0.5})
    assert [record["k"] for record in records(workspace)] == ["start", "end"]


def test_a_spool_is_locked_while_its_run_lives(workspace: Path) -> None:
    spool = opened(workspace)
    path = copies(workspace).with_suffix(".jsonl")
    assert is_locked(path)
    spool.close("FINISHED")
    assert not is_locked(path)


def test_lines_and_the_truth_about_life_survive_sigkill(workspace: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from bclef.tracking import open_spool\n"
        "here = Path.cwd(); s = open_spool(here, root=here, stage='finetune', params={})\n"
        "s.log_metrics({'loss': 0.5}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [record["k"] for record in records(workspace)] == ["start", "m"]
    assert not is_locked(copies(workspace).with_suffix(".jsonl"))


def test_tracking_that_is_off_leaves_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCLEF_TRACKING", "off")
    spool = opened(workspace)
    spool.log_metrics({"loss": 0.5})
    spool.log_artifact(Path(__file__))
    spool.close("FINISHED")
    assert list(workspace.iterdir()) == []


def test_an_unknown_mode_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLEF_TRACKING", "yes")
    with pytest.raises(ValueError, match="BCLEF_TRACKING is 'yes'; expected off, spool or live"):
        opened(workspace)


def test_a_spool_that_cannot_be_opened_says_so_once_and_does_nothing(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace / SPOOL_DIRECTORY).write_text("a file in the way")
    spool = opened(workspace)
    spool.log_metrics({"loss": 0.5})
    spool.close("FINISHED")
    assert [record.getMessage()[:24] for record in caplog.records] == ["this run is not tracked:"]


def test_a_full_disk_is_told_once_and_the_run_goes_on(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(workspace)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
        spool.log_metrics({"loss": 0.5})
        spool.log_metrics({"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(caplog.records) == 1
    assert is_locked(copies(workspace).with_suffix(".jsonl"))  # so nobody declares it dead
    spool.close("FINISHED")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("loss", "loss"),
        ("fold@0", "fold_0"),
        ("a[0],b(c)", "a_0__b_c_"),
        ("top5:macro auc", "top5:macro auc"),
        ("V\u00f6gel/Bl\u00e4ss-huhn", "V\u00f6gel/Bl\u00e4ss-huhn"),
        ("/a//../b/.", "a/b"),
        ("..", "_"),
        ("", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_become_what_mlflow_takes(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_an_artifact_is_copied_because_its_workspace_may_vanish(workspace: Path) -> None:
    plots = workspace / "plots"
    (plots / "deep").mkdir(parents=True)
    (plots / "a.csv").write_text("a")
    (plots / "deep" / "b.csv").write_text("b")
    spool = opened(workspace)
    spool.log_artifact(plots)
    spool.close("FINISHED")
    shutil.rmtree(plots)
    placed = [record["p"] for record in records(workspace) if record["k"] == "a"]
    assert placed == ["artifacts/plots/a.csv", "artifacts/plots/deep/b.csv"]
    assert [(copies(workspace) / place).read_text() for place in placed] == ["a", "b"]


def test_a_large_file_is_no_artifact(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bclef.tracking._MAX_ARTIFACT_BYTES", 3)
    (workspace / "data.bin").write_bytes(b"1234")
    spool = opened(workspace)
    spool.log_artifact(workspace / "data.bin")
    spool.close("FINISHED")
    assert [record["k"] for record in records(workspace)] == ["start", "end"]
    assert "4 bytes" in caplog.text


@pytest.mark.parametrize("suffix", ["KEY", "TOKEN", "SECRET", "PASSWORD", "token"])
def test_no_secret_of_the_environment_reaches_the_spool(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv(f"SERVICE_{suffix}", "p@ss/word 1")
    (workspace / "log-p@ss.txt").write_text("url?key=p%40ss%2Fword%201 and p@ss/word 1")
    spool = opened(workspace, **{"p@ss/word 1": "is p@ss/word 1"})
    spool.log_metrics({"p@ss/word 1": 1})
    spool.log_artifact(workspace / "log-p@ss.txt")
    spool.close("FAILED", "no answer from https://x/?k=p%40ss%2Fword+1")
    written = "".join(
        path.read_text() for path in (workspace / SPOOL_DIRECTORY).rglob("*") if path.is_file()
    )
    assert "word" not in written.replace("p@ss.txt", "")


def test_redaction_keeps_all_other_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "abcd")
    monkeypatch.setenv("B_KEY", "abcdef")
    monkeypatch.setenv("SWITCH_KEY", "on")
    monkeypatch.setenv("KEYBOARD", "dvorak")
    assert redact("abcdef abcd on dvorak") == "[redacted] [redacted] on dvorak"
    assert redact_bytes(b"\x00abcdef\xff") == b"\x00******\xff"
    assert redact("mail me@example.org") == "mail me@example.org"


@pytest.mark.parametrize(
    "password", ["hunter2", "p@ssw0rd", "pa/ss", "pa ss", "p@/s:s?#x@", "1/ab"]
)
def test_password_of_an_address_in_the_environment_is_a_secret(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("SERVICE_ADDRESS", f"tcp://u:{password}@host:1/x")
    assert redact(f"at tcp://u:{password}@host:1/x") == "at tcp://[redacted]@host:1/x"
    assert redact(f"invalid 'u:{password}@host:1'") == "invalid 'u:[redacted]@host:1'"
    assert redact_bytes(password.encode()) == b"*" * len(password)


def test_encoded_password_is_a_secret_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_ADDRESS", "https://u:p%40ss@host")
    assert redact("u:p@ss and u:p%40ss") == "u:[redacted] and u:[redacted]"


@pytest.mark.parametrize("userinfo", ["u:p@ssw0rd", "u:pa/ss", ":pa:/@ss", "token", "t@ken"])
def test_address_in_a_text_ends_its_password_at_the_last_at(userinfo: str) -> None:
    text = "'https://{0}@host/x','http://{0}@other', mail me@example.org"
    assert redact(text.format(userinfo)) == text.format("[redacted]")


def test_address_without_a_password_is_kept() -> None:
    # Not parametrized, as pytest would set a variable that holds the address.
    text = "http://host:8080/pkg@v1 https://host/a@b file:///a:b@c https://host a:b@c"
    assert redact(text) == text


def test_password_of_an_address_that_is_given_is_a_secret() -> None:
    assert redact("invalid u:hunter2@h", "tcp://u:hunter2@h") == "invalid u:[redacted]@h"


def test_the_main_workspace_is_named_by_dvc_or_found_upwards(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".dvc").mkdir()
    (workspace / "deep" / "er").mkdir(parents=True)
    assert find_dvc_root(workspace / "deep" / "er") == workspace
    monkeypatch.setenv("DVC_ROOT", str(workspace / "deep"))
    assert find_dvc_root(workspace) == workspace / "deep"


def test_outside_of_a_workspace_is_an_error(workspace: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"holds \.dvc"):
        find_dvc_root(workspace)


def test_the_pipeline_is_the_id_given_then_the_experiment_then_this_process(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provenance(workspace).pipeline.startswith(f"manual-{os.getpid()}-")
    monkeypatch.setenv("DVC_EXP_NAME", "tall-owl")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123456789abcdef")
    origin = provenance(workspace)
    assert (origin.pipeline, origin.git, origin.dirty) == (
        "tall-owl@01234567",
        "0123456789abcdef",
        True,
    )
    monkeypatch.setenv("BCLEF_PIPELINE_ID", "it's mine")
    assert provenance(workspace).pipeline == "it_s_mine"


ASK = (
    "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'from pathlib import Path; "
    "from bclef.provenance import provenance; print(provenance(Path.cwd()).pipeline)'])\n"
)


@pytest.mark.parametrize(
    ("path", "arguments", "is_dvc"),
    [
        ("bin/dvc", ["repro"], True),
        ("dvc/train.py", ["dvc"], False),
        ("dvc-tools/run", ["--on", "dvc"], False),
    ],
)
def test_dvc_is_known_by_its_base_name_alone(
    workspace: Path, path: str, arguments: list[str], is_dvc: bool
) -> None:
    program = workspace / path
    program.parent.mkdir()
    program.write_text(ASK)
    process = subprocess.Popen(
        [sys.executable, str(program), *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    printed = process.communicate(timeout=60)[0].strip()
    assert printed.startswith(f"repro-{process.pid}-" if is_dvc else "manual-")


def test_the_revision_says_whether_the_workspace_differs_from_it(workspace: Path) -> None:
    assert provenance(workspace).git is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (workspace / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    origin = provenance(workspace)
    assert (origin.git, origin.dirty) == (git("rev-parse", "HEAD"), False)
    (workspace / "file").write_text("2")
    assert provenance(workspace).dirty


def test_tracking_imports_no_mlflow_and_no_pandas() -> None:
    script = "import sys, bclef.tracking; print({'mlflow', 'pandas', 'torch'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "set()"


def followers(workspace: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter()
        if "--follow" in command(process) and environment(process).get("DVC_ROOT") == str(workspace)
    ]


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture
def live_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A closed port: the follower has nothing to do but to stay.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("BCLEF_TRACKING", "live")
    yield workspace
    for process in followers(workspace):
        process.kill()


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_live_tracking_keeps_one_follower_apart_from_the_stage(live_workspace: Path) -> None:
    lock = live_workspace / SPOOL_DIRECTORY / "follow.log"
    first = opened(live_workspace)
    until(lambda: is_locked(lock.with_suffix(".lock")))
    [follower] = followers(live_workspace)
    until(lambda: follower.nice() == min(os.nice(0) + 10, 19))
    assert os.getsid(follower.pid) == follower.pid
    second = opened(live_workspace)
    assert followers(live_workspace) == [follower]
    first.close("FINISHED")
    second.close("FINISHED")
    until(lambda: "spools are kept" in lock.read_text())


@pytest.mark.parametrize("mode", ["spool", "live"])
def test_opening_a_spool_takes_no_time(
    live_workspace: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("BCLEF_TRACKING", mode)
    taken_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        spool = opened(live_workspace)
        taken_s.append(time.perf_counter() - started_s)
        spool.close("FINISHED")
    assert min(taken_s) < 1  # an import of mlflow alone takes longer
