"""Scores recordings with an exported model, without torch.

Only the base install is needed. `export` writes the folder, `exportfolder` says what is in it; it
is checked against its hashes before anything of it is used, and nothing in it is ever unpickled.

A network may hear more than its scores are about: the sound before and after. Windows are laid by
their scored part; what is heard before a recording begins and after it ends is silence.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from bclef.audio import Wave, decode_blocks, windows
from bclef.exportfolder import INPUT_NAME, ONNX_FILE, OUTPUT_NAME, ExportCard, ExportError

Scores = npt.NDArray[np.float32]

_LOAD_ERRORS = (
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
    onnxruntime_errors.NotImplemented,
)
_QUIET = 3
"""Severity from which onnxruntime logs: errors."""


class ScoreError(Exception):
    """The model has no finite score for a recording: its samples are far beyond any sound."""


class Scored(NamedTuple):
    """Scores of consecutive windows."""

    start_s: npt.NDArray[np.float64]
    """Begin of the scored part of each window, [N]."""
    scores: Scores
    """Probabilities, [N, C]."""


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
        self._session = open_session(directory / ONNX_FILE, n_threads)
        _check_ends(self._session, directory / ONNX_FILE, card)
        self._batch_size = batch_size
        self.labels = card.labels
        self.scientific_names = card.read_scientific_names(directory)
        self.sample_rate_hz = card.sample_rate_hz
        self.window_samples = card.window_samples
        self.context_samples = card.context_samples
        self.scored_samples = card.scored_samples
        self.scored_s = card.scored_samples / card.sample_rate_hz

    def scores(self, waves: Wave) -> Scores:
        """Returns the probabilities of `waves`, float32 [N, C], classes in the order of `labels`.

        They are about the middle `scored_samples` of each wave.

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
            raise ScoreError(
                f"samples reach {peak:g} times full scale; the model cannot score them"
            )
        return scores

    def step_samples(self, step_s: float | None) -> int:
        """Returns the samples from one window to the next; `scored_samples` if `step_s` is None.

        Raises:
            ValueError: The scored parts would not cover a recording, or not move on.
        """
        if step_s is None:
            return self.scored_samples
        # Neither infinity nor what is no number can be rounded.
        step_samples = round(step_s * self.sample_rate_hz) if math.isfinite(step_s) else 0
        if not 1 <= step_samples <= self.scored_samples:
            raise ValueError(
                f"found a step of {step_s} s, expected more than 0 and at most the window of "
                f"{self.scored_s:g} s that scores are about"
            )
        return step_samples

    def score_blocks(self, blocks: Iterable[Wave], step_s: float | None = None) -> Iterator[Scored]:
        """Yields the scores of a stream a batch of windows at a time, in bounded memory.

        Windows are padded with zeros at both ends of the stream; a stream without samples is one
        silent window.

        Args:
            blocks: Consecutive float32 [n] pieces at `sample_rate_hz`, of any sizes.
            step_s: From one window to the next, at most `scored_s`; None for `scored_s`.

        Raises:
            ValueError: A step that leaves gaps.
            ScoreError: A score is not finite.
        """
        # With this silence around it, a window begins where its scored part does in the stream, and
        # as many windows cover the longer stream as there are scored parts that cover the stream.
        context = [np.zeros(self.context_samples, np.float32)]
        around = chain(context, blocks, context)
        cuts = windows(around, self.window_samples, self.step_samples(step_s))
        while batch := list(islice(cuts, self._batch_size)):
            start_s = np.array([first for first, _ in batch]) / self.sample_rate_hz
            yield Scored(start_s, self.scores(np.stack([wave for _, wave in batch])))

    def predict_samples(self, wave: Wave, step_s: float | None = None) -> pd.DataFrame:
        """Returns the window scores of `wave`, float32 [T]: start_s, end_s, one column per label.

        The times are those of the scored part of each window.

        Raises:
            ValueError: A step that leaves gaps, or `wave` is no single channel.
            ScoreError: A score is not finite.
        """
        if wave.ndim != 1:
            raise ValueError(f"found a wave of shape {wave.shape}, expected one channel, [T]")
        return self._frame(self.score_blocks([wave.astype(np.float32)], step_s))

    def predict_file(self, path: Path, step_s: float | None = None) -> pd.DataFrame:
        """Returns the window scores of a sound file: start_s, end_s, one column per label.

        The times are those of the scored part of each window. The audio streams; only the scores
        are held whole.

        Raises:
            DecodeError: The file is no sound that can be read.
            OSError: The file cannot be read at all.
            ValueError: A step that leaves gaps.
            ScoreError: A score is not finite.
        """
        return self._frame(self.score_blocks(decode_blocks(path, self.sample_rate_hz), step_s))

    def _frame(self, batches: Iterable[Scored]) -> pd.DataFrame:
        start_s, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        times = pd.DataFrame({"start_s": start_s, "end_s": start_s + self.scored_s})
        return pd.concat([times, pd.DataFrame(scores, columns=list(self.labels))], axis=1)


def open_session(path: Path, n_threads: int | None) -> onnxruntime.InferenceSession:
    """Returns an ONNX graph ready to run on the CPU.

    Raises:
        ExportError: This onnxruntime cannot open it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = n_threads or 0  # 0 lets onnxruntime count the cores
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise ExportError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot open it ({error}); install a "
            "newer one or export with a lower export.opset"
        ) from error


def _check_ends(session: onnxruntime.InferenceSession, path: Path, card: ExportCard) -> None:
    sides = [*session.get_inputs(), *session.get_outputs()]
    found = [(side.name, side.shape[1:]) for side in sides]
    expected = [(INPUT_NAME, [card.window_samples]), (OUTPUT_NAME, [len(card.labels)])]
    if found != expected:
        raise ExportError(f"{path}: found a graph with {found}, expected {expected}; export again")
