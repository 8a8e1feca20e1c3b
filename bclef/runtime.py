"""Scores recordings with an exported model, without torch.

Only the base install is needed. A folder is checked against the hashes in its `model.json` before
anything of it is used, and nothing in it is ever unpickled. `export` writes such folders.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from bclef.audio import Wave, decode_blocks, windows
from bclef.tables import TableError, read_json

Scores = npt.NDArray[np.float32]

CARD_FILE = "model.json"
LABELS_FILE = "labels.csv"
ONNX_FILE = "model.onnx"
CARD_VERSION = 1
"""Layout of the export folder that this code writes and reads."""
INPUT_NAME, OUTPUT_NAME = "wave", "probabilities"

_LOAD_ERRORS = (
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
    onnxruntime_errors.NotImplemented,
)
_QUIET = 3
"""Severity from which onnxruntime logs: errors."""


class ExportError(Exception):
    """An export folder is not what it should be, or a model cannot be exported faithfully."""


class ScoreError(Exception):
    """The model has no finite score for a recording: its samples are far beyond any sound."""


class Scored(NamedTuple):
    """Scores of consecutive windows."""

    start_s: npt.NDArray[np.float64]
    """Begin of each window, [N]."""
    scores: Scores
    """Probabilities, [N, C]."""


@dataclass(frozen=True)
class ExportCard:
    """What the runtime needs to know of `model.json`."""

    labels: tuple[str, ...]
    """Classes in the order of the outputs."""
    sample_rate_hz: int
    """Sample rate of the waves."""
    window_samples: int
    """Length of each wave."""
    files: Mapping[str, tuple[int, str]]
    """Size in bytes and sha256 of every other file of the folder, by POSIX path within it."""

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
        if tree.get("version") != CARD_VERSION:
            raise ExportError(
                f"{directory / CARD_FILE}: found layout {tree.get('version')!r}, expected "
                f"{CARD_VERSION}: export the model with this version of bclef"
            )
        try:
            return cls._from_tree(tree)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(
                f"{directory / CARD_FILE}: not as export writes it ({error!r}); export again"
            ) from error

    @classmethod
    def _from_tree(cls, tree: Mapping[str, Any]) -> "ExportCard":
        return cls(
            labels=tuple(map(str, tree["labels"])),
            sample_rate_hz=int(tree["sample_rate_hz"]),
            window_samples=int(tree["window_samples"]),
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
            if (fault := _file_fault(directory / name, n_bytes, sha256))
        ]
        if faults:
            raise ExportError(
                f"{directory}: {'; '.join(faults)}: copy the whole folder again or export anew"
            )


class Predictor:
    """An exported model, ready to score.

    The scores of a window do not depend on the windows that are scored with it.

    Args:
        directory: Folder written by `export`.
        n_threads: Threads of one calculation; None for one per core.
        batch_size: Windows scored at once; more needs more memory and is hardly faster.

    Raises:
        ExportError: The folder is incomplete, damaged, or inconsistent.
        ValueError: `n_threads` or `batch_size` is below 1.
    """

    def __init__(
        self, directory: Path, *, n_threads: int | None = None, batch_size: int = 8
    ) -> None:
        if batch_size < 1 or (n_threads is not None and n_threads < 1):
            raise ValueError(f"batch_size {batch_size} and n_threads {n_threads} must be above 0")
        card = ExportCard.read(directory)
        card.check_files(directory)
        names = _read_names(directory / LABELS_FILE, card.labels)
        self._session = _open_session(directory / ONNX_FILE, n_threads, card)
        self._batch_size = batch_size
        self.labels = card.labels
        self.scientific_names: tuple[str, ...] = tuple(names)
        self.sample_rate_hz = card.sample_rate_hz
        self.window_samples = card.window_samples
        self.window_s = card.window_samples / card.sample_rate_hz

    def scores(self, waves: Wave) -> Scores:
        """Returns the probabilities of `waves`, float32 [N, C], classes in the order of `labels`.

        Args:
            waves: float32 [N, window_samples] at `sample_rate_hz`, full scale at 1.

        Raises:
            ValueError: `waves` has another shape.
            ScoreError: A score is not finite.
        """
        if waves.ndim != 2 or waves.shape[1] != self.window_samples:
            raise ValueError(
                f"found waves of shape {waves.shape}, expected [N, {self.window_samples}]"
            )
        scores = np.empty((len(waves), len(self.labels)), np.float32)
        for first in range(0, len(waves), self._batch_size):
            rows = slice(first, first + self._batch_size)
            batch = np.ascontiguousarray(waves[rows], np.float32)
            scores[rows] = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        if not np.isfinite(scores).all():
            peak = float(np.abs(waves).max())
            raise ScoreError(f"samples reach {peak:g} times full scale; the model cannot score them")
        return scores

    def step_samples(self, step_s: float | None) -> int:
        """Returns the samples from one window to the next; a whole window if `step_s` is None.

        Raises:
            ValueError: The windows would not cover a recording, or not move on.
        """
        step_samples = self.window_samples
        if step_s is not None:
            step_samples = round(step_s * self.sample_rate_hz)
        if not 1 <= step_samples <= self.window_samples:
            raise ValueError(
                f"found a step of {step_s} s, expected more than 0 and at most the window of "
                f"{self.window_s:g} s"
            )
        return step_samples

    def score_blocks(self, blocks: Iterable[Wave], step_s: float | None = None) -> Iterator[Scored]:
        """Yields the scores of a stream a batch of windows at a time, in bounded memory.

        The last window is padded with zeros; a stream without samples is one silent window.

        Args:
            blocks: Consecutive float32 [n] pieces at `sample_rate_hz`, of any sizes.
            step_s: From one window to the next, at most `window_s`; None for `window_s`.

        Raises:
            ValueError: A step that leaves gaps.
            ScoreError: A score is not finite.
        """
        cuts = windows(blocks, self.window_samples, self.step_samples(step_s))
        while batch := list(islice(cuts, self._batch_size)):
            start_s = np.array([first for first, _ in batch]) / self.sample_rate_hz
            yield Scored(start_s, self.scores(np.stack([wave for _, wave in batch])))

    def predict_samples(self, wave: Wave, step_s: float | None = None) -> pd.DataFrame:
        """Returns the window scores of `wave`, float32 [T]: start_s, end_s, one column per label.

        Raises:
            ValueError: A step that leaves gaps, or `wave` is no single channel.
            ScoreError: A score is not finite.
        """
        if wave.ndim != 1:
            raise ValueError(f"found a wave of shape {wave.shape}, expected one channel, [T]")
        return self._frame(self.score_blocks([wave.astype(np.float32)], step_s))

    def predict_file(self, path: Path, step_s: float | None = None) -> pd.DataFrame:
        """Returns the window scores of a sound file: start_s, end_s, one column per label.

        The audio streams; only the scores are held whole.

        Raises:
            DecodeError: The file is no sound that can be read.
            OSError: The file cannot be read at all.
            ValueError: A step that leaves gaps.
            ScoreError: A score is not finite.
        """
        return self._frame(self.score_blocks(decode_blocks(path, self.sample_rate_hz), step_s))

    def _frame(self, batches: Iterable[Scored]) -> pd.DataFrame:
        start_s, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        times = pd.DataFrame({"start_s": start_s, "end_s": start_s + self.window_s})
        return pd.concat([times, pd.DataFrame(scores, columns=list(self.labels))], axis=1)


def describe_file(path: Path) -> dict[str, object]:
    """Returns size and sha256 of a file, as a card lists them."""
    with path.open("rb") as stream:
        return {"n_bytes": path.stat().st_size, "sha256": file_digest(stream, "sha256").hexdigest()}


def _file_fault(path: Path, n_bytes: int, sha256: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if not sha256:
        return f"{path.name} is not listed in {CARD_FILE}"
    if (found := path.stat().st_size) != n_bytes:
        return f"{path.name} has {found} bytes, expected {n_bytes}"
    if describe_file(path)["sha256"] != sha256:
        return f"{path.name} has other contents than {CARD_FILE} says"
    return None


def _read_names(path: Path, labels: tuple[str, ...]) -> list[str]:
    """Returns the scientific name of each label, empty where none is known."""
    try:
        classes = pd.read_csv(path, dtype="string", keep_default_na=False)
        listed, names = list(classes["label"]), list(classes["scientific_name"])
    except (KeyError, ValueError) as error:
        raise ExportError(f"{path}: not a list of classes ({error}); export again") from error
    if tuple(listed) != labels or len(set(labels)) != len(labels):
        raise ExportError(
            f"{path}: its {len(listed)} labels are not the {len(labels)} of {CARD_FILE}, each once "
            "and in that order; take both files from the same export"
        )
    return names


def _open_session(
    path: Path, n_threads: int | None, card: ExportCard
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = n_threads or len(os.sched_getaffinity(0))
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except _LOAD_ERRORS as error:
        raise ExportError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot open it ({error}); install a "
            "newer one or export with a lower export.opset"
        ) from error
    ends = [*session.get_inputs(), *session.get_outputs()]
    found = [(end.name, end.shape[1:]) for end in ends]
    expected = [(INPUT_NAME, [card.window_samples]), (OUTPUT_NAME, [len(card.labels)])]
    if found != expected:
        raise ExportError(f"{path}: found a graph with {found}, expected {expected}; export again")
    return session
