"""Audio files in folders of any origin: finding them, naming them, copying them.

File names come from strangers. Ids are readable, unique and plain text whatever the name holds;
the file itself is always opened by the name that the disk gave.
"""

import hashlib
import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

from bclef.sources.protocol import FetchError

_log = logging.getLogger(__name__)

DECODABLE = frozenset(
    (
        ".aif",
        ".aifc",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".rf64",
        ".snd",
        ".w64",
        ".wav",
        ".wave",
    )
)
UNDECODABLE = frozenset((".3gp", ".aac", ".amr", ".m4a", ".m4b", ".mka", ".mp4", ".webm", ".wma"))
"""Audio that is listed all the same, so that a later stage can say why it cannot be used."""
SUFFIXES = DECODABLE | UNDECODABLE
BLOCK_BYTES = 1 << 20


def find_audio(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields the audio files under `root`, sorted, each with why it cannot be read or None.

    Hidden files and folders are passed over, links are followed, a link to a folder above itself
    is not. A folder that cannot be read is yielded in place of its files.

    Args:
        root: a folder.
    """
    yield from _find(root, ())


def _find(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, str | None]]:
    try:
        stat = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"folder cannot be read: {error.strerror}"
        return
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _find(entry, (*above, here))
        elif entry.suffix.lower() in SUFFIXES:
            if entry.is_file():
                yield entry, None
            else:
                yield entry, "no regular file, or a link to nothing"


def audio_sizes(root: Path) -> dict[str, int]:
    """Returns the bytes of each audio file under `root`, by its path relative to `root`.

    One scan of each folder, for collections of a hundred thousand files. Hidden files and folders
    are passed over, links are followed; a folder or file that cannot be read is logged.

    Args:
        root: a folder.
    """
    sizes: dict[str, int] = {}
    _measure(os.fspath(root), "", (), sizes)
    return dict(sorted(sizes.items()))


def _measure(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], sizes: dict[str, int]
) -> None:
    """Adds the audio files of one folder and of those below it to `sizes`."""
    try:
        stat = os.stat(folder)  # noqa: PTH116  a Path for each of 100,000 files is what costs
        here = (stat.st_dev, stat.st_ino)
        with os.scandir(folder) as entries:
            seen = [] if here in above else [e for e in entries if not e.name.startswith(".")]
    except OSError as error:
        _log.warning("%s: folder cannot be read: %s", folder, error.strerror)
        return
    for entry in seen:
        name = prefix + entry.name
        try:
            if entry.is_dir():
                _measure(entry.path, f"{name}/", (*above, here), sizes)
            elif os.path.splitext(name)[1].lower() in SUFFIXES and entry.is_file():  # noqa: PTH122
                sizes[name] = entry.stat().st_size
        except OSError as error:
            _log.warning("%s: cannot be read: %s", entry.path, error.strerror)


def main_workspace() -> Path:
    """Returns the folder that the paths of params start from: `$DVC_ROOT`, else the present one."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def leaves_folder(relative: str) -> bool:
    """Returns whether a path leaves the folder that it starts from, or can be none."""
    return relative.startswith("/") or "\0" in relative or ".." in relative.split("/")


def plain_name(path: str) -> str:
    """Returns `path` as printable text that no two paths share and that is stable under NFC.

    Control characters, `%`, bytes that are no UTF-8 and letters in other forms than NFC are
    written as `%` and two hexadecimal digits.

    Args:
        path: relative path as the disk gives it, with `/` between its parts.

    >>> plain_name("Turdus merula/song 1.wav"), plain_name("50%.wav")
    ('Turdus merula/song 1.wav', '50%25.wav')
    """
    ascii_only = not unicodedata.is_normalized("NFC", path)
    return "".join(
        char
        if char.isprintable() and char != "%" and (char.isascii() or not ascii_only)
        else quote_from_bytes(os.fsencode(char), safe="")
        for char in path
    )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of the bytes of `path`, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_verified(source: Path, path: Path, sha256: str, max_bytes: int) -> None:
    """Copies `source` to `path` in blocks and checks what was copied.

    Args:
        source: the file to copy.
        path: where to.
        sha256: what the content was when it was listed.
        max_bytes: the largest file that is copied.

    Raises:
        FetchError: `gone`, `unreadable`, `too_large`, or `changed` since it was listed.
    """
    copy_bounded(source, path, max_bytes)
    if (found := sha256_of(path)) != sha256:
        path.unlink()
        raise FetchError(
            "changed",
            f"{source}: SHA-256 {found[:12]}..., listed as {sha256[:12]}...; list it again",
        )


def copy_bounded(source: Path, path: Path, max_bytes: int) -> int:
    """Copies `source` to `path` in blocks and returns the number of bytes.

    Args:
        source: the file to copy.
        path: where to.
        max_bytes: the largest file that is copied.

    Raises:
        FetchError: `gone`, `unreadable` or `too_large`.
    """
    n_bytes = 0
    try:
        with source.open("rb") as original, path.open("wb") as copy:
            if (stated := os.fstat(original.fileno()).st_size) > max_bytes:
                raise FetchError.too_large(stated, max_bytes)
            while block := original.read(BLOCK_BYTES):
                n_bytes += len(block)
                if n_bytes > max_bytes:  # it grows while it is read
                    raise FetchError.too_large(n_bytes, max_bytes)
                copy.write(block)
    except FileNotFoundError as error:
        raise FetchError("gone", f"{source}: listed, but not there any more") from error
    except OSError as error:
        raise FetchError("unreadable", f"{source}: {error.strerror}") from error
    return n_bytes
