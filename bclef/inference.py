"""Window scores: what a model says about every few seconds of recordings in the feature store.

Windows are laid by their scored part, which start_s and end_s are about, as the exported model's
runtime lays them; the network also hears the context on both sides, and zeros outside a recording.
Recordings are scored in chunks whose bounds do not depend on where they are worked on, so one
process, many, and a cluster give the same table.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from bclef.audio import window_starts
from bclef.config import Section
from bclef.crops import WaveStore, n_samples_by_id, read_crops, window_crops
from bclef.modelfiles import load_model, read_card
from bclef.models import BirdModel, ModelSpec
from bclef.parallel import requested_executor, run_all
from bclef.store import Store
from bclef.tables import empty_table
from bclef.windowscores import window_scores_schema

RECORDINGS_PER_CHUNK = 32


class ScoreError(Exception):
    """Recordings cannot be scored: there are none, or the store lacks some."""


class ScoreConfig(Section):
    """How recordings are cut into windows for scoring (section `score`)."""

    step_s: float = Field(gt=0)
    """Time from one window to the next, s; at most the part that the model's scores are about."""
    batch_size: int = Field(ge=1)
    """Windows that are scored at once."""


@dataclass(frozen=True)
class _Chunk:
    """Work for one process; it opens what it needs."""

    model_dir: Path
    store_dir: Path
    recording_ids: tuple[str, ...]
    config: ScoreConfig


def score_windows(
    model_dir: Path,
    store_dir: Path,
    recording_ids: Sequence[str],
    config: ScoreConfig,
    pool: Executor | None = None,
) -> pd.DataFrame:
    """Returns the window scores of `recording_ids` by the model in `model_dir`.

    Args:
        model_dir: A model folder.
        store_dir: The feature store.
        recording_ids: In any order, which the table keeps.
        config: Step and batch.
        pool: Where chunks of recordings are worked on; None for this process, with all its cores
            and its GPU if it has one.

    Raises:
        ModelError: `model_dir` holds no whole model.
        ScoreError: No recordings, the store lacks some, or a worker died.
    """
    if pool is None:
        model, _ = load_model(model_dir)
        with Store(store_dir) as store:
            model.to(best_device())
            return score_recordings(model, store, recording_ids, config, progress=True)
    # A worker of a cluster need not stand in this directory.
    folders = model_dir.resolve(), store_dir.resolve()
    chunks = [_Chunk(*folders, ids, config) for ids in _chunks(recording_ids)]
    tables = []
    for outcome in run_all(_score_chunk, chunks, pool, describe="score", unit="chunk"):
        if outcome.value is None:
            raise ScoreError(
                f"the process that scored {outcome.item.recording_ids[0]} and others died: "
                "if it ran out of memory, lower score.batch_size or BCLEF_WORKERS"
            )
        tables.append(outcome.value)
    return pd.concat(tables, ignore_index=True)


def score_soundscapes(model_dir: Path, store_dir: Path, config: ScoreConfig) -> pd.DataFrame:
    """Returns the window scores of all soundscapes in a store, annotated ones included.

    Works where the environment asks for it (`parallel.requested_executor`), else in this process.

    Raises:
        ModelError: `model_dir` holds no whole model.
        ScoreError: A worker died.
    """
    with Store(store_dir) as store:
        index = store.index
    ids = index.loc[index["role"] == "soundscape", "recording_id"].tolist()
    if not ids:
        labels = read_card(model_dir).labels
        return empty_table(window_scores_schema(labels))
    with requested_executor() as pool:
        return score_windows(model_dir, store_dir, ids, config, pool)


def score_recordings(
    model: BirdModel,
    store: WaveStore,
    recording_ids: Sequence[str],
    config: ScoreConfig,
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """Returns the window scores of `recording_ids` by `model`, on the device that it is on.

    Args:
        model: Left in the mode, training or not, that it came in.
        store: The recordings.
        recording_ids: In any order, which the table keeps.
        config: Step and batch.
        progress: Whether a bar on stderr shows how far it is.

    Raises:
        ScoreError: No recordings, the store lacks some, or the step exceeds the scored part.
    """
    tables = []
    chunks, n_samples = _chunks(recording_ids), n_samples_by_id(store.index)
    check_step(model.spec, config.step_s, "score.step_s")
    for ids in tqdm(chunks, desc="score", unit="chunk", mininterval=2, disable=not progress):
        windows = _lay_windows(model.spec, n_samples, ids, config.step_s)
        scores = _score(model, store, windows, n_samples, config.batch_size)
        columns = pd.DataFrame(scores, columns=list(model.spec.labels))
        tables.append(pd.concat([windows, columns], axis=1))
    return pd.concat(tables, ignore_index=True)


def score_listed(
    model: BirdModel, store: WaveStore, windows: pd.DataFrame, batch_size: int
) -> NDArray[np.float32]:
    """Returns the probabilities of the windows that a table names, float32 [N, C], in its order.

    Args:
        model: Left in the mode, training or not, that it came in.
        store: The recordings.
        windows: Table with recording_id and start_s, the begin of the scored part.
        batch_size: Windows that are scored at once; it has no bearing on the scores.

    Raises:
        CropError: The store lacks some of the windows.
    """
    return _score(model, store, windows, n_samples_by_id(store.index), batch_size)


def check_step(spec: ModelSpec, step_s: float, key: str) -> None:
    """Refuses a step between windows that leaves parts of a recording without a score.

    Args:
        spec: Of the model that is to score.
        step_s: The step.
        key: Dotted key of the param that it comes from, for the message.

    Raises:
        ScoreError: It exceeds the scored part of a window.
    """
    if round(step_s * spec.sample_rate_hz) > spec.scored_samples:
        raise ScoreError(
            f"{key}: found {step_s}, expected at most the model's scored part of "
            f"{spec.scored_samples / spec.sample_rate_hz} s: windows must cover the recording"
        )


def best_device() -> torch.device:
    """Returns the first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _score(
    model: BirdModel,
    store: WaveStore,
    windows: pd.DataFrame,
    n_samples: Mapping[str, int],
    batch_size: int,
) -> NDArray[np.float32]:
    spec = model.spec
    crops = window_crops(
        windows,
        n_samples,
        spec.window_samples,
        spec.sample_rate_hz,
        lead_samples=spec.context_samples,
    )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    scores = [np.zeros((0, len(spec.labels)), np.float32)]
    with torch.inference_mode():
        for first in range(0, len(crops), batch_size):
            waves = read_crops(store, crops[first : first + batch_size], spec.window_samples)
            images = model.images(torch.from_numpy(waves).to(device))
            scores.append(model.scores(images).cpu().numpy())
    model.train(was_training)
    return np.concatenate(scores)


def _score_chunk(chunk: _Chunk) -> pd.DataFrame:
    return score_windows(chunk.model_dir, chunk.store_dir, chunk.recording_ids, chunk.config)


def _chunks(recording_ids: Sequence[str]) -> list[tuple[str, ...]]:
    if not recording_ids:
        raise ScoreError("no recordings to score: the feature store holds none of that kind")
    firsts = range(0, len(recording_ids), RECORDINGS_PER_CHUNK)
    return [tuple(recording_ids[first : first + RECORDINGS_PER_CHUNK]) for first in firsts]


def _lay_windows(
    spec: ModelSpec, n_samples: Mapping[str, int], recording_ids: Sequence[str], step_s: float
) -> pd.DataFrame:
    """recording_id, start_s and end_s of all windows; the last of a recording may end after it."""
    if missing := [name for name in recording_ids if name not in n_samples]:
        raise ScoreError(
            f"the feature store lacks {len(missing)} of {len(recording_ids)} recordings to score, "
            f"such as {missing[0]}: run the features stage again"
        )
    step_samples = round(step_s * spec.sample_rate_hz)
    starts = [window_starts(n_samples[i], spec.scored_samples, step_samples) for i in recording_ids]
    start_s = np.concatenate(starts) / spec.sample_rate_hz
    ids = np.repeat(np.array(recording_ids, dtype=object), [len(each) for each in starts])
    end_s = start_s + spec.scored_samples / spec.sample_rate_hz
    return pd.DataFrame(
        {"recording_id": pd.array(ids, "string"), "start_s": start_s, "end_s": end_s}
    )
