"""The features stage: the usable clips as shards of flat int16 waveforms, and their index.

Recordings go to shards in the order of their ids, cut by hours, apart by use: `labelled`,
`soundscapes` and `noise`. Shards are written by the workers of a pool, each whole or not at all,
and the same clips give the same bytes. `store` reads them.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from bclef import audio, sidecars
from bclef.clips import check_stored
from bclef.config import Section
from bclef.parallel import run_all
from bclef.store import VERSION, FeatureStoreError, step_samples
from bclef.tables import Schema, atomic_path, write_table

FEATURE_INDEX = Schema(
    name="feature_index",
    key=("recording_id",),
    columns={
        "recording_id": "string",
        "shard": "string",
        "first_sample": "int64",
        "n_samples": "int64",
        "role": "string",
        "label": "string?",
        "secondary_labels": "list[string]",
        "annotated": "bool",
        "rating": "float32?",
        "source": "string",
    },
)
"""The recordings of the store. Labels of dropped copies are among the `secondary_labels`."""

_KINDS = {"focal": "labelled", "soundscape": "soundscapes", "noise": "noise"}
_CURE = "make it again: dvc repro -f -s resample"
_STEPS_AT_ONCE = 600
_LEAST_POWER = 1e-10
"""Power of digital silence, for its logarithm (-100 dBFS, below the last bit of int16)."""


class FeaturesConfig(Section):
    """Section `features`: how the waveforms are kept."""

    shard_hours: float = Field(gt=0)
    """Sound in a shard, hours; one of 32 kHz takes 230 MB. A longer recording is a shard alone."""


@dataclass(frozen=True)
class _Job:
    """One shard to be written."""

    path: Path
    clips: tuple[tuple[Path, int, int], ...]
    """File, first sample in the shard and number of samples of each recording."""
    sample_rate_hz: int


def usable_clips(clips: pd.DataFrame, recordings: pd.DataFrame) -> pd.DataFrame:
    """Returns the clips without error that are no copies, with their merged labels, sorted by id.

    What is known of a copy holds for the kept recording: its label and secondary labels join the
    `secondary_labels` there.

    Args:
        clips: Columns recording_id, path, n_samples, duplicate_of and error.
        recordings: Columns recording_id, role, label, secondary_labels, annotated, rating and
            source.

    Returns:
        Columns recording_id, path, n_samples and those of `recordings`.
    """
    usable = clips[clips["error"].isna()].merge(recordings, on="recording_id", validate="1:1")
    usable = usable.sort_values("recording_id", ignore_index=True)
    kept = usable[usable["duplicate_of"].isna()].reset_index(drop=True)
    copies = usable[usable["duplicate_of"].notna()]
    heard = dict(zip(kept["recording_id"], map(list, kept["secondary_labels"]), strict=True))
    for original, label, others in zip(
        copies["duplicate_of"], _labels(copies), copies["secondary_labels"], strict=True
    ):
        heard[original] += [label, *others]
    merged = [
        [other for other in dict.fromkeys(heard[name]) if other not in (None, label)]
        for name, label in zip(kept["recording_id"], _labels(kept), strict=True)
    ]
    columns = ["recording_id", "path", "n_samples", "role", "label", "annotated", "rating"]
    heard_there = pd.Series(merged, kept.index, object)
    return kept[[*columns, "source"]].assign(secondary_labels=heard_there)


def write_features(
    usable: pd.DataFrame,
    store_root: Path,
    directory: Path,
    config: FeaturesConfig,
    sample_rate_hz: int,
    pool: Executor,
) -> pd.DataFrame:
    """Returns the feature index, after writing it and all shards to `directory`.

    Args:
        usable: From `usable_clips`.
        store_root: Folder of the audio store, which `path` is relative to.
        directory: Folder of the feature store; shards of another run in it are removed.
        config: How the waveforms are kept.
        sample_rate_hz: Of the clips.
        pool: Writes, one shard at a time per worker.

    Raises:
        StoreError: Clips are not in the audio store.
        FeatureStoreError: A clip is not what was encoded or the table says, or a worker died.
    """
    check_stored((store_root / path for path in usable["path"]), "resample")
    shard_samples = round(config.shard_hours * 3600 * sample_rate_hz)
    placed = _place(usable, shard_samples, step_samples(sample_rate_hz))
    jobs = []
    for shard, rows in placed.groupby("shard"):
        paths = [store_root / path for path in rows["path"]]
        clips = zip(paths, rows["first_sample"].tolist(), rows["n_samples"].tolist(), strict=True)
        jobs.append(_Job(directory / str(shard), tuple(clips), sample_rate_hz))
    for stale in set(directory.glob("*.h5")) - {job.path for job in jobs}:
        stale.unlink()
    for outcome in run_all(_write_shard, jobs, pool, describe="features", unit="shard"):
        if outcome.died:
            raise FeatureStoreError(
                f"{outcome.item.path}: the process that wrote it died (out of memory or disk?); "
                "run the stage again with fewer workers (BCLEF_WORKERS)"
            )
    index = placed[list(FEATURE_INDEX.columns)].reset_index(drop=True)
    write_table(index, directory / "index.parquet", FEATURE_INDEX)
    return index


def _labels(rows: pd.DataFrame) -> list[str | None]:
    return [None if pd.isna(label) else str(label) for label in rows["label"]]


def _place(usable: pd.DataFrame, shard_samples: int, step: int) -> pd.DataFrame:
    """Returns the clips with `shard` and `first_sample`, in the order of their ids."""
    placed = usable.sort_values("recording_id", ignore_index=True)
    kinds = placed["role"].map(_KINDS).tolist()
    number, end = dict.fromkeys(_KINDS.values(), 0), dict.fromkeys(_KINDS.values(), 0)
    shards, first_samples = [], []
    for kind, n_samples in zip(kinds, placed["n_samples"].tolist(), strict=True):
        padded_samples = -(-n_samples // step) * step
        if end[kind] and end[kind] + padded_samples > shard_samples:
            number[kind], end[kind] = number[kind] + 1, 0
        shards.append(f"{kind}-{number[kind]:04d}.h5")
        first_samples.append(end[kind])
        end[kind] += padded_samples
    return placed.assign(
        shard=pd.Series(shards, placed.index, "string"),
        first_sample=pd.Series(first_samples, placed.index, "int64"),
        n_samples=placed["n_samples"].astype("int64"),
    )


def _write_shard(job: _Job) -> None:
    step = step_samples(job.sample_rate_hz)
    _, last_start, last_samples = job.clips[-1]
    n_steps = -(-(last_start + last_samples) // step)
    with atomic_path(job.path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["version"] = VERSION
        file.attrs["sample_rate_hz"] = job.sample_rate_hz
        waves = file.create_dataset("audio", (n_steps * step,), "<i2", track_times=False)
        levels = file.create_dataset("activity", (n_steps,), "<f4", track_times=False)
        for path, start, n_samples in job.clips:
            n_written = 0
            for pcm in _read_pcm(path, job.sample_rate_hz, n_samples):
                first = start + n_written
                waves[first : first + len(pcm)] = pcm
                curve = activity(pcm, step)
                levels[first // step : first // step + len(curve)] = curve
                n_written += len(pcm)


def _read_pcm(path: Path, sample_rate_hz: int, n_samples: int) -> Iterator[audio.Pcm]:
    """Yields a clip in pieces of whole steps, but for the last."""
    if fault := sidecars.fault_of(path):
        raise FeatureStoreError(f"{path}: {fault}; {_CURE}")
    try:
        yield from _decode(path, sample_rate_hz, n_samples)
    except audio.DecodeError as error:
        sidecars.forget(path)  # its bytes are right, so resample would let it stand
        raise FeatureStoreError(f"{path}: {error}; {_CURE}") from error


def _decode(path: Path, sample_rate_hz: int, n_samples: int) -> Iterator[audio.Pcm]:
    info = audio.probe(path)
    if (info.sample_rate_hz, info.least_frames) != (sample_rate_hz, n_samples):
        raise FeatureStoreError(
            f"{path}: {info.least_frames} samples at {info.sample_rate_hz} Hz, the clips table "
            f"says {n_samples} at {sample_rate_hz} Hz; {_CURE}"
        )
    piece_samples = _STEPS_AT_ONCE * step_samples(sample_rate_hz)
    blocks = audio.decode_blocks(path, sample_rate_hz)
    for start, piece in audio.windows(blocks, piece_samples, piece_samples):
        yield audio.to_int16(piece[: n_samples - start])


def activity(pcm: audio.Pcm, step: int) -> npt.NDArray[np.float32]:
    """Returns the level of each step of a wave, dBFS, float32 [ceil(T / step)].

    It is that of the first difference, which lets birds weigh more than wind and hum: a tone at a
    sixth of the sample rate keeps its level, lower ones lose 6 dB per octave.

    Args:
        pcm: int16 [T].
        step: Samples in a step.
    """
    slopes = np.diff(pcm.astype(np.float32), prepend=pcm[:1].astype(np.float32)) / 32768
    starts = np.arange(0, len(pcm), step)
    n_each = np.diff(starts, append=len(pcm))
    power = np.add.reduceat(slopes * slopes, starts) / n_each
    return np.asarray(10 * np.log10(np.maximum(power, _LEAST_POWER)), np.float32)


def feature_counts(index: pd.DataFrame, sample_rate_hz: int) -> dict[str, object]:
    """Returns numbers and hours of recordings by role, and of shards."""
    by_role = index.groupby("role")["n_samples"].agg(["size", "sum"])
    return {
        "n_shards": int(index["shard"].nunique()),
        "n_recordings": {str(role): int(n) for role, n in by_role["size"].items()},
        "hours": {
            str(role): round(float(n) / sample_rate_hz / 3600, 4)
            for role, n in by_role["sum"].items()
        },
    }
