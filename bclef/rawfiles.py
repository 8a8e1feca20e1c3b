"""One raw file of the audio store: its name, its sidecar, and how it gets there whole.

The sidecar JSON never stands beside other bytes than those it is about, so a file with a sidecar of
its size counts as whole. Whether its bytes are still those of the sidecar, and whether they are
audio, is asked when they are decoded; a file that fails there loses its sidecar.

What comes from a remote source grows in a hidden part file, which outlives a killed run and is gone
on from; that a remote source has a file no more is remembered in a JSON file too.
"""

import hashlib
import logging
import re
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from bclef.sidecars import read_sidecar, sha256_of
from bclef.sources.downloads import discard_part
from bclef.sources.protocol import UNAVAILABLE, FetchError, Source, SourceStoppedError
from bclef.tables import atomic_path, sync, write_json

_log = logging.getLogger(__name__)

_ID_CHARS = 60
# No fetch goes on for that long without a byte; two runs may share a store at the same time.
_LEFT_BEHIND_S = 3600
# Until then a file that is half there is gone on from.
_PART_LASTS_S = 7 * 86_400
# Of these failures the bytes that came may be used yet.
_RESUMABLE = ("short_body", UNAVAILABLE)
_MAGIC = {b"RIFF": ".wav", b"RF64": ".wav", b"OggS": ".ogg", b"fLaC": ".flac", b"FORM": ".aiff"}
_MP3_FRAME = re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")


@dataclass(frozen=True)
class Stored:
    """A file that the store holds whole."""

    path: Path
    """Where it is."""
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class RawFile:
    """The place of one recording's raw file, whether or not it is there.

    The name holds the id for people, and a digest that keeps ids apart which look alike, and gives
    bytes that the source has changed a new file.
    """

    recording_id: str
    url: str
    """Address, as its source understands it."""
    source_sha256: str | None
    """SHA-256 of the bytes as the source states it, or None."""
    folder: Path
    """Folder of all files of that source."""

    @property
    def stem(self) -> str:
        """The file's name without suffix, at most 73 characters."""
        identity = "\0".join((self.recording_id, self.url, self.source_sha256 or ""))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return f"{safe_name(self.recording_id)}-{digest}"

    @property
    def sidecar(self) -> Path:
        """The path of its sidecar."""
        return self.folder / f"{self.stem}.json"

    def stored(self) -> Stored | None:
        """Returns what the store holds, or None where the file is absent or of another size."""
        facts = read_sidecar(self.sidecar, {"name": str, "n_bytes": int, "sha256": str})
        if facts is None:
            return None
        path = self.folder / str(facts["name"])
        if path.parent != self.folder or path.stem != self.stem:
            _log.warning(
                "%s: names %s, no file of its own; it counts as absent", self.sidecar, path
            )
            return None
        if not path.is_file() or (n_bytes := path.stat().st_size) != facts["n_bytes"]:
            return None
        return Stored(path, n_bytes, str(facts["sha256"]))

    def gone(self, ask_again_after_days: int) -> str | None:
        """Returns what a remote source said when it did not have the file, or None.

        Args:
            ask_again_after_days: For how long it is believed.
        """
        facts = read_sidecar(self._gone, {"url": str, "detail": str, "day": str})
        if facts is None or facts["url"] != self.url:
            return None
        try:
            asked_on = date.fromisoformat(str(facts["day"]))
        except ValueError:
            return None
        is_believed = 0 <= (_today() - asked_on).days < ask_again_after_days
        return str(facts["detail"]) if is_believed else None

    def fetch(self, source: Source, max_bytes: int) -> Stored:
        """Returns the file after asking `source` for it.

        The suffix is the one that the first bytes call for, else that of the url.

        Raises:
            FetchError: `source` says so, or the bytes are `empty`, `too_large` or `other_bytes`.
            SourceStoppedError: `source` says so; what came stays for the next run.
        """
        _remove(self.sidecar)
        if source.is_remote:
            return self._fetch_remote(source, max_bytes)
        path = self.folder / (self.stem + self._url_suffix())
        with atomic_path(path) as part:
            source.fetch(self.url, part, max_bytes)
            stored = self._checked(part, max_bytes)
        path.rename(stored.path)
        self._write_sidecar(stored)
        return stored

    def _fetch_remote(self, source: Source, max_bytes: int) -> Stored:
        part = self._part
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            source.fetch(self.url, part, max_bytes)
            stored = self._checked(part, max_bytes)
        except SourceStoppedError:
            self._put_off()
            raise
        except FetchError as error:
            if error.reason not in _RESUMABLE:
                discard_part(part)
            if error.reason == UNAVAILABLE:
                self._put_off()
            else:
                _remove(self._late)
            if error.reason == "gone":
                facts = {"url": self.url, "detail": error.detail, "day": _today().isoformat()}
                write_json(self._gone, {"recording_id": self.recording_id, **facts})
            raise
        # A run killed between any two of these finds the part whole, or the file with its sidecar.
        stored.path.unlink(missing_ok=True)
        self._write_sidecar(stored)
        sync(part)
        part.replace(stored.path)
        sync(self.folder)
        self.forget_part()
        _remove(self._gone)
        _remove(self._late)
        return stored

    @property
    def was_put_off(self) -> bool:
        """Whether an earlier run failed at it or was stopped there: others are asked for first."""
        return self._late.exists()

    def _put_off(self) -> None:
        write_json(self._late, {"recording_id": self.recording_id, "url": self.url})

    def forget_part(self) -> None:
        """Removes what is left of a part, where a run was killed after the file was whole."""
        discard_part(self._part)

    @property
    def _part(self) -> Path:
        """The path of what has come of a remote file so far."""
        return self.folder / f".{self.stem}.part"

    @property
    def _gone(self) -> Path:
        """The path of what is remembered of a file that its source has no more."""
        return self.folder / f"{self.stem}.gone.json"

    @property
    def _late(self) -> Path:
        """The path of the note that others are to be asked for first."""
        return self.folder / f"{self.stem}.late.json"

    def _url_suffix(self) -> str:
        suffix = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""

    def _write_sidecar(self, stored: Stored) -> None:
        facts = {"name": stored.path.name, "n_bytes": stored.n_bytes, "sha256": stored.sha256}
        write_json(self.sidecar, {"recording_id": self.recording_id, "url": self.url, **facts})

    def _checked(self, part: Path, max_bytes: int) -> Stored:
        """Returns what the file at `part` is to be.

        Raises:
            FetchError: It is `empty`, `too_large` or `other_bytes`.
        """
        n_bytes = part.stat().st_size if part.exists() else 0
        if n_bytes == 0:
            raise FetchError("empty", f"{self.url} gave no bytes")
        if n_bytes > max_bytes:
            raise FetchError.too_large(n_bytes, max_bytes)
        sha256 = sha256_of(part)
        if self.source_sha256 not in (None, sha256):
            raise FetchError("other_bytes", f"found sha256 {sha256}, expected {self.source_sha256}")
        suffix = _sniffed_suffix(part) or self._url_suffix()
        return Stored(self.folder / (self.stem + suffix), n_bytes, sha256)


def safe_name(text: str) -> str:
    """Returns `text` as 1 to 60 letters, digits, `_` and `-`, fit for a file name anywhere.

    Different texts may give one name.

    >>> safe_name("../XC 123.mp3")
    'XC_123_mp3'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")[:_ID_CHARS] or "unnamed"


def remove_left_behind(folder: Path) -> None:
    """Removes what killed runs were writing into `folder`: hidden files that have come to rest.

    Parts that a later run can go on from stay for a week.
    """
    for path in folder.glob(".*"):
        is_part = path.name.endswith((".part", ".part.json"))
        # A run beside this one may have finished it just now, or nothing may be written here.
        with suppress(OSError):
            rest_s = time.time() - path.stat().st_mtime
            if rest_s > (_PART_LASTS_S if is_part else _LEFT_BEHIND_S):
                path.unlink()


def _remove(path: Path) -> None:
    """Removes a file that may be missing, which needs no right to write then."""
    if path.exists():
        path.unlink(missing_ok=True)


def _today() -> date:
    return datetime.now(UTC).date()


def _sniffed_suffix(path: Path) -> str:
    """Returns the suffix that the first bytes of a file call for, or ''."""
    with path.open("rb") as file:
        head = file.read(12)
    if _MP3_FRAME.match(head):
        return ".mp3"
    return ".m4a" if head[4:8] == b"ftyp" else _MAGIC.get(head[:4], "")
