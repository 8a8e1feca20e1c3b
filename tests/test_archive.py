import errno
import hashlib
import json
import os
import pickle
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from bclef.archive import (
    FILES,
    FetchConfig,
    FetchFailedError,
    StoreFullError,
    check_failures,
    fetch_counts,
    fetch_recordings,
    write_attribution,
)
from bclef.credits import COLUMNS, read_credits
from bclef.parallel import executor
from bclef.rawfiles import RawFile, remove_left_behind, safe_name
from bclef.sidecars import forget
from bclef.sources.protocol import FetchError, Listing
from bclef.sources.storefolders import StoreError
from bclef.tables import read_table, write_table

WAV = b"RIFF\0\0\0\0WAVEfmt "
CONFIG = FetchConfig(max_failed_share=0.1, max_bytes=1000, ask_again_after_days=30)


@dataclass(frozen=True)
class Shelf:
    """Serves the files of a folder, notes each request, and has its bad days."""

    folder: Path
    is_remote: bool = False

    @property
    def name(self) -> str:
        return "shelf"

    def list_recordings(self) -> Listing:
        raise NotImplementedError

    @property
    def asked(self) -> list[str]:
        log = self.folder / "asked"
        return log.read_text().splitlines() if log.exists() else []

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        with (self.folder / "asked").open("a") as log:
            log.write(f"{url}\n")
        what = Path(unquote(url)).stem
        if what == "killer":
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "wrapped":
            raise FetchError("unreadable", "?") from OSError(errno.ENOSPC, "full")
        if what == "nothing":
            return
        file = self.folder / url
        if not file.exists():
            path.write_bytes(b"half")
            raise FetchError("gone", f"{url} is gone")
        path.write_bytes(file.read_bytes())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in ("one", "two", "three"):
        (folder / f"{name}.wav").write_bytes(WAV + name.encode())
    return Shelf(folder)


@pytest.fixture
def pool() -> Iterator[Executor]:
    with executor(n_workers=0) as here:
        yield here


def _recordings(urls: dict[str, str], sha256: str | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "recording_id": pd.Series(list(urls), dtype="string"),
            "source": pd.Series(["shelf"] * len(urls), dtype="string"),
            "url": pd.Series(list(urls.values()), dtype="string"),
            "source_sha256": pd.Series([sha256] * len(urls), dtype="string"),
        }
    )


def _fetch(urls: dict[str, str], shelf: Shelf, store: Path, pool: Executor) -> pd.DataFrame:
    return fetch_recordings(_recordings(urls), {"shelf": shelf}, store, CONFIG, pool)


def _left(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


URLS = {"r1": "one.wav", "r2": "two.wav", "r3": "three.wav"}


def test_files_stand_where_the_table_says_with_the_bytes_it_says(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    files = _fetch({"r2": "two.wav", "r1": "one.wav"}, shelf, tmp_path / "store", pool)
    write_table(files, tmp_path / "files.parquet", FILES)
    assert read_table(tmp_path / "files.parquet", FILES).equals(files)
    assert files["recording_id"].tolist() == ["r1", "r2"]
    for name, row in zip(("one", "two"), files.itertuples(), strict=True):
        content = (tmp_path / "store" / row.path).read_bytes()
        assert content == WAV + name.encode()
        assert (row.n_bytes, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert row.path.startswith("raw/shelf/r")
    assert len(_left(tmp_path / "store")) == 4


def test_sidecar_says_what_the_file_is(shelf: Shelf, tmp_path: Path, pool: Executor) -> None:
    files = _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)
    path = tmp_path / files["path"][0]
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "recording_id": "r1",
        "url": "one.wav",
        "name": path.name,
        "n_bytes": len(WAV) + 3,
        "sha256": hashlib.sha256(WAV + b"one").hexdigest(),
    }


def test_second_run_asks_for_nothing_and_gives_the_same_table(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    first = _fetch(URLS, shelf, tmp_path, pool)
    assert len(shelf.asked) == 3
    second = _fetch(URLS, shelf, tmp_path, pool)
    assert len(shelf.asked) == 3
    assert first.equals(second)


def test_new_recording_is_the_only_one_asked_for(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)
    _fetch(URLS, shelf, tmp_path, pool)
    assert sorted(shelf.asked) == ["one.wav", "three.wav", "two.wav"]


@pytest.mark.parametrize(
    "damage", ["short", "absent", "no sidecar", "forgotten", "{}", "[]", '{"n_by']
)
def test_file_that_is_not_whole_is_fetched_anew(
    damage: str, shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    first = _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)
    path = tmp_path / first["path"][0]
    if damage == "short":
        path.write_bytes(WAV)
    elif damage == "absent":
        path.unlink()
    elif damage == "no sidecar":
        path.with_suffix(".json").unlink()
    elif damage == "forgotten":
        forget(path)
    else:
        path.with_suffix(".json").write_text(damage)
    assert _fetch({"r1": "one.wav"}, shelf, tmp_path, pool).equals(first)
    assert shelf.asked == ["one.wav", "one.wav"]
    assert path.read_bytes() == WAV + b"one"


def test_failed_refetch_leaves_no_sidecar_of_the_old_bytes(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    path = tmp_path / _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)["path"][0]
    path.write_bytes(WAV)
    (shelf.folder / "one.wav").unlink()
    assert _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)["error"].tolist() == ["gone"]
    assert not path.with_suffix(".json").exists()


def test_failure_is_a_row_with_its_reason_and_leaves_nothing(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    urls = {"r1": "one.wav", "r2": "missing.wav", "r3": "nothing.wav"}
    files = _fetch(urls, shelf, tmp_path / "store", pool).set_index("recording_id")
    assert files["error"].isna().tolist() == [True, False, False]
    assert files.loc["r2", ["error", "detail"]].tolist() == ["gone", "missing.wav is gone"]
    assert files.loc["r3", "error"] == "empty"
    assert files.loc[["r2", "r3"], ["path", "n_bytes", "sha256"]].isna().all(axis=None)
    assert len(_left(tmp_path / "store")) == 2


def test_file_over_the_limit_is_refused(shelf: Shelf, tmp_path: Path, pool: Executor) -> None:
    (shelf.folder / "fits.wav").write_bytes(b"x" * 1000)
    (shelf.folder / "long.wav").write_bytes(b"x" * 1001)
    files = _fetch({"r1": "fits.wav", "r2": "long.wav"}, shelf, tmp_path / "store", pool)
    assert files["error"].fillna("").tolist() == ["", "too_large"]
    assert len(_left(tmp_path / "store")) == 2


def test_bytes_other_than_the_source_states_are_refused(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    right = hashlib.sha256(WAV + b"one").hexdigest()
    for sha256, error in ((right, ""), ("0" * 64, "other_bytes")):
        recordings = _recordings({"r1": "one.wav"}, sha256)
        files = fetch_recordings(recordings, {"shelf": shelf}, tmp_path / "store", CONFIG, pool)
        assert files["error"].fillna("").tolist() == [error]


def test_bytes_that_the_source_changed_are_a_new_file(tmp_path: Path) -> None:
    old = RawFile("r1", "one.wav", "0" * 64, tmp_path)
    new = RawFile("r1", "one.wav", "1" * 64, tmp_path)
    assert old.stem != new.stem


HOSTILE = [
    "../../etc/passwd",
    "/absolute",
    "..",
    ".",
    "",
    "a/b",
    "a_b",
    "A_B",
    "a\\b",
    "-rf",
    "nul\0byte",
    "new\nline",
    "\u9e1f" * 300,
    "\u9ce5" * 300,
    "x" * 5000,
    "x" * 5001,
    ".hidden",
    "CON",
    "name.json",
]


def test_hostile_ids_stay_in_their_folder_under_short_names_of_their_own(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    files = _fetch(dict.fromkeys(HOSTILE, "one.wav"), shelf, tmp_path / "store", pool)
    paths = [tmp_path / "store" / path for path in files["path"]]
    names = {path.name.lower() for path in paths}
    assert len(names) == len(HOSTILE)
    assert all(path.parent == tmp_path / "store" / "raw" / "shelf" for path in paths)
    assert all(path.read_bytes() == WAV + b"one" for path in paths)
    assert max(map(len, names)) <= 100
    assert all(name.isascii() and name[0].isalnum() for name in names)
    assert len(_left(tmp_path)) == 2 * len(HOSTILE) + len(_left(shelf.folder))


def test_safe_name_keeps_what_people_read() -> None:
    assert safe_name("XC254462") == "XC254462"
    assert safe_name("demo-0007") == "demo-0007"
    assert safe_name("\u9e1f") == "unnamed"


@pytest.mark.parametrize(
    ("url", "content", "suffix"),
    [
        ("a.WAV", b"OggS", ".ogg"),
        ("a.mp3?1600000000", WAV, ".wav"),
        ("a.mp3", b"OggS....", ".ogg"),
        ("a.MP3?1600000000", b"unheard of", ".mp3"),
        ("download", WAV, ".wav"),
        ("download", b"OggS....", ".ogg"),
        ("download", b"fLaC....", ".flac"),
        ("download", b"ID3.....", ".mp3"),
        ("download", b"\xff\xfb\x90\x64", ".mp3"),
        ("download", b"\0\0\0\x20ftypM4A ", ".m4a"),
        ("download", b"\xff\xfet\0e\0", ""),
        ("download", b"x", ""),
        ("a.b/download", b"x", ""),
        ("a.not a suffix", b"x", ""),
        ("a.x/../../b", b"x", ""),
    ],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_suffix_is_that_of_the_content_else_that_of_the_url(
    url: str, content: bytes, suffix: str, is_remote: bool, tmp_path: Path
) -> None:
    class Fixed(Shelf):
        def fetch(self, url: str, path: Path, max_bytes: int) -> None:
            path.write_bytes(content)

    raw = RawFile("r1", url, None, tmp_path / "raw")
    stored = raw.fetch(Fixed(tmp_path, is_remote), max_bytes=100)
    assert stored.path.name == raw.stem + suffix
    assert raw.stored() == stored
    assert sorted(path.name for path in stored.path.parent.iterdir()) == sorted(
        [raw.stem + suffix, raw.stem + ".json"]
    )


@pytest.mark.parametrize("url", ["full.wav", "wrapped.wav"])
def test_full_disk_fails_the_stage_and_keeps_what_is_whole(
    url: str, shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    with pytest.raises(StoreFullError, match="no room left on its disk, found out at r2"):
        _fetch({"r1": "one.wav", "r2": url}, shelf, tmp_path / "store", pool)
    assert len(_left(tmp_path / "store")) == 2
    _fetch({"r1": "one.wav", "r3": "two.wav"}, shelf, tmp_path / "store", pool)
    assert shelf.asked == ["one.wav", url, "two.wav"]


def test_other_faults_of_the_disk_are_told(shelf: Shelf, tmp_path: Path, pool: Executor) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"raw/shelf: cannot be .*Not a directory"):
        _fetch({"r1": "one.wav"}, shelf, tmp_path / "store", pool)


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "r2-0.wav", ""])
def test_sidecar_that_names_another_file_is_not_believed(
    name: str, shelf: Shelf, tmp_path: Path, pool: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    files = _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)
    (tmp_path / "x").write_bytes(WAV + b"one")
    [sidecar] = (tmp_path / "raw").rglob("*.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"name": name}))
    assert _fetch({"r1": "one.wav"}, shelf, tmp_path, pool).equals(files)
    assert "counts as absent" in caplog.text


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\0"])
def test_damaged_sidecar_is_told_and_counts_as_absent(
    content: str, shelf: Shelf, tmp_path: Path, pool: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    files = _fetch({"r1": "one.wav"}, shelf, tmp_path, pool)
    [sidecar] = (tmp_path / "raw").rglob("*.json")
    sidecar.write_text(content)
    assert _fetch({"r1": "one.wav"}, shelf, tmp_path, pool).equals(files)
    assert sidecar.name in caplog.text


def test_store_where_all_is_there_is_not_written_to(
    shelf: Shelf, tmp_path: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Shelf(shelf.folder, is_remote=True)
    files = _fetch(URLS, remote, tmp_path / "store", pool)
    (tmp_path / "store" / "raw" / "shelf" / ".0a-r1.wav").write_bytes(b"half")
    os.utime(tmp_path / "store" / "raw" / "shelf" / ".0a-r1.wav", (0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("unlink", "rename", "replace", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    assert _fetch(URLS, remote, tmp_path / "store", pool).equals(files)
    with pytest.raises(StoreError, match="Read-only file system"):
        _fetch({**URLS, "r4": "one.wav"}, remote, tmp_path / "store", pool)


@pytest.mark.slow
def test_worker_that_dies_costs_its_own_recording_only(shelf: Shelf, tmp_path: Path) -> None:
    with executor(n_workers=1) as pool:
        files = _fetch({**URLS, "r4": "killer.wav"}, shelf, tmp_path / "store", pool)
    assert files["error"].fillna("").tolist() == ["", "", "", "worker_died"]


def test_remote_source_is_asked_here_one_by_one(shelf: Shelf, tmp_path: Path) -> None:
    class Forbidden(Executor):
        pass

    remote = Shelf(shelf.folder, is_remote=True)
    files = _fetch(URLS, remote, tmp_path / "store", Forbidden())
    assert files["error"].isna().all()
    assert remote.asked == ["one.wav", "two.wav", "three.wav"]


def test_a_local_file_that_is_gone_is_looked_for_each_time(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    for _ in range(2):
        _fetch({"r1": "missing.wav"}, shelf, tmp_path / "store", pool)
    assert len(shelf.asked) == 2


def test_what_a_killed_run_was_writing_is_removed_once_it_has_come_to_rest(tmp_path: Path) -> None:
    old, fresh, whole = (tmp_path / name for name in (".0a-r1.wav", ".0b-r2.wav", "r3.wav"))
    parts = [tmp_path / name for name in (".r4.part", ".r4.part.json", ".r5.part")]
    for path in (old, fresh, whole, *parts):
        path.write_bytes(b"half")
    hours_ago_s = time.time() - 7200
    os.utime(old, (hours_ago_s, hours_ago_s))
    os.utime(whole, (hours_ago_s, hours_ago_s))
    for path, n_days in zip(parts, (6.9, 6.9, 7.1), strict=True):
        os.utime(path, (time.time() - n_days * 86_400,) * 2)
    remove_left_behind(tmp_path)
    assert _left(tmp_path) == [fresh, *parts[:2], whole]


def test_fetching_clears_what_a_killed_run_left(
    shelf: Shelf, tmp_path: Path, pool: Executor
) -> None:
    left = tmp_path / "store" / "raw" / "shelf" / ".0a-r1.wav"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    _fetch({"r1": "one.wav"}, shelf, tmp_path / "store", pool)
    assert not left.exists()


def _files(n_good: int, errors: list[str]) -> pd.DataFrame:
    n_rows = n_good + len(errors)
    return pd.DataFrame(
        {
            "recording_id": [f"r{row}" for row in range(n_rows)],
            "path": ["p"] * n_good + [None] * len(errors),
            "n_bytes": pd.array([10] * n_good + [None] * len(errors), dtype="Int64"),
            "error": [None] * n_good + errors,
            "detail": [None] * n_good + ["why"] * len(errors),
        }
    )


def test_share_of_failures_at_the_limit_passes_and_above_it_fails() -> None:
    check_failures(_files(9, ["gone"]), CONFIG)
    check_failures(_files(0, []), CONFIG)
    with pytest.raises(FetchFailedError) as error:
        check_failures(_files(3, ["gone", "empty", "gone"]), CONFIG)
    assert str(error.value).splitlines() == [
        "3 of 6 recordings could not be fetched, more than fetch.max_failed_share = 0.1 allows; "
        "run again to ask again, or after fetch.ask_again_after_days for what a remote source has "
        "no more:",
        "  2 gone, such as r3: why",
        "  1 empty, such as r4: why",
    ]


def test_counts_are_files_bytes_and_failures_per_reason() -> None:
    assert fetch_counts(_files(3, ["gone", "empty", "gone"])) == {
        "n_files": 3,
        "n_bytes": 30,
        "failed": {"gone": 2, "empty": 1},
    }


def test_credits_are_sorted_and_hold_only_what_was_fetched(tmp_path: Path) -> None:
    recordings = pd.DataFrame(
        {
            "recording_id": ["r1", "r0", "r2"],
            "label": ["x"] * 3,
            "scientific_name": ["Parus major", None, "Parus ater"],
            "recordist": ['Ann "A", B', None, "C"],
            "licence": ["CC0", "CC-BY", "CC0"],
            "attribution": ["one", "zero", "two"],
            "url": ["u1", "u0", "u2"],
            "page_url": ["p1", None, "p2"],
        }
    )
    write_attribution(recordings, _files(2, ["gone"]), tmp_path / "ATTRIBUTION.csv")
    assert (tmp_path / "ATTRIBUTION.csv").read_text() == (
        '"recording_id","scientific_name","recordist","licence","attribution","url"\n'
        '"r0","","","CC-BY","zero","u0"\n'
        '"r1","Parus major","Ann ""A"", B","CC0","one","p1"\n'
    )


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"])
def test_credits_are_read_as_written_whatever_ends_a_line_in_them(end: str, tmp_path: Path) -> None:
    row = [
        "r0",
        f"Parus{end}major",
        f"A{end}B",
        "CC0",
        f"{end}credit",
        f"https://example.org/{end}x",
    ]
    recordings = pd.DataFrame([row], columns=COLUMNS).assign(page_url=None)
    write_attribution(recordings, _files(1, []), tmp_path / "ATTRIBUTION.csv")
    assert read_credits(tmp_path / "ATTRIBUTION.csv").to_numpy().tolist() == [row]


def test_work_can_be_sent_to_another_process(tmp_path: Path) -> None:
    raw = RawFile("r1", "one.wav", None, tmp_path)
    assert pickle.loads(pickle.dumps(raw)) == raw  # noqa: S301 our own bytes
