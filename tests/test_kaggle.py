"""Finding and downloading competitions, with a fake `kaggle` command on PATH."""

import logging
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bclef.sources.competition import CompetitionConfig, CompetitionSource
from bclef.sources.kaggle import find_competition, obtain_competition
from bclef.sources.protocol import SourceError
from tests.competition_folders import make_folder

SLUG = "birdclef-2023"
SECRET = "KGAT-0123456789abcdef"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Kaggle data, credentials or command."""
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "KAGGLEHUB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("bclef.sources.kaggle.NOTEBOOK", tmp_path / "input")
    return tmp_path


@pytest.fixture
def store(home: Path) -> Path:
    return home / "data/store/competitions"


@pytest.fixture
def archive(home: Path) -> Path:
    """A whole archive of the competition, where the fake command finds it."""
    return pack(make_folder(home / "made", 2023), home / "served.zip")


@pytest.fixture
def kaggle(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that puts a `kaggle` command with the given body on PATH, and credentials.

    The body sees the slug as $3 and the folder as $5; the arguments are kept in `called`.
    """
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)

    def install(body: str) -> Path:
        command = home / "bin/kaggle"
        command.parent.mkdir(exist_ok=True)
        head = f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$@" >> {home}/called\n'
        command.write_text(head + body)
        command.chmod(0o755)
        return home / "called"

    return install


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    return path


def left_in(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if not path.name.endswith(".lock"))


# finding


@pytest.mark.parametrize(
    "place",
    [
        f"input/{SLUG}",
        f"input/competitions/{SLUG}",
        f".cache/kagglehub/competitions/{SLUG}",
        f"data/store/competitions/{SLUG}",
    ],
)
def test_slug_is_found_where_kaggle_puts_it(place: str, home: Path, store: Path) -> None:
    assert find_competition(SLUG, store) is None
    make_folder(home / place, 2023)
    (home / f".cache/kagglehub/competitions/{SLUG}.complete").parent.mkdir(
        parents=True, exist_ok=True
    )
    (home / f".cache/kagglehub/competitions/{SLUG}.complete").touch()
    assert find_competition(SLUG, store) == home / place
    assert obtain_competition(SLUG, store, False) == home / place


def test_cache_of_kagglehub_may_lie_elsewhere_and_has_to_be_finished(
    home: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(home / "hub"))
    folder = make_folder(home / f"hub/competitions/{SLUG}", 2023)
    with pytest.raises(SourceError):
        obtain_competition(SLUG, store, False)
    assert "kagglehub has not finished it" in caplog.text
    folder.with_name(f"{SLUG}.complete").touch()
    assert find_competition(SLUG, store) == folder


def test_folder_without_tables_is_passed_over(home: Path, store: Path) -> None:
    (home / f"input/{SLUG}").mkdir(parents=True)
    make_folder(store / SLUG, 2023)
    assert find_competition(SLUG, store) == store / SLUG


def test_source_lists_a_slug_and_names_its_page(home: Path) -> None:
    make_folder(home / "input/birdclef-2025", 2025)
    source = CompetitionSource(
        CompetitionConfig(folders=None, slugs=("birdclef-2025",), download=False, soundscapes=True)
    )
    rows = source.list_recordings().recordings.set_index("role")
    page = "https://www.kaggle.com/competitions/birdclef-2025"
    assert rows.loc["soundscape", "page_url"] == page
    source.fetch(rows["url"].iloc[0], home / "copy", 10**6)
    assert (home / "copy").stat().st_size > 0


# what is missing


def test_slug_that_is_not_here_says_where_it_was_looked_for_and_what_to_do(
    store: Path, home: Path
) -> None:
    with pytest.raises(SourceError) as error:
        obtain_competition(SLUG, store, False)
    said = str(error.value)
    for words in (str(home / "input"), "kagglehub", str(store), "competition.download to true",
                  f"https://www.kaggle.com/competitions/{SLUG}/data"):  # fmt: skip
        assert words in said


def test_missing_command_is_an_error_that_says_how_to_get_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    with pytest.raises(SourceError, match="no `kaggle` command is on PATH; `pip install kaggle`"):
        obtain_competition(SLUG, store, True)


@pytest.mark.parametrize("half", ["KAGGLE_USERNAME", "KAGGLE_KEY", None])
def test_missing_credentials_are_an_error_before_anything_is_asked(
    half: str | None,
    store: Path,
    kaggle: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = kaggle("exit 0\n")
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    if half:
        monkeypatch.setenv(half, SECRET)
    with pytest.raises(SourceError, match="no credentials; set KAGGLE_API_TOKEN") as error:
        obtain_competition(SLUG, store, True)
    assert SECRET not in str(error.value)
    assert not called.exists()


# downloading


def test_download_asks_the_command_once_and_unpacks_all_files(
    home: Path, store: Path, archive: Path, kaggle: Callable[[str], Path]
) -> None:
    called = kaggle(f'cp {archive} "$5/$3.zip"\n')
    for _ in range(2):
        assert obtain_competition(SLUG, store, True) == store / SLUG
    assert len(called.read_text().splitlines()) == 1
    assert called.read_text().startswith(f"competitions download {SLUG} -p {store}/")
    files = {path.relative_to(store / SLUG) for path in (store / SLUG).rglob("*")}
    assert files == {path.relative_to(home / "made") for path in (home / "made").rglob("*")}
    assert left_in(store) == [SLUG]


def test_pair_of_name_and_key_is_enough(
    store: Path, archive: Path, kaggle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle(f'test "$KAGGLE_KEY" = {SECRET} && cp {archive} "$5/$3.zip"\n')
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    assert obtain_competition(SLUG, store, True) == store / SLUG


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        ("403 Client Error: Forbidden for url: https://www.kaggle.com/api/v1", "accept the comp"),
        ("403 - Forbidden - You must accept this competition's rules", "accept the competition"),
        ("401 Client Error: Unauthorized for url: https://api.kaggle.com", "credentials are refu"),
        ("404 - Not Found", "there is no such competition"),
        ("429 Client Error: Too Many Requests", "wait, then run again"),
        ("Traceback: something else", "see what it says"),
    ],
)
def test_refusal_says_what_to_do_and_no_secret(
    reply: str,
    advice: str,
    store: Path,
    kaggle: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kaggle(f'echo "{reply} token $KAGGLE_API_TOKEN"; touch "$5/half.zip"; exit 1\n')
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError, match=advice) as error:
        obtain_competition(SLUG, store, True)
    assert "status 1" in str(error.value)
    assert SECRET not in str(error.value) + caplog.text
    assert left_in(store) == []


def test_command_that_ends_well_without_an_archive_is_an_error(
    store: Path, kaggle: Callable[[str], Path]
) -> None:
    kaggle("exit 0\n")
    with pytest.raises(SourceError, match="status 0 and said 'nothing'"):
        obtain_competition(SLUG, store, True)


def test_command_that_cannot_be_run_is_an_error(
    home: Path, store: Path, kaggle: Callable[[str], Path]
) -> None:
    kaggle("exit 0\n")
    (home / "bin/kaggle").write_text("#!/gone/python\n")
    with pytest.raises(SourceError, match="cannot be run"):
        obtain_competition(SLUG, store, True)


def test_what_a_killed_download_left_is_not_used(
    store: Path, archive: Path, kaggle: Callable[[str], Path]
) -> None:
    part = store / f".{SLUG}.part"
    (part / "content/train_audio").mkdir(parents=True)
    (part / "content/train_metadata.csv").write_text("half a tab")
    (part / f"{SLUG}.zip").write_text("half an archive")
    kaggle(f'test -e "$5/$3.zip" && exit 9; cp {archive} "$5/$3.zip"\n')
    assert find_competition(SLUG, store) is None
    obtain_competition(SLUG, store, True)
    assert left_in(store) == [SLUG]
    assert (store / SLUG / "train_metadata.csv").read_text().startswith("primary_label")


# unpacking


def test_archive_in_the_store_is_unpacked_without_asking_anyone(store: Path, archive: Path) -> None:
    store.mkdir(parents=True)
    archive.rename(store / f"{SLUG}.zip")
    assert obtain_competition(SLUG, store, False) == store / SLUG
    assert (store / f"{SLUG}.zip").is_file()


@pytest.mark.parametrize(
    "name", ["../outside.csv", "a/../../outside.csv", "/outside.csv", "..\\outside.csv"]
)
def test_archive_whose_paths_leave_the_folder_is_refused(
    name: str, home: Path, store: Path, archive: Path
) -> None:
    store.mkdir(parents=True)
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(name, "outside")
    archive.rename(store / f"{SLUG}.zip")
    with pytest.raises(SourceError, match="leaves the folder"):
        obtain_competition(SLUG, store, False)
    assert left_in(store) == [f"{SLUG}.zip"]
    assert not list(home.rglob("*outside.csv"))


def test_archive_with_a_link_is_refused(store: Path, archive: Path) -> None:
    store.mkdir(parents=True)
    with zipfile.ZipFile(archive, "a") as packed:
        link = zipfile.ZipInfo("train_audio/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc")
    archive.rename(store / f"{SLUG}.zip")
    with pytest.raises(SourceError, match="'train_audio/link' leaves the folder"):
        obtain_competition(SLUG, store, False)


def test_broken_archive_is_an_error_that_names_it(store: Path, archive: Path) -> None:
    store.mkdir(parents=True)
    content = bytearray(archive.read_bytes())
    place = store / f"{SLUG}.zip"
    place.write_bytes(content[:-30])
    with pytest.raises(SourceError, match=rf"{SLUG}\.zip: no whole zip archive"):
        obtain_competition(SLUG, store, False)
    content[content.index(b"Avis abythr1")] ^= 0xFF
    place.write_bytes(content)
    with pytest.raises(SourceError, match="no whole zip archive"):
        obtain_competition(SLUG, store, False)
    assert left_in(store) == [f"{SLUG}.zip"]


def test_archive_that_is_too_large_is_refused_before_a_byte_is_unpacked(
    store: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.mkdir(parents=True)
    archive.rename(store / f"{SLUG}.zip")
    monkeypatch.setattr("bclef.sources.kaggle._MOST_BYTES", 1000)
    with pytest.raises(SourceError, match="expected at most"):
        obtain_competition(SLUG, store, False)
    assert left_in(store) == [f"{SLUG}.zip"]


def test_archive_of_something_else_is_refused(home: Path, store: Path) -> None:
    store.mkdir(parents=True)
    (home / "other").mkdir()
    (home / "other/readme.txt").write_text("no competition")
    pack(home / "other", store / f"{SLUG}.zip")
    with pytest.raises(SourceError, match="holds none of the known layouts"):
        obtain_competition(SLUG, store, False)
    assert find_competition(SLUG, store) is None
