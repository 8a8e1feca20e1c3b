"""What is in an export folder, and whether it is whole.

| file | what |
|---|---|
| `model.json` | the card: labels, sample rate, window, scored part, origin, hashes of all files |
| `labels.csv` | index, label, scientific_name, common_name |
| `model.onnx` | waves float32 [N, window_samples] to probabilities float32 [N, C], any N |
| `openvino/model.xml`, `.bin` | the same for OpenVINO, float32; `model_fp16` with half the size |
| `parity.json` | how far the runtimes were from torch when it was exported |
| `ATTRIBUTION.csv`, `CREDITS.html` | whose recordings it learnt from, as a table and as a page |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pandas as pd

from bclef.tables import TableError, read_json

CARD_FILE = "model.json"
LABELS_FILE = "labels.csv"
ONNX_FILE = "model.onnx"
OPENVINO_FILES = {"openvino_fp32": "openvino/model.xml", "openvino_fp16": "openvino/model_fp16.xml"}
"""OpenVINO models by name of the runtime; the weights lie beside each as `.bin`."""
PARITY_FILE = "parity.json"
ATTRIBUTION_FILE = "ATTRIBUTION.csv"
CREDITS_FILE = "CREDITS.html"
CARD_VERSION = 2
"""Layout of the export folder that this code writes and reads."""
INPUT_NAME, OUTPUT_NAME = "wave", "probabilities"


class ExportError(Exception):
    """An export folder is not what it should be, or a model cannot be exported faithfully."""


@dataclass(frozen=True)
class ExportCard:
    """What the runtime needs to know of `model.json`."""

    labels: tuple[str, ...]
    """Classes in the order of the outputs."""
    sample_rate_hz: int
    """Sample rate of the waves."""
    window_samples: int
    """Length of each wave."""
    scored_samples: int
    """Length of the middle of each wave, which its scores are about."""
    files: Mapping[str, tuple[int, str]]
    """Size in bytes and sha256 of every other file of the folder, by POSIX path within it."""

    @property
    def context_samples(self) -> int:
        """What the network hears before the scored part of a wave, and again after it."""
        return (self.window_samples - self.scored_samples) // 2

    @classmethod
    def read(cls, directory: Path) -> "ExportCard":
        """Returns the card of the export folder `directory`.

        Raises:
            ExportError: No such folder or card, or one of another layout.
        """
        if not directory.is_dir():
            raise ExportError(
                f"{directory}: no such folder; expected an export: run `dvc repro export`, or name "
                "the folder of one"
            )
        try:
            tree = read_json(directory / CARD_FILE)
        except TableError as error:
            raise ExportError(f"{directory} is no export folder: {error}") from error
        if "files" not in tree and "training" in tree:
            raise ExportError(
                f"{directory} is a training model, not an export; expected an export folder such "
                "as models/export"
            )
        if tree.get("version") != CARD_VERSION:
            raise ExportError(
                f"{directory / CARD_FILE}: found layout {tree.get('version')!r}, expected "
                f"{CARD_VERSION}: export the model again with this version of bclef"
            )
        try:
            card = cls._from_tree(tree)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(
                f"{directory / CARD_FILE}: not as export writes it ({error!r}); export again"
            ) from error
        card._check_lengths(directory / CARD_FILE)
        return card

    def _check_lengths(self, path: Path) -> None:
        if self.sample_rate_hz < 1 or self.window_samples < 1:
            raise ExportError(
                f"{path}: found sample_rate_hz {self.sample_rate_hz} and window_samples "
                f"{self.window_samples}, expected both above 0; export again"
            )
        n_around = self.window_samples - self.scored_samples
        if self.scored_samples < 1 or n_around < 0 or n_around % 2:
            raise ExportError(
                f"{path}: found scored_samples {self.scored_samples}, expected the middle of "
                f"window_samples {self.window_samples}: above 0, with as much before it as after "
                "it; export again"
            )

    @classmethod
    def _from_tree(cls, tree: Mapping[str, Any]) -> "ExportCard":
        return cls(
            labels=tuple(map(str, tree["labels"])),
            sample_rate_hz=int(tree["sample_rate_hz"]),
            window_samples=int(tree["window_samples"]),
            scored_samples=int(tree["scored_samples"]),
            files={
                name: (int(entry["n_bytes"]), str(entry["sha256"]))
                for name, entry in tree["files"].items()
            },
        )

    def check_files(self, directory: Path) -> None:
        """Refuses a folder whose files are not those of this card.

        Raises:
            ExportError: A file is missing, or has another size or hash; all such files are named.
        """
        needed = {ONNX_FILE: (0, ""), LABELS_FILE: (0, "")} | dict(self.files)
        faults = [
            fault
            for name, (n_bytes, sha256) in sorted(needed.items())
            if (fault := _file_fault(directory, name, n_bytes, sha256))
        ]
        if faults:
            raise ExportError(
                f"{directory}: {'; '.join(faults)}: copy the whole folder again or export anew"
            )

    def read_scientific_names(self, directory: Path) -> tuple[str, ...]:
        """Returns the scientific name of each label from the folder, empty where none is known.

        Raises:
            ExportError: The list of classes is not that of this card.
        """
        path = directory / LABELS_FILE
        try:
            classes = pd.read_csv(path, dtype="string", keep_default_na=False)
            listed, names = list(classes["label"]), list(classes["scientific_name"])
        except (KeyError, ValueError) as error:
            raise ExportError(f"{path}: not a list of classes ({error}); export again") from error
        if tuple(listed) != self.labels or len(set(listed)) != len(listed):
            raise ExportError(
                f"{path}: its {len(listed)} labels are not the {len(self.labels)} of {CARD_FILE}, "
                "each once and in that order; take both files from the same export"
            )
        return tuple(names)


def describe_file(path: Path) -> dict[str, object]:
    """Returns size and sha256 of a file, as a card lists them."""
    with path.open("rb") as stream:
        return {"n_bytes": path.stat().st_size, "sha256": file_digest(stream, "sha256").hexdigest()}


def _file_fault(directory: Path, name: str, n_bytes: int, sha256: str) -> str | None:
    path = directory / name
    if not path.is_file():
        return f"{name} is missing"
    if not sha256:
        return f"{name} is not listed in {CARD_FILE}"
    if (found := path.stat().st_size) != n_bytes:
        return f"{name} has {found} bytes, expected {n_bytes}"
    if describe_file(path)["sha256"] != sha256:
        return f"{name} has other contents than {CARD_FILE} says"
    return None
