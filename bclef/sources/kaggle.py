"""A Kaggle competition's data: where it lies on this machine, and how it gets there.

The `kaggle` command does the talking and reads its credentials from the environment by itself; they
are neither read, logged nor passed on here. A download and its extraction happen in a hidden folder
beside the place they are for, so what stands at that place is whole.
"""

import logging
import os
import shutil
import stat
import subprocess
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from filelock import FileLock

from bclef.redaction import redact
from bclef.sources.competition_layouts import find_layout
from bclef.sources.files import BLOCK_BYTES
from bclef.sources.protocol import SourceError

_log = logging.getLogger(__name__)

NOTEBOOK = Path("/kaggle/input")
"""Where a Kaggle notebook has its data."""

_MOST_BYTES = 200 * 10**9
_MOST_FILES = 1_000_000
"""Several times the largest competition so far; more is no BirdCLEF archive."""
_REPORT_S = 60.0
_SAID_CHARS = 400
_ADVICE = {
    "403": "accept the competition's rules at https://www.kaggle.com/competitions/{slug}/rules "
    "with the account of the credentials (it must be verified by phone), then run again",
    "401": "the credentials are refused: make a new token at https://www.kaggle.com/settings, then "
    "set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY",
    "404": "there is no such competition; see competition.slugs",
    "429": "Kaggle is asked too often: wait, then run again",
}
"""What to do about each status that the client reports."""
_WORDS = {"403": "forbidden", "401": "unauthorized", "404": "not found", "429": "too many requests"}


def find_competition(slug: str, store: Path) -> Path | None:
    """Returns the folder of the competition `slug` on this machine, or None.

    Looked at, in this order: the data of a Kaggle notebook, kagglehub's cache, the project's store.

    Args:
        slug: its name on Kaggle, such as birdclef-2025.
        store: folder of downloaded competitions.
    """
    cached = _cached(slug)
    places = [NOTEBOOK / slug, NOTEBOOK / "competitions" / slug, store / slug]
    if cached.with_name(f"{slug}.complete").is_file():  # kagglehub's word that it is whole
        places.insert(2, cached)
    return next((place for place in places if find_layout(place)), None)


def _cached(slug: str) -> Path:
    """Returns where kagglehub would have `slug`."""
    home = Path(os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub").expanduser()
    return home / "competitions" / slug


def obtain_competition(slug: str, store: Path, download: bool) -> Path:
    """Returns the folder of the competition `slug`, after unpacking or downloading it if need be.

    Args:
        slug: its name on Kaggle.
        store: folder of downloaded competitions. An archive `<slug>.zip` in it is unpacked.
        download: whether the `kaggle` command may be called.

    Raises:
        SourceError: it is not here and cannot be had; with what to do.
    """
    if place := find_competition(slug, store):
        return place
    if find_layout(_cached(slug)):
        _log.warning(
            "%s: passed over, kagglehub has not finished it; competition.folders may name it",
            _cached(slug),
        )
    archive = store / f"{slug}.zip"
    if not archive.is_file():
        _check_means(slug, archive, download)
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f".{slug}.lock"):
        if find_layout(store / slug):  # by a run beside this one
            return store / slug
        if (store / slug).exists():
            raise SourceError(f"{store / slug} is no whole competition; remove it and run again")
        part = store / f".{slug}.part"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
        try:
            if not archive.is_file():
                archive = _download(slug, part)
            _unpack(archive, part / "content")
            os.sync()
            (part / "content").rename(store / slug)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return store / slug


def _check_means(slug: str, archive: Path, download: bool) -> None:
    """Refuses a download that is not wanted or cannot be done."""
    places = f"{NOTEBOOK}, kagglehub's cache and {archive.parent}"
    by_hand = (
        f"download it from https://www.kaggle.com/competitions/{slug}/data to {archive}, "
        "or name its folder in competition.folders"
    )
    if not download:
        raise SourceError(
            f"competition {slug!r} is not in {places}; set competition.download to true, {by_hand}"
        )
    if shutil.which("kaggle") is None:
        raise SourceError(
            f"competition {slug!r} is not in {places}, and no `kaggle` command is on PATH; "
            f"`pip install kaggle`, {by_hand}"
        )
    has_pair = os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")
    if not (has_pair or os.environ.get("KAGGLE_API_TOKEN")):
        raise SourceError(
            f"competition {slug!r} is not in {places}, and the environment has no credentials; "
            f"set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, {by_hand}"
        )


def _download(slug: str, folder: Path) -> Path:
    """Returns the archive of `slug` after the `kaggle` command has put it into `folder`."""
    command = [str(shutil.which("kaggle")), "competitions", "download", slug]
    said = folder / "said.txt"
    _log.info("%s: downloading with the kaggle command; this takes a while", slug)
    try:
        with said.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-p", str(folder), "-q"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    except OSError as error:
        raise SourceError(f"{command[0]} cannot be run ({error}); install kaggle anew") from error
    try:
        status = _wait(process, slug, folder)
    finally:
        process.kill()
        process.wait()
    archives = list(folder.glob("*.zip"))
    if status != 0 or len(archives) != 1:
        raise SourceError(_failure(slug, status, said.read_text("utf-8", "replace")))
    return archives[0]


def _wait(process: subprocess.Popen[bytes], slug: str, folder: Path) -> int:
    """Returns the exit status of `process`, telling now and then how far it is."""
    while True:
        try:
            return process.wait(_REPORT_S)
        except subprocess.TimeoutExpired:
            n_bytes = sum(path.stat().st_size for path in folder.glob("*.zip"))
            _log.info("%s: %.2f GB so far", slug, n_bytes / 1e9)


def _failure(slug: str, status: int, said: str) -> str:
    """Returns what went wrong and what to do, without secrets."""
    words = " ".join(redact(said).split())[-_SAID_CHARS:]
    lowered = words.lower()
    found = [code for code in _ADVICE if f"{code} " in words or _WORDS[code] in lowered]
    if "accept this competition" in lowered:
        found = ["403"]
    advice = _ADVICE[found[0]].format(slug=slug) if found else "see what it says, then run again"
    return (
        f"competition {slug!r}: the kaggle command ended with status {status} and said "
        f"{words or 'nothing'!r}; {advice}"
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks `archive` into the new folder `folder`; nothing lands outside of it.

    Raises:
        SourceError: no whole zip archive, one that is too large, or a path that leaves the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            _check_members(archive, members, folder.parent)
            folder.mkdir()
            for member in members:
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as content, path.open("xb") as file:
                    shutil.copyfileobj(content, file, BLOCK_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise SourceError(
            f"{archive}: no whole zip archive ({error}); remove it and run again"
        ) from error
    except OSError as error:
        raise SourceError(f"{archive}: cannot be unpacked to {folder}: {error}") from error
    if find_layout(folder) is None:
        raise SourceError(f"{archive}: holds none of the known layouts of a competition")


def _check_members(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuses an archive whose files would not fit, or would land elsewhere."""
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > _MOST_BYTES or len(members) > _MOST_FILES:
        raise SourceError(
            f"{archive}: {len(members)} files of {n_bytes / 1e9:.1f} GB in all; expected at most "
            f"{_MOST_FILES} of {_MOST_BYTES / 1e9:.0f} GB"
        )
    if n_bytes > (n_free := shutil.disk_usage(folder).free):
        raise SourceError(
            f"{archive}: needs {n_bytes / 1e9:.1f} GB, and {folder} has {n_free / 1e9:.1f} GB free"
        )
    for member in members:
        path = PurePosixPath(member.filename)
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or is_link:
            raise SourceError(f"{archive}: {member.filename!r} leaves the folder; nothing was kept")
