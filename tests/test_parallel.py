import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from bclef.parallel import executor, run_all
from bclef.pools import ClusterError

# Workers import what they run by name, so it must stand in a module of its own.
WORK = """
import os, signal, sys, time

def square(number):
    return number * number

def late_first(number):
    time.sleep(0.5 if number == 0 else 0)
    return number

def die_on_seven(number):
    if number % 10 == 7:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def die_once(path):
    # The first to come kills its process; whoever comes later finds the mark and works.
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "worked"

def fail(number):
    raise LookupError(f"no {number}")

def threads(_):
    return os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]

def process(_):
    return os.getpid()

def note_and_sleep(directory):
    open(os.path.join(directory, str(os.getpid())), "w").close()
    time.sleep(120)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "parallel_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield import_module("parallel_work")
    del sys.modules["parallel_work"]


def values(fn: Callable[[int], int], items: range, pool: Executor) -> list[int | None]:
    return [outcome.value for outcome in run_all(fn, items, pool, describe="test")]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_results_come_in_the_order_of_the_items(work: ModuleType, n_workers: int) -> None:
    with executor(n_workers=n_workers) as pool:
        assert values(work.square, range(40), pool) == [number**2 for number in range(40)]


def test_a_slow_first_item_does_not_change_the_order(work: ModuleType) -> None:
    with executor(n_workers=2) as pool:
        assert values(work.late_first, range(10), pool) == list(range(10))


def test_no_items_give_no_outcomes() -> None:
    with executor(n_workers=0) as pool:
        assert list(run_all(abs, [], pool, describe="nothing")) == []


def test_without_workers_the_caller_runs_the_work(work: ModuleType) -> None:
    with executor(n_workers=0) as pool:
        assert values(work.process, range(2), pool) == [os.getpid()] * 2


def test_with_workers_other_processes_run_the_work(work: ModuleType) -> None:
    with executor(n_workers=1) as pool:
        assert os.getpid() not in values(work.process, range(2), pool)


def test_a_killer_item_costs_only_itself(work: ModuleType) -> None:
    with executor(n_workers=2) as pool:
        outcomes = list(run_all(work.die_on_seven, range(20), pool, describe="killers"))
    assert [outcome.item for outcome in outcomes if outcome.died] == [7, 17]
    assert [outcome.value for outcome in outcomes if not outcome.died] == [
        number for number in range(20) if number not in {7, 17}
    ]
    assert all(outcome.value is None for outcome in outcomes if outcome.died)


def test_the_pool_serves_again_after_a_death(work: ModuleType) -> None:
    with executor(n_workers=1) as pool:
        assert values(work.die_on_seven, range(7, 8), pool) == [None]
        assert values(work.square, range(3), pool) == [0, 1, 4]


def test_an_item_that_was_only_near_a_death_is_done_again(work: ModuleType, tmp_path: Path) -> None:
    with executor(n_workers=1) as pool:
        [outcome] = run_all(work.die_once, [str(tmp_path / "mark")], pool, describe="once")
    assert (outcome.value, outcome.died) == ("worked", False)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_what_the_function_raises_is_raised(work: ModuleType, n_workers: int) -> None:
    with executor(n_workers=n_workers) as pool, pytest.raises(LookupError, match="no 0"):
        values(work.fail, range(3), pool)


def test_workers_use_one_thread_and_the_caller_keeps_its_own(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    with executor(n_workers=1) as pool:
        assert pool.submit(work.threads, 0).result() == ("1", "1")
    assert os.environ["OMP_NUM_THREADS"] == "6"


class CountingExecutor(ThreadPoolExecutor):
    """Counts how many calls were handed out."""

    n_submitted = 0

    def submit(self, *args, **kwargs) -> Future:  # type: ignore[no-untyped-def]
        self.n_submitted += 1
        return super().submit(*args, **kwargs)


def test_a_million_items_do_not_queue_at_once() -> None:
    with CountingExecutor(1) as pool:
        outcomes = run_all(abs, range(1_000_000), pool, describe="many")
        assert next(outcomes).value == 0
        assert pool.n_submitted < 100 * (os.cpu_count() or 1)
        outcomes.close()


def test_the_progress_bar_names_the_work_and_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with executor(n_workers=0) as pool:
        list(run_all(abs, range(5), pool, describe="counting", unit="bird"))
    printed = capsys.readouterr()
    assert "counting: 100%" in printed.err
    assert "bird/s" in printed.err
    assert printed.out == ""


def test_nothing_to_do_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with executor(n_workers=0) as pool:
        list(run_all(abs, [], pool, describe="counting", unit="bird"))
    assert capsys.readouterr().err == ""


def test_the_environment_sets_the_number_of_workers(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCLEF_WORKERS", "0")
    with executor() as pool:
        assert pool.submit(work.process, 0).result() == os.getpid()


@pytest.mark.parametrize("text", ["two", "-1", "1.5"])
def test_a_bad_number_of_workers_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLEF_WORKERS", text)
    with pytest.raises(ValueError, match=f"BCLEF_WORKERS is '{text}'"), executor():
        pass


def test_a_missing_dask_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv("BCLEF_DASK_ADDRESS", "tcp://127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"bclef\[cluster\]"), executor():
        pass


UNUSABLE = """
import sys
from bclef.parallel import executor
from bclef.pools import ClusterError
try:
    executor(address=sys.argv[1]).__enter__()
except ClusterError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("tcp://u:hunter2@127.0.0.1:1", "'tcp://[redacted]@127.0.0.1:1': invalid address"),
        ("tls://127.0.0.1:1", "'tls://127.0.0.1:1': TLS expects"),
        ("http://127.0.0.1:1", "'http://127.0.0.1:1': unknown address scheme"),
    ],
    # Else pytest would set a variable that holds the password.
    ids=["password", "tls", "http"],
)
def test_an_unusable_address_ends_at_once_without_its_password(address: str, named: str) -> None:
    pytest.importorskip("distributed")
    done = subprocess.run(
        [sys.executable, "-c", UNUSABLE, address],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.startswith(f"no Dask scheduler answers at {named}")
    assert "hunter2" not in done.stdout
    assert done.stderr == ""


def test_asking_for_workers_wins_over_the_cluster_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BCLEF_DASK_ADDRESS", "tcp://127.0.0.1:1")
    with executor(n_workers=0) as pool:
        assert pool.submit(abs, -3).result() == 3


SLEEPERS = """
import signal, sys
import parallel_work
from bclef.parallel import executor, run_all

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with executor(n_workers=2) as pool:
        list(run_all(parallel_work.note_and_sleep, [sys.argv[1]] * 4, pool, describe="sleep"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -2), (signal.SIGKILL, -9)]
)
def test_workers_end_with_a_killed_parent(
    work: ModuleType, tmp_path: Path, number: int, code: int
) -> None:
    script, pids = tmp_path / "sleepers.py", tmp_path / "pids"
    script.write_text(SLEEPERS)
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pids)],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
        stderr=subprocess.DEVNULL,
    )
    until(lambda: len(list(pids.iterdir())) == 2)
    workers = [psutil.Process(int(path.name)) for path in pids.iterdir()]
    started_s = time.monotonic()
    parent.send_signal(number)
    assert parent.wait(10) == code
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert time.monotonic() - started_s < 10


def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


CLUSTER = """
import json, sys
import parallel_work
from bclef.parallel import executor, run_all

if __name__ == "__main__":
    from distributed import LocalCluster
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        local_directory=sys.argv[1],
    ) as cluster, executor(address=cluster.scheduler_address) as pool:
        squares = [o.value for o in run_all(parallel_work.square, range(50), pool, describe="a")]
        processes = {o.value for o in run_all(parallel_work.process, range(50), pool, describe="b")}
        n_left = len(cluster.scheduler.tasks)
        outcomes = list(run_all(parallel_work.die_on_seven, range(20), pool, describe="c"))
        died = [o.item for o in outcomes if o.died]
        try:
            list(run_all(parallel_work.fail, [1], pool, describe="d"))
        except LookupError as error:
            message = str(error)
    print(json.dumps([squares, len(processes), n_left, died, message]))
"""


@pytest.mark.slow
@pytest.mark.network
def test_a_dask_cluster_gives_what_local_processes_give(work: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    printed = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ
        | {
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            # A cluster on one machine would give up a worker that dies often.
            "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "600s",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    squares, n_processes, n_left, died, message = json.loads(printed.splitlines()[-1])
    with executor(n_workers=2) as pool:
        assert squares == values(work.square, range(50), pool)
    assert n_processes == 2
    assert n_left <= 8  # the scheduler does not keep the results of everything done
    assert died == [7, 17]
    assert message == "no 1"


@pytest.mark.slow
@pytest.mark.network
def test_a_silent_address_is_named(tmp_path: Path) -> None:
    script = (
        "import bclef.pools as p; from bclef.parallel import executor; p._CONNECT_TIMEOUT_S = 1\n"
        "try:\n    executor(address='tcp://127.0.0.1:9').__enter__()\n"
        "except p.ClusterError as error: print(error)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in printed
