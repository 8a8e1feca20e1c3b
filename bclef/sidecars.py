"""Sidecars of the audio store: a JSON file beside each file, with its size and its sha256.

The sidecar is written after its file, so a file that agrees with its sidecar is whole. One that is
missing, broken or without what is asked of it counts as absent: its file is then made anew.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import UnionType

from bclef.tables import TableError, read_json, write_json

_log = logging.getLogger(__name__)

_FACTS = {"n_bytes": int, "sha256": str}


def sidecar_of(path: Path) -> Path:
    """Returns the path of the sidecar of a file."""
    return path.with_suffix(".json")


def sha256_of(path: Path) -> str:
    """Returns 64 hex digits over the bytes of a file; it takes about 1 s for 1 GB.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sidecar(
    path: Path, kinds: Mapping[str, type | UnionType] | None = None
) -> dict[str, object] | None:
    """Returns what the sidecar at `path` says, or None unless it holds all of `kinds`.

    Args:
        path: Of the sidecar itself.
        kinds: The type of each key that has to be there.
    """
    try:
        found = read_json(path)
    except TableError as error:
        if path.exists():
            _log.warning("%s; its file counts as absent", error)
        return None
    is_right = all(isinstance(found.get(key), kind) for key, kind in (kinds or {}).items())
    return found if is_right else None


def write_sidecar(path: Path, facts: Mapping[str, object]) -> None:
    """Writes the sidecar of the file at `path`: its size, its sha256 and `facts`."""
    whole = {"n_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(sidecar_of(path), {**facts, **whole})


def fault_of(path: Path) -> str | None:
    """Returns why a file is not what its sidecar says, in words, or None where it is."""
    if not path.is_file():
        return "no such file"
    if (facts := read_sidecar(sidecar_of(path), _FACTS)) is None:
        return f"{sidecar_of(path).name} does not say what the file should be"
    if (n_bytes := path.stat().st_size) != facts["n_bytes"]:
        return f"found {n_bytes} bytes, expected {facts['n_bytes']}"
    if (sha256 := sha256_of(path)) != facts["sha256"]:
        return f"found sha256 {sha256}, expected {facts['sha256']}"
    return None


def forget(path: Path) -> None:
    """Removes the sidecar of a file, so that the stage which writes the file does so again."""
    sidecar_of(path).unlink(missing_ok=True)
