import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bclef import rawfiles
from bclef.archive import StoreFullError
from bclef.sources import downloads
from bclef.sources.protocol import SourceStoppedError
from tests.fault_server import ETAG, FaultServer, Reply, fetch_files, serving

pytestmark = [pytest.mark.network, pytest.mark.enable_socket]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        yield server


SONG = b"OggS" + bytes(range(256)) * 1000


def _songs(site: FaultServer, n_songs: int) -> list[str]:
    names = [f"XC{number:03}" for number in range(n_songs)]
    for name in names:
        site.say(f"/{name}", Reply(SONG + name.encode(), headers=ETAG))
    return names


def _names(store: Path) -> set[str]:
    return {path.name for path in (store / "raw" / "faults").iterdir()}


FETCHING = """
import sys
from pathlib import Path
from tests.fault_server import fetch_files
fetch_files(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
"""


@pytest.mark.slow
def test_after_a_kill_no_whole_file_is_asked_for_again_and_the_broken_one_from_where_it_broke(
    site: FaultServer, tmp_path: Path
) -> None:
    names = _songs(site, 40)
    whole, half_sent, is_over = site.replies["/XC020"][0], threading.Event(), threading.Event()

    def stall() -> None:
        half_sent.set()
        is_over.wait(60)

    site.say("/XC020", Reply(whole.body, headers=ETAG, breaks_after=100_000, before_end=stall))
    command = [sys.executable, "-c", FETCHING, site.home, str(tmp_path), *names]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as child:
        assert half_sent.wait(60)
        while not any(
            path.stat().st_size == 100_000 for path in (tmp_path / "raw").rglob(".*.part")
        ):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    is_over.set()
    assert site.paths == [f"/{name}" for name in names[:21]]

    site.asked.clear()
    site.say("/XC020", whole)
    files = fetch_files(site.home, tmp_path, names)
    assert site.paths == [f"/{name}" for name in names[20:]]
    assert site.ranges == ["bytes=100000-"] + [None] * 19
    assert files["recording_id"].tolist() == names
    for name, row in zip(names, files.itertuples(), strict=True):
        assert (tmp_path / row.path).read_bytes() == SONG + name.encode()
        assert row.sha256 == hashlib.sha256(SONG + name.encode()).hexdigest()
    assert not [name for name in _names(tmp_path) if name.startswith(".")]

    site.asked.clear()
    assert fetch_files(site.home, tmp_path, names).equals(files)
    assert not site.asked


@pytest.mark.parametrize("step", ["write_json", "sync", "replace"])
def test_a_run_killed_while_it_stores_a_file_does_not_ask_for_it_again(
    step: str, site: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _songs(site, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, step) if step == "replace" else (rawfiles, step)), killed)
        if step == "replace":  # the download itself writes JSON by it
            patch.setattr("bclef.sources.downloads.write_json", _write_plainly)
            patch.setattr("bclef.rawfiles.write_json", _write_plainly)
        with pytest.raises(KeyboardInterrupt):
            fetch_files(site.home, tmp_path, names)
    files = fetch_files(site.home, tmp_path, names)
    assert site.paths == ["/XC000"]
    assert (tmp_path / files["path"][0]).read_bytes() == SONG + b"XC000"


def _write_plainly(path: Path, tree: dict[str, object]) -> None:
    path.write_text(json.dumps(tree))


def test_a_stopped_source_ends_the_stage_with_how_far_it_came(
    site: FaultServer, tmp_path: Path
) -> None:
    names = _songs(site, 5)
    site.say("/XC001", Reply(status=404))
    site.say("/XC003", Reply(b"", 403))
    with pytest.raises(SourceStoppedError) as error:
        fetch_files(site.home, tmp_path, names)
    assert str(error.value).splitlines()[-1] == (
        "2 of 5 recordings of faults are in the store; run again to fetch the others"
    )
    site.asked.clear()
    _songs(site, 5)
    assert fetch_files(site.home, tmp_path, names)["error"].notna().sum() == 1
    # One at which a run was stopped must not hold up the others for ever.
    assert site.paths == ["/XC004", "/XC003"]
    assert not [name for name in _names(tmp_path) if "late" in name]


BROKEN = Reply(b"", 500)


def test_files_that_are_unavailable_come_last_once_more_and_are_rows_then(
    site: FaultServer, tmp_path: Path
) -> None:
    names = _songs(site, 6)
    song = site.replies["/XC003"][0]
    site.say("/XC000", BROKEN)
    site.say("/XC001", BROKEN)
    site.say("/XC003", BROKEN, BROKEN, BROKEN, song)
    files = fetch_files(site.home, tmp_path, names)
    asked = [path for path, _ in itertools.groupby(site.paths)]
    assert asked == [f"/XC00{number}" for number in (0, 1, 2, 3, 4, 5, 0, 1, 3)]
    assert files["error"].fillna("").tolist() == ["unavailable"] * 2 + [""] * 4
    assert "HTTP 500" in files["detail"][0]
    # They come last in the next run too, after what is new.
    site.asked.clear()
    names = _songs(site, 7)
    assert fetch_files(site.home, tmp_path, names)["error"].isna().all()
    assert site.paths == ["/XC006", "/XC000", "/XC001"]
    assert not [name for name in _names(tmp_path) if "late" in name]


def test_three_unavailable_files_in_a_row_stop_the_source_but_not_the_next_run(
    site: FaultServer, tmp_path: Path
) -> None:
    names = _songs(site, 6)
    for name in names[1:4]:
        site.say(f"/{name}", BROKEN)
    with pytest.raises(SourceStoppedError, match=r"for 3 files in a row\n1 of 6 recordings"):
        fetch_files(site.home, tmp_path, names)
    assert set(site.paths) == {f"/{name}" for name in names[:4]}
    files = fetch_files(site.home, tmp_path, names)
    assert files["error"].fillna("").tolist() == ["", *["unavailable"] * 3, "", ""]


def test_what_a_server_says_to_a_file_that_was_asked_for_holds_no_key(
    site: FaultServer, tmp_path: Path
) -> None:
    key = "0123456789abcdef"
    words = json.dumps({"message": f"gone with {key} &#x30;{key[1:]}"}).encode()
    site.say("/XC000", Reply(words, 404))
    site.say("/XC001", Reply(SONG, headers={**ETAG, "ETag": f'"{key}"'}, breaks_after=99))
    files = fetch_files(site.home, tmp_path, ["XC000", "XC001"], secret=key)
    assert files["detail"][0].endswith("(gone with [hidden] [hidden])")
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(key.encode() in content for content in kept)


@pytest.mark.slow
def test_two_runs_at_once_ask_for_each_file_once(site: FaultServer, tmp_path: Path) -> None:
    names = _songs(site, 3)
    begun, may_end = threading.Event(), threading.Event()
    first = site.replies["/XC000"][0]

    def stall() -> None:
        begun.set()
        may_end.wait(60)

    site.say("/XC000", replace(first, breaks_after=1000, before_end=stall), first)
    command = [sys.executable, "-c", FETCHING, site.home, str(tmp_path), *names]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as one:
        assert begun.wait(60)
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as other:
            assert other.stderr
            assert b"another process is fetching" in other.stderr.readline()
            may_end.set()
            other.communicate(timeout=60)
        one.wait(60)
    assert (one.returncode, other.returncode) == (0, 0)
    assert site.ranges == [None, "bytes=1000-", None, None]
    assert site.paths == [f"/{name}" for name in ("XC000", *names)]


def test_what_is_gone_is_asked_for_again_only_after_some_days(
    site: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.say("/XC000", Reply(status=410))
    first = fetch_files(site.home, tmp_path, ["XC000"])
    assert first["error"].tolist() == ["gone"]
    [note] = (tmp_path / "raw" / "faults").glob("*.gone.json")
    assert "day" in json.loads(note.read_text())
    assert fetch_files(site.home, tmp_path, ["XC000"]).equals(first)
    assert len(site.asked) == 1
    for day, days, n_asked in (
        (29, 30, 0),
        (30, 30, 1),
        (0, 0, 1),
        (-5, 30, 1),
    ):
        was_asked_on = datetime.now(UTC).date() - timedelta(days=day)
        facts = json.loads(note.read_text()) | {"day": was_asked_on.isoformat()}
        note.write_text(json.dumps(facts))
        site.asked.clear()
        fetch_files(site.home, tmp_path, ["XC000"], ask_again_after_days=days)
        assert len(site.asked) == n_asked


@pytest.mark.parametrize(
    "damage", ["", "{", '{"url": "u", "detail": "d", "day": "2026-99-99"}', "[]"]
)
def test_a_note_without_sense_is_no_reason_not_to_ask(
    damage: str, site: FaultServer, tmp_path: Path
) -> None:
    site.say("/XC000", Reply(status=404))
    fetch_files(site.home, tmp_path, ["XC000"])
    [note] = (tmp_path / "raw" / "faults").glob("*.gone.json")
    note.write_text(damage.replace('"u"', f'"{site.home}/XC000"'))
    _songs(site, 1)
    assert fetch_files(site.home, tmp_path, ["XC000"])["error"].isna().all()
    assert not note.exists()


@pytest.mark.parametrize(
    ("reply", "error", "stays"),
    [
        (Reply(b"<html>"), "not_audio", False),
        (Reply(b"x" * (1 << 21)), "too_large", False),
        (Reply(b""), "empty", False),
        (Reply(SONG, headers=ETAG, breaks_after=9), "short_body", True),
    ],
)
def test_bytes_of_a_failure_stay_only_where_a_later_run_can_use_them(
    reply: Reply, error: str, stays: bool, site: FaultServer, tmp_path: Path
) -> None:
    site.say("/XC000", reply)
    assert fetch_files(site.home, tmp_path, ["XC000"])["error"].tolist() == [error]
    assert sorted(Path(name).suffix for name in _names(tmp_path)) == (
        [".json", ".part"] if stays else []
    )


def test_a_disk_that_fills_up_keeps_the_first_part_of_a_remote_file(
    site: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _songs(site, 1)
    plain = downloads.chunks

    def filling(*arguments: object) -> Iterator[bytes]:
        yield from itertools.islice(plain(*arguments), 1)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "chunks", filling)
        with pytest.raises(StoreFullError, match="of a remote file also the first part"):
            fetch_files(site.home, tmp_path, names)
    fetch_files(site.home, tmp_path, names)
    assert site.ranges[0] is None
    assert str(site.ranges[1]).startswith("bytes=")


def test_progress_counts_what_is_there_and_tells_rate_and_size(
    site: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _songs(site, 4)
    fetch_files(site.home, tmp_path, names[:2])
    capsys.readouterr()
    fetch_files(site.home, tmp_path, names)
    shown = capsys.readouterr().err.split("\r")
    assert "2/4" in shown[1]
    assert re.search(r"4/4 \[.*(file/s|s/file), 0\.5 MB\]", shown[-1])
