"""One raw file of the audio store: its name, its sidecar, and how it gets there whole.

The sidecar JSON is written after the file and removed before the file changes, so a file with a
sidecar of its size counts as whole. Whether its bytes are still those of the sidecar, and whether
they are audio, is asked when they are decoded; a file that fails there loses its sidecar.
"""

import hashlib
import re
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from bclef.sidecars import read_sidecar, sha256_of
from bclef.sources.protocol import FetchError, Source
from bclef.tables import atomic_path, write_json

_ID_CHARS = 60
# No fetch goes on for that long without a byte; two runs may share a store at the same time.
_LEFT_BEHIND_S = 3600
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
        if not path.is_file() or (n_bytes := path.stat().st_size) != facts["n_bytes"]:
            return None
        return Stored(path, n_bytes, str(facts["sha256"]))

    def fetch(self, source: Source, max_bytes: int) -> Stored:
        """Returns the file after asking `source` for it.

        The suffix is that of the url where it has one, else the one that the first bytes call for.

        Raises:
            FetchError: `source` says so, or the bytes are `empty`, `too_large` or `other_bytes`.
        """
        self.sidecar.unlink(missing_ok=True)
        suffix = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        is_sane = re.fullmatch(r"\.[a-z0-9]{1,5}", suffix)
        path = self.folder / (self.stem + (suffix if is_sane else ""))
        with atomic_path(path) as part:
            source.fetch(self.url, part, max_bytes)
            n_bytes = self._checked_size(part, max_bytes)
            sha256, sniffed = sha256_of(part), _suffix(part)
            if self.source_sha256 not in (None, sha256):
                raise FetchError(
                    "other_bytes", f"found sha256 {sha256}, expected {self.source_sha256}"
                )
        if not path.suffix:
            path = path.rename(path.with_name(path.name + sniffed))
        facts = {"name": path.name, "n_bytes": n_bytes, "sha256": sha256}
        write_json(self.sidecar, {"recording_id": self.recording_id, "url": self.url, **facts})
        return Stored(path, n_bytes, sha256)

    def _checked_size(self, part: Path, max_bytes: int) -> int:
        n_bytes = part.stat().st_size if part.exists() else 0
        if n_bytes == 0:
            raise FetchError("empty", f"{self.url} gave no bytes")
        if n_bytes > max_bytes:
            raise FetchError.too_large(n_bytes, max_bytes)
        return n_bytes


def safe_name(text: str) -> str:
    """Returns `text` as 1 to 60 letters, digits, `_` and `-`, fit for a file name anywhere.

    Different texts may give one name.

    >>> safe_name("../XC 123.mp3")
    'XC_123_mp3'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")[:_ID_CHARS] or "unnamed"


def remove_left_behind(folder: Path) -> None:
    """Removes what killed runs were writing into `folder`: hidden files that have come to rest."""
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):  # a run beside this one may have finished it just now
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S:
                path.unlink()


def _suffix(path: Path) -> str:
    """Returns the suffix that the first bytes of a file call for, or ''."""
    with path.open("rb") as file:
        head = file.read(12)
    if _MP3_FRAME.match(head):
        return ".mp3"
    return ".m4a" if head[4:8] == b"ftyp" else _MAGIC.get(head[:4], "")
