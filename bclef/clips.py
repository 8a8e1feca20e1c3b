"""The resample stage: every raw file becomes a mono OGG of one sample rate, with its measures.

Each file is decoded, mixed, resampled, measured, fingerprinted and encoded in one streaming pass,
by one worker, whatever its length. What came of it stands in a JSON sidecar under a key of the raw
bytes, the sample rate and the code, so a second run only reads the sidecars, and thresholds may
change without a second decoding. A recording that is no use is a row with a reason.

A raw file is decoded only if its bytes are those that were fetched, and a clip stays only while its
bytes are those that were encoded.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from bclef import audio, codehash, sidecars
from bclef.audio import DecodeError
from bclef.config import Section
from bclef.duplicates import mark_duplicates
from bclef.failures import excess_failures
from bclef.matches import DuplicatesConfig
from bclef.meters import FLOOR_DBFS, Meter
from bclef.parallel import run_all
from bclef.tables import Schema, atomic_path, empty_table, write_json

CLIPS = Schema(
    name="clips",
    key=("recording_id",),
    columns={
        "recording_id": "string",
        "path": "string?",
        "n_samples": "int64?",
        "duration_s": "float64?",
        "pcm_hash": "string?",
        "fingerprint": "binary?",
        "peak_dbfs": "float32?",
        "rms_dbfs": "float32?",
        "clipped_share": "float32?",
        "flatness": "float32?",
        "source_sample_rate_hz": "int64?",
        "n_channels": "int64?",
        "duplicate_of": "string?",
        "duplicate_kind": "string?",
        "sound_group": "string?",
        "error": "string?",
        "detail": "string?",
    },
)
"""`path` is relative to the store; without an `error` it and all measures are there.

`pcm_hash` is of the mono int16 samples that are encoded: equal for the same sound in WAV and FLAC.
Levels leave a constant offset out. `sound_group` names recordings that share a stretch of sound,
copies or not. Errors: of fetching, `audio.DecodeError` and `_judge`; damaged, worker_died.
"""

_CODE = ("bclef.audio", "bclef.containers", "bclef.fingerprints", "bclef.meters", "bclef.clips")
_MEASURES = {
    "n_samples": int,
    "pcm_hash": str,
    "fingerprint": str,
    "peak_dbfs": float,
    "rms_dbfs": float,
    "clipped_share": float,
    "flatness": float | None,
    "source_sample_rate_hz": int,
    "n_channels": int,
}
_FAILURE = {"error": str, "detail": str}


class StoreError(Exception):
    """The audio store lacks files that a table names."""


class ClipsFailedError(Exception):
    """More files were of no use than the run accepts."""


class NoiseLikeConfig(Section):
    """Which short focal recordings are refused as steady noise."""

    max_duration_s: float = Field(gt=0)
    """Longer recordings are never refused for it, seconds: a bird may sing after much noise."""
    min_flatness: float = Field(gt=0, lt=1)
    """Flatness from which on a recording is noise: stationary noise has .5 to .57, 0 to 1."""


class ResampleConfig(Section):
    """Section `resample`: which recordings are of use."""

    min_duration_s: float = Field(ge=0)
    """Shorter recordings are refused as too_short, seconds."""
    silent_dbfs: float = Field(ge=FLOOR_DBFS, le=0)
    """Recordings of a lower RMS level are refused as silent, dBFS; noise recordings too."""
    max_clipped_share: float | None = Field(ge=0, le=1)
    """Focal recordings with a larger share of clipped samples are refused as clipped; or null."""
    noise_like: NoiseLikeConfig | None
    """When a focal recording is refused as noise_like, or null for never."""
    max_failed_share: float = Field(ge=0, le=1)
    """Largest share of fetched files that may be of no use before the stage fails, 0 to 1."""
    duplicates: DuplicatesConfig
    """When two recordings count as the same."""


@dataclass(frozen=True)
class _Job:
    """One raw file and the place of its clip."""

    raw: Path
    sha256: str
    """Of the raw file, as fetched."""
    clip: Path
    sample_rate_hz: int

    @property
    def sidecar(self) -> Path:
        return sidecars.sidecar_of(self.clip)

    def done(self) -> dict[str, object] | None:
        """Returns what an earlier run found, or None where it left nothing whole."""
        if (failure := sidecars.read_sidecar(self.sidecar, _FAILURE)) is not None:
            return failure
        measures = sidecars.read_sidecar(self.sidecar, _MEASURES)
        return None if sidecars.fault_of(self.clip) else measures


def make_clips(
    files: pd.DataFrame,
    recordings: pd.DataFrame,
    store_root: Path,
    config: ResampleConfig,
    sample_rate_hz: int,
    pool: Executor,
) -> pd.DataFrame:
    """Returns the clips table of `files`, after encoding what the store does not hold.

    Args:
        files: Columns recording_id, path, sha256, error and detail.
        recordings: Columns recording_id, role and annotated; role and annotated choose among
            duplicates, and some rules are for focal recordings only.
        store_root: Folder of the audio store; clips go to `clips/`.
        config: What is of use; the share of failures is for `check_failures`.
        sample_rate_hz: Of all clips.
        pool: Decodes, one file at a time per worker.

    Raises:
        StoreError: Raw files that the table names are gone, and so are their clips.
    """
    fetched = files[files["error"].isna()]
    jobs = _jobs(fetched, store_root, sample_rate_hz)
    _check_present(jobs)
    outcomes = run_all(_make_clip, jobs, pool, describe="resample")
    roles = recordings.set_index("recording_id")["role"].loc[fetched["recording_id"]]
    rows = []
    for (recording_id, role), outcome in zip(roles.items(), outcomes, strict=True):
        row = _row(outcome.item, outcome.value, store_root)
        if "error" not in row and (refused := _refusal(row, role, config)):
            row |= {"path": None, "error": refused[0], "detail": refused[1]}
        rows.append({"recording_id": recording_id, **row})
    unfetched = files.loc[files["error"].notna(), ["recording_id", "error", "detail"]]
    clips = pd.concat([pd.DataFrame(rows, columns=list(CLIPS.columns)), unfetched])
    clips = clips.astype(empty_table(CLIPS).dtypes)
    clips = clips.sort_values("recording_id", ignore_index=True)
    return mark_duplicates(clips, recordings, config.duplicates)


def clip_counts(clips: pd.DataFrame, sample_rate_hz: int) -> dict[str, object]:
    """Returns usable hours, numbers of clips and duplicates, and failures per reason."""
    usable = clips[clips["error"].isna()]
    return {
        "n_clips": len(usable),
        "hours": round(float(usable["n_samples"].sum()) / sample_rate_hz / 3600, 4),
        "duplicates": _counts(usable["duplicate_kind"]),
        "failed": _counts(clips["error"]),
    }


def check_failures(clips: pd.DataFrame, files: pd.DataFrame, config: ResampleConfig) -> None:
    """Refuses a clips table with too many failures; to be asked after the table is written.

    Files that could not be fetched do not count here: the fetch stage has judged them.

    Raises:
        ClipsFailedError: With the number and an example of each reason.
    """
    fetched = clips[clips["recording_id"].isin(files.loc[files["error"].isna(), "recording_id"])]
    failed = fetched[fetched["error"].notna()]
    if reasons := excess_failures(failed, len(fetched), config.max_failed_share):
        raise ClipsFailedError(
            f"{len(failed)} of {len(fetched)} files are of no use, more than "
            f"resample.max_failed_share = {config.max_failed_share:g} allows:\n{reasons}"
        )


def check_stored(paths: Iterable[Path], stage: str) -> None:
    """Refuses when files of the audio store are gone.

    Raises:
        StoreError: With the number, two examples and the stage that writes them anew.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise StoreError(
            f"{len(missing)} files are not in the audio store, such as "
            f"{', '.join(map(str, missing[:2]))}; to make them again: dvc repro -f -s {stage}"
        )


def _jobs(fetched: pd.DataFrame, store_root: Path, sample_rate_hz: int) -> list[_Job]:
    code = codehash.fingerprint(*_CODE)
    jobs = []
    for path, sha256 in zip(fetched["path"], fetched["sha256"], strict=True):
        raw = store_root / path
        key = hashlib.sha256(f"{sha256} {sample_rate_hz} {code}".encode()).hexdigest()[:16]
        clip = store_root / "clips" / f"{raw.stem}-{key}.ogg"
        jobs.append(_Job(raw, str(sha256), clip, sample_rate_hz))
    return jobs


def _check_present(jobs: list[_Job]) -> None:
    gone = [job for job in jobs if not job.raw.is_file()]
    check_stored((job.raw for job in gone if job.done() is None), "fetch")


def _make_clip(job: _Job) -> dict[str, object]:
    """Returns the measures of a clip, or error and detail; encodes it unless that is done."""
    if (found := job.done()) is not None:
        return found
    if (sha256 := sidecars.sha256_of(job.raw)) != job.sha256:
        # Not kept, and fetch is made to ask for it: what was found out says nothing of other bytes.
        sidecars.forget(job.raw)
        cure = "to fetch it anew: dvc repro -f -s fetch resample"
        detail = f"{job.raw.name}: found sha256 {sha256}, expected {job.sha256}; {cure}"
        return {"error": "damaged", "detail": detail}
    try:
        found = _encode(job)
    except DecodeError as error:
        found = {"error": error.reason, "detail": error.detail}
        write_json(job.sidecar, found)
    else:
        sidecars.write_sidecar(job.clip, found)
    return found


def _encode(job: _Job) -> dict[str, object]:
    info, meter = audio.probe(job.raw), Meter(job.sample_rate_hz)
    with atomic_path(job.clip) as temporary:
        blocks = meter.metered(audio.decode_blocks(job.raw, job.sample_rate_hz))
        audio.write_ogg(temporary, blocks, job.sample_rate_hz)
        if meter.peak > 1:
            # Turned down, because the feature store's int16 would clip what lies above full scale.
            share = np.float32(1 / meter.peak)
            quieter = (share * block for block in audio.decode_blocks(job.raw, job.sample_rate_hz))
            audio.write_ogg(temporary, quieter, job.sample_rate_hz)
    source = {"source_sample_rate_hz": info.sample_rate_hz, "n_channels": info.n_channels}
    return meter.measures() | source


def _row(job: _Job, found: dict[str, object] | None, store_root: Path) -> dict[str, object]:
    """Returns the row of a clip, but for its id: path and measures, or error and detail."""
    if found is None:
        return {"error": "worker_died", "detail": f"the process that decoded {job.raw.name} died"}
    if "error" in found:
        return found
    return found | {
        "path": job.clip.relative_to(store_root).as_posix(),
        "duration_s": float(str(found["n_samples"])) / job.sample_rate_hz,
        "fingerprint": base64.b64decode(str(found["fingerprint"])),
    }


def _refusal(row: Mapping[str, Any], role: str, config: ResampleConfig) -> tuple[str, str] | None:
    """Returns why a clip is of no use and what was measured, or None if it is of use."""
    duration_s, level_dbfs = row["duration_s"], row["rms_dbfs"]
    clipped_share, flatness = row["clipped_share"], row["flatness"] or 0.0
    most, rule = config.max_clipped_share, config.noise_like
    is_clipped = most is not None and clipped_share > most
    is_noise = rule and duration_s <= rule.max_duration_s and flatness >= rule.min_flatness
    rules = (
        (duration_s < config.min_duration_s, "too_short", f"{duration_s:.3f} s"),
        (level_dbfs < config.silent_dbfs, "silent", f"RMS level {level_dbfs:.1f} dBFS"),
        (role == "focal" and is_clipped, "clipped", f"{clipped_share:.1%} of the samples"),
        (
            role == "focal" and is_noise,
            "noise_like",
            f"{duration_s:.2f} s, flatness {flatness:.2f}",
        ),
    )
    return next(((reason, detail) for applies, reason, detail in rules if applies), None)


def _counts(reasons: pd.Series) -> dict[str, int]:
    return {str(reason): int(n) for reason, n in reasons.value_counts().items()}
