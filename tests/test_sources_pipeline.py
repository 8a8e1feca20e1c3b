"""Stages against the stand-in for Xeno-canto: all once, killed half-way, the key unseen."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.workspaces import attempt, environment_for, run, workspace_at
from tests.xeno_canto_server import CALM, Server, Trouble, make_world, serve

KEY = "a3f7-yek-laer-a-t0n"[::-1]  # backwards, because this file is in the workspace too
SPECIES = ["Turdus merula", "Parus major", "Strix aluco"]
pytestmark = [
    pytest.mark.slow, pytest.mark.pipeline, pytest.mark.network, pytest.mark.enable_socket,
]  # fmt: skip


def settings(server: Server, **more: object) -> list[str]:
    values = {
        "xeno_canto.base_url": server.base_url,
        "xeno_canto.species": json.dumps(SPECIES),
        "xeno_canto.search_interval_s": 0,
        "xeno_canto.file_interval_s": 0,
        "http.backoff_s": 0,
        "fetch.max_failed_share": 0.2,
        **more,
    }
    return [f"{key}={value}" for key, value in values.items()]


def prepared(place: Path, server: Server, **more: object) -> Path:
    """A workspace whose params ask `server`; code hashes are there, nothing else."""
    workspace = workspace_at(place, "xeno-canto")
    script = (
        "import sys; from pathlib import Path; from dvc.utils.hydra import apply_overrides; "
        "apply_overrides(Path('params.yaml'), sys.argv[1:])"
    )
    run(workspace, sys.executable, "-c", script, *settings(server, **more))
    run(workspace, "dvc", "repro", "--quiet", "code")
    return workspace


@contextmanager
def served(recordings: int | dict[str, int], **faults: object) -> Iterator[Server]:
    world = make_world(seed=3, species=SPECIES, recordings=recordings, audio="chirps", strays=0)
    with serve(world, replace(CALM, **faults), keys=(KEY,)) as server:
        yield server


def test_1203_recordings_of_3_species_arrive_once_through_pages_and_shifting_rows(
    tmp_path: Path,
) -> None:
    counts = dict(zip(SPECIES, (500, 501, 202), strict=True))
    with served(counts, shift="duplicate") as server:
        workspace = prepared(tmp_path, server, **{"metadata.max_recordings": 2000})
        run(workspace, sys.executable, "-m", "stages.metadata", XC_API_KEY=KEY)
        known = {f"XC{row.number}" for row in server.world.recordings}
    recordings = pd.read_parquet(workspace / "data/recordings.parquet")
    assert set(recordings["recording_id"]) == known
    assert recordings["label"].value_counts().to_dict() == counts
    assert len(known) == 1203


def test_a_fetch_killed_half_way_asks_for_no_completed_file_again(tmp_path: Path) -> None:
    with served(100) as server:
        workspace = prepared(tmp_path, server)
        run(workspace, sys.executable, "-m", "stages.metadata", XC_API_KEY=KEY)
        stage = subprocess.Popen(
            (sys.executable, "-m", "stages.fetch"), cwd=workspace, stderr=subprocess.DEVNULL,
            env=environment_for(workspace, XC_API_KEY=KEY), start_new_session=True,
        )  # fmt: skip
        raw = workspace / "data/store/raw/xeno_canto"
        while len(list(raw.glob("XC*.json"))) < 150:
            assert stage.poll() is None
            time.sleep(0.01)
        os.killpg(stage.pid, signal.SIGKILL)
        stage.wait()
        done = {json.loads(path.read_text())["recording_id"] for path in raw.glob("XC*.json")}
        n_before = len(server.of_kind("file"))
        run(workspace, sys.executable, "-m", "stages.fetch", XC_API_KEY=KEY)
        asked = Counter(_id_of(request.path) for request in server.of_kind("file")[n_before:])
        n_second = len(server.requests)
        run(workspace, sys.executable, "-m", "stages.fetch", XC_API_KEY=KEY)
        assert len(server.requests) == n_second
    assert 150 <= len(done) < 300
    assert not done & asked.keys()
    assert max(asked.values()) == 1
    files = pd.read_parquet(workspace / "data/files.parquet")
    assert len(files) == 300
    assert files["error"].isna().all()
    # A temporary name that the kill hit in the middle of a write goes after an hour; parts go now.
    assert not list(raw.glob(".XC*.part*"))


def test_the_key_is_in_no_file_and_no_message(tmp_path: Path) -> None:
    with served(6) as server:
        workspace = prepared(tmp_path, server)
        said = [attempt(workspace, "dvc", "repro", "fetch", XC_API_KEY=KEY)]
        server.set_faults(replace(server.faults, trouble=(Trouble("401", on="search", every=1),)))
        again = ("dvc", "repro", "-f", "-s", "metadata")
        (workspace / "data/store/searches").rename(workspace / "data/store/elsewhere")
        said.append(attempt(workspace, *again, XC_API_KEY=KEY))
        server.set_faults(replace(server.faults, trouble=(Trouble("reset", on="search", every=1),)))
        said.append(attempt(workspace, *again, XC_API_KEY=KEY))
    assert [finished.returncode == 0 for finished in said] == [True, False, False]
    assert "XC_API_KEY was refused" in said[1].stdout + said[1].stderr
    for finished in said:
        assert KEY not in finished.stdout + finished.stderr
    read = [path for path in workspace.rglob("*") if path.is_file() and KEY in _text(path)]
    assert not read
    assert (workspace / "dvc.lock").exists()


def _id_of(path: str) -> str:
    found = re.search(r"XC\d+", path)
    assert found
    return found[0]


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


def test_a_country_alone_gives_every_species_found_with_enough_recordings(tmp_path: Path) -> None:
    with served(dict(zip(SPECIES, (30, 30, 3), strict=True))) as server:
        rows = server.world.recordings
        country = Counter(row.country for row in rows).most_common(1)[0][0]
        there = Counter(row.species for row in rows if row.country == country)
        workspace = prepared(
            tmp_path, server,
            **{"xeno_canto.species": "null", "xeno_canto.country": json.dumps(country)},
        )  # fmt: skip
        run(workspace, sys.executable, "-m", "stages.metadata", XC_API_KEY=KEY)
    classes = pd.read_parquet(workspace / "data/classes.parquet")
    enough = {species for species, n in there.items() if n >= 5}
    assert set(classes["scientific_name"]) == enough
    assert len(enough) == 2
